"""The contract of every codec: encode, decode, train, stream, fuse."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput

from ..configuration.codec_base import CodecConfig
from ..hub import HubModelMixin
from .codec_checks import CodecChecks
from .codec_segments import CodecSegments
from .codec_stream import CodecStream, join_rows
from .layers.conv import fuse_weight_norm, has_weight_norm, reset_weight_norm
from .layers.convnext import ConvNeXtBlock, SilentLinear
from .layers.lstm import LSTM, ResidualLSTM
from .layers.precision import HALF_TYPES, as_halves, at_least_float32
from .layers.prepared import Prepared
from .layers.snake import Snake
from .layers.stft import HannWindow
from .layers.streaming import Stream, TimeContext, lengths_of, pieces, zero_padding
from .quantization import EuclideanCodebook, LearnedCodebook, QuantizerOutput, ResidualVectorQuantizer


@dataclass
class CodecEncoderOutput(ModelOutput):
    """Output of `encode` and `encode_chunk`.

    Attributes:
        audio_codes: `(batch, codebooks, frames)` int64; 0 where `codes_mask` is false.
        audio_scales: `(batch, segments)` gain of each segment, for codecs that normalise their input.
        codes_mask: `(batch, frames)` bool, true on frames that belong to the row; `None` where all do.
    """

    audio_codes: Tensor | None = None
    audio_scales: Tensor | None = None
    codes_mask: Tensor | None = None


@dataclass
class CodecDecoderOutput(ModelOutput):
    """Output of `decode` and `decode_chunk`.

    Attributes:
        audio_values: `(batch, channels, samples)`.
        audio_mask: `(batch, samples)` bool, only from `decode_chunk` after single rows were reset; `None` where all
            samples are valid.
    """

    audio_values: Tensor | None = None
    audio_mask: Tensor | None = None


@dataclass
class CodecOutput(ModelOutput):
    """Output of `forward`.

    Attributes:
        loss: the sum of the losses below, in training mode only.
        reconstruction_loss: mean absolute error of the waveform over valid samples.
        commitment_loss, codebook_loss: see `modeling.quantization.QuantizerOutput`.
        audio_values: `(batch, channels, samples)`, as long as the input.
        audio_codes: `(batch, codebooks, frames)` int64.
        codes_mask: `(batch, frames)` bool or `None`.
        num_quantizers: `(batch,)` int64, codebooks that each row was decoded from, where quantizer dropout drew them.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    commitment_loss: Tensor | None = None
    codebook_loss: Tensor | None = None
    audio_values: Tensor | None = None
    audio_codes: Tensor | None = None
    codes_mask: Tensor | None = None
    num_quantizers: Tensor | None = None


