"""What VALL-E alone does: prefix modes, limits and ends of speech, the original's loss, its checkpoints, bad input."""

from __future__ import annotations

import logging
import pathlib

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open

import codec_lm_hf
from codec_lm_hf import ValleConfig
from codec_lm_hf.conversion_scripts.engine import ConversionError
from codec_lm_hf.conversion_scripts.valle import _FIELDS, config_from_original
from codec_lm_hf.modeling.layers.alignment import NO_SYMBOL, frame_symbols
from codec_lm_hf.modeling.lm_base import NO_CODE
from tests.common.tiny_lm import TINY_LM
from tests.parity.harness import find_cases

TEXT = torch.tensor([[1, 5, 6, 7, 2]])
OPTIONS = {"do_sample": False, "return_dict_in_generate": True}


def tiny(name="valle", **fields):
    return TINY_LM[name].model(**fields)


def codes(*shape):
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(0))


def test_speech_is_broken_off_where_it_does_not_end_and_says_so(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("codec_lm_hf"), "propagate", True)
    for prepend_bos in (False, True):
        model = tiny(prepend_bos=prepend_bos, max_frames_per_symbol=2)
        model.ar.heads[0].weight.data[model.config.end_id] = 0
        model.ar.transformer.norm.weight.data.zero_()
        model.ar.transformer.norm.bias.data.fill_(1)
        model.ar.heads[0].weight.data[3] = 1  # the most likely code, always
        found = model.generate(TEXT, prompt_codes=codes(1, 3, 2), **OPTIONS)
        assert found.sequences.shape[-1] == 2 * 5 + (not prepend_bos)
        assert found.stopped.tolist() == [False]
    assert "broken off at 10 frames" in caplog.text


def test_speech_that_ends_at_once_is_empty():
    model = tiny()
    model.ar.transformer.norm.weight.data.zero_()
    model.ar.transformer.norm.bias.data.fill_(1)
    model.ar.heads[0].weight.data.zero_()
    model.ar.heads[0].weight.data[model.config.end_id] = 1
    found = model.generate(TEXT, prompt_codes=codes(1, 3, 2), **OPTIONS)
    assert found.sequences.shape == (1, 3, 0) and found.stopped.all()
    logits = model.generate(TEXT, prompt_codes=codes(1, 3, 2), output_logits=True, **OPTIONS).level_logits
    assert [tuple(level.shape) for level in logits] == [(1, 0, 20)] * 2
    assert model.generate(TEXT, prompt_codes=codes(1, 3, 2), min_new_tokens=2, do_sample=False).shape[-1] >= 2


def test_a_likely_end_stops_whatever_was_drawn():
    """The original ends where the end is most likely; `stop_on_argmax=False` only where it is drawn."""
    ends = {}
    for stop_on_argmax in (True, False):
        model = tiny(stop_on_argmax=stop_on_argmax)
        model.ar.transformer.norm.weight.data.zero_()
        model.ar.transformer.norm.bias.data.fill_(1)
        model.ar.heads[0].weight.data.zero_()
        model.ar.heads[0].weight.data[model.config.end_id] = 0.01  # hardly more likely than each of the codes
        options = {"do_sample": True, "max_new_tokens": 6}
        runs = [model.generate(TEXT, prompt_codes=codes(1, 3, 2), **options, seed=seed) for seed in range(4)]
        ends[stop_on_argmax] = [run.shape[-1] for run in runs]
    assert not any(ends[True]) and any(ends[False])


def test_without_a_prompt():
    with_begin = tiny(prepend_bos=True)
    assert with_begin.generate(TEXT, do_sample=False, max_new_tokens=3).shape[:2] == (1, 3)
    with pytest.raises(ValueError, match="at least one frame per row: this model predicts no first frame"):
        tiny().generate(TEXT)


def test_one_codebook_needs_no_second_transformer():
    model = tiny(num_codebooks=1)
    assert model.nar is None
    found = model(TEXT, labels=codes(1, 1, 6))
    assert found.nar_logits is None and torch.isfinite(found.loss)
    assert model.generate(TEXT, prompt_codes=codes(1, 1, 3), do_sample=False, max_new_tokens=4).shape[1] == 1


