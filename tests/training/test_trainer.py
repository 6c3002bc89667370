"""Training a tiny codec for real: it learns, it is averaged, evaluated, saved, stopped, fine-tuned."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModel

import codec_lm_hf
from codec_lm_hf.modeling.discriminators import CodecDiscriminator
from codec_lm_hf.modeling.layers.convnext import SilentLinear
from codec_lm_hf.training.distillation import SemanticTeacher
from codec_lm_hf.training.trainer import CodecTrainer, CodecTrainingArguments
from tests.common.tiny import TINY
from tests.common.weights import assert_holds
from tests.training.helpers import (
    RATE,
    arguments,
    clips,
    codec,
    crops,
    discriminator,
    hubert,
    trainer,
    write_recordings,
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("audio"))


def history(run: CodecTrainer, name: str) -> list[float]:
    return [entry[name] for entry in run.state.log_history if name in entry]


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_codec_learns_ten_recordings(recordings, tmp_path):
    run = trainer(tmp_path, recordings, max_steps=80, learning_rate=5e-3, per_device_train_batch_size=10)
    run.train()
    mel = history(run, "mel_loss")
    assert np.mean(mel[-10:]) < 0.6 * np.mean(mel[:5])


def test_codebooks_start_from_the_latents_of_several_batches(recordings, tmp_path):
    run = trainer(tmp_path, recordings, codebook_batches=2, per_device_train_batch_size=5)
    starter = next(part for part in run.callback_handler.callbacks if type(part).__name__ == "_StartCodebooks")
    batches = list(run.get_train_dataloader())
    starter.on_train_begin(run.args, run.state, run.control, model=run.model, train_dataloader=batches)
    frames = 2 * batches[0]["input_values"].numel() // run.model.config.hop_length
    for layer in run.model.quantizer.layers:
        assert layer.codebook.inited.item() == 1 and layer.codebook.cluster_size.sum() == frames
    before = parameters(run.model)
    run.state.global_step = 1
    starter.on_train_begin(run.args, run.state, run.control, model=run.model, train_dataloader=batches)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_codebooks_that_are_learnt_by_gradient_cannot_be_started(recordings, tmp_path):
    model, clip = TINY["dac"].model(), clips(recordings)
    with pytest.raises(ValueError, match="DacCodecModel has no codebooks to start; leave out codebook_batches"):
        CodecTrainer(model, arguments(tmp_path, codebook_batches=2), train_dataset=clip, eval_dataset=clip)


def test_against_a_discriminator_that_learns_too(recordings, tmp_path):
    options = {"discriminator_learning_rate": 1e-2, "discriminator_start_step": 3, "discriminator_head_start": 30}
    run = trainer(tmp_path, recordings, adversarial=True, max_steps=40, **options)
    run.train()
    losses = history(run, "discriminator_loss")
    # It begins at step 3, knowing nothing (2 for the hinge loss).
    assert len(losses) == 37 and losses[0] == pytest.approx(2, abs=0.1)
    assert np.mean(losses[25:30]) < 1.7
    assert len(history(run, "adversarial_loss")) == len(history(run, "feature_loss")) == 7


@pytest.mark.parametrize("name", TINY)
def test_every_codec_trains_in_every_way(name, tmp_path):
    """One step with everything switched on, from fresh codebooks; the gradient reaches the encoder."""
    case = TINY[name]
    config = case.config()
    folder = write_recordings(tmp_path / "audio", 2, rate=config.sampling_rate)
    torch.manual_seed(0)
    model = case.model_class(config)
    for module in model.modules():
        if isinstance(module, SilentLinear):  # behind its zeros nothing learns in the first step
            torch.nn.init.normal_(module.weight, std=0.02)
    data = type(crops(folder))(sorted(folder.iterdir()), config.sampling_rate, config.audio_channels, 4800)
    against = discriminator(audio_channels=config.audio_channels)
    args = arguments(tmp_path / "run", max_steps=1, balance_losses=True, stft_weight=1.0, ema_decay=0.5)
    taught = getattr(config, "semantic_hidden_size", None) is not None
    teacher = SemanticTeacher(hubert(config.semantic_hidden_size)) if taught else None
    run = CodecTrainer(model, args, against, teacher, train_dataset=data)
    before = parameters(model)
    run.train()
    after = model.state_dict()
    # Weights learn by gradient, the first codebook by its averages; FiLM is off, and int8 grids are no weights.
    learns = [name for name, _ in model.named_parameters() if "film" not in name]
    learns += [name for name in after if name.startswith("quantizer.layers.0.codebook")]
    assert not [name for name in learns if torch.equal(after[name], before[name])]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize("name", TINY)
def test_with_frozen_codes_only_what_decodes_learns(name, tmp_path):
    model = TINY[name].model()
    config = model.config
    folder = write_recordings(tmp_path / "audio", 2, rate=config.sampling_rate)
    data = type(crops(folder))(sorted(folder.iterdir()), config.sampling_rate, config.audio_channels, 4800)
    run = CodecTrainer(model, arguments(tmp_path / "run", max_steps=2, freeze_codes=True), train_dataset=data)
    before, makers = parameters(model), tuple(f"{name}." for name in model._code_makers)
    run.train()
    learnt = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert learnt and not [name for name in learnt if name.startswith(makers)]


@pytest.mark.parametrize("name", ["compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"])
def test_what_a_codec_s_training_would_not_call_is_refused(name, recordings, tmp_path):
    with pytest.raises(ValueError, match=f"CodecTrainer has no use for {name}: "):
        CodecTrainer(codec(), arguments(tmp_path), train_dataset=crops(recordings), **{name: print})


def test_a_function_in_place_of_a_model_is_refused(recordings, tmp_path):
    with pytest.raises(ValueError, match="CodecTrainer has no use for model_init: give a model"):
        CodecTrainer(None, arguments(tmp_path, freeze_codes=True), train_dataset=crops(recordings), model_init=codec)


def test_codebooks_that_know_nothing_cannot_be_frozen(recordings, tmp_path):
    with pytest.raises(ValueError, match="have not seen any data cannot be frozen; load or train the codec first"):
        trainer(tmp_path, recordings, freeze_codes=True)


def test_bfloat16_keeps_codebooks_and_losses_in_float32(recordings, tmp_path):
    run = trainer(tmp_path, recordings, adversarial=True, max_steps=2, bf16=True)
    seen = []
    run.model.encoder[0].expand.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    run.model.quantizer.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].dtype))
    run.train()
    assert seen[:2] == [torch.bfloat16, torch.float32]
    assert {value.dtype for value in run.model.state_dict().values()} == {torch.float32}
    # Evaluation is in the codec's own precision.
    seen.clear()
    run.evaluate()
    assert set(seen) == {torch.float32}


def test_gradients_of_both_are_clipped(recordings, tmp_path):
    """With gradients clipped to nothing, plain gradient descent stands still."""
    options = {"max_grad_norm": 1e-12, "optim": "sgd", "learning_rate": 1.0, "weight_decay": 0.0}
    run = trainer(tmp_path, recordings, adversarial=True, max_steps=2, **options)
    before = [value.clone() for part in (run.model, run.discriminator) for value in part.parameters()]
    run.train()
    after = [value for part in (run.model, run.discriminator) for value in part.parameters()]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_accumulated_batches_equal_one_large_batch_for_the_discriminator(recordings, tmp_path):
    """The codec's codebooks see each part by itself, but the discriminator has no such state."""
    states = []
    for name, size, parts in (("large", 10, 1), ("parts", 5, 2)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "optim": "sgd"}
        run = trainer(tmp_path / name, recordings, adversarial=True, max_steps=1, max_grad_norm=0.0, **options)
        # Codes that do not depend on the batch: trained codebooks, no dropout, and no learning of the codec.
        run.model = run.model_wrapped = TINY["stft_codec"].model(quantizer_dropout=0.0, codebook_decay=1.0)
        run.model.config.revive_below = None
        for layer in run.model.quantizer.layers:
            layer.codebook.revive_below = None
        run.train()
        states.append(run.discriminator.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-6, rtol=1e-4)


