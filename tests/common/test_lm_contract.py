"""The contract of codec language models, for every family: one table of tiny models, one set of checks."""

from __future__ import annotations

import copy
import itertools
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForTextToWaveform,
    AutoProcessor,
    CompileConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils.logging import warning_once

from codec_lm_hf.modeling.lm_base import NO_CODE
from tests.common.tiny_lm import TEXTS, TINY_LM, random_codes, rows, tiny_codec
from tests.common.weights import needs_x86

every_lm = pytest.mark.parametrize("name", TINY_LM)
RAGGED = [9, 13, 11]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
STATIC = {"cache_implementation": "static"}
# Of the same weights from a file, which may lie otherwise in memory: on some CPUs that decides on last bits.
LAST_BITS = {"atol": 1e-6}
_models: dict = {}


def model_of(name):
    if name not in _models:
        _models[name] = TINY_LM[name].model()
    return _models[name]


def loss_of(model, inputs, seed=0, **more):
    torch.manual_seed(seed)  # levels and prefixes are drawn
    return model(**inputs, **more).loss


def loss_output(model, inputs):
    with torch.no_grad():
        return model(**inputs)


def details(model, given, **options):
    options = {"do_sample": False, "max_new_tokens": 7, "return_dict_in_generate": True, **options}
    return model.generate(**given, **options)


# --- saving and loading --------------------------------------------------------------------------------------------


@every_lm
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForTextToWaveform])
def test_save_and_load(name, auto, tmp_path):
    case, model = TINY_LM[name], model_of(name)
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is case.model_class and not loaded.training
    inputs = case.batch(RAGGED)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(loss_of(loaded, inputs), loss_of(model, inputs))
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
    given, _ = case.prompts(inputs)
    assert torch.equal(details(loaded, given).sequences, details(model, given).sequences)


@every_lm
def test_loading_through_the_meta_device_leaves_no_garbage(name, tmp_path, monkeypatch):
    model = model_of(name)
    model.save_pretrained(tmp_path)
    empty_like = torch.empty_like

    def poisoned(*args, **kwargs):
        out = empty_like(*args, **kwargs)
        return out.fill_(1234.5) if out.is_floating_point() and out.device.type != "meta" else out

    monkeypatch.setattr(torch, "empty_like", poisoned)
    loaded = AutoModel.from_pretrained(tmp_path)
    found = dict([*loaded.named_parameters(), *loaded.named_buffers()])
    for key, value in [*model.named_parameters(), *model.named_buffers()]:
        torch.testing.assert_close(found[key].detach(), value.detach(), msg=key)
    # What a file lacks starts as in a fresh model: everything that is constant there, and nothing is far off.
    kept = {key: value for key, value in load_file(tmp_path / "model.safetensors").items() if "attention" in key}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    fresh = TINY_LM[name].model().state_dict()
    for key, value in AutoModel.from_pretrained(tmp_path).state_dict().items():
        assert torch.isfinite(value).all() and value.abs().max() < 10, key
        other = fresh[key]
        if key not in kept and other.numel() and (other == other.flatten()[0]).all():
            torch.testing.assert_close(value, other, msg=key)


# --- training ------------------------------------------------------------------------------------------------------


@every_lm
def test_padding_changes_no_loss(name):
    """Rows of one length, or padded further: the same loss."""
    case, model = TINY_LM[name], model_of(name)
    inputs = case.batch([11, 11])
    padded = dict(inputs)
    padded["labels"] = torch.nn.functional.pad(inputs["labels"], (0, 4), value=NO_CODE)
    torch.testing.assert_close(loss_of(model, padded), loss_of(model, inputs), **CLOSE)


@every_lm
def test_the_trainer_may_divide_by_its_own_count(name):
    case, model = TINY_LM[name], model_of(name)
    inputs = case.batch(RAGGED)
    items = (inputs["labels"] != NO_CODE).sum()
    same = loss_of(model, inputs, num_items_in_batch=items)
    torch.testing.assert_close(same, loss_of(model, inputs))
    torch.testing.assert_close(loss_of(model, inputs, num_items_in_batch=2 * items), same / 2)


@every_lm
def test_the_loss_of_a_plain_trainer_is_that_of_the_model(name, tmp_path):
    """It counts the codes as the model does: the first frame of a row is predicted, too."""
    case, model = TINY_LM[name], model_of(name)
    inputs = case.batch(RAGGED)
    trainer = Trainer(model, TrainingArguments(tmp_path, use_cpu=True, report_to=[]))
    torch.manual_seed(0)
    loss, _, _ = trainer.prediction_step(model, inputs, prediction_loss_only=True)
    torch.testing.assert_close(loss, loss_of(model, inputs))


