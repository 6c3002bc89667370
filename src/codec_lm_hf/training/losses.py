"""What a codec is trained for: its waveform, its spectra, and what discriminators think of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spectrograms import MelSpectrogram, Spectrogram

ADVERSARIAL = ("hinge", "least_squares")
REDUCTIONS = ("mean", "sum")


def over_real_samples(
    loss: Callable[[Tensor, Tensor], Tensor], audio: Tensor, target: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """A loss of rows that may be padded: the mean over their real samples, however much padding follows.

    Args:
        loss: of waveforms `(batch, channels, samples)`, a mean over the batch.
        audio, target: waveforms.
        lengths: int `(batch,)`, samples of each row; `None`: all.
    """
    if lengths is None:
        return loss(audio, target)
    total = audio.new_zeros(())
    # Rows of one length at once: what a loss makes of the end of a row (frames, reflections) is its own matter.
    for length in lengths.unique().tolist():
        rows = lengths == length
        total = total + length * rows.sum() * loss(audio[rows, :, :length], target[rows, :, :length])
    return total / lengths.sum()


def time_l1(audio: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of waveforms `(batch, channels, samples)`."""
    return (audio - target).abs().mean()


def si_sdr_loss(audio: Tensor, target: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Negative scale-invariant signal-to-distortion ratio in dB of waveforms `(batch, channels, samples)`.

    The channels of an item count as one signal; the mean over the batch is taken.

    Args:
        audio, target: waveforms.
        epsilon: added to energies and to the ratio, so that silence, a perfect copy, and audio that has nothing of
            the target have a finite loss.

    Source: Le Roux et al., 2019; as in DAC's toolbox (`SISDRLoss`), whose first argument is the target.
    """
    audio, target = (signal.flatten(1).float() for signal in (audio, target))
    audio, target = audio - audio.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    scale = ((audio * target).sum(1, keepdim=True) + epsilon) / (target.square().sum(1, keepdim=True) + epsilon)
    projection = scale * target
    signal, noise = projection.square().sum(1), (audio - projection).square().sum(1)
    return -10 * (signal / (noise + epsilon) + epsilon).log10().mean()


def shape_loss(audio: Tensor, target: Tensor, window_sizes: Sequence[int]) -> Tensor:
    """Mean absolute difference of envelopes: the largest magnitude in each of adjoining windows.

    Args:
        audio, target: waveforms `(batch, channels, samples)`.
        window_sizes: samples; the mean over these is taken.

    Source: the waveform shape loss of AudioDec's code.
    """
    losses = [
        (F.max_pool1d(audio.abs(), size) - F.max_pool1d(target.abs(), size)).abs().mean() for size in window_sizes
    ]
    return torch.stack(losses).mean()


def _mean_absolute(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().mean()


def _mean_square(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().mean()


def _convergence(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.linalg.norm(theirs - ours) / torch.linalg.norm(theirs).clamp(min=1e-5)


_LINEAR_TERMS = {"linear": _mean_absolute, "convergence": _convergence}
_LOG_TERMS = {"log": _mean_absolute, "log_square": _mean_square}
TERMS = (*_LINEAR_TERMS, *_LOG_TERMS)


class MultiScaleSpectralLoss(nn.Module):
    """Distance of spectrograms at several scales.

    Args:
        spectrograms: one per scale.
        terms: weights of what is measured at each scale. `"linear"`, `"log"`: mean absolute difference of the values
            and of their logarithms; `"log_square"`: mean squared difference of the logarithms; `"convergence"`: norm
            of the difference over the target's norm.
        scale_weights: weight of each scale in the sum; by default the mean over the scales is taken.
        scales_per_step: in training, draw this many of the scales at random each time; all by default. Cheaper, and
            the same on average.

    Raises:
        ValueError: a term is unknown, there is not one weight per scale, or no scale would be drawn.
    """

    def __init__(
        self,
        spectrograms: Sequence[Spectrogram],
        terms: Mapping[str, float],
        scale_weights: Sequence[float] | None = None,
        scales_per_step: int | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(terms) - set(TERMS))
        if unknown or not terms:
            raise ValueError(f"terms must be one or more of {TERMS}, got {unknown or 'none'}.")
        self.spectrograms = nn.ModuleList(spectrograms)
        self.window_sizes = tuple(spectrogram.window_size for spectrogram in spectrograms)
        if scale_weights is not None and len(scale_weights) != len(spectrograms):
            raise ValueError(f"scale_weights must have {len(spectrograms)} entries, got {len(scale_weights)}.")
        if scales_per_step is not None and scales_per_step < 1:
            raise ValueError(f"scales_per_step must be at least 1, got {scales_per_step}.")
        self.terms = dict(terms)
        self.scale_weights = None if scale_weights is None else tuple(scale_weights)
        self.scales_per_step = scales_per_step

    def forward(self, audio: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) between waveforms `(batch, channels, samples)`, over the frames that both have."""
        loss, scales = audio.new_zeros(()), range(len(self.spectrograms))
        if self.scales_per_step is not None and torch.is_grad_enabled():
            scales = torch.randperm(len(scales))[: self.scales_per_step].tolist()
        for scale in scales:
            weight = 1.0 if self.scale_weights is None else self.scale_weights[scale] * len(self.spectrograms)
            for term in self._distances(self.spectrograms[scale], audio, target):
                loss = loss + weight * term
        return loss / len(scales)

    def _distances(self, spectrogram: Spectrogram, audio: Tensor, target: Tensor) -> list[Tensor]:
        ours = spectrogram(audio)
        with torch.no_grad():
            theirs = spectrogram(target)
        frames = min(ours.shape[-1], theirs.shape[-1])
        ours, theirs = ours[..., :frames], theirs[..., :frames]
        distances = [
            self.terms[term] * _LINEAR_TERMS[term](ours, theirs) for term in self.terms if term in _LINEAR_TERMS
        ]
        if len(distances) < len(self.terms):
            ours, theirs = spectrogram.log(ours), spectrogram.log(theirs)
            distances += [
                self.terms[term] * _LOG_TERMS[term](ours, theirs) for term in self.terms if term in _LOG_TERMS
            ]
        return distances


class MultiScaleMelLoss(MultiScaleSpectralLoss):
    """Distance of mel spectra at several window sizes; by default the mean absolute difference of their log10.

    Args:
        sampling_rate: Hz.
        window_sizes: samples.
        num_mels: bands at each size; a size gets fewer where its bins do not suffice.
        floor: values below this count as silence.
        scales_per_step: see `MultiScaleSpectralLoss`.
        hop_lengths: at each size; a quarter of the window by default.
        n_ffts: at each size; the window by default.
        terms, scale_weights: see `MultiScaleSpectralLoss`.
        **spectrogram: of every size, see `MelSpectrogram`.

    Source: the reconstruction loss of Descript's codec (Kumar et al., 2023, section 3.4), after Yamamoto et al., 2020.
    `docs/losses.md` has the arguments of other papers.
    """

    def __init__(
        self,
        sampling_rate: int,
        window_sizes: Sequence[int] = (128, 256, 512, 1024, 2048),
        num_mels: Sequence[int] = (12, 24, 48, 80, 80),
        floor: float = 1e-4,
        scales_per_step: int | None = None,
        hop_lengths: Sequence[int] | None = None,
        n_ffts: Sequence[int] | None = None,
        terms: Mapping[str, float] | None = None,
        scale_weights: Sequence[float] | None = None,
        **spectrogram,
    ) -> None:
        scales = _scales(window_sizes, num_mels=num_mels, hop_lengths=hop_lengths, n_ffts=n_ffts)
        super().__init__(
            [MelSpectrogram(sampling_rate, log_floor=floor, **scale, **spectrogram) for scale in scales],
            {"log": 1.0} if terms is None else terms,
            scale_weights,
            scales_per_step,
        )


class MultiScaleStftLoss(MultiScaleSpectralLoss):
    """Distance of spectra at several window sizes; by default spectral convergence and natural logarithms.

    Args:
        window_sizes: samples.
        hop_lengths: at each size; a quarter of the window by default.
        n_ffts: at each size; the window by default.
        terms, scale_weights: see `MultiScaleSpectralLoss`.
        natural_log, **spectrogram: of every size, see `Spectrogram`.

    Source: Yamamoto et al., 2020, "Parallel WaveGAN", section 2.2. `docs/losses.md` has the arguments of other papers.
    """

    def __init__(
        self,
        window_sizes: Sequence[int] = (512, 1024, 2048),
        hop_lengths: Sequence[int] | None = None,
        n_ffts: Sequence[int] | None = None,
        terms: Mapping[str, float] | None = None,
        scale_weights: Sequence[float] | None = None,
        natural_log: bool = True,
        **spectrogram,
    ) -> None:
        scales = _scales(window_sizes, hop_lengths=hop_lengths, n_ffts=n_ffts)
        super().__init__(
            [Spectrogram(natural_log=natural_log, **scale, **spectrogram) for scale in scales],
            {"convergence": 1.0, "log": 1.0} if terms is None else terms,
            scale_weights,
        )


def _scales(window_sizes: Sequence[int], **given: Sequence[int] | None) -> list[dict[str, int]]:
    """The arguments of each scale's spectrogram; what is not given is left out."""
    names = {"num_mels": "num_mels", "hop_lengths": "hop_length", "n_ffts": "n_fft"}
    scales = [{"window_size": size} for size in window_sizes]
    for name, values in given.items():
        if values is None:
            continue
        if len(values) != len(scales):
            raise ValueError(f"window_sizes and {name} differ in length: {len(scales)} and {len(values)}.")
        for scale, value in zip(scales, values, strict=True):
            scale[names[name]] = value
    return scales


def distillation_loss(
    features: Tensor, teacher: Tensor, mask: Tensor | None = None, axis: str = "dimension"
) -> Tensor:
    """Distance of a codec's semantic features to a teacher's, over the frames that both have.

    Args:
        features, teacher: `(batch, frames, dim)`.
        mask: bool `(batch, frames)`; only these frames count. `None`: all that both have.
        axis: `"dimension"`: the cosine similarity, over time, of each dimension; `"time"`: that of each frame, and the
            mean absolute difference. Its negative log-sigmoid is averaged.

    Source: SpeechTokenizer (Zhang et al., 2024), section 3.2.
    """
    _check("axis", axis, ("dimension", "time"))
    frames = min(features.shape[1], teacher.shape[1])
    features, teacher = features[:, :frames].float(), teacher[:, :frames].float()
    mask = torch.ones_like(features[..., 0], dtype=torch.bool) if mask is None else mask[:, :frames]
    if axis == "dimension":
        # Zeros change no product, so each row's cosine is that of its own frames.
        return -F.logsigmoid(F.cosine_similarity(features * mask[..., None], teacher * mask[..., None], dim=1)).mean()
    features, teacher = features[mask], teacher[mask]
    return -F.logsigmoid(F.cosine_similarity(features, teacher)).mean() + (features - teacher).abs().mean()


def discriminator_loss(kind: str, real: Sequence[Tensor], fake: Sequence[Tensor], reduction: str = "mean") -> Tensor:
    """What a discriminator minimises.

    Args:
        kind: `"hinge"` or `"least_squares"`.
        real, fake: logits of each part.
        reduction: over the parts, `"mean"` or `"sum"`.
    """
    _check("adversarial loss", kind, ADVERSARIAL)
    if kind == "hinge":
        losses = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    else:
        losses = [(1 - r.float()).square().mean() + f.float().square().mean() for r, f in zip(real, fake, strict=True)]
    return _reduce(losses, reduction)


def adversarial_loss(kind: str, fake: Sequence[Tensor], reduction: str = "mean") -> Tensor:
    """What the codec minimises to pass for real; the arguments are those of `discriminator_loss`."""
    _check("adversarial loss", kind, ADVERSARIAL)
    if kind == "hinge":
        losses = [F.relu(1 - f.float()).mean() for f in fake]
    else:
        losses = [(1 - f.float()).square().mean() for f in fake]
    return _reduce(losses, reduction)


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], relative: bool = True, reduction: str = "mean"
) -> Tensor:
    """Mean absolute difference of a discriminator's feature maps.

    Args:
        real, fake: maps of each part. Papers that count the logits among them (HiFi-GAN) append them to a part's maps.
        relative: divide each difference by the size of the real map (EnCodec, section 3.4).
        reduction: over all maps of all parts, `"mean"` or `"sum"`.
    """
    losses = [
        _MapDistance.apply(f, r, relative)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return _reduce(losses, reduction)


class _MapDistance(torch.autograd.Function):
    """Sum of |fake - real| over sum of |real| or over their number, as float32; gradient to `fake` only.

    The maps are the largest tensors of a training step. Plain operations would copy them to float32 and give gradients
    in another memory layout; this takes half the time.
    """

    @staticmethod
    def forward(ctx, fake: Tensor, real: Tensor, relative: bool) -> Tensor:
        difference = fake - real
        if relative:
            size = real.abs().sum(dtype=torch.float32).clamp(min=1e-5 * real.numel())
        else:
            size = difference.new_tensor(real.numel(), dtype=torch.float32)
        ctx.save_for_backward(difference, size)
        return difference.abs().sum(dtype=torch.float32) / size

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        difference, size = ctx.saved_tensors
        return difference.sgn().mul_(gradient / size), None, None


def _reduce(losses: list[Tensor], reduction: str) -> Tensor:
    _check("reduction", reduction, REDUCTIONS)
    return torch.stack(losses).mean() if reduction == "mean" else torch.stack(losses).sum()


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}.")