def test_schedulers_of_both_reach_their_end(recordings, tmp_path):
    options = {"lr_scheduler_type": "linear", "discriminator_start_step": 3, "discriminator_every": 3}
    run = trainer(tmp_path, recordings, adversarial=True, max_steps=10, **options)
    run.train()
    assert run.lr_scheduler.get_last_lr()[0] == run.discriminator_scheduler.get_last_lr()[0] == 0
    assert run.discriminator_optimizer.state_dict()["state"][0]["step"] == 3


def test_the_discriminator_has_the_weight_decay_and_rate_it_is_given(recordings, tmp_path):
    options = {"weight_decay": 0.0, "discriminator_learning_rate": 1e-4}
    run = trainer(tmp_path, recordings, adversarial=True, max_steps=1, **options)
    run.train()
    (group,) = run.discriminator_optimizer.param_groups
    assert group["weight_decay"] == 0 and group["lr"] == 1e-4


def test_the_discriminator_sees_the_part_it_is_given(recordings, tmp_path):
    run = trainer(tmp_path, recordings, adversarial=True, max_steps=3, discriminator_seconds=0.1)
    lengths = []
    run.discriminator.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[-1]))
    run.train()
    assert lengths == [1600] * 9


def test_rows_of_few_codebooks_learn_nothing_from_the_discriminator(recordings, tmp_path):
    run = trainer(tmp_path, recordings, adversarial=True, adversarial_from_quantizers=3)
    model = run.model.train()
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(24, 1, 3200)
    model.config.quantizer_dropout = 0.0
    assert model(audio).num_quantizers is None
    model.config.quantizer_dropout = 1.0
    drawn = model(audio)
    counts = drawn.num_quantizers
    assert set(counts.tolist()) == {1, 2, 3, 4}
    decoded = drawn.audio_values.detach().requires_grad_()
    sum(run._judged(run._to_judge(decoded, drawn), audio).values()).backward()
    assert torch.equal(decoded.grad.abs().amax((1, 2)) > 0, counts >= 3)