@every_lm
def test_every_weight_gets_a_gradient_and_checkpointing_the_same_one(name):
    case = TINY_LM[name]
    inputs, gradients = case.batch(RAGGED), []
    for checkpointing in (False, True):
        model = case.model().train()
        for module in model.modules():  # dropout draws again, in another order
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        for seed in range(6):  # so that every level is drawn
            loss_of(model, inputs, seed=seed).backward()
        gradients.append({key: weight.grad for key, weight in model.named_parameters() if weight.requires_grad})
    missing = [key for key, gradient in gradients[0].items() if gradient is None or not gradient.abs().sum()]
    assert not missing
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key, **CLOSE)


@every_lm
def test_adapters_over_frozen_weights_get_a_gradient_with_reentrant_checkpointing(name):
    peft = pytest.importorskip("peft")
    case = TINY_LM[name]
    adapted = peft.get_peft_model(case.model(), peft.LoraConfig(r=2, target_modules=["in_proj", "out_proj"])).train()
    adapted.gradient_checkpointing_enable({"use_reentrant": True})
    loss_of(adapted, case.batch(RAGGED)).backward()
    assert not [key for key, weight in adapted.named_parameters() if weight.requires_grad and weight.grad is None]


class UntilLearnt(TrainerCallback):
    """Ends a training whose loss is next to nothing."""

    def on_log(self, args, state, control, logs, **kwargs):
        control.should_training_stop = logs.get("loss", 1.0) < 0.02


@every_lm
def test_a_plain_trainer_overfits_four_rows_until_it_speaks_them(name, tmp_path):
    case = TINY_LM[name]
    model = case.model()
    inputs = case.batch([8, 10, 9, 8] if case.ends else [9] * 4)
    arguments = TrainingArguments(
        tmp_path,
        max_steps=320,
        logging_steps=20,
        per_device_train_batch_size=4,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    data = [{key: value[row] for key, value in inputs.items()} for row in range(4)]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[UntilLearnt()])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    given, expected = case.prompts(inputs)
    found = details(model.eval(), given, max_new_tokens=expected.shape[-1] + 2 * case.ends)
    mask = expected[:, 0] != NO_CODE
    assert torch.equal(found.codes_mask, mask[:, : found.codes_mask.shape[1]]), losses
    assert found.sequences.shape == expected.shape
    assert torch.equal(found.sequences[:, : case.reproduced], expected[:, : case.reproduced])
    with torch.no_grad():
        learnt = model(**inputs)
    assert learnt.loss < 0.2
    hits, codes = learnt.code_hits.sum(0).unbind(-1)
    assert (hits > 0.9 * codes).all()


@every_lm
def test_evaluation_counts_the_codes_that_are_most_likely(name):
    case, model = TINY_LM[name], model_of(name)
    inputs = case.batch(RAGGED)
    counted = loss_output(model, inputs).code_hits
    frames = (inputs["labels"] != NO_CODE).sum(-1)
    hits, codes = counted.unbind(-1)
    assert counted.shape == (3, model.config.num_codebooks, 2)
    # A prefix is not predicted; an end is.
    assert (hits >= 0).all() and (hits <= codes).all() and (codes > 0).all() and (codes <= frames + 1).all()
    assert loss_output(case.model().train(), inputs).code_hits is None


@every_lm
def test_a_plain_trainer_predicts_how_many_codes_are_the_most_likely_ones(name, tmp_path):
    case, model = TINY_LM[name], model_of(name)
    options = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "per_device_eval_batch_size": 2}
    # Labels of different lengths do not go into one array.
    trainer = Trainer(model, TrainingArguments(tmp_path, eval_do_concat_batches=False, **options))
    batches = [case.batch(lengths) for lengths in ([9, 13], [11, 8])]
    found = trainer.predict([{key: value[row] for key, value in batch.items()} for batch in batches for row in (0, 1)])
    assert [counts.shape for counts in found.predictions] == [(2, model.config.num_codebooks, 2)] * 2
    for batch, counts in zip(batches, found.predictions, strict=True):
        assert (counts[..., 0] <= counts[..., 1]).all() and (counts[..., 1] <= batch["labels"].shape[-1] + 1).all()


@every_lm
def test_attention_by_products_equals_the_fused_one(name, tmp_path):
    case, model = TINY_LM[name], model_of(name)
    model.save_pretrained(tmp_path)
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert (eager.config._attn_implementation, model.config._attn_implementation) == ("eager", "sdpa")
    inputs = case.batch(RAGGED)
    torch.testing.assert_close(loss_of(eager, inputs), loss_of(model, inputs), **CLOSE)
    given, _ = case.prompts(inputs)
    assert torch.equal(details(eager, given).sequences, details(model, given).sequences)


