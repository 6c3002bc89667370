"""Audio files to codes and back, in bounded memory where the codec can be streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ..modeling.codec_base import CodecPreTrainedModel

Codes = tuple[np.ndarray, np.ndarray | None]


def encode_blocks(
    model: CodecPreTrainedModel, blocks: Iterable[np.ndarray], num_quantizers: int | None = None
) -> Iterator[Codes]:
    """Encode audio that comes in blocks.

    Args:
        model: the codec, in eval mode.
        blocks: arrays `(channels, samples)` at the codec's rate.
        num_quantizers: codes per frame; all by default.

    Yields:
        Codes `(codebooks, frames)` and the scales `(segments,)` of a codec that normalises. A codec that cannot be streamed
        gets the blocks joined.
    """
    if not model.streamable:
        audio = np.concatenate(list(blocks), axis=1)
        with torch.no_grad():
            output = model.encode(torch.from_numpy(audio)[None].to(model.device), num_quantizers=num_quantizers)
        scales = None if output.audio_scales is None else output.audio_scales[0].cpu().numpy()
        yield output.audio_codes[0].cpu().numpy(), scales
        return
    state = model.init_stream(1)
    empty = torch.zeros(1, model.config.audio_channels, 0)
    for block, final in _with_end(blocks, empty[0].numpy()):
        audio = torch.from_numpy(np.ascontiguousarray(block))[None].to(model.device, model.dtype)
        codes = model.encode_chunk(audio, state, final=final, num_quantizers=num_quantizers).audio_codes
        if codes.shape[-1]:
            yield codes[0].cpu().numpy(), None


def decode_blocks(model: CodecPreTrainedModel, blocks: Iterable[Codes]) -> Iterator[np.ndarray]:
    """Decode codes that come in blocks, as `encode_blocks` yields them, to float32 arrays `(channels, samples)`."""
    if not model.streamable:
        codes, scales = zip(*blocks, strict=True)
        codes = torch.from_numpy(np.concatenate(codes, axis=1))[None].to(model.device)
        known = [part for part in scales if part is not None and len(part)]
        gains = torch.from_numpy(np.concatenate(known).astype(np.float32))[None].to(model.device) if known else None
        with torch.no_grad():
            yield model.decode(codes, audio_scales=gains).audio_values[0].float().cpu().numpy()
        return
    state = model.init_stream(1)
    empty = (np.zeros((model.config.num_codebooks, 0), np.int64), None)
    for (codes, _), final in _with_end(blocks, empty):
        audio = model.decode_chunk(torch.from_numpy(codes)[None].to(model.device), state, final=final).audio_values
        if audio.shape[-1]:
            yield audio[0].float().cpu().numpy()


def trimmed(blocks: Iterable[np.ndarray], reader) -> Iterator[np.ndarray]:
    """Cut decoded blocks to the length that `reader.samples` states once everything has been read.

    The end of the audio is held back by two frames, so that nothing needs to be taken back.
    """
    held: np.ndarray | None = None
    keep, done = 2 * reader.header.hop_length, 0
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        ready = held.shape[1] - keep
        if ready > 0:
            yield held[:, :ready]
            done += ready
            held = held[:, ready:]
    if held is not None:
        yield held[:, : max(0, reader.samples - done)]


def _with_end(items: Iterable, end) -> Iterator[tuple]:
    """Items marked as not final, then `end` marked as final."""
    for item in items:
        yield item, False
    yield end, True
