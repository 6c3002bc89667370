"""A recipe trains a language model and lets it speak; whatever it asks for that does not exist is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTextToWaveform, AutoProcessor

from codec_lm_hf import EncodecCodecModel, MusicGenLMForConditionalGeneration
from codec_lm_hf.evaluation import judges
from codec_lm_hf.modeling.auto import AutoCodecModel
from codec_lm_hf.training.alignment import add_durations
from codec_lm_hf.training.labelled import load_labelled
from codec_lm_hf.training.lm_recipe import read_recipe
from codec_lm_hf.training.recipe_base import RecipeError
from codec_lm_hf.training.tokenize import read_codes, tokenize, write_codes
from tests.common.tiny_text import tiny_tokenizer
from tests.common.weights import assert_holds
from tests.modeling.test_musicgen import native_model
from tests.training.lm_helpers import TEXTS, make_codes, train, trainer, write_recipe

PROJECT_RECIPES = [
    path for path in sorted(Path(__file__).parents[2].glob("recipes/*.yaml")) if "train-lm" in path.read_text()
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_codes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A run that learns 40 steps and is listened to at the end of them."""
    changes = {"training__max_steps": 40, "training__eval_strategy": "steps", "training__eval_steps": 20}
    output = tmp_path_factory.mktemp("run") / "out"
    return train(root, output, training__sample_count=1, training__logging_steps=10, **changes), output


def test_a_recipe_trains_and_leaves_what_speaks(trained, root):
    trainer, output = trained
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.5
    model = AutoModelForTextToWaveform.from_pretrained(output)
    processor = AutoProcessor.from_pretrained(output)
    assert_holds(trainer.model, model)
    assert model.config.vocab_size == len(processor.symbols) and model.config.codebook_size == 64
    # The codec was in a directory of this machine: it goes along.
    assert processor.codec_name is None and (output / "codec" / "model.safetensors").is_file()
    audio, rate = soundfile.read(root / "audio" / "0.wav", dtype="float32")
    codes = model.generate(**processor("two", audio=audio, sampling_rate=rate), max_new_tokens=4, min_new_tokens=4)
    assert processor.decode(codes).shape == (1, 4 * 320)


def test_evaluation_tells_the_loss_and_the_accuracy_of_codes(trained):
    trainer, _ = trained
    first, last = (entry for entry in trainer.state.log_history if "eval_loss" in entry)
    names = {name for name in last if "accuracy" in name}
    assert names == {"eval_code_accuracy", *(f"eval_code_accuracy_{codebook}" for codebook in range(3))}
    assert last["eval_loss"] < first["eval_loss"] and last["eval_code_accuracy"] > first["eval_code_accuracy"]
    # By hand, row by row, for the first codebook: each code but the first, and the end.
    hits = count = 0
    trainer.model.eval()
    for example in trainer.eval_dataset:
        batch = trainer.processing_class.pad([example])
        with torch.no_grad():
            said = trainer.model(**batch).logits[0].argmax(-1)
        expected = [*batch["labels"][0, 0, 1:].tolist(), trainer.model.config.end_id]
        hits += sum(one == other for one, other in zip(said.tolist(), expected, strict=True))
        count += len(expected)
    assert last["eval_code_accuracy_0"] == pytest.approx(hits / count)


def test_lengths_of_a_batch_can_be_multiples_of_a_number(root, tmp_path):
    """Which changes nothing but the padding."""
    made = trainer(root, tmp_path / "out", training__pad_to_multiple_of=16)
    for batch in made.get_eval_dataloader():
        padded = [part for part in batch.values() if part.ndim > 1]
        assert len(padded) > 2 and all(part.shape[-1] % 16 == 0 for part in padded)
    rows = [made.eval_dataset[0], made.eval_dataset[1]]
    tight, wide = made.processing_class.pad(rows), made.data_collator(rows)
    made.model.eval()
    for name, part in tight.items():
        rest = wide[name][..., part.shape[-1] :]
        assert torch.equal(wide[name][..., : part.shape[-1]], part) and rest.unique().numel() <= 1
    torch.testing.assert_close(made.model(**wide).loss, made.model(**tight).loss)