def test_modes_2_and_4_read_what_is_to_be_said_without_the_prompts_text():
    model = tiny("valle-prompt")
    text = torch.tensor([[1, 5, 6, 7, 8, 2, 0], [1, 9, 5, 6, 7, 8, 2]])
    said = model._said(model._text(text, (text > 0).long()), torch.tensor([4, 3]))
    assert said.ids[said.valid].tolist() == [*[1, 7, 8, 2], *[1, 5, 6, 7, 8, 2]]
    assert said.valid.sum(1).tolist() == [4, 6]
    for lengths in ([7, 3], [4, 0]):
        with pytest.raises(ValueError, match=r"prompt_text_lengths must lie in 1..\[6, 7\]"):
            model._said(model._text(text, (text > 0).long()), torch.tensor(lengths))
    with pytest.raises(ValueError, match="prompt_text_lengths are needed in prefix modes 2 and 4"):
        model.generate(TEXT, prompt_codes=codes(1, 3, 2), do_sample=False, max_new_tokens=2)
    with pytest.raises(ValueError, match="prompt_codes belong to prefix mode 4"):
        model(TEXT, labels=codes(1, 3, 9))


def test_mode_2_copies_a_piece_and_does_not_ask_for_it():
    model, labels = tiny("valle-segment").train(), codes(2, 3, 12)
    prompt, rest, targets = model._split(labels, torch.tensor([12, 12]), labels[..., :0], 1, None)
    assert torch.equal(rest, labels) and prompt.shape == (2, 3, 3)
    for row in range(2):
        places = (targets[row] == NO_CODE).nonzero()[:, 0]
        assert torch.equal(labels[row][:, places], prompt[row]) and len(places) == 3
    prompt, _, targets = model._split(labels, torch.tensor([12, 12]), labels[..., :0], 1, None, torch.tensor([9, 2]))
    assert torch.equal(prompt, torch.stack([labels[0, :, 9:], labels[1, :, 2:5]]))
    assert (targets == NO_CODE).nonzero()[:, 1].tolist() == [9, 10, 11, 2, 3, 4]
    for starts in (torch.tensor([10, 0]), torch.tensor([-1, 0]), torch.tensor([0])):
        with pytest.raises(ValueError, match=r"prefix_starts must lie in 0..\[9, 9\], so that 3 frames follow"):
            model(TEXT.expand(2, -1), labels=labels, prefix_starts=starts)
    with pytest.raises(ValueError, match="prefix_starts belong to prefix mode 2; this model's is 1"):
        tiny()(TEXT.expand(2, -1), labels=labels, prefix_starts=torch.tensor([0, 0]))


def test_continual_can_swap_prenet_and_positions():
    """As the original does in prefix mode 0, and only there."""
    model = tiny("valle-prenet")
    said = []
    for swapped in (False, True):
        model.config.continual_swaps_prenet = swapped
        said.append(model.continual(TEXT, codes(1, 3, 8)))
    assert not torch.equal(*said)
    model.config.prefix_mode = 1
    assert torch.equal(model.continual(TEXT, codes(1, 3, 8)), said[0])


def test_the_originals_loss_counts_padding():
    labels = codes(2, 3, 8)
    labels[1, :, 5:] = NO_CODE
    model = tiny(train_stage="ar", original_loss=True)
    found = model(TEXT.expand(2, -1), labels=labels)
    targets = torch.cat([labels[:, 0, 1:], torch.full((2, 1), 20)], 1)
    targets = targets.where(targets >= 0, 20)
    expected = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(found.loss, expected)
    model.config.original_loss = False
    targets[1, 5:] = NO_CODE
    expected = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model(TEXT.expand(2, -1), labels=labels).loss, expected)


