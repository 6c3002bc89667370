"""What a codec is trained for: its waveform, its spectra, and what discriminators think of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling.layers.stft import mel_filters

ADVERSARIAL = ("hinge", "least_squares")


def time_l1(audio: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of waveforms `(batch, channels, samples)`."""
    return (audio - target).abs().mean()


def _magnitudes(audio: Tensor, size: int, hop: int) -> Tensor:
    """Magnitude spectra `(batch * channels, bins, frames)` of `(batch, channels, samples)`, Hann window."""
    flat = audio.flatten(0, 1).float()
    window = torch.hann_window(size, device=audio.device)
    spectrum = torch.stft(
        F.pad(flat, (size // 2, size // 2)), size, hop, window=window, center=False, return_complex=True
    )
    return torch.view_as_real(spectrum).square().sum(-1).clamp(min=1e-10).sqrt()


class MultiScaleMelLoss(nn.Module):
    """Mean absolute difference of log10 mel spectra at several window sizes, hop a quarter of the window.

    Args:
        sampling_rate: Hz.
        window_sizes: samples.
        num_mels: bands at each size; a size gets fewer where its bins do not suffice.
        floor: magnitudes below this count as silence.
        scales_per_step: in training, draw this many of the sizes at random each time; all by default. Cheaper, and the
            same on average.

    Source: the reconstruction loss of Descript's codec (Kumar et al., 2023, section 3.4), after Yamamoto et al., 2020.
    """

    def __init__(
        self,
        sampling_rate: int,
        window_sizes: Sequence[int] = (128, 256, 512, 1024, 2048),
        num_mels: Sequence[int] = (12, 24, 48, 80, 80),
        floor: float = 1e-4,
        scales_per_step: int | None = None,
    ) -> None:
        super().__init__()
        self.scales_per_step = scales_per_step
        if len(window_sizes) != len(num_mels):
            raise ValueError(f"window_sizes and num_mels differ in length: {len(window_sizes)} and {len(num_mels)}.")
        self.window_sizes = tuple(window_sizes)
        self.floor = floor
        for size, mels in zip(window_sizes, num_mels, strict=True):
            self.register_buffer(f"filters_{size}", mel_filters(sampling_rate, size, mels), persistent=False)

    def forward(self, audio: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) between waveforms `(batch, channels, samples)`."""
        loss, sizes = audio.new_zeros(()), self.window_sizes
        if self.scales_per_step is not None and torch.is_grad_enabled():
            sizes = [sizes[place] for place in torch.randperm(len(sizes))[: self.scales_per_step].tolist()]
        for size in sizes:
            ours = self._log_mel(audio, size)
            with torch.no_grad():
                theirs = self._log_mel(target, size)
            loss = loss + (ours - theirs).abs().mean()
        return loss / len(sizes)

    def _log_mel(self, audio: Tensor, size: int) -> Tensor:
        mel = torch.matmul(getattr(self, f"filters_{size}"), _magnitudes(audio, size, size // 4))
        return mel.clamp(min=self.floor).log10()


class MultiScaleStftLoss(nn.Module):
    """Spectral convergence plus log-magnitude distance at several window sizes, hop a quarter of the window.

    Args:
        window_sizes: samples.

    Source: Yamamoto et al., 2020, "Parallel WaveGAN", section 2.2.
    """

    def __init__(self, window_sizes: Sequence[int] = (512, 1024, 2048)) -> None:
        super().__init__()
        self.window_sizes = tuple(window_sizes)

    def forward(self, audio: Tensor, target: Tensor) -> Tensor:
        """Loss (scalar) between waveforms `(batch, channels, samples)`."""
        loss = audio.new_zeros(())
        for size in self.window_sizes:
            ours = _magnitudes(audio, size, size // 4)
            with torch.no_grad():
                theirs = _magnitudes(target, size, size // 4)
            convergence = torch.linalg.norm(theirs - ours) / torch.linalg.norm(theirs).clamp(min=1e-5)
            loss = loss + convergence + (theirs.log() - ours.log()).abs().mean()
        return loss / len(self.window_sizes)


def discriminator_loss(kind: str, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """What a discriminator minimises, mean over its parts.

    Args:
        kind: `"hinge"` or `"least_squares"`.
        real, fake: logits of each part.
    """
    _check_kind(kind)
    if kind == "hinge":
        losses = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    else:
        losses = [(1 - r.float()).square().mean() + f.float().square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(kind: str, fake: Sequence[Tensor]) -> Tensor:
    """What the codec minimises to pass for real, mean over the discriminator's parts."""
    _check_kind(kind)
    if kind == "hinge":
        losses = [F.relu(1 - f.float()).mean() for f in fake]
    else:
        losses = [(1 - f.float()).square().mean() for f in fake]
    return torch.stack(losses).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean absolute difference of a discriminator's feature maps, each relative to the size of the real one.

    Source: EnCodec, section 3.4.
    """
    losses = [
        _RelativeL1.apply(f, r)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(losses).mean()


class _RelativeL1(torch.autograd.Function):
    """Sum of |fake - real| over sum of |real|, as float32; gradient to `fake` only.

    The maps are the largest tensors of a training step. Plain operations would copy them to float32 and give gradients
    in another memory layout; this takes half the time.
    """

    @staticmethod
    def forward(ctx, fake: Tensor, real: Tensor) -> Tensor:
        difference = fake - real
        size = real.abs().sum(dtype=torch.float32).clamp(min=1e-5 * real.numel())
        ctx.save_for_backward(difference, size)
        return difference.abs().sum(dtype=torch.float32) / size

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        difference, size = ctx.saved_tensors
        return difference.sgn().mul_(gradient / size), None


def _check_kind(kind: str) -> None:
    if kind not in ADVERSARIAL:
        raise ValueError(f"adversarial loss must be one of {ADVERSARIAL}, got {kind!r}.")