def test_rows_of_like_length_are_those_with_as_many_frames(root, tmp_path):
    run = trainer(root, tmp_path / "run", evaluation=None, training__train_sampling_strategy="group_by_length")
    assert run._get_train_sampler().lengths == list(range(10, 19))


def test_what_it_says_is_written_with_its_codes_and_a_table(trained):
    trainer, output = trained
    assert sorted(path.name for path in (output / "samples").iterdir()) == ["step-20", "step-40"]
    folder = output / "samples" / "step-40"
    names = {"0-generated.wav", "0-generated.safetensors", "0-voice.wav", "table.jsonl"}
    assert {path.name for path in folder.iterdir()} == names
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    # Evenly spaced; the last row has no text.
    assert [row["text"] for row in rows] == [TEXTS[0], TEXTS[4]]
    codes = load_file(folder / "0-generated.safetensors")["audio_codes"]
    audio, rate = soundfile.read(folder / "0-generated.wav", dtype="float32")
    assert codes.shape[0] == 3 and codes.shape[1] <= 5 and rate == 16000
    assert len(audio) == 320 * codes.shape[1] == round(rows[0]["seconds"] * rate)
    if len(audio):
        decoded = trainer.processing_class.decode(codes)[0]
        np.testing.assert_allclose(audio, decoded.clip(-1, 1), atol=1e-4)
    # The voice is the prompt's.
    prompt, _ = soundfile.read(root_audio(trainer, rows[0]["prompt"]))
    voice, _ = soundfile.read(folder / "0-voice.wav")
    assert rows[0]["prompt"] != rows[0]["id"] and len(voice) == len(prompt)


def root_audio(trainer, name):
    """A recording of the data set that the trainer's codes were made of."""
    return Path(trainer.speaking.requests.examples.processor.codec.name_or_path).parent / "audio" / name


def test_what_is_said_follows_from_the_seed_and_uses_up_no_random_number(trained, monkeypatch):
    trainer, output = trained
    table = output / "samples" / "step-40" / "table.jsonl"
    before, states = table.read_text(), []
    for speaking in (trainer.speaking, None):
        monkeypatch.setattr(trainer, "speaking", speaking)
        torch.manual_seed(0)
        trainer.evaluate()
        states.append(torch.get_rng_state())
    assert table.read_text() == before and torch.equal(*states)


def test_without_evaluation_there_is_the_loss_alone_and_no_codec_is_needed_to_say_anything(root, tmp_path):
    trained = train(root, tmp_path / "out", evaluation=None, data__eval=None)
    assert trained.eval_dataset is None and trained.speaking is None
    assert not (tmp_path / "out" / "samples").exists()


def test_streamed_codes_train_too(root, tmp_path):
    changes = {"data__prompt": {"prompt_codes": "codes"}, "model__prefix_mode": 4}
    trained = train(root, tmp_path / "out", data__streaming=True, training__max_steps=3, **changes)
    assert trained.state.global_step == 3 and math.isfinite(trained.state.log_history[-1]["train_loss"])
    with pytest.raises(ValueError, match="max_steps"):
        train(root, tmp_path / "endless", data__streaming=True, training__max_steps=None)


