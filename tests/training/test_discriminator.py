"""The MS-STFT discriminator as a model; `tests/parity` compares every feature map with the original's."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

import codec_lm_hf
from codec_lm_hf.configuration.discriminators import MultiScaleStftDiscriminatorConfig
from codec_lm_hf.modeling.discriminators import MultiScaleStftDiscriminator
from tests.parity.harness import Case, find_cases
from tests.training.helpers import discriminator

CASES = [folder for folder in find_cases() if (folder / "msstftd.th").is_file()]


def test_there_is_a_case():
    assert CASES


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_the_public_converter_gives_a_checkpoint_with_the_logits_of_the_original(folder, tmp_path):
    case = Case(folder)
    config = case.meta["discriminator_config"]
    output = codec_lm_hf.convert("ms_stft_discriminator", folder / "msstftd.th", tmp_path / "ours", config=config)
    model = MultiScaleStftDiscriminator.from_pretrained(output)
    with torch.no_grad():
        logits = model(case.input("disc.input")).logits
    assert len(logits) == len(case.names("disc.logits."))
    for scale, found in enumerate(logits):
        case.same(f"disc.logits.{scale}", found, atol=1e-6, rtol=1e-3)


def test_windows_survive_loading_over_dirty_memory(tmp_path):
    """They are not in the checkpoint, and from_pretrained builds the model on the meta device."""
    model = discriminator()
    model.save_pretrained(tmp_path)
    for _ in range(3):
        dirty = [torch.full((size,), torch.nan) for size in (128, 256, 1000) for _ in range(50)]
        del dirty
        loaded = MultiScaleStftDiscriminator.from_pretrained(tmp_path)
        for ours, theirs in zip(loaded.discriminators, model.discriminators, strict=True):
            assert torch.equal(ours.hann.window, theirs.hann.window)
    audio = torch.randn(2, 1, 1000)
    for ours, theirs in zip(loaded(audio).logits, model(audio).logits, strict=True):
        assert torch.equal(ours, theirs)


def test_five_feature_maps_and_logits_per_scale():
    output = MultiScaleStftDiscriminator(MultiScaleStftDiscriminatorConfig(filters=2))(torch.randn(2, 1, 4000))
    assert len(output.logits) == len(output.feature_maps) == 3
    assert all(len(maps) == 5 for maps in output.feature_maps)
    assert all(logits.shape[:2] == (2, 1) for logits in output.logits)


def test_a_crop_shorter_than_the_window_is_refused():
    with pytest.raises(ValueError, match="at least 256 samples, got 200"):
        discriminator()(torch.randn(1, 1, 200))


def test_scales_need_all_three_figures():
    with pytest.raises(StrictDataclassClassValidationError, match="one entry per scale"):
        MultiScaleStftDiscriminatorConfig(n_ffts=(256, 128))


def test_it_learns_to_tell_noise_from_tones():
    model = discriminator().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    time = torch.arange(2000) / 16000
    for _ in range(60):
        real = torch.sin(2 * torch.pi * (200 + 500 * torch.rand(4, 1, 1)) * time)
        fake = torch.randn(4, 1, 2000)
        output = model(torch.cat([real, fake]))
        halves = [logits.chunk(2) for logits in output.logits]
        loss = sum((1 - r).relu().mean() + (1 + f).relu().mean() for r, f in halves)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(r.mean() > 0 > f.mean() for r, f in halves)
