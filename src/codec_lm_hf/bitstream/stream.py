"""Audio files to codes and back, in bounded memory where the codec can be streamed or works segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from ..modeling.codec_base import CodecPreTrainedModel
from .errors import BitstreamError

Codes = tuple[np.ndarray, np.ndarray | None]

# How much is coded at once, whatever the size of a file's blocks; but a whole segment at least.
_SECONDS = 10


def encode_blocks(
    model: CodecPreTrainedModel, blocks: Iterable[np.ndarray], num_quantizers: int | None = None
) -> Iterator[Codes]:
    """Encode audio that comes in blocks.

    Args:
        model: the codec, in eval mode.
        blocks: arrays `(channels, samples)` at the codec's rate.
        num_quantizers: codes per frame; all by default.

    Yields:
        Codes `(codebooks, frames)` and the scales `(segments,)` of a codec that normalises; all of them joined are
        what `model.encode` gives for the blocks joined. A codec that looks at the whole signal at once gets just that;
        `config.chunk_length_s` bounds what it looks at.
    """
    if model.streamable:
        yield from _encode_stream(model, blocks, num_quantizers)
    elif model.config.chunk_length is not None:
        yield from _encode_segments(model, blocks, num_quantizers)
    else:
        yield _encode(model, np.concatenate(list(blocks), axis=1), num_quantizers)


def decode_blocks(
    model: CodecPreTrainedModel, blocks: Iterable[Codes], samples: Callable[[], int | None] | None = None
) -> Iterator[np.ndarray]:
    """Decode codes that come in blocks.

    Args:
        model: the codec, in eval mode.
        blocks: as `encode_blocks` yields them.
        samples: gives the length of the audio once the last block was read. With it, the last segments are decoded
            without the frames that fill up their slots, as by `decode` with a `padding_mask`.

    Yields:
        Float32 arrays `(channels, samples)`.
    """
    if model.streamable:
        yield from _decode_stream(model, blocks)
    elif model.config.chunk_length is not None:
        yield from _decode_segments(model, blocks, samples)
    else:
        codes, scales = zip(*blocks, strict=True)
        yield _decode(model, np.concatenate(codes, axis=1), np.concatenate([_as_array(part) for part in scales]))


def trimmed(blocks: Iterable[np.ndarray], reader) -> Iterator[np.ndarray]:
    """Cut decoded blocks to the length that `reader.samples` states once everything has been read.

    The end of the audio is held back by two frames, so that nothing needs to be taken back. A codec whose frames
    decode to a few samples less than they were made of (DAC) is helped out with zeros, as in
    `CodecPreTrainedModel.decode`.

    Raises:
        BitstreamError: blocks are missing.
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
    decoded = done + (0 if held is None else held.shape[1])
    missing = max(0, reader.samples - decoded)
    if missing > reader.header.hop_length:
        raise BitstreamError(
            f"the codes give {decoded} samples of the {reader.samples} that there should be: blocks are missing."
        )
    if held is not None:
        yield np.pad(held[:, : max(0, reader.samples - done)], ((0, 0), (0, missing)))


def _encode_stream(model: CodecPreTrainedModel, blocks: Iterable[np.ndarray], count: int | None) -> Iterator[Codes]:
    state = model.init_stream(1)
    for block, final in _with_end(blocks, np.zeros((model.config.audio_channels, 0), np.float32)):
        codes = model.encode_chunk(_audio(model, block), state, final=final, num_quantizers=count).audio_codes
        if codes.shape[-1]:
            yield codes[0].cpu().numpy(), None


def _decode_stream(model: CodecPreTrainedModel, blocks: Iterable[Codes]) -> Iterator[np.ndarray]:
    state = model.init_stream(1)
    frames = max(1, round(_SECONDS * model.config.frame_rate))
    pieces = (codes[:, start : start + frames] for codes, _ in blocks for start in range(0, codes.shape[1], frames))
    for codes, final in _with_end(pieces, np.zeros((model.config.num_codebooks, 0), np.int64)):
        audio = model.decode_chunk(torch.from_numpy(codes)[None].to(model.device), state, final=final).audio_values
        if audio.shape[-1]:
            yield audio[0].float().cpu().numpy()


def _encode_segments(model: CodecPreTrainedModel, blocks: Iterable[np.ndarray], count: int | None) -> Iterator[Codes]:
    config = model.config
    stride, slot, count_at_once = config.chunk_stride, model._slot, _segments_at_once(model)
    enough = (count_at_once - 1) * stride + config.chunk_length
    held = np.zeros((config.audio_channels, 0), np.float32)
    for block in blocks:
        held = np.concatenate([held, block], axis=1)
        while held.shape[1] >= enough:
            codes, scales = _encode(model, held[:, :enough], count)
            # The start of a further segment is in there too, and not whole.
            yield codes[:, : count_at_once * slot], None if scales is None else scales[:count_at_once]
            held = held[:, count_at_once * stride :]
    if held.shape[1]:
        yield _encode(model, held, count)


def _decode_segments(
    model: CodecPreTrainedModel, blocks: Iterable[Codes], samples: Callable[[], int | None] | None
) -> Iterator[np.ndarray]:
    """Groups of segments, each after the segments of the group before that reach into it."""
    stride, slot = model.config.chunk_stride, model._slot
    reach = -(-slot * model.config.hop_length // stride) - 1
    before = passed = 0
    codes, scales = np.zeros((0, 0), np.int64), np.zeros(0, np.float32)
    for more, more_scales in blocks:
        codes = np.concatenate([codes, more], axis=1) if codes.size else more
        scales = np.concatenate([scales, _as_array(more_scales)])
        # Segments that the end of the audio reaches into may be shorter, and are decoded together.
        while codes.shape[1] > ((segments := before + _segments_at_once(model)) + reach) * slot:
            audio = _decode(model, codes[:, : segments * slot], scales[:segments])
            yield audio[:, before * stride : segments * stride]
            before = min(reach, segments)
            passed += segments - before
            codes, scales = codes[:, (segments - before) * slot :], scales[segments - before :]
    if codes.size:
        length = None if samples is None else samples()
        mask = None
        if length is not None:
            mask = model._codes_mask(torch.tensor([length - passed * stride], device=model.device), codes.shape[1])
        yield _decode(model, codes, scales, mask)[:, before * stride :]


def _segments_at_once(model: CodecPreTrainedModel) -> int:
    return max(1, round(_SECONDS / model.config.chunk_length_s))


def _encode(model: CodecPreTrainedModel, audio: np.ndarray, count: int | None) -> Codes:
    with torch.no_grad():
        output = model.encode(_audio(model, audio), num_quantizers=count)
    scales = None if output.audio_scales is None else output.audio_scales[0].float().cpu().numpy()
    return output.audio_codes[0].cpu().numpy(), scales


def _decode(
    model: CodecPreTrainedModel, codes: np.ndarray, scales: np.ndarray, mask: torch.Tensor | None = None
) -> np.ndarray:
    gains = torch.from_numpy(scales)[None].to(model.device) if len(scales) else None
    with torch.no_grad():
        batch = torch.from_numpy(codes)[None].to(model.device)
        audio = model.decode(batch, audio_scales=gains, codes_mask=mask).audio_values
    return audio[0].float().cpu().numpy()


def _audio(model: CodecPreTrainedModel, audio: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio))[None].to(model.device)


def _as_array(scales: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.float32) if scales is None else np.asarray(scales, np.float32)


def _with_end(items: Iterable, end) -> Iterator[tuple]:
    """Items marked as not final, then `end` marked as final."""
    for item in items:
        yield item, False
    yield end, True