def test_losses_are_those_that_the_arguments_say(recordings, tmp_path):
    """Sums instead of means, and the arguments of the spectral losses, in one step of the same codec and batch."""
    options = {"adversarial": True, "max_steps": 1, "discriminator_learning_rate": 0.0}
    options |= {"stft_weight": 1.0, "perceptual_weight": 1.0}
    plain = trainer(tmp_path / "plain", recordings, **options)
    options |= {"adversarial_reduction": "sum", "feature_reduction": "sum"}
    options |= {"mel_loss_kwargs": {"scale_weights": [1.0] * 5}, "stft_loss_kwargs": {"scale_weights": [1.0] * 3}}
    summed = trainer(tmp_path / "summed", recordings, **options)
    absolute = trainer(tmp_path / "absolute", recordings, **options, feature_relative=False)
    more = trainer(tmp_path / "more", recordings, **options, feature_logits=["stft"])
    none = trainer(tmp_path / "none", recordings, **options, feature_logits=["period"])
    for run in (plain, summed, absolute, more, none):
        run.train()
    maps = sum(len(part) for part in plain.discriminator(torch.zeros(1, 1, 800)).feature_maps)
    terms = {"discriminator": 2, "adversarial": 2, "feature": maps, "mel": 5, "stft": 3, "perceptual": 1, "time": 1}
    for name, factor in terms.items():
        mean, total = (history(run, f"{name}_loss")[0] for run in (plain, summed))
        assert total == pytest.approx(factor * mean, rel=1e-4), name
    feature = history(summed, "feature_loss")[0]
    assert history(absolute, "feature_loss")[0] != pytest.approx(feature, rel=0.01)
    assert history(more, "feature_loss")[0] > 1.01 * feature
    assert history(none, "feature_loss")[0] == pytest.approx(feature, rel=1e-4)


def test_a_padded_batch_gives_the_loss_of_its_recordings(recordings, tmp_path):
    """Recordings of different lengths: the padding teaches nothing."""
    run = trainer(tmp_path, recordings)
    audio = torch.randn(2, 1, 6400) * 0.1
    mask = torch.ones(2, 6400)
    mask[1, 3200:] = 0
    dirty = audio.clone()
    dirty[1, :, 3200:] = 5.0
    clean = audio * mask[:, None]
    losses = []
    for batch in (clean, dirty):
        model = TINY["stft_codec"].model(quantizer_dropout=0.0).train()
        losses.append(run.compute_loss(model, {"input_values": batch, "padding_mask": mask}))
    assert torch.equal(*losses)


@pytest.mark.parametrize("padding", [0, 37, 3200])
def test_losses_of_a_row_do_not_depend_on_how_much_padding_follows(padding, recordings, tmp_path):
    weights = {"stft_weight": 1.0, "perceptual_weight": 1.0, "content_weight": 1.0}
    args = arguments(tmp_path, mel_loss_kwargs={"padding": "reflect"}, **weights)
    run = CodecTrainer(codec(), args, teacher=SemanticTeacher(hubert()), train_dataset=crops(recordings))
    torch.manual_seed(0)
    audio = [0.1 * torch.randn(1, 1, length) for length in (3200, 4800)]

    def losses(batch, mask):
        run._terms.clear()
        model = TINY["stft_codec"].model(quantizer_dropout=0.0).train()
        run.compute_loss(model, {"input_values": batch, "padding_mask": mask})
        return {name: run._terms[name][0] for name in ("time", "mel", "stft", "perceptual", "content")}

    alone = [losses(row, torch.ones_like(row[:, 0])) for row in audio]
    padded = [torch.nn.functional.pad(row, (0, 4800 + padding - row.shape[-1])) for row in audio]
    together = torch.cat(padded)
    found = losses(together, (together[:, 0] != 0).float())
    expected = {name: (3200 * alone[0][name] + 4800 * alone[1][name]) / 8000 for name in found}
    assert found == pytest.approx(expected, rel=1e-4)


