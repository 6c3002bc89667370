"""The survey's tables from the code, against what the originals' repositories say of their variants."""

from __future__ import annotations

import pytest

from codec_lm_hf.evaluation.survey import FLAGS, ROWS, flags, markdown_tables

# Codes per frame, Hz, kbps: read in the originals' configurations.
FIGURES = {
    "A": (8, 16000, 4.0),
    "B1": (4, 16000, 2.0),
    "B2": (4, 16000, 2.0),
    "B3": (4, 24000, 3.0),
    "C": (8, 24000, 6.4),
    "D1": (12, 16000, 6.0),
    "D2": (32, 24000, 24.0),
    "D3": (9, 44100, 7.752),
    "E": (8, 24000, 6.0),
    "F1": (32, 16000, 16.0),
    "F2": (32, 16000, 16.0),
    "F3": (32, 16000, 16.0),
    "F4": (32, 16000, 8.0),
    "F5": (32, 16000, 16.0),
    "F6": (32, 16000, 8.0),
}


@pytest.mark.parametrize("label", FIGURES)
def test_figures(label):
    (row,) = [row for row in ROWS if row.label == label]
    config = row.config
    count = config.num_codebooks if row.bandwidth is None else config.num_quantizers_for(row.bandwidth)
    assert (count, config.sampling_rate) == FIGURES[label][:2]
    assert config.bandwidth_of(count) == pytest.approx(FIGURES[label][2], abs=1e-3)


def test_the_survey_has_fifteen_variants():
    assert sorted(row.label for row in ROWS if row.label) == sorted(FIGURES)


def test_flags():
    found = {row.preset: {name for name, value in flags(row).items() if value} for row in ROWS}
    assert found["speechtokenizer_hubert_avg"] == {"SEM", "KM"}
    assert found["speechtokenizer_snake"] == {"SEM", "SNAKE", "KM"}
    assert found["HiFi-Codec-16k-320d"] == {"MRG"}
    assert found["symAD_libritts_24000_hop300"] == set()
    assert found["denoise_symAD_vctk_48000_hop300"] == {"NOISY"}
    assert found["dac_44khz"] == {"SNAKE"}
    assert found["encodec_24khz"] == {"LM", "KM"}
    assert found["encodec_32khz"] == {"KM"}
    assert found["audio_codec-encodec-en-libritts-16k-nq32ds320"] == {"KM"}


def test_tables_name_every_variant_twice():
    text = markdown_tables()
    assert all(text.count(f"`{row.preset}`") == 2 for row in ROWS)
    assert all(f" {name} |" in text for name in FLAGS)
