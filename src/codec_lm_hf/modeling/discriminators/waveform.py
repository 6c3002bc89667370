"""Discriminators of waveforms: HiFi-GAN's, which see them folded by a period or at lower rates."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .parts import Judgement, normed, run_stack


class PeriodDiscriminator(nn.Module):
    """Convolutions along every `period`-th sample: the waveform is folded into rows of `period` samples.

    Args:
        audio_channels: of the audio.
        period: samples of a row.
        channels, strides: of the convolutions along the columns.
        kernel_size, last_kernel_size: of these, and of the one that gives the logits.
        whole_extra_period: fill up a waveform that is a multiple of `period` by a whole period more, as Descript's
            code does (`MPD` in `dac/model/discriminator.py`).
        norm_type, negative_slope: of the convolutions, and of the leaky ReLU after each.

    Source: Kong et al., 2020, "HiFi-GAN", section 2.3.
    """

    def __init__(
        self,
        audio_channels: int,
        period: int,
        channels: Sequence[int],
        kernel_size: int,
        strides: Sequence[int],
        last_kernel_size: int,
        whole_extra_period: bool,
        norm_type: str,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.period = period
        self.whole_extra_period = whole_extra_period
        self.negative_slope = negative_slope
        widths = [audio_channels, *channels]
        self.convs = nn.ModuleList(
            [
                normed(
                    nn.Conv2d(narrow, wide, (kernel_size, 1), (stride, 1), padding=((kernel_size - 1) // 2, 0)),
                    norm_type,
                )
                for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True)
            ]
        )
        padding = (last_kernel_size // 2, 0)
        self.conv_post = normed(nn.Conv2d(widths[-1], 1, (last_kernel_size, 1), padding=padding), norm_type)

    def forward(self, audio: Tensor) -> Judgement:
        missing = self.period - audio.shape[-1] % self.period
        if missing < self.period or self.whole_extra_period:
            if audio.shape[-1] <= missing:
                raise ValueError(
                    f"a period of {self.period} samples cannot be judged in {audio.shape[-1]}: use longer crops."
                )
            audio = F.pad(audio, (0, missing), mode="reflect")
        x, maps = run_stack(self.convs, audio.unflatten(-1, (-1, self.period)), self.negative_slope)
        return self.conv_post(x), maps


class ScaleDiscriminator(nn.Module):
    """Convolutions along a waveform whose rate was lowered first.

    Args:
        audio_channels: of the audio.
        num_poolings: halvings of the rate by averaging 4 samples.
        decimation: division of the rate by proper resampling, by a number or from one rate to another, `(old, new)`
            (Descript's option; needs the `dac` extra).
        channels, kernel_sizes, strides, groups: of the convolutions.
        last_kernel_size: of the one that gives the logits.
        norm_type, negative_slope: of the convolutions, and of the leaky ReLU after each.

    Source: Kong et al., 2020, "HiFi-GAN", section 2.3, after Kumar et al., 2019, "MelGAN".
    """

    def __init__(
        self,
        audio_channels: int,
        num_poolings: int,
        decimation: int | Sequence[int],
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        groups: Sequence[int],
        last_kernel_size: int,
        norm_type: str,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.num_poolings = num_poolings
        self.rates = (decimation, 1) if isinstance(decimation, int) else tuple(decimation)
        self.negative_slope = negative_slope
        widths = [audio_channels, *channels]
        self.convs = nn.ModuleList(
            [
                normed(nn.Conv1d(narrow, wide, kernel, stride, padding=kernel // 2, groups=group), norm_type)
                for narrow, wide, kernel, stride, group in zip(
                    widths[:-1], widths[1:], kernel_sizes, strides, groups, strict=True
                )
            ]
        )
        last = nn.Conv1d(widths[-1], 1, last_kernel_size, padding=last_kernel_size // 2)
        self.conv_post = normed(last, norm_type)

    def forward(self, audio: Tensor) -> Judgement:
        for _ in range(self.num_poolings):
            audio = F.avg_pool1d(audio, 4, stride=2, padding=2)
        if self.rates[0] != self.rates[1]:
            audio = self._decimated(audio)
        x, maps = run_stack(self.convs, audio, self.negative_slope)
        return self.conv_post(x), maps

    def _decimated(self, audio: Tensor) -> Tensor:
        try:
            from julius import resample_frac
        except ImportError as error:
            raise ImportError(
                "a scale discriminator with decimation resamples with julius, as the original does: "
                "pip install 'codec-lm-hf[dac]'."
            ) from error
        return resample_frac(audio, *self.rates)