# --- averaged weights ----------------------------------------------------------------------------------------------


def test_the_average_is_that_of_the_weights_after_each_step(recordings, tmp_path):
    steps = []

    class Recorder(CodecTrainer):
        def training_step(self, model, *args, **kwargs):
            steps.append(parameters(model))
            return super().training_step(model, *args, **kwargs)

    run = Recorder(codec(), arguments(tmp_path, max_steps=6, ema_decay=0.8), train_dataset=crops(recordings))
    run.train()
    steps = [*steps[1:], parameters(run.model)]
    averaged = run.averaged.module.state_dict()
    for name, _ in run.model.named_parameters():
        expected = steps[0][name]
        for state in steps[1:]:
            expected = 0.8 * expected + 0.2 * state[name]
        torch.testing.assert_close(averaged[name], expected)


def test_averaged_weights_are_evaluated_and_saved_and_the_own_ones_kept(recordings, tmp_path):
    run = trainer(tmp_path, recordings, max_steps=5, ema_decay=0.9, learning_rate=1e-2)
    run.train()
    own, averaged = parameters(run.model), parameters(run.averaged.module)
    with_average = run.evaluate()["eval_mel_loss"]
    run.save_model(str(tmp_path / "final"))
    assert all(torch.equal(value, own[name]) for name, value in run.model.state_dict().items())
    saved = AutoModel.from_pretrained(tmp_path / "final").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in averaged.items())
    run.averaged = None
    assert run.evaluate()["eval_mel_loss"] != with_average


@pytest.mark.parametrize("only_model", [False, True])
def test_the_best_checkpoint_comes_back_with_its_average_and_discriminator(only_model, recordings, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "si_sdr", "greater_is_better": True}
    # A codec that gets worse, so that the first checkpoint is the best.
    options |= {"ema_decay": 0.5, "learning_rate": 1.0, "adversarial": True}
    run = trainer(tmp_path, recordings, max_steps=6, save_only_model=only_model, **options)
    run.train()
    scores = history(run, "eval_si_sdr")
    run.save_model(str(tmp_path / "final"))
    best = run.state.best_model_checkpoint
    assert not best.endswith("-6")
    final, judge = (CodecDiscriminator.from_pretrained(f"{at}/discriminator") for at in (tmp_path / "final", best))
    assert all(torch.equal(value, judge.state_dict()[name]) for name, value in final.state_dict().items())
    again = trainer(tmp_path / "again", recordings)
    again.model = AutoModel.from_pretrained(tmp_path / "final")
    assert again.evaluate()["eval_si_sdr"] == pytest.approx(max(scores), abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("eval_wer", False), ("log_mel_distance", False), ("mel_loss", False), ("pesq_wb", True), (None, None)],
)
def test_of_errors_and_distances_the_least_is_best(metric, greater, tmp_path):
    """transformers takes whatever is not called a loss for something of which more is better."""
    given = {"metric_for_best_model": metric, "use_cpu": True, "report_to": "none"}
    assert CodecTrainingArguments(str(tmp_path), **given).greater_is_better is greater
    if greater is not None:
        asked = CodecTrainingArguments(str(tmp_path), greater_is_better=not greater, **given)
        assert asked.greater_is_better is not greater


# --- evaluation, files and limits ----------------------------------------------------------------------------------


def test_evaluation_measures_and_writes_samples(recordings, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "sample_count": 1}
    run = trainer(tmp_path, recordings, max_steps=2, **options)
    run.train()
    (metrics,) = [entry for entry in run.state.log_history if "eval_mel_loss" in entry]
    assert {"eval_si_sdr", "eval_log_mel_distance"} <= metrics.keys()
    folder = tmp_path / "samples" / "step-2"
    assert sorted(path.name for path in folder.iterdir()) == ["0-decoded.wav", "0-original.wav", "0.png"]
    audio, rate = soundfile.read(folder / "0-decoded.wav")
    assert rate == RATE and len(audio) == len(clips(recordings)[0]["input_values"][0])