def test_tied_heads_are_stored_once(tmp_path):
    model = tiny(num_codebooks=4)
    assert model.nar.heads[1].weight is model.nar.audio_embeddings[3].weight
    assert model.nar.heads[2].weight is not model.nar.audio_embeddings[3].weight
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    assert "nar.heads.2.weight" in stored
    assert len(stored & {"nar.heads.1.weight", "nar.audio_embeddings.3.weight"}) == 1
    untied = tiny(num_codebooks=4, tie_word_embeddings=False)
    assert untied.nar.heads[1].weight is not untied.nar.audio_embeddings[3].weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": TEXT + 20}, "input_ids must lie in 0..11, found 21 to 27"),
        ({"input_ids": TEXT[0]}, r"shape \(batch, symbols\)"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1]])}, "pad texts on the right"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask has shape"),
        ({"labels": codes(2, 3, 9)}, "labels has 2 rows, input_ids has 1"),
        ({"labels": None}, "give labels.*Trainer keeps them from a model with label_smoothing_factor"),
        ({"level": 3}, r"level must be in 1..2"),
        ({"prefix_length": 9}, None),
    ],
)
def test_inputs_that_cannot_be(arguments, message):
    model = tiny()
    inputs = {"input_ids": TEXT, "labels": codes(1, 3, 9), **arguments}
    with pytest.raises(ValueError, match=message or "prefix_length must be in 0..8"):
        model(**inputs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefix_mode": 3}, "prefix_mode must be one of 0, 1, 2, 4, got 3"),
        ({"text_condition": "none"}, "text_condition must be one of"),
        ({"hidden_size": 30}, "multiple of its 16 heads"),
        ({"nar_scale_factor": 0.01}, "leaves nothing"),
        ({"condition_dropout": 1.5}, "condition_dropout must be in"),
        ({"num_codebooks": 0}, "num_codebooks must be at least 1"),
        ({"num_codebooks": 1, "train_stage": "nar"}, "more than one codebook"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        ValleConfig(**fields)


def test_configuration_from_the_trainers_arguments():
    arguments = {"decoder_dim": 512, "nhead": 8, "num_decoder_layers": 6, "scale_factor": 0.5, "model_name": "VALL-F"}
    config = config_from_original({**arguments, "prefix_mode": 4, "lr": 0.05})
    assert (config.hidden_size, config.num_hidden_layers, config.nar_sizes["dim"]) == (512, 6, 256)
    assert config.text_condition == "cross_attention" and config.original_loss and config.prefix_mode == 4
    # The original's own default.
    assert config_from_original(arguments).prefix_mode == 0
    with pytest.raises(ConversionError, match="'Transformer'"):
        config_from_original({"model_name": "Transformer"})


def original_file(case):
    folder = next(path for path in find_cases() if path.parts[-2:] == ("valle", case))
    with torch.serialization.safe_globals([(pathlib.PosixPath, "pathlib.PosixPath")]):
        return torch.load(folder / "epoch-2.pt", weights_only=True)


def test_checkpoints_of_other_sizes_and_other_ways_to_save(tmp_path):
    """Tables of other sizes than the original's constants, weights alone, of several processes, of one stage."""
    file = original_file("prefix2_bos")
    arguments = {name: value for name, value in file.items() if name in {*_FIELDS, "model_name"}}
    sizes = {"NUM_TEXT_TOKENS": 32, "NUM_AUDIO_TOKENS": 32}
    spread = {f"module.{key}": value for key, value in file["model"].items()}
    first = {key: value for key, value in spread.items() if ".ar_" in key or "nar_text_embedding" in key}
    version = torch.torch_version.TorchVersion("1.13.1")
    found = {}
    for name, content, config in [
        ("whole", file, None),
        ("bare", file["model"], {**arguments, **sizes}),
        ("spread", {**file, "model": spread, "env_info": {"torch-version": version}}, None),
        ("first", {**file, "model": first, "num_quantizers": 1}, None),
    ]:
        torch.save(content, tmp_path / f"{name}.pt")
        output = codec_lm_hf.convert("valle", tmp_path / f"{name}.pt", tmp_path / name, config=config)
        found[name] = codec_lm_hf.ValleForConditionalGeneration.from_pretrained(output).state_dict()
    assert found["whole"]["ar.text_embedding.weight"].shape == (32, 8)
    for name in ("bare", "spread"):
        assert all(torch.equal(value, found["whole"][key]) for key, value in found[name].items())
    assert set(found["first"]) == {key for key in found["whole"] if key.startswith("ar.")}


def test_the_converter_allows_paths_and_nothing_else(tmp_path):
    file = original_file("vallf_prefix1")
    assert isinstance(file["exp_dir"], pathlib.PosixPath)
    for name, content, message in [
        ("code", {**file, "sampler": print}, "holds more than tensors"),
        ("bare", file["model"], "holds weights only"),
        ("short", {**file, "model": dict(list(file["model"].items())[:5])}, "missing"),
    ]:
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(ConversionError, match=message):
            codec_lm_hf.convert("valle", tmp_path / f"{name}.pt", tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("own", "expected"), [(None, 0.3), (0.0, 0.0)])
def test_attention_and_activations_can_have_dropouts_of_their_own(own, expected):
    model = TINY_LM["valle"].model(dropout=0.3, attention_dropout=own, activation_dropout=own)
    layers = [*model.ar.transformer.layers, *model.nar.transformer.layers]
    assert {layer.attention.function.dropout for layer in layers} == {expected}
    assert {layer.activation_dropout.p for layer in layers} == {expected}
    assert {layer.dropout.p for layer in layers} == {0.3}


# --- guidance --------------------------------------------------------------------------------------------------------


GUIDED = ["valle", "valle-prenet", "valle-cross", "valle-prompt", "valle-monotonic", "valle-monotonic-cross"]


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_leads_away_from_what_is_said_without_the_condition(name):
    """Step by step, and in each codebook after the first one: `free + scale * (given - free)`."""
    model = tiny(name, condition_dropout=0.1)
    prompt, lengths = codes(1, 3, 2), torch.tensor([2])
    options = {"prompt_codes": prompt, "prompt_text_lengths": lengths, "max_new_tokens": 4, **OPTIONS}
    found = model.generate(TEXT, **options, guidance_scale=3.0, output_logits=True)
    frames = found.sequences.shape[-1]
    given, free = (_logits_after(model, prompt, found, without) for without in (False, True))
    for mine, one, other in zip(_all_logits(found, frames), given, free, strict=True):
        torch.testing.assert_close(mine, other + 3 * (one - other), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(one, other)


def _all_logits(found, frames):
    """Of each codebook, `(batch, frames, entries)`."""
    return [torch.stack(found.logits, 1)[:, :frames, 0], *found.level_logits]


def _logits_after(model, prompt, found, without):
    """What the model says of what it has generated, with the text or without."""
    frames, config = found.sequences.shape[-1], model.config
    read, symbols = model._text(TEXT, None), None
    if without:
        read = read.hidden(torch.tensor([True]), config.pad_token_id)
    if config.monotonic_alignment:
        symbols = frame_symbols(found.durations, frames)
        symbols = torch.cat([torch.full((1, prompt.shape[-1]), NO_SYMBOL), symbols], dim=1)
    whole, said = torch.cat([prompt, found.sequences], dim=-1), model._said(read, torch.tensor([2]))
    first = prompt.shape[-1] - (not config.prepend_bos)
    if symbols is None:
        logits = model._ar_loss(read, whole, torch.tensor([whole.shape[-1]]))[0]
    else:
        logits = model._aligned_ar_loss(read, prompt, found.sequences, symbols)[0]
    levels = [model.nar.level_logits(said, prompt, found.sequences, level, symbols) for level in (1, 2)]
    return [logits[:, first : first + frames], *levels]


@pytest.mark.parametrize("name", ["valle-monotonic", "valle-monotonic-cross"])
def test_without_its_text_a_told_model_does_not_hear_the_prompt_either(name):
    model, labels = tiny(name, condition_dropout=1.0).train(), codes(1, 3, 8)
    durations = torch.tensor([[2, 1, 3, 0, 2]])
    losses = [
        model(TEXT, labels=labels, durations=durations, prompt_codes=prompt, level=1).loss
        for prompt in (codes(1, 3, 4), codes(1, 3, 4).flip(-1))
    ]
    assert losses[0] == losses[1]
    model.config.condition_dropout = 0.0
    heard = model(TEXT, labels=labels, durations=durations, prompt_codes=codes(1, 3, 4), level=1).loss
    assert heard != losses[0]


@pytest.mark.parametrize("name", GUIDED)
def test_guided_rows_are_those_of_one_by_one(name):
    model = tiny(name, condition_dropout=0.1)
    text = torch.tensor([[1, 5, 6, 7, 8, 2], [1, 9, 5, 2, 0, 0]])
    prompt = codes(2, 3, 4)
    prompt[1, :, 3:] = NO_CODE
    options = {"do_sample": False, "max_new_tokens": 5, "guidance_scale": 2.0}
    lengths = torch.tensor([2, 2])
    both = model.generate(text, (text > 0).long(), prompt, lengths, **options)
    for row, (symbols, frames) in enumerate([(6, 4), (4, 3)]):
        own = model.generate(
            text[row, None, :symbols], None, prompt[row, None, :, :frames], lengths[row, None], **options
        )
        assert torch.equal(both[row, None, :, : own.shape[-1]], own)
        assert (both[row, :, own.shape[-1] :] == NO_CODE).all()


def test_a_model_that_always_had_its_text_refuses_guidance():
    with pytest.raises(ValueError, match="has not learned to go without its condition"):
        tiny().generate(TEXT, prompt_codes=codes(1, 3, 2), guidance_scale=2.0)


def test_in_training_some_rows_go_without_their_text():
    inputs = {"labels": codes(64, 3, 9), "level": 1, "prefix_length": 1}

    def losses(model, *texts):
        """Of training on the same codes with each of the texts."""
        found = []
        for text in texts:
            torch.manual_seed(0)
            found.append(model(text.expand(64, -1), **inputs).loss)
        return found

    one, other = TEXT, TEXT.flip(1)
    with_it, without = losses(tiny(condition_dropout=0.5).train(), one, other)
    assert with_it != without
    with_it, without = losses(tiny(condition_dropout=1.0).train(), one, other)
    assert with_it == without
    with_it, without = losses(tiny(condition_dropout=1.0).eval(), one, other)
    assert with_it != without
