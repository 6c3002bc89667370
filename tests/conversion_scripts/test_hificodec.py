"""HiFi-Codec's configuration, as its code reads it. Numbers are compared in tests/parity."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import StrictDataclassError

from codec_lm_hf.conversion_scripts.hificodec import config_from_original

ORIGINAL = {
    "sampling_rate": 16000,
    "resblock": "1",
    "upsample_rates": [5, 4],
    "upsample_kernel_sizes": [11, 8],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3, 5, 7], [1, 3, 5, 7]],
    "latent_dim": 64,
    "encoder_base_channels": 16,
}


@pytest.mark.parametrize(("resblock", "paired"), [("1", True), ("2", False), (1, False)])
def test_the_block_s_name_is_a_text_and_says_how_many_dilations_are_taken(resblock, paired):
    config = config_from_original({**ORIGINAL, "resblock": resblock})
    assert config.paired_convolutions == paired
    assert [len(steps) for steps in config.residual_dilations] == [3 if paired else 2] * 2


def test_channels_need_not_be_multiples_of_a_norm_s_groups():
    """24 channels of the first stage are one group, 48 of the second three."""
    assert config_from_original({**ORIGINAL, "encoder_base_channels": 12}).encoder_channels == 12
    with pytest.raises(StrictDataclassError, match="cannot be divided into groups of about encoder_norm_channels"):
        config_from_original({**ORIGINAL, "encoder_base_channels": 25})
