"""FunCodec: SEANet over the waveform or over spectra, and a residual quantizer with many codebooks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration.funcodec import PLANES, FunCodecConfig
from .codec_base import CodecDecoderOutput, CodecOutput, CodecPreTrainedModel
from .layers.conv import Conv1d
from .layers.seanet import SeanetDecoder, SeanetEncoder, run_layers, seanet_options
from .layers.seanet2d import SeanetDecoder2d, SeanetEncoder2d
from .layers.stft import InverseStft, Stft
from .layers.streaming import TimeContext, lengths_of
from .quantization import QuantizerOutput

_QUIETEST = 1e-6
# Of a spectrum's largest magnitude: imaginary parts below it are what an FFT in float32 leaves of zeros.
_ROUNDING = 2e-6
_CLASSIFIER_CHANNELS = 512


def planes_of(spectrum: Tensor, domain: str, robust_angles: bool = False) -> Tensor:
    """Real parts, then imaginary parts `(batch, 2 * bins, steps)` to planes `(batch, planes, bins, steps)`.

    `robust_angles` as in `FunCodecConfig`.
    """
    real, imaginary = spectrum.chunk(2, dim=1)
    if domain == "stft":
        return torch.stack([real, imaginary], dim=1)
    magnitude = (real.square() + imaginary.square()).clamp(min=_QUIETEST**2).sqrt()
    if domain == "mag_angle":
        if robust_angles:
            zero = imaginary.abs() <= _ROUNDING * magnitude.amax(1, keepdim=True)
            imaginary = imaginary.masked_fill(zero, 0.0)
        return torch.stack([magnitude.log(), torch.atan2(imaginary, real)], dim=1)
    return torch.stack([magnitude.log(), real / magnitude, imaginary / magnitude], dim=1)


def spectrum_of(planes: Tensor, domain: str) -> Tensor:
    """The other way, for what a network gives: the magnitude as softplus, the angle as a sine, phasors as they are."""
    if domain == "stft":
        return planes.flatten(1, 2)
    magnitude = F.softplus(planes[:, :1])
    phase = planes[:, 1:]
    if domain == "mag_angle":
        angle = phase.sin() * math.pi
        phase = torch.cat([angle.cos(), angle.sin()], dim=1)
    return (magnitude * phase).flatten(1, 2)


def _lengths_of_ids(ids: Tensor, vocab_size: int) -> Tensor:
    """Ids of each row of `(batch, steps)`, which -1 ends; checks them."""
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"semantic_ids must be integers of shape (batch, steps), got {ids.dtype} {tuple(ids.shape)}.")
    present = ids >= 0
    if not torch.compiler.is_compiling():
        if bool((present[:, 1:] & ~present[:, :-1]).any()) or ids.shape[1] == 0 or not bool(present[:, 0].all()):
            raise ValueError("every row of semantic_ids must begin with an id; pad shorter rows with -1 at the right.")
        if int(ids.max()) >= vocab_size or int(ids.min()) < -1:
            raise ValueError(
                f"semantic_ids must lie in 0..{vocab_size - 1} (-1 is padding), found "
                f"{int(ids.max()) if int(ids.max()) >= vocab_size else int(ids.min())}."
            )
    return present.sum(-1)


class SemanticEmbedding(nn.Module):
    """Semantic ids as vectors at the frame rate.

    Args:
        vocab_size: kinds of ids.
        dimension: of the vectors.
        ratio: ids per frame.
        convolutional: bring them to the frame rate by convolutions; otherwise take every `ratio`-th.

    Source: `_process_ppg` in `funcodec/models/codec_semantic_aug.py`.
    """

    # Ids do not come in step with the audio.
    whole_signal = True

    def __init__(self, vocab_size: int, dimension: int, ratio: int, convolutional: bool) -> None:
        super().__init__()
        self.vocab_size, self.ratio = vocab_size, ratio
        self.embedding = nn.Embedding(vocab_size, dimension)
        self.downsample = None
        if convolutional:
            options = {"causal": False, "pad_mode": "reflect"}
            self.downsample = nn.ModuleList(
                [
                    Conv1d(dimension, dimension, 7, norm_type="time_group_norm", **options),
                    nn.ELU(),
                    Conv1d(dimension, dimension, 2 * ratio, stride=ratio, **options),
                ]
            )

    def forward(self, ids: Tensor, frames: int, whole_frames: Tensor | None = None) -> Tensor:
        """Ids `(batch, steps)`, -1 after the end of a row, to `(batch, dimension, frames)`.

        Where the ids are too few, the last vector of the row is repeated; where they are too many, they are cut at
        `whole_frames` `(batch,)`, after which the last vector before it is repeated; all of the frames by default.
        """
        lengths = _lengths_of_ids(ids, self.vocab_size)
        x = self.embedding(ids.clamp(min=0)).transpose(1, 2)
        if self.downsample is None:
            x = x[..., :: self.ratio]
        else:
            x = run_layers(self.downsample, x, TimeContext(lengths))
        last = -(-lengths // self.ratio)[:, None] - 1
        if whole_frames is not None:
            last = torch.minimum(last, whole_frames[:, None] - 1)
        index = torch.minimum(torch.arange(frames, device=x.device), last)
        return x.gather(-1, index[:, None].expand(-1, x.shape[1], -1))


class SemanticClassifier(nn.Module):
    """What the first codebook says, as scores of semantic ids.

    Args:
        dimension: of the codebook's entries.
        vocab_size: kinds of ids.
        ratio: ids per frame, of which it tells the first.

    Source: `ppg_classifier` in `funcodec/models/codec_semantic_aug.py`.
    """

    def __init__(self, dimension: int, vocab_size: int, ratio: int) -> None:
        super().__init__()
        self.vocab_size, self.ratio = vocab_size, ratio
        options = {"causal": False, "pad_mode": "reflect", "norm_type": "time_group_norm"}
        self.layers = nn.ModuleList(
            [
                Conv1d(dimension, _CLASSIFIER_CHANNELS, 5, **options),
                nn.ELU(),
                Conv1d(_CLASSIFIER_CHANNELS, _CLASSIFIER_CHANNELS, 3, **options),
                nn.ELU(),
                Conv1d(_CLASSIFIER_CHANNELS, vocab_size, 1, **options),
            ]
        )

    def forward(self, entries: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(batch, dimension, frames)`, valid in `mask` `(batch, frames)`, to `(batch, vocab_size, frames)`."""
        return run_layers(self.layers, entries, None if mask is None else TimeContext(mask.sum(-1)))

    def loss(self, logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the frames that have an id; `ids` as in `SemanticEmbedding`."""
        _lengths_of_ids(ids, self.vocab_size)
        frames = logits.shape[-1]
        told = F.pad(ids[:, :: self.ratio][:, :frames], (0, max(0, frames - -(-ids.shape[1] // self.ratio))), value=-1)
        return F.cross_entropy(logits, told if mask is None else told.masked_fill(~mask, -1), ignore_index=-1)


@dataclass
class FunCodecOutput(CodecOutput):
    """Output of `FunCodecModel.forward`.

    Attributes:
        semantic_logits: `(batch, semantic_vocab_size, frames)`, with `semantic_mode="supervision"` in training mode:
            what the first codebook says of the ids.
    """

    semantic_logits: Tensor | None = None


class FunCodecModel(CodecPreTrainedModel):
    """FunCodec (Du et al., 2023).

    In a frequency domain, `T` samples have `T // stft_hop_length + 1` spectra, and the decoder makes
    `frames * hop_length - stft_hop_length` samples, which may be fewer than were encoded; the audio is filled up with
    zeros where its length is known.

    With `config.semantic_mode`, `encode`, `decode` and `forward` take `semantic_ids` `(batch, steps)`, integers at
    `config.semantic_downsampling` times the frame rate, padded with -1 at the right. `encode` needs them in the mode
    `"residual"` only; with `"supervision"` they are for training alone. A last frame that audio does not fill has no
    ids of its own. How many frames are full is told by the audio and, in `decode`, by its `padding_mask`; in place of
    one, `whole_frames` `(batch,)` says it; all of them by default.

    With `config.normalize`, audio without its gain (the original's `use_scale=False`) is
    `decode(codes, audio_scales=torch.ones(batch, 1))`.
    """

    config: FunCodecConfig
    config_class = FunCodecConfig
    condition_names = ("semantic_ids", "whole_frames")
    output_class = FunCodecOutput

    def __init__(self, config: FunCodecConfig) -> None:
        super().__init__(config)
        seanet = {**seanet_options(config), "activation": config.activation}
        planes, bins = PLANES.get(config.domain), config.window_size // 2 + 1
        if config.frequency_ratios is None:
            seanet["channels"] = config.audio_channels if planes is None else planes * bins
            self.encoder = SeanetEncoder(**seanet)
            self.decoder = SeanetDecoder(**seanet, trim_right_ratio=config.trim_right_ratio)
        else:
            seanet |= {"planes": planes, "frequency_ratios": config.frequency_ratios}
            self.encoder = SeanetEncoder2d(**seanet, bins=bins, group_ratio=config.encoder_group_ratio)
            self.decoder = SeanetDecoder2d(
                **seanet,
                group_ratio=config.decoder_group_ratio,
                transposed_group_ratio=config.transposed_group_ratio,
                trim_right_ratio=config.trim_right_ratio,
            )
        self.analysis = self.synthesis = None
        if planes is not None:
            self.analysis = Stft(config.window_size, config.stft_hop_length, centred=True)
            self.synthesis = InverseStft(config.window_size, config.stft_hop_length, lookahead=None)
        self.quantizer = self._residual_quantizer(config.hidden_size)
        self.semantic = self.join = self.classifier = None
        if config.semantic_mode == "supervision":
            self.classifier = SemanticClassifier(
                config.hidden_size, config.semantic_vocab_size, config.semantic_downsampling
            )
        elif config.semantic_mode is not None:
            self.semantic = SemanticEmbedding(
                config.semantic_vocab_size,
                config.hidden_size,
                config.semantic_downsampling,
                config.semantic_downsampling_conv,
            )
        if config.semantic_mode == "residual":
            # Then the encoder's latents are without it.
            self._code_makers = self._code_makers | {"semantic"}
        if config.semantic_mode == "concat":
            self.join = Conv1d(2 * config.hidden_size, config.hidden_size, 3, causal=False, pad_mode="reflect")
        self.post_init()

    def _frames_of(self, samples: Tensor | int) -> Tensor | int:
        if self.analysis is None:
            return super()._frames_of(samples)
        spectra = samples // self.config.stft_hop_length + 1
        return -(-spectra // math.prod(self.config.upsampling_ratios))

    def _planes(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        """Audio `(batch, 1, samples)` to planes of spectra `(batch, planes, bins, steps)`."""
        spectrum = self.analysis(audio, time)
        return planes_of(spectrum, self.config.domain, self.config.robust_angles).to(audio.dtype)

    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Tensor | None = None,
        padding_mask: Tensor | None = None,
        codes_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **given,
    ) -> CodecDecoderOutput:
        """As for every codec; `semantic_ids` and `whole_frames` as the class says."""
        if self.semantic is not None and padding_mask is not None:
            given.setdefault(
                "whole_frames", self._whole_frames(padding_mask, self._lengths(padding_mask, len(audio_codes)))
            )
        return super().decode(audio_codes, audio_scales, padding_mask, codes_mask, return_dict, **given)

    def _whole_frames(self, audio: Tensor, lengths: Tensor | None) -> Tensor:
        """Frames that each row of `audio` `(batch, ..., samples)` fills, at least one: `(batch,)`."""
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[-1], device=audio.device)
        return (lengths // self.config.hop_length).clamp(min=1)

    def _encode_latents(
        self,
        audio: Tensor,
        time: TimeContext | None = None,
        semantic_ids: Tensor | None = None,
        whole_frames: Tensor | None = None,
    ) -> Tensor:
        if whole_frames is None and self.semantic is not None:
            # Afterwards the context holds the rows' lengths in frames.
            whole_frames = self._whole_frames(audio, lengths_of(time))
        if self.analysis is None:
            latents = self.encoder(audio, time)
        else:
            planes = self._planes(audio, time)
            latents = self.encoder(planes.flatten(1, 2) if self.config.frequency_ratios is None else planes, time)
        if self.config.semantic_mode != "residual":
            return latents
        return latents - self._semantic(semantic_ids, latents, whole_frames)

    def _decode_latents(
        self,
        latents: Tensor,
        time: TimeContext | None = None,
        semantic_ids: Tensor | None = None,
        whole_frames: Tensor | None = None,
    ) -> Tensor:
        decoded = self.decoder(self._with_semantic(latents, time, semantic_ids, whole_frames), time)
        if self.synthesis is None:
            return decoded
        if self.config.frequency_ratios is None:
            decoded = decoded.unflatten(1, (PLANES[self.config.domain], -1))
        return self.synthesis(spectrum_of(decoded.float(), self.config.domain), time)

    def _with_semantic(
        self,
        latents: Tensor,
        time: TimeContext | None,
        semantic_ids: Tensor | None,
        whole_frames: Tensor | None = None,
    ) -> Tensor:
        """What the decoder gets: quantized latents and what the semantic ids add to them."""
        if self.semantic is None:
            return latents
        semantic = self._semantic(semantic_ids, latents, whole_frames).to(latents.dtype)
        if self.join is None:
            return latents + semantic
        return self.join(torch.cat([semantic, latents], dim=1), time)

    def _semantic(self, ids: Tensor | None, latents: Tensor, whole_frames: Tensor | None) -> Tensor:
        return self.semantic(self._given(ids, len(latents)), latents.shape[-1], whole_frames)

    def _given(self, ids: Tensor | None, batch_size: int) -> Tensor:
        if ids is None:
            raise ValueError(
                f"semantic_mode {self.config.semantic_mode!r} needs semantic_ids (batch, steps); "
                f"{self.config.semantic_downsampling} make a frame."
            )
        if len(ids) != batch_size:
            raise ValueError(f"semantic_ids has {len(ids)} rows, but the batch has {batch_size}.")
        return ids

    def _training_outputs(
        self, latents: Tensor, quantization: QuantizerOutput, mask: Tensor | None
    ) -> dict[str, Tensor]:
        if self.classifier is None:
            return {}
        entries = quantization.first_codebook(latents, self.config.semantic_gradient_scale)
        return {"semantic_logits": self.classifier(entries.to(self.dtype), mask)}

    def _train_step(
        self,
        audio: Tensor,
        lengths: Tensor | None,
        count: int | Tensor,
        semantic_ids: Tensor | None = None,
        whole_frames: Tensor | None = None,
    ) -> FunCodecOutput:
        whole_frames = self._whole_frames(audio, lengths) if whole_frames is None else whole_frames
        output = super()._train_step(audio, lengths, count, semantic_ids=semantic_ids, whole_frames=whole_frames)
        if self.classifier is not None:
            ids = self._given(semantic_ids, len(audio))
            output.loss = output.loss + self.classifier.loss(output.semantic_logits.float(), ids, output.codes_mask)
        return output

    def _drop_quantizers(self, count: int, batch_size: int, dropout: float) -> int | Tensor:
        """Structured dropout: one number of codebooks for the step, out of `config.quantizer_choices`."""
        choices = [choice for choice in self.config.quantizer_choices or () if choice <= count]
        if not choices:
            return super()._drop_quantizers(count, batch_size, dropout)
        if torch.rand(()) >= dropout:
            return count
        return choices[int(torch.randint(len(choices), ()))]