def test_several_evaluation_sets_have_scores_of_their_own(recordings, tmp_path):
    sets = {"one": clips(recordings, 1), "two": clips(recordings, 2)}
    run = trainer(tmp_path, recordings, sample_count=1, max_steps=1, eval_strategy="steps", eval_steps=1)
    run.eval_dataset = sets
    run.train()
    scores = {name: score for entry in run.state.log_history for name, score in entry.items() if "mel_loss" in name}
    for name, part in sets.items():
        assert scores[f"eval_{name}_mel_loss"] == run.evaluate(part)["eval_mel_loss"]
        assert run.evaluate(name)[f"eval_{name}_mel_loss"] == scores[f"eval_{name}_mel_loss"]
        assert (tmp_path / "samples" / "step-1" / f"eval_{name}-0-decoded.wav").is_file()


def test_a_schedule_that_follows_a_metric_is_not_for_a_discriminator(recordings, tmp_path):
    schedule = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(ValueError, match="lr_scheduler_type='reduce_lr_on_plateau' follows a metric"):
        trainer(tmp_path, recordings, adversarial=True, **schedule)


def test_evaluation_leaves_the_mode_as_it_was(recordings, tmp_path):
    run = trainer(tmp_path, recordings)
    for training in (True, False):
        run.model.train(training)
        run.evaluate()
        assert run.model.training is training


def test_no_evaluation_set_is_said(recordings, tmp_path):
    run = CodecTrainer(codec(), arguments(tmp_path), train_dataset=crops(recordings))
    with pytest.raises(ValueError, match="no evaluation set"):
        run.evaluate()


def test_final_output_and_checkpoints_hold_codec_discriminator_and_extractor(recordings, tmp_path):
    extractor = codec_lm_hf.CodecFeatureExtractor(1, RATE)
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    run = CodecTrainer(codec(), args, discriminator(), train_dataset=crops(recordings), processing_class=extractor)
    run.train()
    run.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-2"):
        loaded = codec_lm_hf.AutoCodecModel.from_pretrained(folder)
        against = CodecDiscriminator.from_pretrained(folder / "discriminator")
        for ours, theirs in ((loaded, run.model), (against, run.discriminator)):
            assert_holds(theirs, ours)
        assert (folder / "preprocessor_config.json").is_file()


def test_the_time_limit_stops_and_saves_without_an_evaluation_set(recordings, tmp_path):
    args = arguments(tmp_path, max_steps=50, max_train_minutes=0.0)
    run = CodecTrainer(codec(), args, train_dataset=crops(recordings))
    run.train()
    assert run.state.global_step == 1 and (tmp_path / "checkpoint-1" / "model.safetensors").is_file()


def test_a_loss_that_is_no_number_stops_training(recordings, tmp_path):
    run = trainer(tmp_path, recordings, max_steps=3)
    with torch.no_grad():
        run.model.head.linear.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0.*last checkpoint"):
        run.train()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adversarial_kind", "wasserstein"),
        ("adversarial_reduction", "median"),
        ("feature_reduction", "none"),
        ("feature_logits", ["wavelet"]),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("discriminator_every", 0),
        ("adversarial_from_quantizers", 0),
        ("mel_weight", -1.0),
    ],
)
def test_impossible_arguments_are_named(field, value, tmp_path):
    with pytest.raises(ValueError, match=rf"{field} must .*{re.escape(str(value))}"):
        arguments(tmp_path, **{field: value})


def test_labels_cannot_be_smoothed(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing_factor=0.1 is not supported"):
        arguments(tmp_path, label_smoothing_factor=0.1)


# --- fine-tuning ---------------------------------------------------------------------------------------------------


def test_fine_tuning_goes_on_from_saved_weights(recordings, tmp_path):
    first = trainer(tmp_path / "first", recordings, max_steps=60, learning_rate=5e-3)
    first.train()
    first.save_model()
    start = codec_lm_hf.AutoCodecModel.from_pretrained(tmp_path / "first")
    args = arguments(tmp_path / "second", max_steps=10, learning_rate=1e-4)
    second = CodecTrainer(start, args, train_dataset=crops(recordings))
    second.train()
    fresh = trainer(tmp_path / "fresh", recordings, max_steps=10, learning_rate=1e-4)
    fresh.train()
    mel = np.mean(history(second, "mel_loss"))
    assert mel == pytest.approx(np.mean(history(first, "mel_loss")[-10:]), rel=0.25)
    assert mel < 0.7 * np.mean(history(fresh, "mel_loss"))
