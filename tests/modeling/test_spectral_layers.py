"""Convolutions over frequency and time and centred spectra, beside what torch computes from explicit padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codec_lm_hf.modeling.layers.conv import PAD_MODES
from codec_lm_hf.modeling.layers.conv2d import Conv2d, ConvTranspose2d
from codec_lm_hf.modeling.layers.seanet2d import SeanetEncoder2d
from codec_lm_hf.modeling.layers.stft import InverseStft, Stft
from codec_lm_hf.modeling.layers.streaming import Stream, TimeContext

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_a_last_incomplete_stride_is_made_up_for_on_the_left_when_not_causal(pad_mode):
    layer = Conv2d(3, 4, (8, 4), bins=17, stride=(4, 2), causal=False, pad_mode=pad_mode)
    x = torch.randn(2, 3, 17, 11)
    # Time: 2 in all, one on each side, and one more on the left for the twelfth step. Bins: 4 in all.
    padded = F.pad(x, (2, 1, 2, 2), mode=pad_mode)
    torch.testing.assert_close(layer(x), layer.conv(padded), **CLOSE)
    assert layer(x).shape == (2, 4, layer.out_bins, 6)


def test_causal_padding_stands_before_the_signal_and_at_its_end():
    layer = Conv2d(3, 4, (3, 4), bins=9, stride=(1, 2), dilation=(1, 3), causal=True)
    x = torch.randn(2, 3, 9, 11)
    torch.testing.assert_close(layer(x), layer.conv(F.pad(x, (8, 1, 1, 1))), **CLOSE)


@pytest.mark.parametrize(
    ("causal", "ratio", "steps"), [(False, 1.0, (1, 1)), (True, 1.0, (0, 2)), (True, 0.5, (1, 1))]
)
def test_transposed_excess_is_trimmed(causal, ratio, steps):
    layer = ConvTranspose2d(
        4, 2, (8, 4), bins=4, stride=(4, 2), causal=causal, trim_right_ratio=ratio, extra_bins=1, groups=2
    )
    x = torch.randn(2, 4, 4, 5)
    whole = layer.conv(x)
    # Of four bins too many, two below; one of the two above is kept.
    expected = whole[:, :, 2:-1, steps[0] : whole.shape[-1] - steps[1]]
    torch.testing.assert_close(layer(x), expected, **CLOSE)
    assert layer.out_bins == 17


def test_rows_of_different_lengths_stand_alone_with_a_norm_over_bins_and_time():
    torch.manual_seed(0)
    layers = [
        Conv2d(2, 4, (3, 4), bins=9, stride=(1, 2), causal=False, pad_mode="reflect", norm_type="time_group_norm"),
        ConvTranspose2d(4, 3, (2, 4), bins=9, stride=(1, 2), causal=False, norm_type="time_group_norm"),
    ]
    for layer in layers:
        nn.init.normal_(layer.norm.weight)
    x, lengths = torch.randn(3, 2, 9, 12), [12, 7, 1]
    time, together = TimeContext(torch.tensor(lengths)), x
    for layer in layers:
        together = layer(together, time)
    for row, length in enumerate(lengths):
        alone = x[row : row + 1, ..., :length]
        for layer in layers:
            alone = layer(alone)
        assert int(time.lengths[row]) == alone.shape[-1]
        torch.testing.assert_close(together[row : row + 1, ..., : alone.shape[-1]], alone, **CLOSE)


def test_padding_by_the_length_cannot_be_streamed():
    layer = Conv2d(1, 1, (1, 4), bins=3, stride=(1, 2), causal=False)
    assert layer.whole_signal
    with pytest.raises(ValueError, match="cannot be streamed"):
        layer(torch.randn(1, 1, 3, 8), Stream())
    assert not Conv2d(1, 1, (1, 3), bins=3, causal=False).whole_signal


@pytest.mark.parametrize(("size", "hop"), [(512, 160), (64, 16)])
def test_centred_spectra_are_those_of_torch_and_so_is_the_way_back(size, hop):
    audio = torch.randn(2, 1, 2005)
    expected = torch.stft(audio[:, 0], size, hop, window=torch.hann_window(size), return_complex=True)
    spectrum = Stft(size, hop, centred=True)(audio)
    torch.testing.assert_close(spectrum, torch.cat([expected.real, expected.imag], dim=1), atol=1e-4, rtol=1e-4)
    back = InverseStft(size, hop, lookahead=None)(spectrum)
    torch.testing.assert_close(back[:, 0], torch.istft(expected, size, hop, window=torch.hann_window(size)), **CLOSE)
    assert back.shape[-1] == (spectrum.shape[-1] - 1) * hop


def encoder(**changes):
    fields = {
        "planes": 3,
        "bins": 9,
        "dimension": 4,
        "num_filters": 4,
        "frequency_ratios": (4, 2),
        "ratios": (1, 2),
        "num_residual_layers": 1,
        "kernel_size": 3,
        "last_kernel_size": 3,
        "residual_kernel_size": 3,
        "dilation_growth_rate": 1,
        "compress": 2,
        "use_conv_shortcut": True,
        "group_ratio": 1,
        "num_lstm_layers": 0,
        "conv_options": {"causal": False},
    }
    return SeanetEncoder2d(**{**fields, **changes})


def test_group_ratio_counts_the_channels_of_a_group():
    convs = [module for module in encoder().modules() if isinstance(module, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [1, 1, 1, 2, 2, 2, 2, 4, 4]
    with pytest.raises(ValueError, match="group ratio 8 asks for 16 channels a group, but there are only 2"):
        encoder(group_ratio=8)


def test_strides_must_fold_the_bins_into_one():
    with pytest.raises(ValueError, match="leave 2 bins; they must leave one"):
        encoder(frequency_ratios=(2, 2))