class CodecPreTrainedModel(CodecSegments, CodecChecks, HubModelMixin, PreTrainedAudioTokenizerBase):
    """Base of every codec.

    A family builds `self.quantizer` and says how audio becomes latents and back: `_encode_latents(audio, time)` and
    `_decode_latents(latents, time)`, written with the layers of `modeling/layers`. From these the base makes batches
    that do not depend on their padding, streams, long audio in bounded memory, and training.
    """

    config: CodecConfig
    config_class = CodecConfig
    base_model_prefix = "codec"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules: list[str] = []
    # What makes codes: a code is a nearest neighbour, and rounding on the way to it changes which one that is. These
    # children stay float32 in half precision; the decoder alone is in half precision. (`_keep_in_fp32_modules_strict`
    # of transformers holds for loading only, and makes floats of integers.) They are also what `freeze_codes` freezes.
    _code_makers = frozenset({"analysis", "encoder", "quantizer"})
    output_class = CodecOutput  # of `forward`
    # What `forward` takes beside its own arguments is for the codec; a Trainer would add its count of labels to it.
    accepts_loss_kwargs = False
    _frozen_codes = False

    # Offline audio longer than `whole_seconds` is run as a stream of tiles of `tile_seconds`: bounded memory, and
    # faster on a CPU, because layers that need it cut a tile into pieces whose activations stay in the cache.
    whole_seconds: float = 1.5
    tile_seconds: float = 8.0

    # --- what a family defines -------------------------------------------------------------------------------------

    # What a family's encoder and decoder are told beside the signal (FunCodec: `semantic_ids`). `encode`, `decode` and
    # `forward` take it by these names and hand it to `_encode_latents` and `_decode_latents`. It is not cut up along
    # time: such a model is not streamable.
    condition_names: tuple[str, ...] = ()
    # And what its quantizer is told (SpeechTokenizer: `first`), by a family's own `encode` and `decode`.
    choice_names: tuple[str, ...] = ()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        """Audio `(batch, channels, samples)` to latents `(batch, dim, frames)`."""
        raise NotImplementedError(f"{type(self).__name__} must define _encode_latents.")

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        """Latents `(batch, dim, frames)` to audio `(batch, channels, frames * hop_length)`."""
        raise NotImplementedError(f"{type(self).__name__} must define _decode_latents.")

    def _residual_quantizer(self, dim: int, **options) -> ResidualVectorQuantizer:
        """A residual quantizer of latents of `dim` channels, by the fields that such codecs' configurations share.

        What else a family wants of it is in `options`.
        """
        config = self.config
        return ResidualVectorQuantizer(
            config.num_quantizers,
            config.codebook_size,
            dim,
            residual_gradient=config.residual_gradient,
            decay=config.codebook_decay,
            kmeans_iterations=config.kmeans_iterations,
            revive_below=config.revive_below,
            **options,
        )

    def _quantize(self, latents: Tensor, count: int, **choice) -> Tensor:
        """Latents to `count` codes a frame; a family's own `encode` may make a further `choice` among codebooks."""
        return self.quantizer.encode(latents, count, **choice)

    def _dequantize(self, codes: Tensor, **choice) -> Tensor:
        """Codes to latents; `choice` as in `_quantize`, from a family's own `decode`."""
        return self.quantizer.decode(codes, **choice).to(self.dtype)

    @torch.no_grad()
    def code_vectors(self, num_codebooks: int | None = None) -> Tensor:
        """What each code adds to the latents, beside code 0 of its codebook: which codes sound alike.

        Args:
            num_codebooks: the first so many; all by default.

        Returns:
            `(codebooks, codebook_size, dim)`.
        """
        count = self.config.num_codebooks if num_codebooks is None else num_codebooks
        size = self.config.codebook_size
        codes = torch.eye(count, dtype=torch.long, device=self.device)[..., None] * torch.arange(
            size, device=self.device
        )
        vectors = self._dequantize(codes).transpose(1, 2)
        return vectors - vectors[:, :1]

    @property
    def _encoder_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def _training_outputs(
        self, latents: Tensor, quantization: QuantizerOutput, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """What else `forward` returns in training; `output_class` has the fields."""
        return {}

    # --- encode and decode -----------------------------------------------------------------------------------------

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
        **given,
    ) -> CodecEncoderOutput:
        """Audio to codes.

        Args:
            input_values: `(batch, channels, samples)`, float in [-1, 1] at `config.sampling_rate`. Give float32 also
                where the model is in half precision: its encoder stays float32, and samples rounded to half
                precision have other codes.
            padding_mask: `(batch, samples)`, true (or 1) on real samples, which stand at the left. Each row gets the
                codes that it would get alone.
            num_quantizers: codes per frame; all codebooks by default.
            bandwidth: the same choice as a rate in kbps, one of `config.bandwidths`.
            return_dict: `False` returns a plain tuple.
            **given: what a family needs beside the audio, by its `condition_names`.

        Raises:
            TypeError: an argument that there is not, or that is no tensor.
            ValueError: empty, non-finite or wrongly shaped audio; a mask with padding at the left; a number of
                quantizers or a bandwidth that the model does not have.
        """
        self._check_given("encode", given, self.condition_names + self.choice_names)
        count = self._count(num_quantizers, bandwidth)
        lengths = self._check_audio(input_values, padding_mask)
        # Codes carry no gradient, so nothing is recorded for one.
        with torch.no_grad():
            output = self._encode(input_values.to(self._encoder_dtype), lengths, count, **given)
        return output if self._as_dict(return_dict) else output.to_tuple()

    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Tensor | None = None,
        padding_mask: Tensor | None = None,
        codes_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **given,
    ) -> CodecDecoderOutput:
        """Codes to audio.

        Args:
            audio_codes: `(batch, codebooks, frames)` integers; fewer codebooks than the model has are fine.
            audio_scales: `(batch, segments)`, as `encode` returned them; `None` of a codec that does not normalise.
            padding_mask: the mask (or a mask of ones) of the encoded audio: the output gets its length, and zeros
                where it is false.
            codes_mask: `(batch, frames)`, as `encode` returned it.
            return_dict: `False` returns a plain tuple.
            **given: as in `encode`.

        Raises:
            TypeError: as in `encode`.
            ValueError: codes of a wrong shape or type, out of range, or of more codebooks than the model has; scales
                or masks that are not of these codes' rows and frames, or masks with padding at the left.
        """
        self._check_given("decode", given, self.condition_names + self.choice_names)
        self._check_codes(audio_codes)
        self._check_scales(audio_codes, audio_scales)
        audio_codes = audio_codes.long()
        if codes_mask is not None:
            segment = None if self.config.chunk_length is None else self._slot
            codes_mask = self._check_mask("codes_mask", codes_mask, "frame", *audio_codes.shape[::2], segment)
        lengths = None
        if padding_mask is not None:
            lengths = self._lengths(padding_mask, len(audio_codes))
            if codes_mask is None:
                codes_mask = self._codes_mask(lengths, audio_codes.shape[-1])
        audio = self._decode(audio_codes, audio_scales, codes_mask, **given)
        if padding_mask is not None:
            samples = padding_mask.shape[-1]
            audio = F.pad(audio, (0, max(0, samples - audio.shape[-1])))[..., :samples]
            if torch.compiler.is_compiling() or bool((lengths < samples).any()):
                audio = audio * TimeContext(lengths).mask(samples)
        output = CodecDecoderOutput(audio_values=audio)
        return output if self._as_dict(return_dict) else output.to_tuple()

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
        **given,
    ) -> CodecOutput:
        """Audio to codes and back. In training mode the codebooks learn, and the loss terms are returned.

        Args:
            input_values, padding_mask, num_quantizers, bandwidth, return_dict: as in `encode`. In training mode, with
                neither `num_quantizers` nor `bandwidth`, `config.quantizer_dropout` applies.
            **given: as in `encode`.

        Raises:
            TypeError, ValueError: as in `encode`.
        """
        self._check_given("forward", given, self.condition_names)
        count = self._count(num_quantizers, bandwidth)
        lengths = self._check_audio(input_values, padding_mask)
        input_values = input_values.to(self._encoder_dtype)
        if self.training:
            dropout = self.config.quantizer_dropout if num_quantizers is None and bandwidth is None else 0.0
            count = self._drop_quantizers(count, len(input_values), dropout)
            output = self._train_step(input_values, lengths, count, **given)
        else:
            codes = self._encode(input_values, lengths, count, **given)
            mask = padding_mask if padding_mask is not None else input_values.new_ones(input_values[:, 0].shape)
            decoded = self.decode(codes.audio_codes, codes.audio_scales, mask, codes.codes_mask, **given)
            audio = decoded.audio_values
            output = self.output_class(audio_values=audio, audio_codes=codes.audio_codes, codes_mask=codes.codes_mask)
        return output if self._as_dict(return_dict) else output.to_tuple()

    def _split(self, given: dict) -> tuple[dict, dict]:
        """What the encoder and decoder are told, and what the quantizer is."""
        conditions = {name: value for name, value in given.items() if name in self.condition_names}
        return conditions, {name: value for name, value in given.items() if name not in conditions}

    def _encode(self, audio: Tensor, lengths: Tensor | None, count: int, **given) -> CodecEncoderOutput:
        """`encode` after its arguments were checked; `lengths` is `None` where every row is full."""
        run = self._encode_at_once if self.config.chunk_length is None else self._encode_segments
        return run(audio, lengths, count, **given)

    def _encode_at_once(self, audio: Tensor, lengths: Tensor | None, count: int, **given) -> CodecEncoderOutput:
        if not self.config.normalize:
            return self._encode_normalized(audio, lengths, count, **given)
        scale = self._scale(audio, lengths)
        output = self._encode_normalized(audio / scale[..., None].to(audio.dtype), lengths, count, **given)
        # Made anew: what is set later comes last in a tuple.
        return CodecEncoderOutput(**{**output, "audio_scales": scale})

    def _scale(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """RMS of the mean over channels, `(batch, 1)` (`_encode_frame` in `encodec/model.py`)."""
        power = audio.float().mean(1).square()
        if lengths is None:
            return power.mean(-1, keepdim=True).sqrt() + 1e-8
        mask = TimeContext(lengths).mask(audio.shape[-1])[:, 0]
        return ((power * mask).sum(-1, keepdim=True) / lengths.clamp(min=1)[:, None]).sqrt() + 1e-8

    def _encode_normalized(self, audio: Tensor, lengths: Tensor | None, count: int, **given) -> CodecEncoderOutput:
        samples = audio.shape[-1]
        if lengths is not None and self._tiled(samples):
            return self._encode_row_by_row(audio, lengths, count, **given)
        if self._tiled(samples):
            stream, codes = Stream(), []
            for piece, stream.final in pieces(audio, self._tile_frames * self.config.hop_length):
                codes.append(self._make_codes(piece, stream, count, **given))
            return CodecEncoderOutput(audio_codes=torch.cat(codes, dim=-1))
        time = None if lengths is None else TimeContext(lengths)
        codes = self._make_codes(audio, time, count, **given)
        if lengths is None:
            return CodecEncoderOutput(audio_codes=codes)
        mask = TimeContext(self._frames_of(lengths)).mask(codes.shape[-1])
        return CodecEncoderOutput(audio_codes=codes * mask, codes_mask=mask[:, 0])

    def _make_codes(self, audio: Tensor, time: TimeContext | None, count: int, **given) -> Tensor:
        """Audio to `count` codes a frame; of a stream, perhaps of no frames yet."""
        conditions, choice = self._split(given)
        with self._unrounded():
            latents = self._encode_latents(audio, time, **conditions)
            if isinstance(time, Stream) and latents.shape[-1] == 0:
                return latents.new_zeros(len(latents), count, 0, dtype=torch.long)
            return self._quantize(latents, count, **choice)

    def _unrounded(self) -> torch.autocast:
        """Within this context `_code_makers` compute in the float32 that they are kept in, whatever is around it."""
        return torch.autocast(self.device.type, enabled=False)

    def _encode_row_by_row(self, audio: Tensor, lengths: Tensor, count: int, **given) -> CodecEncoderOutput:
        rows = [
            self._encode_normalized(row[None, :, :length], None, count, **given).audio_codes[0]
            for row, length in zip(audio, lengths.tolist(), strict=True)
        ]
        frames = torch.tensor([row.shape[-1] for row in rows], device=audio.device)
        codes = rows[0].new_zeros(len(rows), count, int(frames.max()))
        for place, row in enumerate(rows):
            codes[place, :, : row.shape[-1]] = row
        return CodecEncoderOutput(audio_codes=codes, codes_mask=TimeContext(frames).mask(codes.shape[-1])[:, 0])

    def _decode(self, codes: Tensor, scales: Tensor | None, mask: Tensor | None, **given) -> Tensor:
        """`decode` after its arguments were checked, to `frames * hop_length` samples."""
        if self.config.chunk_length is not None:
            return self._decode_segments(codes, scales, mask, **given)
        return self._decode_at_once(codes, scales, mask, **given)[0]

    def _decode_at_once(
        self, codes: Tensor, scales: Tensor | None, mask: Tensor | None, **given
    ) -> tuple[Tensor, Tensor | None]:
        """Audio, and the rows' lengths in samples, `(batch,)`, where they differ."""
        if not self.config.normalize:
            return self._decode_normalized(codes, mask, **given)
        audio, lengths = self._decode_normalized(codes, mask, **given)
        return audio * scales[..., None].to(self.dtype), lengths

    def _decode_normalized(self, codes: Tensor, mask: Tensor | None, **given) -> tuple[Tensor, Tensor | None]:
        frames = codes.shape[-1]
        conditions, choice = self._split(given)
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None
        if mask is not None and self._tiled(frames * self.config.hop_length):
            rows = [
                self._decode_normalized(row[None, :, : int(valid.sum())], None, **given)[0][0]
                for row, valid in zip(codes, mask, strict=True)
            ]
            lengths = torch.tensor([row.shape[-1] for row in rows], device=codes.device)
            samples = int(lengths.max())
            return torch.stack([F.pad(row, (0, samples - row.shape[-1])) for row in rows]), lengths
        if self._tiled(frames * self.config.hop_length):
            stream, done = Stream(), 0
            audio = None
            for piece, stream.final in pieces(codes, self._tile_frames):
                part = self._decode_latents(self._dequantize(piece, **choice), stream, **conditions)
                if audio is None:
                    audio = part.new_empty(*part.shape[:-1], frames * self.config.hop_length)
                audio[..., done : done + part.shape[-1]] = part
                done += part.shape[-1]
            return audio[..., :done], None
        time = None if mask is None else TimeContext(mask.sum(-1))
        audio = self._decode_latents(self._dequantize(codes, **choice), time, **conditions)
        # Now the context holds the rows' lengths in samples.
        return zero_padding(audio, time), lengths_of(time)

    def _train_step(self, audio: Tensor, lengths: Tensor | None, count: int | Tensor, **conditions) -> CodecOutput:
        if self.config.chunk_length is not None and audio.shape[-1] > self.config.chunk_length:
            raise ValueError(
                f"in training, give one segment at a time: at most {self.config.chunk_length} samples, got "
                f"{audio.shape[-1]}."
            )
        scale = self._scale(audio, lengths)[..., None].to(audio.dtype) if self.config.normalize else 1.0
        time = None if lengths is None else TimeContext(lengths)
        with self._unrounded() if self._frozen_codes else nullcontext():
            latents = self._encode_latents(audio / scale, time, **conditions)
        frames = latents.shape[-1]
        mask = None if lengths is None else TimeContext(self._frames_of(lengths)).mask(frames)[:, 0]
        quantization: QuantizerOutput = self.quantizer(latents, count, mask)
        time = None if mask is None else TimeContext(mask.sum(-1))
        quantized = quantization.quantized.to(self.dtype)
        decoded = zero_padding(self._decode_latents(quantized, time, **conditions), time)
        decoded = decoded * scale
        missing = audio.shape[-1] - decoded.shape[-1]
        decoded = F.pad(decoded, (0, missing)) if missing > 0 else decoded[..., : audio.shape[-1]]
        error = (decoded - audio).abs()
        if lengths is None:
            reconstruction_loss = error.mean()
        else:
            valid = TimeContext(lengths).mask(audio.shape[-1])
            decoded = decoded * valid
            reconstruction_loss = (error * valid).sum() / (valid.sum() * audio.shape[1])
        loss = reconstruction_loss + quantization.commitment_loss
        if quantization.codebook_loss is not None:
            loss = loss + quantization.codebook_loss
        return self.output_class(
            loss=loss,
            reconstruction_loss=reconstruction_loss,
            commitment_loss=quantization.commitment_loss,
            codebook_loss=quantization.codebook_loss,
            audio_values=decoded,
            audio_codes=quantization.codes,
            codes_mask=mask,
            num_quantizers=count if isinstance(count, Tensor) else None,
            **self._training_outputs(latents, quantization, mask),
        )

    def _drop_quantizers(self, count: int, batch_size: int, dropout: float) -> int | Tensor:
        """In training, let each row with probability `dropout` use one of the rates that the codec is made for."""
        if dropout == 0.0:
            return count
        offered = {self.config.num_quantizers_for(rate) for rate in self.config.bandwidths}
        counts = torch.tensor(sorted(number for number in offered | {count} if number <= count), device=self.device)
        fewer = counts[torch.randint(len(counts), (batch_size,), device=self.device)]
        return torch.where(torch.rand(batch_size, device=self.device) < dropout, fewer, count)

    # --- streaming -------------------------------------------------------------------------------------------------

    @property
    def streamable(self) -> bool:
        """Whether `encode_chunk` and `decode_chunk` work: no part looks at the whole signal at once."""
        if not self.tileable or self.config.normalize or self.config.chunk_length is not None:
            return False
        return not self.holds_all_frames

    def init_stream(self, batch_size: int = 1) -> CodecStream:
        """State for `encode_chunk` and `decode_chunk`.

        Raises:
            ValueError: this codec cannot be streamed.
        """
        self._check_streamable()
        return CodecStream(batch_size, self)

    @torch.no_grad()
    def encode_chunk(
        self, input_values: Tensor, state: CodecStream, final: bool = False, num_quantizers: int | None = None
    ) -> CodecEncoderOutput:
        """Encode the next samples of a stream, of any number.

        Args:
            input_values: `(batch, channels, samples)`; `samples` may be 0, to flush.
            state: from `init_stream` of this model; it is advanced.
            final: no more samples follow: return all frames that are left. Afterwards `state.reset()` begins anew.
            num_quantizers: as in `encode`.

        Returns:
            The frames that are complete now. All pieces joined equal `encode` of the whole.

        Raises:
            ValueError: audio that `encode` would refuse, or of another batch; the state of another model, or of a
                stream that ended.
        """
        self._check_chunk("encoder", input_values, state)
        count = self._count(num_quantizers, None)
        parts = []
        for group in state.groups:
            group.encoder.final = final
            codes = self._make_codes(input_values[group.rows].to(self._encoder_dtype), group.encoder, count)
            parts.append((group.rows, codes))
        codes, mask = join_rows(parts, state.batch_size)
        return CodecEncoderOutput(audio_codes=codes, codes_mask=mask)

    @torch.no_grad()
    def decode_chunk(
        self, audio_codes: Tensor, state: CodecStream, final: bool = False, codes_mask: Tensor | None = None
    ) -> CodecDecoderOutput:
        """Decode the next frames of a stream, of any number.

        Args:
            audio_codes: `(batch, codebooks, frames)`; `frames` may be 0, to flush.
            state, final: as in `encode_chunk`.
            codes_mask: `(batch, frames)`, as `encode_chunk` returns it after single rows were reset; by default, all
                rows have all frames.

        Returns:
            The samples that are complete now. All pieces joined equal `decode` of the whole.

        Raises:
            ValueError: as in `encode_chunk`; rows that move in step, but have other numbers of frames.
        """
        self._check_chunk("decoder", audio_codes, state)
        parts = []
        for group, frames in zip(state.groups, self._frames_of_groups(audio_codes, codes_mask, state), strict=True):
            group.decoder.final = final
            latents = self._dequantize(audio_codes[group.rows, :, :frames].long())
            parts.append((group.rows, self._decode_latents(latents, group.decoder)))
        audio, mask = join_rows(parts, state.batch_size)
        return CodecDecoderOutput(audio_values=audio, audio_mask=mask)

    @functools.cached_property
    def stream_latency(self) -> int:
        """Samples of look-ahead: how far decoded audio lags behind the samples given, at frame boundaries.

        Measured on silence, past the start-up that reflection padding needs.
        """
        hops = 64
        state = self.init_stream(1)
        silence = torch.zeros(1, self.config.audio_channels, hops * self.config.hop_length, device=self.device)
        codes = self.encode_chunk(silence, state).audio_codes
        return silence.shape[-1] - self.decode_chunk(codes, state).audio_values.shape[-1]

    @property
    def tileable(self) -> bool:
        """Whether long audio runs as a stream of tiles, in bounded memory, with the same result.

        All layers must take streams, and one that looks at the whole signal at once (`whole_signal`) does not: then
        `config.chunk_length_s` bounds the memory, at the price of another result. A layer that gives nothing before
        the end is no hindrance, though of no use in a live stream: see `holds_all_frames`.
        """
        return not any(getattr(module, "whole_signal", False) for module in self.modules())

    @property
    def holds_all_frames(self) -> bool:
        """Whether a layer gives nothing before the end (`waits_for_end`), as an LSTM that reads from both ends."""
        return any(getattr(module, "waits_for_end", False) for module in self.modules())

    @property
    def _tile_frames(self) -> int:
        return max(1, round(self.tile_seconds * self.config.sampling_rate / self.config.hop_length))

    def _tiled(self, samples: int) -> bool:
        if self.training or torch.compiler.is_compiling() or not self.tileable:
            return False
        return samples > self.whole_seconds * self.config.sampling_rate

    def _as_dict(self, return_dict: bool | None) -> bool:
        return self.config.return_dict if return_dict is None else return_dict

    # --- weights ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, device_map=None, **kwargs):
        """As in transformers, except that a codec stays whole: `device_map="auto"` is the first device there is.

        Raises:
            OSError: as in transformers, or the weights are damaged.
            ValueError: a `device_map` that names several devices, or the disk.
        """
        if isinstance(device_map, str) and device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
            from accelerate.utils import get_max_memory

            device_map = {"": next(iter(get_max_memory(kwargs.get("max_memory"))))}
        elif isinstance(device_map, dict):
            cls._check_whole(device_map)
        return super().from_pretrained(pretrained_model_name_or_path, *args, device_map=device_map, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the decoder's weights. What makes codes is not in half precision when they are."""
        kept = self._code_makers
        cast = [child for name, child in self.named_children() if name not in kept]
        return next(parameter.dtype for child in cast for parameter in child.parameters())

    def post_init(self) -> None:
        super().post_init()
        # transformers builds what shall be of half precision in half precision, and loads into the types it finds.
        self._apply(lambda tensor: tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CodecPreTrainedModel:
        for name, child in self.named_children() if recurse else ():
            child._apply(at_least_float32(fn) if name in self._code_makers else fn)
        return super()._apply(fn, recurse=False)

    def freeze_codes(self) -> CodecPreTrainedModel:
        """Let only what decodes learn from now on: encoder and codebooks stay as they are, in training mode, too.

        Codes stay what they are, and so do files of them and the language models over them.

        Raises:
            ValueError: codebooks have not learnt anything yet.
        """
        if not all(module.inited for module in self.modules() if isinstance(module, EuclideanCodebook)):
            raise ValueError("codebooks that have not seen any data cannot be frozen; load or train the codec first.")
        self._frozen_codes = True
        for name, child in self.named_children():
            if name in self._code_makers:
                child.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> CodecPreTrainedModel:
        super().train(mode)
        for name, child in self.named_children():
            if self._frozen_codes and name in self._code_makers:
                child.eval()
        return self

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """As in transformers; float32 weights of a model in half precision that came from halves are written as such.

        So a checkpoint in half precision does not grow when it is loaded and saved.
        """
        if kwargs.get("state_dict") is None and self.dtype in HALF_TYPES:
            kwargs["state_dict"] = {key: as_halves(value, self.dtype) for key, value in self.state_dict().items()}
        return super().save_pretrained(save_directory, **kwargs)

    def fuse(self) -> CodecPreTrainedModel:
        """Fold weight norm, pack weights of LSTMs, derive what codebooks and int8 layers need: once, for inference.

        The numbers stay the same, and follow weights that are changed later, but for what is written into
        `Parameter.data`, which torch does not count: call `fuse()` again after that. On a CPU packed weights stand
        beside the plain ones, in twice their memory.

        Saving a fused model writes plain weights; `config.fused` says so to whoever loads it.
        """
        fuse_weight_norm(self)
        self.config.fused = True
        for module in self.modules():
            if isinstance(module, (Prepared, ResidualLSTM)):
                module.fuse()
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if has_weight_norm(module):
            reset_weight_norm(module)
        if isinstance(module, nn.LayerNorm):
            # transformers goes by the name of the class, and not every norm here is called LayerNorm.
            init.ones_(module.weight)
            init.zeros_(module.bias)
        if isinstance(module, ConvNeXtBlock):
            init.constant_(module.scale, module.initial_scale)
        if isinstance(module, SilentLinear):
            init.zeros_(module.weight)
        if isinstance(module, EuclideanCodebook):
            for buffer in (module.inited, module.cluster_size, module.embed, module.embed_avg):
                init.zeros_(buffer)
        if isinstance(module, (HannWindow, LSTM, LearnedCodebook, Snake)):
            module.reset()
