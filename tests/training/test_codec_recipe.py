"""A recipe is one YAML file; whatever it asks for that does not exist is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

import codec_lm_hf
from codec_lm_hf.modeling.discriminators import CodecDiscriminator
from codec_lm_hf.training.codec_recipe import build_discriminator, read_recipe, run_recipe
from codec_lm_hf.training.recipe_base import RecipeError
from tests.common.tiny import TINY
from tests.common.weights import assert_holds
from tests.training.helpers import RATE, changed, hubert, write_noise, write_recordings

PROJECT_RECIPES = [
    path for path in sorted(Path(__file__).parents[2].glob("recipes/*.yaml")) if "train-codec" in path.read_text()
]

RECIPE = {
    "model": {"family": "stft_codec", **TINY["stft_codec"].fields},
    "discriminator": {
        "family": "discriminator",
        "parts": [{"kind": "stft", "n_fft": 256, "hop_length": 64, "win_length": 256, "filters": 2}],
    },
    "data": {"train": ["audio"], "eval": ["audio"], "eval_limit": 1, "crop_seconds": 0.21, "loudness_db": [-30, -20]},
    "training": {
        "output_dir": "to be replaced",
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    },
}


def write(folder, **changes):
    """A file of the recipe with changes, see `changed`."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(RECIPE, **changes)))
    return path


@pytest.fixture
def folder(tmp_path):
    write_recordings(tmp_path / "audio", 4)
    return tmp_path


def run(folder, path, **options):
    return run_recipe(path, folder, output_dir=str(folder / "out"), **options)


def test_a_recipe_trains_and_leaves_what_from_pretrained_reads(folder):
    trained = run(folder, write(folder))
    assert trained.state.global_step == 2
    # 0.21 s are cut to whole frames.
    assert trained.train_dataset.crop_length == 10 * 320
    assert trained.train_dataset.augmentation.loudness_db == (-30, -20)
    loaded = codec_lm_hf.AutoCodecModel.from_pretrained(folder / "out")
    assert_holds(trained.model, loaded)
    assert AutoFeatureExtractor.from_pretrained(folder / "out").sampling_rate == RATE
    CodecDiscriminator.from_pretrained(folder / "out" / "discriminator")


def test_resume_goes_on_from_the_newest_checkpoint(folder):
    run(folder, write(folder))
    trained = run(folder, write(folder), resume=True, max_steps=3)
    assert trained.state.global_step == 3
    assert (folder / "out" / "checkpoint-3").is_dir()
    with pytest.raises(RecipeError, match="checkpoint-3 has all the steps that max_steps=3 asks for; to go on, ask"):
        run(folder, write(folder), resume=True, max_steps=3)


def test_checkpoints_of_an_earlier_run_are_not_mixed_with_those_of_another(folder):
    run(folder, write(folder))
    # Before the data, which may take hours.
    empty = write(folder, data__train=["nowhere"])
    with pytest.raises(RecipeError, match=r"checkpoint-2 is of an earlier run; go on from it \(--resume\)"):
        run(folder, empty)
    with pytest.raises(RecipeError, match="new holds no checkpoint to go on from; leave --resume out"):
        run_recipe(empty, folder, output_dir=str(folder / "new"), resume=True)


def test_a_checkpoint_that_is_not_whole_is_named(folder):
    (folder / "out" / "checkpoint-4").mkdir(parents=True)
    with pytest.raises(RecipeError, match="checkpoint-4 is not whole: the run ended while it was written. Remove it"):
        run(folder, write(folder), resume=True)


def test_a_number_may_be_written_with_an_exponent_alone(tmp_path):
    path = write(tmp_path, training__learning_rate="RATE")
    path.write_text(path.read_text().replace("RATE", "1e-4"))
    assert read_recipe(path)["training"]["learning_rate"] == 1e-4


def test_without_a_discriminator_or_evaluation(folder):
    trained = run(folder, write(folder, discriminator=None, data__eval=None))
    assert trained.discriminator is None and trained.eval_dataset is None


@pytest.mark.parametrize("name", ["encodec", "stft_codec"])
def test_fine_tuning_starts_from_a_checkpoint_of_any_family(folder, name):
    start = TINY[name].model()
    start.save_pretrained(folder / "start")
    trained = run(
        folder, write(folder, data__crop_seconds=0.2), start_from=folder / "start", learning_rate=0.0, max_steps=1
    )
    assert type(trained.model) is type(start)
    for key, value in trained.model.named_parameters():
        assert torch.equal(value, dict(start.named_parameters())[key]), key


def test_the_model_section_can_name_a_checkpoint(folder):
    TINY["stft_codec"].model().save_pretrained(folder / "start")
    path = write(folder, model={"from": str(folder / "start"), "quantizer_dropout": 0.9})
    assert run(folder, path).model.config.quantizer_dropout == 0.9


def test_a_checkpoint_below_the_data_root_can_get_codebooks_of_another_size(folder):
    start = TINY["soundstream_lyra"].model()
    start.save_pretrained(folder / "start")
    model = {"from": "start", "codebook_size": 12, "num_quantizers": 2, "fresh_codebooks": True}
    trained = run(folder, write(folder, model=model), learning_rate=0.0, max_steps=1, codebook_batches=2).model
    assert torch.equal(trained.encoder.first.conv.weight, start.encoder.first.conv.weight)
    codebook = trained.quantizer.layers[1].codebook
    assert codebook.embed.shape[0] == 12 and codebook.inited.item() == 1 and codebook.embed.unique(dim=0).shape[0] > 6