# --- generation ----------------------------------------------------------------------------------------------------


@every_lm
def test_a_batch_says_what_each_row_says_alone(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch(RAGGED))
    together = details(model, given, output_logits=True, max_new_tokens=12)
    for row in range(3):
        alone = details(model, rows(given, row), output_logits=True, max_new_tokens=12)
        frames = int(alone.codes_mask.sum())
        assert frames == int(together.codes_mask[row].sum())
        assert torch.equal(together.sequences[row, :, :frames], alone.sequences[0, :, :frames])
        for ours, theirs in zip(alone.logits, together.logits, strict=False):
            torch.testing.assert_close(theirs[row], ours[0], **CLOSE)


@every_lm
def test_step_by_step_equals_one_pass(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch([9]))
    found = details(model, given, output_logits=True, min_new_tokens=6)
    with torch.no_grad():
        steps, whole = case.logits_of(model, given, found)
    assert found.sequences.shape[-1] > 3 and steps.shape[-2] >= found.sequences.shape[-1] - 1
    torch.testing.assert_close(steps, whole, **CLOSE)


@every_lm
@pytest.mark.parametrize(
    "cache",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "max_cache_len": 200},
    ],
    ids=["none", "static", "static-with-room"],
)
def test_every_cache_gives_the_same_codes(name, cache):
    """Rows with prompts and texts of several lengths, in windows where a model has them, drawn from the same seed."""
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch(RAGGED))
    given["prompt_codes"] = random_codes(model.config, [3, 5, 1])
    options = {"do_sample": True, "temperature": 0.7, "seed": 2, "min_new_tokens": 5, "output_logits": True}
    if not case.ends:
        options |= {"window": 12, "stride": 7, "max_new_tokens": 15}
    expected, found = details(model, given, **options), details(model, given, **options, **cache)
    assert torch.equal(found.sequences, expected.sequences) and len(found.logits) == len(expected.logits) > 3
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", ["valle", "valle-cross", "musicgen", "musicgen-melody"])
def test_one_graph_is_compiled_for_all_steps(name):
    """With a static cache, and for every later call of the same sizes."""
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch(RAGGED))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    torch._dynamo.reset()
    for seed in (0, 1):
        options = {"do_sample": True, "seed": seed, "min_new_tokens": 5}
        compiled = details(model, given, **options, **STATIC, compile_config=config)
        assert torch.equal(compiled.sequences, details(model, given, **options).sequences)
    assert len(graphs) == 1
    with pytest.raises(ValueError, match="compile_config needs cache_implementation='static'"):
        details(model, given, compile_config=config)


@every_lm
def test_a_seed_gives_the_same_codes_again(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch(RAGGED))

    def sampled(seed):
        return details(model, given, do_sample=True, seed=seed, temperature=3.0).sequences

    assert torch.equal(sampled(3), sampled(3))
    assert torch.equal(sampled(3), sampled(torch.Generator().manual_seed(3)))
    assert torch.equal(sampled(3), sampled(np.int64(3)))
    assert any(
        sampled(seed).shape != sampled(3).shape or not torch.equal(sampled(seed), sampled(3)) for seed in (4, 5)
    )


@every_lm
def test_each_row_is_answered_as_often_as_asked_for(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch([5, 9]))
    options = {"max_new_tokens": 6, "do_sample": True, "seed": 3}
    twice = {key: value.repeat_interleave(2, dim=0) for key, value in given.items()}
    expected = model.generate(**twice, **options)
    assert len(expected) == 4 and not torch.equal(expected[0], expected[1])
    assert torch.equal(model.generate(**given, **options, num_return_sequences=2), expected)
    settings = copy.deepcopy(model.generation_config)
    settings.update(num_return_sequences=2, **{key: options[key] for key in ("max_new_tokens", "do_sample")})
    assert torch.equal(model.generate(**given, generation_config=settings, seed=3), expected)


@every_lm
def test_weights_that_are_in_place_only_while_a_module_is_called(name):
    """As accelerate offloads them, to the disk or from a GPU."""
    case, model = TINY_LM[name], model_of(name)
    inputs, offloaded = case.batch([5, 9]), copy.deepcopy(model)
    cpu_offload(offloaded, execution_device="cpu")
    assert offloaded.device.type == "meta"
    assert torch.equal(loss_of(offloaded, inputs), loss_of(model, inputs))
    given, _ = case.prompts(inputs)
    options = {"max_new_tokens": 6, "min_new_tokens": 4, "do_sample": True, "seed": 3, "repetition_penalty": 1.1}
    assert torch.equal(offloaded.generate(**given, **options), model.generate(**given, **options))


