"""Long audio segment by segment, for codecs whose result at a frame depends on the whole signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..configuration.codec_base import CodecConfig
from .layers.streaming import TimeContext

if TYPE_CHECKING:
    from .codec_base import CodecEncoderOutput


class CodecSegments:
    """The part of `CodecPreTrainedModel` that codes segments of `config.chunk_length_s`, where that is set.

    Each segment is coded by itself, so memory does not grow with the signal and a frame depends on its segment only.
    The codes of the segments stand side by side on the frame axis, each in a slot of as many frames as a full segment
    has, the last slot cut to what it needs; `codes_mask` says which frames are real. Decoded segments are faded into
    each other where they overlap.

    Source: `encode` and `decode` in `encodec/model.py`.
    """

    config: CodecConfig

    # --- the frame axis --------------------------------------------------------------------------------------------

    def _frames_of(self, samples: Tensor | int) -> Tensor | int:
        """Frames of `samples` samples, at least one, that are coded at once."""
        return -(-samples // self.config.hop_length)

    @property
    def _slot(self) -> int:
        """Frames of a full segment."""
        return self._frames_of(self.config.chunk_length)

    def segments_of(self, frames: int) -> int:
        """Segments that stand on a code axis of so many frames: the gains of a codec that normalises."""
        return 1 if self.config.chunk_length is None else -(-frames // self._slot)

    def _num_frames(self, samples: Tensor | int) -> Tensor | int:
        """Frames on the code axis of a row of `samples` samples, with the unused end of every slot but the last."""
        if self.config.chunk_length is None:
            return self._frames_of(samples)
        segments = -(-samples // self.config.chunk_stride)
        return (segments - 1) * self._slot + self._frames_of(samples - (segments - 1) * self.config.chunk_stride)

    def _segment_frames(self, samples: Tensor, index: Tensor | int) -> Tensor:
        """Frames of segment `index` of rows of `samples` samples; 0 where a row has no such segment."""
        length = (samples - index * self.config.chunk_stride).clamp(0, self.config.chunk_length)
        return torch.where(length > 0, self._frames_of(length.clamp(min=1)), 0)

    def _codes_mask(self, lengths: Tensor, frames: int) -> Tensor:
        """Which of `frames` frames belong to rows of `lengths` samples: bool `(batch, frames)`."""
        if self.config.chunk_length is None:
            return TimeContext(self._frames_of(lengths)).mask(frames)[:, 0]
        place = torch.arange(frames, device=lengths.device)
        return place % self._slot < self._segment_frames(lengths[:, None], place // self._slot)

    # --- encode and decode -----------------------------------------------------------------------------------------

    def _encode_segments(self, audio: Tensor, lengths: Tensor | None, count: int, **given) -> CodecEncoderOutput:
        samples = audio.shape[-1]
        codes = audio.new_zeros(len(audio), count, self._num_frames(samples), dtype=torch.long)
        mask = torch.zeros(len(audio), codes.shape[-1], dtype=torch.bool, device=audio.device)
        stride = self.config.chunk_stride
        scales = audio.new_zeros(len(audio), -(-samples // stride)) if self.config.normalize else None
        # Beyond the longest row there is nothing to code.
        longest = samples if lengths is None else int(lengths.max())
        for index, start in enumerate(range(0, longest, stride)):
            piece = audio[..., start : start + self.config.chunk_length]
            rows, within = slice(None), None
            if lengths is not None:
                rows = lengths > start
                within = (lengths[rows] - start).clamp(max=piece.shape[-1])
                if not torch.compiler.is_compiling() and bool((within == piece.shape[-1]).all()):
                    within = None
            segment = self._encode_at_once(piece[rows], within, count, **given)
            frames = slice(index * self._slot, index * self._slot + segment.audio_codes.shape[-1])
            codes[rows, :, frames] = segment.audio_codes
            mask[rows, frames] = True if segment.codes_mask is None else segment.codes_mask
            if scales is not None:
                scales[rows, index : index + 1] = segment.audio_scales
        full = not torch.compiler.is_compiling() and bool(mask.all())
        return type(segment)(audio_codes=codes, codes_mask=None if full else mask, audio_scales=scales)

    def _decode_segments(self, codes: Tensor, scales: Tensor | None, mask: Tensor | None, **given) -> Tensor:
        frames, stride = codes.shape[-1], self.config.chunk_stride
        segments = self.segments_of(frames)
        if segments == 1:
            return self._decode_at_once(codes, scales, mask, **given)[0]
        total = None
        for index in range(segments):
            slot = slice(index * self._slot, min(frames, (index + 1) * self._slot))
            valid = None if mask is None else mask[:, slot]
            rows = slice(None) if valid is None else valid.any(-1)
            if valid is not None and not bool(rows.any()):
                continue
            steps = slot.stop - slot.start if valid is None else int(valid.sum(-1).max())
            piece_mask = None if valid is None else valid[rows, :steps]
            scale = scales[rows, index : index + 1] if self.config.normalize else None
            piece, lengths = self._decode_at_once(codes[rows, :, slot][..., :steps], scale, piece_mask, **given)
            start, samples = index * stride, piece.shape[-1]
            sizes = torch.full((len(piece),), samples, device=piece.device) if lengths is None else lengths
            if index < segments - 1:
                shortest = samples
                if mask is not None:
                    # Of rows that fill the slot and go on: of others the end may be short, as without segments.
                    full = mask[rows, slot.stop - 1 : slot.stop + 1].all(-1)
                    shortest = min(sizes[full].tolist(), default=stride)
                self._check_no_gap(shortest)
            if total is None:
                end = stride * (segments - 1) + max(samples, self._slot * self.config.hop_length)
                total = piece.new_zeros(len(codes), piece.shape[1], end, dtype=torch.float32)
                weights = total.new_zeros(len(codes), 1, end)
                # Triangular weights of the length of a row's first segment serve all its segments
                # (`_linear_overlap_add` in `encodec/utils.py`).
                ramp = torch.arange(1, samples + 1, device=piece.device) / (sizes[:, None, None] + 1)
                window = 0.5 - (ramp - 0.5).abs()
            weight = window[rows, :, :samples]
            if lengths is not None:
                weight = weight * TimeContext(lengths).mask(samples)
            total[rows, :, start : start + samples] += piece * weight
            weights[rows, :, start : start + samples] += weight
        # In place: of an hour, each of these is as large as the audio.
        total /= weights.masked_fill_(weights == 0, 1)
        return total[..., : start + samples].to(piece.dtype)

    def _check_no_gap(self, samples: int) -> None:
        """Refuse full segments that decode to so many samples and do not reach the next one."""
        length, stride = self.config.chunk_length, self.config.chunk_stride
        if samples < stride:
            raise ValueError(
                f"a segment of {length} samples decodes to {samples}, and the next begins after {stride}: set overlap "
                f"to at least {1 - samples / length:.2g}."
            )