def test_what_a_model_needs_beside_codes_is_a_column_of_the_recipe(root, tmp_path):
    """Monotonic alignment: durations of symbols in training, and none when it speaks."""
    rows = read_codes(root / "codes").select(range(9))
    codec = AutoCodecModel.from_pretrained(root / "codec").eval()
    write_codes(add_durations(rows, codec), root / "codes", root / "aligned")
    data = {
        "train": ["aligned"],
        "eval": ["aligned"],
        "targets": {"target_codes": "codes", "durations": "durations"},
        "prompt": {"prompt_codes": "codes"},
    }
    changes = {"model__prefix_mode": 4, "model__monotonic_alignment": True, "data": data}
    prompt = {"evaluation__prompt": {"prompt_codes": "codes"}, "training__eval_strategy": "epoch"}
    trained = train(root, tmp_path / "out", **changes, **prompt, training__max_steps=3)
    (found,) = (entry for entry in trained.state.log_history if "eval_loss" in entry)
    assert math.isfinite(found["eval_loss"]) and {f"eval_code_accuracy_{k}" for k in range(3)} <= set(found)
    assert len((tmp_path / "out" / "samples" / "step-3" / "table.jsonl").read_text().splitlines()) == 2


def test_a_fresh_model_can_start_from_its_codec_and_a_trained_one_not(trained, root, tmp_path):
    still = {"training__learning_rate": 0.0, "training__max_steps": 1, "processor": {"codec": str(root / "codec")}}
    vectors = AutoCodecModel.from_pretrained(root / "codec").code_vectors(3)
    distances, likeness = torch.cdist(vectors, vectors), {}
    for asked in (True, False):
        model = train(root, tmp_path / str(asked), model__start_from_codec=asked, **still).model
        table = model.ar.audio_embeddings[0].weight[: vectors.shape[1]]
        found = torch.stack([torch.cdist(table, table).flatten(), distances[0].flatten()])
        # Off the diagonal, which is 0 in any table.
        likeness[asked] = torch.corrcoef(found[:, distances[0].flatten() > 0])[0, 1]
    assert likeness[True] > 0.6 and abs(likeness[False]) < 0.3
    with pytest.raises(RecipeError, match="start_from_codec is for a fresh model"):
        train(root, tmp_path / "no", model={"from": str(trained[1]), "start_from_codec": True})


def test_pieces_of_prompts_are_given_in_seconds(root, tmp_path):
    changes = {"data__prompt": {"prompt_codes": "codes"}, "model__prefix_mode": 4, "training__max_steps": 1}
    trained = train(root, tmp_path / "out", data__prompt_seconds=[0.04, 0.08], **changes)
    # At 50 frames a second.
    assert trained.train_dataset.examples.prompt_frames == (2, 4)
    assert 2 <= trained.train_dataset[0]["prompt_codes"].shape[-1] <= 4
    with pytest.raises(RecipeError, match=r"prompt_seconds must be two numbers, from and to, got 3"):
        train(root, tmp_path / "no", data__prompt_seconds=3, **changes)