@every_lm
def test_sampling_follows_the_generation_config(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch(RAGGED))
    greedy = details(model, given).sequences
    assert torch.equal(details(model, given, do_sample=True, top_k=1).sequences, greedy)
    found = details(model, given, do_sample=True, top_k=5, seed=0, output_scores=True)
    assert all((scores > -torch.inf).sum(-1).max() <= 5 for scores in found.scores)
    settings = copy.deepcopy(model.generation_config)
    settings.update(do_sample=True, top_k=1, max_new_tokens=4)
    codes = model.generate(**given, generation_config=settings)
    assert torch.equal(codes, details(model, given, max_new_tokens=4).sequences)


@every_lm
def test_progress_is_reported(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch([9]))
    seen = []
    details(model, given, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1][0] <= seen[-1][1]


@every_lm
def test_half_precision(name):
    case = TINY_LM[name]
    model, half = model_of(name), case.model().to(torch.bfloat16)
    inputs = case.batch(RAGGED)
    loss = loss_of(half, {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in inputs.items()})
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss.float(), loss_of(model, inputs), atol=0.3, rtol=0.1)
    given, _ = case.prompts(inputs)
    given = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in given.items()}
    codes = details(half, given).sequences
    assert ((codes == NO_CODE) | ((codes >= 0) & (codes < model.config.codebook_size))).all()


# --- another codec ---------------------------------------------------------------------------------------------------


@every_lm
@pytest.mark.parametrize("size", [31, 12])
def test_with_more_or_fewer_entries_what_is_said_of_the_others_stays(name, size):
    case, model, resized = TINY_LM[name], model_of(name), TINY_LM[name].model()
    resized.resize_codebooks(codebook_size=size)
    kept = min(size, model.config.codebook_size)
    inputs = case.batch(RAGGED)
    for codes in ("labels", "prompt_codes"):
        if codes in inputs:
            inputs[codes] = inputs[codes].where(inputs[codes] < kept, 0)
    with torch.no_grad():
        before, after = model(**inputs), resized(**inputs)

    def same(ours, theirs):
        torch.testing.assert_close(theirs[..., :kept], ours[..., :kept], **CLOSE)
        # Of what is no code.
        torch.testing.assert_close(theirs[..., size:], ours[..., model.config.codebook_size :], **CLOSE)

    same(before.logits, after.logits)
    for ours, theirs in zip(before.get("nar_logits") or (), after.get("nar_logits") or (), strict=True):
        same(ours, theirs)


@every_lm
@pytest.mark.parametrize("change", [-2, 2])
def test_with_more_or_fewer_codebooks_the_others_weights_stay(name, change):
    case, model = TINY_LM[name], TINY_LM[name].model()
    before, count = copy.deepcopy(model.state_dict()), model.config.num_codebooks + change
    model.resize_codebooks(num_codebooks=count)
    after = model.state_dict()
    assert (before.keys() <= after.keys()) if change > 0 else (after.keys() < before.keys())
    for key in before.keys() & after.keys():
        assert torch.equal(after[key], before[key]), key
    assert model.config.num_codebooks == count
    fresh = case.model_class(model.config)
    assert {key: value.shape for key, value in fresh.state_dict().items()} == {
        key: value.shape for key, value in after.items()
    }
    # What was tied still is.
    assert sum(weight.numel() for weight in model.parameters()) == sum(weight.numel() for weight in fresh.parameters())


@every_lm
def test_a_model_for_another_codec_trains_is_saved_and_generates(name, tmp_path):
    case, model = TINY_LM[name], TINY_LM[name].model()
    model.resize_codebooks(6, 15)
    inputs = case.inputs(model.config, RAGGED)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        losses.append(loss_of(model, inputs))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    given, _ = case.prompts(inputs)
    found = details(loaded, given, min_new_tokens=4).sequences
    assert found.shape[1] == 6 and torch.equal(found, details(model, given, min_new_tokens=4).sequences)


@every_lm
def test_a_fresh_model_can_know_which_codes_sound_alike(name):
    model = TINY_LM[name].model()
    count, size = model.config.num_codebooks, model.config.codebook_size
    before = copy.deepcopy(model.state_dict())
    codec = tiny_codec(count + 1, size)
    model.start_from_codec(codec)
    distances = torch.cdist(*[codec.code_vectors(count)] * 2)
    seen = set()
    tables = {}
    for codebook, weight in itertools.chain(*model._code_weights()):
        # A head that is tied to an embedding is what that is.
        tables.setdefault(weight, codebook)
    for weight, codebook in tables.items():
        found = torch.cdist(weight[:size], weight[:size])
        alike = torch.corrcoef(torch.stack([found.flatten(), distances[codebook].flatten()]))[0, 1]
        # A table that is narrower than the codec's latents cannot keep all of it.
        assert alike > (0.999 if weight.shape[1] >= codec.code_vectors(1).shape[-1] else 0.6)
        seen.add(codebook)
    assert seen == set(range(count))
    for key, weight in model.state_dict().items():
        if not torch.equal(weight, before[key]):
            # What stands for no code stays, and so does the size of the others.
            assert torch.equal(weight[size:], before[key][size:])
            torch.testing.assert_close(weight[:size].std(), before[key][:size].std())


