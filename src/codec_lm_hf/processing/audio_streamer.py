"""Audio while its codes are still being generated."""

from __future__ import annotations

from queue import Queue

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from ..modeling.lm_base import NO_CODE, check_codes
from .codec_lm_processor import CodecLMProcessor


class AudioStreamer(BaseStreamer):
    """Decodes codes as `generate` makes them, for whoever iterates over it.

    Generation runs in another thread, as with transformers' `TextIteratorStreamer`:

        streamer = AudioStreamer(processor)
        Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        for [audio] in streamer:
            ...

    Each item is a list with the next samples of each row, `(channels, samples)`; a row that has ended gets none. All
    pieces joined equal `processor.batch_decode` of what `generate` returns, as closely as the codec's own streams
    equal its `decode`. An error of `generate` is raised where the audio is awaited. Afterwards the streamer can be
    used again.

    Args:
        processor: of the model; its codec decodes, and must be one that streams.
        chunk_frames: frames that are decoded at a time. Fewer: the first audio comes sooner; more: less work.
        timeout: seconds to wait for the next item, after which `queue.Empty` is raised; `None`: as long as it takes.

    Raises:
        ValueError: the codec looks at the whole signal at once, or does not fit the model.
    """

    def __init__(self, processor: CodecLMProcessor, chunk_frames: int = 25, timeout: float | None = None) -> None:
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}.")
        processor.codec.init_stream()  # which refuses by name what does not stream
        self.processor = processor
        self.chunk_frames = chunk_frames
        self.timeout = timeout
        self._queue: Queue[list[Tensor] | BaseException | None] = Queue()
        self._reset()

    def _reset(self) -> None:
        self._held: Tensor | None = None
        self._rows: list[_Row] = []

    def put(self, value: Tensor) -> None:
        """Take the next frames.

        Args:
            value: `(batch, codebooks, frames)`, -100 after a row's end.

        Raises:
            ValueError: codes that are not the codec's.
        """
        if not value.shape[-1]:
            return
        value = check_codes("codes", value, self.processor.codebook_size, self.processor.num_codebooks, exact=False)
        if not self._rows:
            self._rows = [_Row(self.processor, row) for row in value]
        self._held = value if self._held is None else torch.cat([self._held, value], dim=-1)
        while self._held.shape[-1] >= self.chunk_frames:
            self._decode(self.chunk_frames)

    def end(self) -> None:
        """Nothing more follows."""
        try:
            if self._held is not None:
                self._decode(self._held.shape[-1], final=True)
        except BaseException as error:
            # Generation is over: nobody else would tell whoever waits.
            self.fail(error)
            raise
        self._reset()
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """Nothing more follows, because of an error."""
        self._reset()
        self._queue.put(error)

    def _decode(self, frames: int, final: bool = False) -> None:
        now, self._held = self._held[..., :frames], self._held[..., frames:]
        waves = [row.decode(codes, final) for row, codes in zip(self._rows, now, strict=True)]
        if any(wave.shape[-1] for wave in waves):
            self._queue.put(waves)

    def __iter__(self) -> AudioStreamer:
        return self

    def __next__(self) -> list[Tensor]:
        item = self._queue.get(timeout=self.timeout)
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item


class _Row:
    """The stream of one row; rows end at different times, and each is flushed when it does."""

    def __init__(self, processor: CodecLMProcessor, codes: Tensor) -> None:
        self.processor = processor
        # Of stereo, perhaps a signal for each side.
        signals = len(processor.sides_of(codes))
        self.stream = processor.codec.init_stream(signals)
        self.nothing = torch.zeros(signals * processor.codec.config.audio_channels, 0)
        self.begun = self.ended = False

    def decode(self, codes: Tensor, final: bool) -> Tensor:
        """The next samples `(channels, samples)` of `codes` `(codebooks, frames)`."""
        known = codes[:, codes[0] != NO_CODE]
        ends = final or known.shape[1] < codes.shape[1]
        if self.ended or not (self.begun or known.shape[1]):
            self.ended |= ends
            return self.nothing
        self.begun, self.ended = True, ends
        codec = self.processor.codec
        found = codec.decode_chunk(self.processor.sides_of(known).to(codec.device), self.stream, final=ends)
        return found.audio_values.flatten(0, 1).float().cpu()