def test_a_discriminator_below_the_data_root_learns_on(folder):
    start = build_discriminator(RECIPE["discriminator"])
    start.save_pretrained(folder / "judge")
    path = write(folder, discriminator={"family": "discriminator", "from": "judge"}, training__learning_rate=0.0)
    trained = run(folder, path, max_steps=1, discriminator_learning_rate=0.0)
    assert_holds(trained.discriminator, start)


def test_a_switch_learns_to_leave_noise_away(folder):
    write_noise(folder / "noise")
    model = {"family": "soundstream", **TINY["soundstream"].fields, "quantizer_dropout": 0.0}
    noise = {"folders": ["noise"], "snr_db": [0, 0], "denoise_share": 0.5}
    changes = {"model": model, "discriminator": None, "data__noise": noise, "data__loudness_db": [-20, -20]}
    path = write(folder, **changes, data__crop_seconds=0.2, training__save_strategy="no")
    trained = run(folder, path, max_steps=60, learning_rate=5e-3, time_weight=10.0)
    assert trained.model.denoise is False
    item = next(item for item in map(trained.train_dataset.__getitem__, range(100)) if item["denoise"])
    noisy, clean = item["input_values"][None], item["target_values"][None]
    assert not torch.equal(noisy, clean)
    distance = {}
    for trained.model.denoise in (False, True):
        distance[trained.model.denoise] = trained.mel_loss(trained.model.eval()(noisy).audio_values, clean)
    assert distance[True] < distance[False]


def test_a_recipe_can_name_a_teacher(folder):
    hubert(12).save_pretrained(folder / "hubert")
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder / "hubert")
    case = TINY["speechtokenizer"]
    model = {"family": case.family, **case.fields}
    trained = run(
        folder,
        write(folder, model=model, teacher={"from": str(folder / "hubert"), "layer": 1}, training__logging_steps=1),
    )
    assert (trained.teacher.layer, trained.teacher.normalize) == (1, False)
    losses = [entry["distillation_loss"] for entry in trained.state.log_history if "distillation_loss" in entry]
    assert losses and all(math.isfinite(loss) for loss in losses)
    assert not (folder / "out" / "teacher").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"layers": 1}}, "unknown teacher field 'layers'"),
        ({"teacher": {"layer": 1}}, "section 'teacher' needs from"),
        ({"optimizer": {}}, "unknown section 'optimizer'"),
        ({"data__noise": {"folder": "noise"}}, "unknown noise field 'folder'"),
        ({"data__noise": {"snr_db": [0, 5]}}, "data.noise needs folders"),
        ({"data__crops": 1}, "unknown data field 'crops'"),
        ({"training__steps": 1}, "unknown training field 'steps'"),
        ({"training__freeze_code": True}, r"'freeze_code' \(did you mean freeze_codes\?\); known: "),
        ({"model__width": 1}, "unknown codec field 'width'"),
        ({"discriminator__width": 1}, "unknown discriminator field 'width'"),
        ({"model__family": "opus"}, "family 'opus' is no codec.*stft_codec"),
        ({"model__family": None}, "family None is no codec"),
        ({"discriminator__family": "stft_codec"}, "'stft_codec' is no discriminator.*choose one of discriminator"),
        ({"model__preset": "huge"}, "no preset 'huge'; choose one of stft_codec_16khz"),
        ({"training": None}, "lacks the section 'training'"),
        ({"data": [1]}, "section 'data' must be a mapping"),
        ({"data__crop_seconds": None}, "needs crop_seconds"),
        ({"data__train": None}, "either train"),
        ({"data__hub": {"path": "x"}}, "either train"),
        ({"data__train": "audio"}, r"train must be a list, such as \[audio\], got 'audio'"),
        ({"data__noise": {"folders": "noise"}}, "folders must be a list"),
        ({"data__loudness_db": [-30, "loud"]}, "loudness_db must be a list of numbers, but has 'loud'"),
        ({"data__crop_seconds": "long"}, "crop_seconds must be a number, got 'long'"),
        ({"data__crop_seconds": 0.01}, "crop_seconds=0.01 is less than a frame of the codec, 0.02 s"),
        ({"training__max_steps": "ten"}, "max_steps must be a number, got 'ten'"),
        ({"training__bf16": "no"}, "bf16 must be true or false, got 'no'"),
        ({"training__resume_from_checkpoint": "out"}, "resume_from_checkpoint is no matter of a recipe.*by --resume"),
        ({"data__repeat": 1.5}, "repeat must be a whole number, 0 or more, got 1.5"),
        ({"data__seed": -1}, "seed must be a whole number, 0 or more, got -1"),
        ({"model__preset": ["x"]}, r"no preset \['x'\]; choose one of"),
        ({"model": {"from": 3}}, "a checkpoint must be the name of a folder or a repository, got 3"),
    ],
)
def test_what_does_not_exist_is_named(folder, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(folder, write(folder, **changes))


@pytest.mark.parametrize("text", ["a: [", "- 1", "!!python/object/apply:os.system [true]"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read_recipe(path)


def test_an_override_that_does_not_exist_is_named(folder):
    with pytest.raises(RecipeError, match="unknown training field 'steps'"):
        run_recipe(write(folder), folder, steps=3)


@pytest.mark.parametrize("path", PROJECT_RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_project_can_be_read(path):
    fine_tunes = "--from" in path.read_text()
    recipe = read_recipe(path, model_given=fine_tunes)
    assert ("model" in recipe) != fine_tunes


def test_only_a_given_model_makes_the_model_section_needless():
    recipe = next(path for path in PROJECT_RECIPES if path.stem == "finetune")
    with pytest.raises(RecipeError, match="lacks the section 'model'"):
        read_recipe(recipe)