def test_a_codec_with_other_codes_is_nothing_to_start_from():
    model = TINY_LM["valle"].model()
    with pytest.raises(ValueError, match="the model is for 3 codebooks of 20 entries, the codec has 3 of 21"):
        model.start_from_codec(tiny_codec(3, 21))
    with pytest.raises(ValueError, match="the codec has 2 of 20"):
        model.start_from_codec(tiny_codec(2, 20))


def test_sizes_and_weights_that_cannot_be_resized():
    model = TINY_LM["valle"].model()
    with pytest.raises(StrictDataclassError, match="codebook_size must be at least 1, got 0"):
        model.resize_codebooks(codebook_size=0)
    assert model.config.codebook_size == 20
    stereo = TINY_LM["musicgen-stereo"].model()
    with pytest.raises(StrictDataclassError, match=r"num_codebooks \(7\) must be even"):
        stereo.resize_codebooks(7)
    model.ar.heads[0] = torch.nn.utils.parametrizations.weight_norm(model.ar.heads[0])
    with pytest.raises(ValueError, match="the weights .*parametrizations.* are not Valle"):
        model.resize_codebooks(4)


# --- with a processor ----------------------------------------------------------------------------------------------


def waves(*lengths, channels=1, rate=800):
    return [np.sin(np.arange(channels * n).reshape(channels, n) / 5).astype(np.float32) * 0.5 for n in lengths]


