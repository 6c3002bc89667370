"""EnCodec: SEANet, residual vector quantization, and for 48 kHz normalised segments with overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from ..configuration.encodec import EncodecCodecConfig
from .codec_base import CodecEncoderOutput, CodecOutput, CodecPreTrainedModel
from .layers.seanet import SeanetDecoder, SeanetEncoder, seanet_options
from .layers.streaming import TimeContext


class EncodecCodecModel(CodecPreTrainedModel):
    """EnCodec (Défossez et al., 2022).

    Codes of a segmented model (48 kHz) stand side by side on the frame axis, each segment in a slot of
    `ceil(chunk_length / hop_length)` frames, the last slot cut to what it needs; `codes_mask` says which are real.
    """

    config: EncodecCodecConfig
    config_class = EncodecCodecConfig

    def __init__(self, config: EncodecCodecConfig) -> None:
        super().__init__(config)
        seanet = {"channels": config.audio_channels, **seanet_options(config)}
        self.encoder = SeanetEncoder(**seanet)
        self.decoder = SeanetDecoder(**seanet, trim_right_ratio=config.trim_right_ratio)
        self.quantizer = self._residual_quantizer(config.codebook_dim)
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.encoder(audio, time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.decoder(latents, time)

    # --- segments and normalisation (48 kHz) -----------------------------------------------------------------------

    @property
    def streamable(self) -> bool:
        return super().streamable and self.config.chunk_length is None

    @property
    def _slot(self) -> int:
        """Frames of a full segment."""
        return -(-self.config.chunk_length // self.config.hop_length)

    def _num_frames(self, samples: Tensor | int) -> Tensor | int:
        """Frames on the code axis, with the unused end of every slot but the last."""
        if self.config.chunk_length is None:
            return super()._num_frames(samples)
        segments = -(-samples // self.config.chunk_stride)
        last = samples - (segments - 1) * self.config.chunk_stride
        return (segments - 1) * self._slot - (-last // self.config.hop_length)

    def _segment_frames(self, samples: Tensor, index: int) -> Tensor:
        """Frames of segment `index` of rows of `samples` samples; 0 where a row has no such segment."""
        length = (samples - index * self.config.chunk_stride).clamp(0, self.config.chunk_length)
        return -(-length // self.config.hop_length)

    def _encode(self, audio: Tensor, lengths: Tensor | None, count: int) -> CodecEncoderOutput:
        if self.config.chunk_length is None:
            return super()._encode(audio, lengths, count)
        samples = audio.shape[-1]
        codes = audio.new_zeros(len(audio), count, self._num_frames(samples), dtype=torch.long)
        mask = torch.zeros(len(audio), codes.shape[-1], dtype=torch.bool, device=audio.device)
        scales = []
        ends = lengths if lengths is not None else torch.full((len(audio),), samples, device=audio.device)
        for index, start in enumerate(range(0, samples, self.config.chunk_stride)):
            piece = audio[..., start : start + self.config.chunk_length]
            rows = ends > start
            within = (ends - start).clamp(max=piece.shape[-1])[rows]
            full = torch.compiler.is_compiling() or bool((within == piece.shape[-1]).all())
            segment = super()._encode(piece[rows], None if full else within, count)
            frames = slice(index * self._slot, index * self._slot + segment.audio_codes.shape[-1])
            codes[rows, :, frames] = segment.audio_codes
            mask[rows, frames] = True if segment.codes_mask is None else segment.codes_mask
            scale = audio.new_zeros(len(audio), 1)
            if self.config.normalize:
                scale[rows] = segment.audio_scales
                scales.append(scale)
        scales = torch.cat(scales, dim=1) if scales else None
        full = not torch.compiler.is_compiling() and bool(mask.all())
        return CodecEncoderOutput(audio_codes=codes, codes_mask=None if full else mask, audio_scales=scales)

    def _decode(self, codes: Tensor, scales: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.config.chunk_length is None:
            return super()._decode(codes, scales, mask)
        frames = codes.shape[-1]
        segments = -(-frames // self._slot)
        if self.config.normalize:
            self._check_scales(codes, scales, segments)
        stride, hop = self.config.chunk_stride, self.config.hop_length
        total, weights = None, None
        for index in range(segments):
            slot = slice(index * self._slot, min(frames, (index + 1) * self._slot))
            valid = None if mask is None else mask[:, slot]
            rows = torch.ones(len(codes), dtype=torch.bool) if valid is None else valid.any(-1)
            steps = slot.stop - slot.start if valid is None else int(valid.sum(-1).max())
            piece_mask = None if valid is None else valid[rows, :steps]
            scale = scales[rows, index : index + 1] if self.config.normalize else None
            piece = super()._decode(codes[rows, :, slot][..., :steps], scale, piece_mask)
            if total is None:
                last = frames - (segments - 1) * self._slot
                total = piece.new_zeros(
                    len(codes), piece.shape[1], stride * (segments - 1) + max(last * hop, self._slot * hop)
                )
                weights = piece.new_zeros(len(codes), 1, total.shape[-1])
                # Triangular weights of the first segment's length serve all segments (`_linear_overlap_add` in
                # `encodec/utils.py`).
                ramp = torch.linspace(0, 1, piece.shape[-1] + 2, device=piece.device, dtype=piece.dtype)[1:-1]
                window = 0.5 - (ramp - 0.5).abs()
            span = slice(index * stride, index * stride + piece.shape[-1])
            weight = window[: piece.shape[-1]].expand(len(piece), 1, -1)
            if piece_mask is not None:
                weight = weight * TimeContext(piece_mask.sum(-1) * hop).mask(piece.shape[-1])
            total[rows, :, span] += piece * weight
            weights[rows, :, span] += weight
            end = span.stop
        return (total / weights.masked_fill(weights == 0, 1))[..., :end]

    def _train_step(self, audio: Tensor, lengths: Tensor | None, count: int | Tensor) -> CodecOutput:
        if self.config.chunk_length is not None and audio.shape[-1] > self.config.chunk_length:
            raise ValueError(
                f"in training, give one segment at a time: at most {self.config.chunk_length} samples, got "
                f"{audio.shape[-1]}."
            )
        return super()._train_step(audio, lengths, count)
