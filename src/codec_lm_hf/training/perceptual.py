"""How audible a difference is: a loss after the psychoacoustic model of PESQ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .spectrograms import Spectrogram

_WINDOW_SECONDS = 0.032
_NUM_BANDS = 49
# Hz; the level of a signal is its power in here.
_LEVEL_BAND = (350.0, 3250.0)
# Powers are in units of the threshold of hearing at 1 kHz; this is where PESQ's listening level comes to lie.
_LISTENING_LEVEL = 10**6.5
# Of a sine at -60 dB of full scale. What is softer is not made as loud as that.
_SOFTEST = 1e-6 / 2
_LOUDNESS_SCALE, _LOUDNESS_POWER = 0.1866, 0.23
_LARGEST = 45.0
_GROUP_FRAMES = 20


class PerceptualDisturbance(nn.Module):
    """Audible difference of speech from a target, as PESQ weighs it before it maps it to opinions.

    Both are brought to a listening level and turned into loudness in bands of half a Bark. What PESQ forgives is
    evened out: the level, in part the long-term spectrum, and a gain that varies slowly. Of the rest a quarter of the
    softer loudness is masked, and what was added counts more than what is missing. PESQ's alignment in time is not
    here, nor are its tables: bands and thresholds are formulas. So values compare with each other only. A codec that
    minimises this alone turns down the bands that it is unsure of, and its level is free: it goes beside a loss of
    spectra or waveforms, with a small weight.

    Args:
        sampling_rate: Hz; PESQ itself is for 8000 and 16000.

    Source: ITU-T P.862, section 10.2; as a loss Martín-Doñas et al., 2018, "A deep learning loss function based on the
    perceptual evaluation of the speech quality". Bark scale of Traunmüller, 1990; thresholds of Terhardt, 1979.
    """

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        window = 2 * round(_WINDOW_SECONDS * sampling_rate / 2)
        self.spectrogram = Spectrogram(window, window // 2, power=2)
        frequencies = torch.linspace(0, sampling_rate / 2, window // 2 + 1)
        # No direct current.
        bark = 26.81 * frequencies[1:] / (1960 + frequencies[1:]) - 0.53
        edges = torch.linspace(bark[0], bark[-1], _NUM_BANDS + 1)
        band = torch.bucketize(bark, edges[1:-1], right=True)
        members = torch.zeros(_NUM_BANDS, len(frequencies))
        members[band, torch.arange(1, len(frequencies))] = 1
        # The lowest bands of low rates may have no bin.
        members = members[members.sum(1) > 0]
        kilohertz = (members @ frequencies) / members.sum(1) / 1000
        decibels = 3.64 * kilohertz**-0.8 - 6.5 * (-0.6 * (kilohertz - 3.3).square()).exp() + 1e-3 * kilohertz**4
        # Beyond what anybody hears the formula leaves the range of float32.
        decibels = decibels.clamp(max=200)
        # In Bark.
        self.band_width = float(edges[1] - edges[0])
        self.register_buffer("bands", members, persistent=False)
        self.register_buffer("thresholds", 10 ** (decibels[:, None] / 10), persistent=False)
        low, high = _LEVEL_BAND
        self.register_buffer("level_bins", (frequencies >= low) & (frequencies <= high), persistent=False)
        # Of a window's squared values.
        self._softest = _SOFTEST * 3 / 8 * window * window / 2

    def forward(self, audio: Tensor, target: Tensor) -> Tensor:
        """Mean disturbance (scalar, 0 or more) of waveforms `(batch, channels, samples)`."""
        ours, theirs = self._band_powers(audio), self._band_powers(target)
        theirs = theirs * self._long_term_ratio(ours, theirs).detach()
        ours = ours * self._slow_gain(ours, theirs).detach()

        loudness, reference = self._loudness(ours), self._loudness(theirs)
        difference = loudness - reference
        audible = difference.sign() * (difference.abs() - torch.minimum(loudness, reference) / 4).clamp(min=0)
        added = ((ours + 50) / (theirs + 50)) ** 1.2
        added = torch.where(added < 3, 0, added.clamp(max=12))
        weight = ((self._audible(theirs).sum(-2) + 1e5) / 1e7) ** 0.04
        # Bands are equally wide: means over them, times the width of all.
        width = self.band_width * len(self.bands)
        symmetric = width * _mean_norm(audible, 2, -2) / weight
        asymmetric = width * (audible.abs() * added).mean(-2) / weight
        return (0.1 * _over_time(symmetric) + 0.0309 * _over_time(asymmetric)).mean()

    def _band_powers(self, audio: Tensor) -> Tensor:
        """Of audio at the listening level, `(batch, channels, bands, frames)`."""
        power = self.spectrogram(audio)
        level = power[..., self.level_bins, :].sum(-2, keepdim=True).mean(-1, keepdim=True)
        return self.bands @ (power * (_LISTENING_LEVEL / level.clamp(min=self._softest)))

    def _long_term_ratio(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of the bands' powers over all frames with speech."""
        speech = self._audible(theirs, 100.0).sum(-2, keepdim=True) > _LISTENING_LEVEL
        means = [
            (self._audible(power, 100.0) * speech).sum(-1, keepdim=True) / speech.sum(-1, keepdim=True).clamp(min=1)
            for power in (ours, theirs)
        ]
        return ((means[0] + 1000) / (means[1] + 1000)).clamp(0.01, 100)

    def _slow_gain(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of each frame, smoothed from frame to frame."""
        ours, theirs = (self._audible(power).sum(-2, keepdim=True) + 5e3 for power in (ours, theirs))
        gain = theirs / ours
        gain = torch.cat([gain[..., :1], 0.8 * gain[..., 1:] + 0.2 * gain[..., :-1]], dim=-1)
        return gain.clamp(3e-4, 5)

    def _audible(self, power: Tensor, factor: float = 1.0) -> Tensor:
        return torch.where(power > self.thresholds * factor, power, 0)

    def _loudness(self, power: Tensor) -> Tensor:
        """Zwicker's law, in sone per Bark."""
        relative = 0.5 + 0.5 * power / self.thresholds
        loudness = _LOUDNESS_SCALE * (2 * self.thresholds) ** _LOUDNESS_POWER * (relative**_LOUDNESS_POWER - 1)
        return torch.where(power > self.thresholds, loudness, 0)


def _over_time(disturbance: Tensor) -> Tensor:
    """Norms `(...)` over frames: sixth powers in groups that overlap by half, squares over the groups."""
    size = min(_GROUP_FRAMES, disturbance.shape[-1])
    groups = disturbance.clamp(max=_LARGEST).unfold(-1, size, max(1, size // 2))
    return _mean_norm(_mean_norm(groups, 6, -1), 2, -1)


def _mean_norm(x: Tensor, order: int, dim: int) -> Tensor:
    """The `order`-th root of the mean of `order`-th powers; its gradient at zero is zero."""
    return torch.linalg.vector_norm(x, order, dim) / x.shape[dim] ** (1 / order)