def same_inputs(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@every_lm
def test_a_processor_is_saved_with_its_codec_and_loaded_by_its_auto_class(name, tmp_path):
    model, processor = TINY_LM[name].pair()
    model.save_pretrained(tmp_path / "one")
    processor.save_pretrained(tmp_path / "one")
    given = {"text": TEXTS, "audio": waves(160, 240), "sampling_rate": 800}
    inputs = processor(**given)
    codes = details(model, inputs).sequences
    for folder, copied in (("one", "two"), ("two", None)):
        # A copy of a copy needs neither the first one nor anything that is not in it.
        loaded = AutoProcessor.from_pretrained(tmp_path / folder)
        again = AutoModelForTextToWaveform.from_pretrained(tmp_path / folder)
        assert type(loaded) is type(processor)
        assert loaded.to_dict() == processor.to_dict()
        same_inputs(loaded(**given), inputs)
        assert torch.equal(details(again, inputs).sequences, codes)
        torch.testing.assert_close(loaded.codec.state_dict(), processor.codec.state_dict(), atol=0, rtol=0)
        for ours, theirs in zip(loaded.batch_decode(codes), processor.batch_decode(codes), strict=True):
            np.testing.assert_allclose(ours, theirs, **LAST_BITS)
        if copied:
            loaded.save_pretrained(tmp_path / copied)
            again.save_pretrained(tmp_path / copied)
            shutil.rmtree(tmp_path / folder)


@every_lm
def test_texts_and_recordings_train_it_and_it_answers_in_waveforms(name):
    model, processor = TINY_LM[name].pair()
    sides = processor.audio_channels or 1
    recordings = waves(160, 240, channels=sides)
    timed = {}
    if TINY_LM[name].fields.get("monotonic_alignment"):
        # The first symbol lasts as long as those with a frame leave it; every other one of the rest has none.
        counts = [len(processor.tokenize(text)) + 2 for text in TEXTS]
        held = [[place % 2 for place in range(count - 1)] for count in counts]
        timed = {"durations": [[frames - sum(row), *row] for frames, row in zip((10, 15), held, strict=True)]}
    inputs = processor(TEXTS, audio=recordings, target_audio=recordings, sampling_rate=800, **timed)
    assert inputs["labels"].shape == (2, model.config.num_codebooks, 15)
    assert (inputs["labels"][0, :, 10:] == NO_CODE).all() and torch.equal(inputs["labels"], inputs["prompt_codes"])
    taught = {key: value for key, value in inputs.items() if not key.startswith("prompt_")}
    assert torch.isfinite(loss_of(model, taught if name != "valle-prompt" else inputs))
    alone = [{key: value[row] for key, value in timed.items()} for row in range(2)]
    rows = [processor(TEXTS[row], target_audio=recordings[row], sampling_rate=800, **alone[row]) for row in range(2)]
    same_inputs(processor.pad([{key: value[0] for key, value in row.items()} for row in rows]), taught)
    inputs = {key: value for key, value in inputs.items() if key not in ("labels", "durations")}
    heard = processor.batch_decode(details(model, inputs, min_new_tokens=7).sequences)
    assert [wave.shape for wave in heard] == [(sides, 7 * 16)] * 2
    np.testing.assert_array_equal(
        processor.decode(inputs["prompt_codes"][1]), processor.batch_decode(rows[1]["labels"])[0]
    )


@every_lm
def test_recordings_of_another_rate_and_other_channels_are_converted(name):
    _, processor = TINY_LM[name].pair()
    mono, stereo = waves(160)[0], np.repeat(waves(160)[0], 2, axis=0)
    expected = processor(TEXTS[0], audio=mono, sampling_rate=800)["prompt_codes"]
    assert torch.equal(processor(TEXTS[0], audio=stereo, sampling_rate=800)["prompt_codes"], expected)
    assert torch.equal(processor(TEXTS[0], audio=mono[0])["prompt_codes"], expected)
    assert processor(TEXTS[0], audio=waves(1600)[0], sampling_rate=8000)["prompt_codes"].shape == expected.shape


@every_lm
def test_a_processor_refuses_what_does_not_fit(name):
    model, processor = TINY_LM[name].pair()
    count, size = processor.num_codebooks, processor.codebook_size
    codes = torch.zeros(count, 5, dtype=torch.long)
    for arguments, message in [
        ({"text": []}, r"text must be a text, or a list of at least one; got \[\]"),
        ({"text": [TEXTS[0], 3]}, "text must be a text"),
        ({"text": TEXTS, "prompt_codes": [codes]}, "prompt_codes: 1 for 2 texts"),
        ({"text": TEXTS[0], "target_codes": codes + size}, f"labels must lie in 0..{size - 1}"),
        ({"text": TEXTS[0], "target_codes": codes[1:]}, f"with {count} codebooks"),
        ({"text": TEXTS[0], "target_codes": codes.float()}, "labels must be integers"),
        ({"text": TEXTS[0], "target_codes": codes, "target_audio": waves(80)[0]}, "audio or codes, not both"),
        ({"text": TEXTS[0], "audio": waves(80)[0] * np.nan}, "NaN or infinite"),
        ({"text": TEXTS[0], "audio": np.zeros((3, 80), np.float32)}, "has 3 channels"),
        ({"text": TEXTS[0], "return_tensors": "np"}, "return_tensors must be 'pt'"),
        ({"text": TEXTS, "padding": False}, "padding must be True or 'longest', got False"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor(**arguments)
    with pytest.raises(ValueError, match=f"codes must lie in 0..{size - 1}"):
        processor.batch_decode(codes[None] + size)
    sides = processor.audio_channels or 1
    for codec in (tiny_codec(count // sides - 1, size), tiny_codec(count // sides, size // 2)):
        with pytest.raises(ValueError, match=f"the language model takes {count // sides} of {size}"):
            processor.codec = codec


@every_lm
def test_without_a_codec_codes_still_train_it(name, tmp_path):
    _, processor = TINY_LM[name].pair()
    processor._codec = None
    processor.save_pretrained(tmp_path / "one")
    loaded = AutoProcessor.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    assert not list(tmp_path.glob("*/codec"))
    codes = torch.zeros(processor.num_codebooks, 5, dtype=torch.long)
    assert torch.equal(loaded(TEXTS[0], target_codes=codes)["labels"], codes[None])
    with pytest.raises(ValueError, match="this processor has no codec"):
        loaded(TEXTS[0], target_audio=waves(80)[0])


@every_lm
def test_weights_of_eight_bits(name, tmp_path):
    case = TINY_LM[name]
    model, small = model_of(name), case.model().to_int8()
    inputs = case.batch(RAGGED)
    torch.testing.assert_close(loss_of(small, inputs), loss_of(model, inputs), atol=0.02, rtol=0.02)
    given, _ = case.prompts(inputs)
    whole, rounded = (details(one, given, max_new_tokens=2, output_logits=True) for one in (model, small))
    spread = whole.logits[0].std()
    assert (rounded.logits[0] - whole.logits[0]).square().mean().sqrt() < 0.05 * spread
    assert ((rounded.sequences == NO_CODE) | (rounded.sequences < model.config.codebook_size)).all()
    for work in (lambda: small.save_pretrained(tmp_path), small.to_int8, small.to_float16):
        with pytest.raises(ValueError, match="load the model anew, or save the model before to_int8"):
            work()


@pytest.mark.parametrize("name", ["valle", "musicgen"])
def test_adapters_are_merged_before_weights_are_packed(name):
    """PEFT casts what an adapter gets to the type of its weights: of eight bits, nothing would be left of it."""
    peft = pytest.importorskip("peft")
    case = TINY_LM[name]
    adapted = peft.get_peft_model(case.model(), peft.LoraConfig(r=4, target_modules=["in_proj", "out_proj"]))
    torch.manual_seed(0)
    for key, weight in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight)
    inputs = case.batch(RAGGED)
    expected = loss_of(adapted.eval(), inputs)
    for pack in (adapted.to_int8, adapted.to_float16):
        with pytest.raises(ValueError, match="in_proj has an adapter, .* merge adapters before"):
            pack()
    assert torch.equal(loss_of(adapted, inputs), expected)
    merged = adapted.merge_and_unload().to_int8()
    torch.testing.assert_close(loss_of(merged, inputs), expected, atol=0.02, rtol=0.02)


@every_lm
@needs_x86
def test_weights_in_half_precision(name, tmp_path, caplog):
    case = TINY_LM[name]
    model = case.model()
    model.to_float16()
    assert "changes nothing here" in caplog.text
    packed = copy.deepcopy(model.half().float()).to_float16()
    inputs = case.batch(RAGGED)
    torch.testing.assert_close(loss_of(packed, inputs), loss_of(model, inputs), atol=1e-5, rtol=1e-5)
    given, _ = case.prompts(inputs)
    whole, kept = (details(one, given, max_new_tokens=2, output_logits=True) for one in (model, packed))
    assert torch.equal(kept.sequences, whole.sequences)
    torch.testing.assert_close(kept.logits, whole.logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="save the model before to_int8"):
        packed.save_pretrained(tmp_path)


# --- what cannot be ------------------------------------------------------------------------------------------------


@every_lm
def test_hidden_states_and_attention_weights_are_given_when_asked_for(name, caplog):
    case, inputs = TINY_LM[name], TINY_LM[name].batch(RAGGED)
    model = case.model()
    warning_once.cache_clear()
    with caplog.at_level("WARNING", "codec_lm_hf"):
        assert model(**inputs, output_attentions=True).attentions == ()
    assert "nothing with the attention implementation 'sdpa'; for attention weights call" in caplog.text
    model.set_attn_implementation("eager")
    found = model(**inputs, output_hidden_states=True, output_attentions=True)
    count, crosses = model.config.num_hidden_layers, model.config.text_condition == "cross_attention"
    steps = found.hidden_states[0].shape[1]
    assert [tuple(states.shape) for states in found.hidden_states] == [(len(RAGGED), steps, 32)] * (count + 1)
    assert [tuple(weights.shape[2:]) for weights in found.attentions] == [(steps, steps)] * count
    assert len(found.cross_attentions) == count * crosses
    for weights in (*found.attentions, *found.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    found.loss.backward(inputs=[found.hidden_states[0]])
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None
    model.config.output_hidden_states = True
    torch.testing.assert_close(model(**inputs).hidden_states, found.hidden_states, atol=0, rtol=0)
    assert isinstance(model(**inputs, return_dict=False)[-1], tuple)
    model.resize_codebooks(codebook_size=model.config.codebook_size + 1)
    assert len(model(**inputs).hidden_states) == count + 1


@pytest.mark.parametrize("name", [name for name in TINY_LM if name.startswith("valle")])
def test_valle_gives_what_its_second_transformer_makes_of_each_level(name):
    model, inputs = TINY_LM[name].model(), TINY_LM[name].batch(RAGGED)
    layers = len(model.nar.transformer.layers)
    states = model(**inputs, level=2, output_nar_hidden_states=True).nar_hidden_states
    every = model(**inputs, output_nar_hidden_states=True).nar_hidden_states
    assert (len(states), len(every)) == (layers, 2 * layers)


@every_lm
def test_codes_that_do_not_fit_are_refused_by_name(name):
    case, model = TINY_LM[name], model_of(name)
    inputs = case.batch([9])
    for labels, message in [
        (inputs["labels"] + model.config.codebook_size, "labels must lie in 0"),
        (inputs["labels"][:, :1], "codebooks"),
        (inputs["labels"].float(), "labels must be integers"),
        (inputs["labels"][0], r"shape \(batch, codebooks, frames\)"),
        (torch.cat([inputs["labels"][..., :4].clone().fill_(NO_CODE), inputs["labels"]], -1), "pads the end of a row"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(**{**inputs, "labels": labels})


@pytest.mark.parametrize("name", ["valle", "musicgen"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_codes_may_be_integers_of_any_type(name, dtype):
    """Codes are often kept in as few bytes as they need."""
    model, processor = TINY_LM[name].pair()
    codes = random_codes(model.config, [7, 7])
    small = codes.numpy().astype(dtype)
    inputs = processor(TEXTS, prompt_codes=list(codes), target_codes=list(codes))
    same_inputs(processor(TEXTS, prompt_codes=list(small), target_codes=list(small)), inputs)
    texts = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    given = torch.from_numpy(small)
    assert torch.equal(loss_of(model, {**texts, "labels": given}), loss_of(model, {**texts, "labels": codes}))
    found, expected = (details(model, {**texts, "prompt_codes": one}).sequences for one in (given, codes))
    assert torch.equal(found, expected)
    np.testing.assert_array_equal(processor.decode(given[0]), processor.decode(codes[0]))


@every_lm
def test_arguments_that_do_nothing_are_refused(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch([9]))
    with pytest.raises(ValueError, match="no argument 'temprature'"):
        model.generate(**given, temprature=0.5)
    for options, message in [
        ({"num_beams": 3}, "num_beams=3 is not supported by codec LMs; leave it at 1"),
        ({"num_return_sequences": 0}, "num_return_sequences=0, but each row .*: give 1 or more"),
        ({"num_return_sequences": 2, "do_sample": False}, "num_return_sequences"),
        ({"watermarking_config": {"bias": 2.0}}, "watermarking_config=.* is not supported"),
        ({"seed": 1.5}, "seed must be a whole number or a torch.Generator, got 1.5"),
        ({"stop_strings": "the end"}, "stop_strings=the end is not supported"),
        ({"max_length": 9}, "max_length=9 is not supported by codec LMs; give max_new_tokens, in frames"),
        ({"eos_token_id": 5}, "eos_token_id=5 is not supported"),
        ({"output_attentions": True}, "no argument 'output_attentions'"),
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized' is not supported"),
        ({"max_new_tokens": 0}, "max_new_tokens. must be greater than 0, but is 0"),
        ({"max_new_tokens": 7.5}, "max_new_tokens must be a whole number of frames, got 7.5"),
        ({"max_new_tokens": 10**10}, "max_new_tokens=10000000000 is more than 4194304 frames"),
        ({"seed": 2**70}, r"seed must lie from -2\*\*63 to below 2\*\*64, got 1180591620717411303424"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5 is no share of the probability; give a number from 0 to 1"),
        ({"do_sample": True, "typical_p": float("nan")}, "typical_p=nan is no share of the probability"),
        ({"do_sample": True, "temperature": float("inf")}, "temperature=inf is not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.generate(**given, **options)
    if not case.ends or case.fields.get("monotonic_alignment"):
        for option in ({"exponential_decay_length_penalty": (3, 1.1)}, {"min_length": 3}):
            with pytest.raises(ValueError, match=r"=(\(3, 1.1\)|3) is not supported: no code of this model ends"):
                model.generate(**given, **option)
    settings = copy.deepcopy(model.generation_config)
    settings.max_length = 9
    with (
        mock.patch.object(model, "generation_config", settings),
        pytest.raises(ValueError, match="max_length=9 is not supported by codec LMs; give max_new_tokens"),
    ):
        model.generate(**given)


@every_lm
def test_tables_of_codes_are_resized_for_a_codec_only(name):
    with pytest.raises(NotImplementedError, match="call resize_codebooks|another vocab_size"):
        model_of(name).resize_token_embeddings(30)


@every_lm
def test_guidance_is_for_models_that_learnt_to_go_without_a_condition(name):
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch([9]))
    if model._supports_guidance:
        assert not torch.equal(
            details(model, given, guidance_scale=9.0).sequences, details(model, given, guidance_scale=1.0).sequences
        )
    else:
        with pytest.raises(ValueError, match="guidance_scale=9.0 is not supported: ValleForConditionalGeneration has"):
            details(model, given, guidance_scale=9.0)
        settings = copy.deepcopy(model.generation_config)
        settings.guidance_scale = 9.0
        with (
            mock.patch.object(model, "generation_config", settings),
            pytest.raises(ValueError, match="guidance_scale=9.0 is not supported"),
        ):
            details(model, given)


@every_lm
def test_time_is_a_limit_too(name):
    """Of the seconds that are asked for none is left after the first step."""
    case, model = TINY_LM[name], model_of(name)
    given, _ = case.prompts(case.batch([9]))
    steps = []
    found = details(model, given, max_time=0.0, progress=lambda done, _: steps.append(done))
    assert len(steps) <= 1 and found.sequences.shape[-1] <= 1 and found.stopped.all()
