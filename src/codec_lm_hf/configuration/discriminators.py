"""Discriminators are models too: saved, pushed and loaded like the codec they train."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..hub import RemoteStubMixin


@strict
class MultiScaleStftDiscriminatorConfig(RemoteStubMixin, PreTrainedConfig):
    """Configuration of `MultiScaleStftDiscriminator`. The defaults are those of EnCodec's code.

    Args:
        audio_channels: of the audio to judge.
        filters: channels of every convolution.
        n_ffts, hop_lengths, win_lengths: of each scale, in samples.
        kernel_size: (time, frequency) of the convolutions.
        stride: (time, frequency) of the dilated ones.
        dilations: along time, one convolution each.
        normalized: divide the spectrum by the window's norm.
        norm_type: `"weight_norm"` or `"none"`.
        negative_slope: of the leaky ReLUs.
    """

    model_type = "ms_stft_discriminator"
    presets: ClassVar[dict[str, dict]] = {
        "encodec": {},
        # All five scales of the paper (section 3.4).
        "encodec_paper": {
            "n_ffts": (2048, 1024, 512, 256, 128),
            "hop_lengths": (512, 256, 128, 64, 32),
            "win_lengths": (2048, 1024, 512, 256, 128),
        },
    }

    audio_channels: int = 1
    filters: int = 32
    n_ffts: list[int] | tuple[int, ...] = (1024, 2048, 512)
    hop_lengths: list[int] | tuple[int, ...] = (256, 512, 128)
    win_lengths: list[int] | tuple[int, ...] = (1024, 2048, 512)
    kernel_size: list[int] | tuple[int, ...] = (3, 9)
    stride: list[int] | tuple[int, ...] = (1, 2)
    dilations: list[int] | tuple[int, ...] = (1, 2, 4)
    normalized: bool = True
    norm_type: str = "weight_norm"
    negative_slope: float = 0.2

    def validate_architecture(self):
        if not len(self.n_ffts) == len(self.hop_lengths) == len(self.win_lengths):
            raise ValueError("n_ffts, hop_lengths and win_lengths need one entry per scale each.")