def test_bfloat16_trains_and_keeps_its_weights_in_float32(root, tmp_path):
    changes = {"training__max_steps": 30, "training__logging_steps": 10, "training__bf16": True}
    trained = train(root, tmp_path / "out", training__eval_strategy="steps", training__eval_steps=30, **changes)
    losses = [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    assert {value.dtype for value in trained.model.parameters()} == {torch.float32}
    logits = []
    hook = trained.model.ar.heads[0].register_forward_hook(lambda *given: logits.append(given[-1].dtype))
    trained.evaluate()
    hook.remove()
    # The loss of each row in half precision, then what is said in the model's own.
    assert logits[: len(trained.eval_dataset)] == [torch.bfloat16] * len(trained.eval_dataset)
    assert set(logits[len(trained.eval_dataset) :]) == {torch.float32}


def test_fine_tuning_starts_from_a_checkpoint_with_its_processor(trained, root, tmp_path):
    _, start = trained
    still = {"training__learning_rate": 0.0, "training__max_steps": 1, "processor": {"codec": str(root / "codec")}}
    for name, options in {"by-option": {"start_from": start}, "by-model": {"model": {"from": str(start)}}}.items():
        tuned = train(root, tmp_path / name, **options, **still)
        assert_holds(tuned.model, load_file(start / "model.safetensors"))
        assert tuned.processing_class.symbols == AutoProcessor.from_pretrained(start).symbols


def test_fine_tuning_starts_from_a_checkpoint_of_transformers_own(root, tmp_path):
    for part in (native_model("mono"), tiny_tokenizer()):
        part.save_pretrained(tmp_path / "native")
    tokenize(AutoCodecModel.from_pretrained(tmp_path / "native"), load_labelled(root / "audio"), tmp_path / "codes")
    changes = {"evaluation": None, "training__learning_rate": 0.0, "training__max_steps": 1}
    tuned = train(tmp_path, tmp_path / "out", model={"from": "native"}, **changes)
    start = MusicGenLMForConditionalGeneration.from_pretrained(tmp_path / "native").state_dict()
    saved = AutoModelForTextToWaveform.from_pretrained(tmp_path / "out").state_dict()
    assert start.keys() == saved.keys() and all(torch.equal(value, start[key]) for key, value in saved.items())
    assert math.isfinite(tuned.state.log_history[-1]["train_loss"])
    assert type(AutoProcessor.from_pretrained(tmp_path / "out").codec) is EncodecCodecModel


def test_checkpoints_of_a_recipe_lie_below_the_data_root(trained, root, tmp_path):
    _, start = trained
    for name, source in {"codes": root / "codes", "start": start, "moved": root / "codec"}.items():
        shutil.copytree(source, tmp_path / "data" / name)
    changes = {"processor": {"codec": "moved"}, "training__learning_rate": 0.0, "training__max_steps": 1}
    fresh = train(tmp_path / "data", tmp_path / "fresh", **changes)
    tuned = train(tmp_path / "data", tmp_path / "tuned", **changes, model={"from": "start"})
    for run in (fresh, tuned):
        assert Path(run.processing_class.codec.name_or_path) == tmp_path / "data" / "moved"
    assert_holds(tuned.model, load_file(start / "model.safetensors"))


def test_samples_go_to_tensorboard(root, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    changes = {"training__eval_strategy": "steps", "training__eval_steps": 2, "training__report_to": "tensorboard"}
    train(root, tmp_path / "out", evaluation__generation={"max_new_tokens": 5, "min_new_tokens": 5}, **changes)
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    tags = board.Tags()
    assert {"samples/0-generated", "samples/0-voice", "samples/1-generated"} <= set(tags["audio"])
    (event,) = board.Audio("samples/0-generated")
    assert (event.step, event.sample_rate, event.length_frames) == (2, 16000, 5 * 320)
    (table,) = board.Tensors("samples/table/text_summary")
    assert "| recording | prompt | text |" in table.tensor_proto.string_val[0].decode()
    assert "eval/code_accuracy" in tags["scalars"]


@pytest.mark.skipif(not judges.available(), reason="the judges are not installed: pip install 'codec-lm-hf[judge]'")
def test_judges_listen(root, tmp_path):
    changes = {"evaluation__judges": ["wer", "speaker_similarity"], "training__metric_for_best_model": "wer"}
    steps = {"training__eval_strategy": "steps", "training__eval_steps": 1, "training__save_strategy": "best"}
    trained = train(root, tmp_path / "out", training__greater_is_better=False, **steps, **changes)
    (_, last) = (entry for entry in trained.state.log_history if "eval_loss" in entry)
    rows = (tmp_path / "out" / "samples" / "step-2" / "table.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in rows]
    assert last["eval_wer"] == sum(row["word_errors"] for row in rows) / sum(row["words"] for row in rows)
    assert last["eval_speaker_similarity"] == pytest.approx(np.mean([row["speaker_similarity"] for row in rows]))
    assert all(isinstance(row["heard"], str) for row in rows)
    assert trained.state.best_metric == min(
        entry["eval_wer"] for entry in trained.state.log_history if "eval_wer" in entry
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator": {}}, "unknown section 'discriminator'; known: data, evaluation, model"),
        ({"data__crop_seconds": 1}, "unknown data field 'crop_seconds'"),
        ({"data__train": None}, "needs train"),
        ({"data__eval": None}, "needs eval"),
        ({"data__inputs": ["text"]}, "inputs must be a mapping"),
        (
            {"data__inputs": {"txt": "text"}},
            r"unknown argument of ValleProcessor 'txt' \(did you mean text\?\); known: .*target_codes, task, text",
        ),
        ({"data__inputs": {"text": "caption"}}, "has no column 'caption'; it has"),
        ({"data__inputs": {"text": "beats"}}, "the column 'beats' has no texts, but List"),
        ({"data__inputs": {"text": ["text"]}}, r"text must be a text, got \['text'\]"),
        ({"data__speaker": 3}, "speaker must be a text, got 3"),
        ({"data__train": [3]}, "train must be a list of texts, but has 3"),
        ({"data__prompt_seconds": ["a", 1]}, r"prompt_seconds must be two numbers, from and to, got \['a', 1\]"),
        ({"data__speaker": "voice"}, "has no column 'voice'; it has"),
        ({"data__train": ["audio"]}, "no data set made by codec-lm tokenize"),
        ({"evaluation__row": 1}, "unknown evaluation field 'row'"),
        ({"evaluation__rows": 0}, "rows must be at least 1"),
        ({"evaluation__judges": ["mos"]}, "unknown judge 'mos'; known: speaker_similarity, wer"),
        ({"evaluation__generation": {"temprature": 1}}, "unknown generation field 'temprature'"),
        ({"evaluation__prompt": {"prompt": "codes"}}, "unknown argument of ValleProcessor 'prompt'"),
        ({"training__ema_decay": 0.9}, "unknown training field 'ema_decay'"),
        ({"model__width": 1}, "unknown lm field 'width'"),
        ({"model__family": "stft_codec"}, "'stft_codec' is no lm .*valle"),
        ({"model__num_codebooks": 9}, "has 4 codebooks of 64 entries; the language model takes 9"),
        (
            {"processor": {"symbol": "x"}},
            r"unknown processor field 'symbol' \(did you mean symbols\?\); known: codec, frontend, prompt",
        ),
        ({"processor": {"frontend": "runes"}}, "frontend must be one of"),
        ({"data__eval": "codes"}, r"eval must be a list, such as \[codes\], got 'codes'"),
        ({"evaluation__judges": "wer"}, "judges must be a list"),
        ({"data__max_seconds": "six"}, "max_seconds must be a number, got 'six'"),
        ({"data__join": 1.5}, "join must be a whole number, 0 or more, got 1.5"),
        ({"data__streaming": "no"}, "streaming must be true or false, got 'no'"),
        ({"evaluation__rows": 2.5}, "rows must be a whole number, 0 or more, got 2.5"),
        ({"processor": {"codec": 3}}, "a checkpoint must be the name of a folder or a repository, got 3"),
    ],
)
def test_what_does_not_exist_is_named(root, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(root, tmp_path / "out", **changes)


def test_the_processor_of_a_checkpoint_is_its_own(trained, root, tmp_path):
    changes = {"model": {"from": str(trained[1])}, "processor": {"frontend": "graphemes"}}
    with pytest.raises(RecipeError, match="may name another copy of its codec, but not 'frontend'"):
        train(root, tmp_path / "out", **changes)
    with pytest.raises(RecipeError, match="is a StftCodecModel and no codec language model"):
        train(root, tmp_path / "out", start_from=root / "codec")


@pytest.mark.parametrize("path", PROJECT_RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_project_can_be_read(path):
    assert "model" in read_recipe(path)


def test_only_a_given_model_makes_the_model_section_needless(tmp_path):
    path = write_recipe(tmp_path / "recipe.yaml", model=None)
    assert read_recipe(path, model_given=True)["data"] == {"train": ["codes"], "eval": ["codes"]}
    with pytest.raises(RecipeError, match="lacks the section 'model'"):
        read_recipe(path)
