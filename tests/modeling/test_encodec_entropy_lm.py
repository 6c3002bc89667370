"""EnCodec's language model: step by step as in one pass, trained by a plain Trainer, saved and loaded."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

import codec_lm_hf
from codec_lm_hf import EncodecEntropyLMConfig, EncodecEntropyLMModel
from codec_lm_hf.conversion_scripts.encodec_entropy_lm import config_from_original
from codec_lm_hf.conversion_scripts.engine import ConversionError
from codec_lm_hf.modeling.layers.attention import MultiHeadAttention, window_mask
from codec_lm_hf.modeling.layers.positions import sinusoidal_positions
from tests.parity.harness import Case, find_cases

FIELDS = {
    "num_codebooks": 3,
    "codebook_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "past_context": 5,
}
VARIANTS = {
    "as published": {},
    "norm first": {"norm_first": True},
    "relu, no norm of the input": {"hidden_act": "relu", "norm_in": False},
}


def tiny(**fields) -> EncodecEntropyLMModel:
    torch.manual_seed(0)
    return EncodecEntropyLMModel(EncodecEntropyLMConfig(**{**FIELDS, "initializer_range": 0.3, **fields})).eval()


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
@given(cuts=st.lists(st.integers(1, 22), max_size=6).map(sorted))
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_pieces_of_any_length_equal_one_pass(variant, cuts):
    model = tiny(**VARIANTS[variant])
    inputs = model.inputs_for(random_codes(2, 3, 23))
    whole = model(inputs)
    parts, state = [], None
    for piece in inputs.tensor_split(cuts, dim=-1):
        if piece.shape[-1]:
            output = model(piece, state, use_cache=True)
            state = output.past_states
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole.logits, atol=1e-5, rtol=1e-4)
    assert state.offset == 23 and all(layer.shape[1] <= 5 for layer in state.layers)
    assert whole.past_states is None


@torch.no_grad()
def test_no_frame_sees_itself_or_what_follows():
    model, codes = tiny(), random_codes(1, 3, 12)
    other = codes.clone()
    other[..., 7] = (codes[..., 7] + 1) % 20
    before, after = (model(model.inputs_for(c)).logits for c in (codes, other))
    torch.testing.assert_close(before[:, :, :8], after[:, :, :8], atol=0, rtol=0)
    assert (before[:, :, 8] != after[:, :, 8]).any()


@torch.no_grad()
def test_no_frame_sees_further_than_its_window():
    model, codes = tiny(num_hidden_layers=1), random_codes(1, 3, 12)
    other = codes.clone()
    other[..., 0] = (codes[..., 0] + 1) % 20  # an input of frame 1, which frames 1 to 6 see
    before, after = (model(model.inputs_for(c)).logits for c in (codes, other))
    changed = (before - after).abs().amax((0, 1, 3)) > 1e-6
    assert changed.tolist() == [False, *[True] * 6, *[False] * 5]


@torch.no_grad()
def test_fewer_codebooks():
    model = tiny()
    inputs = model.inputs_for(random_codes(1, 2, 6))
    assert model(inputs).logits.shape == (1, 2, 6, 20)


@pytest.mark.parametrize("steps", [1, 9])
@torch.no_grad()
def test_attention_has_the_bits_of_torch(steps):
    """The original attends by `torch.nn.MultiheadAttention`, and the entropy coder depends on its last float bits."""
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(200, 8).eval(), torch.nn.MultiheadAttention(200, 8, batch_first=True).eval()
    theirs.in_proj_weight.copy_(ours.in_proj.weight)
    theirs.in_proj_bias.copy_(ours.in_proj.bias)
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    for past in (1, 2, 17, 262):
        memory = torch.randn(1, past + steps, 200)
        queries, mask = memory[:, past:], window_mask(past, steps, 262)
        expected, _ = theirs(queries, memory, memory, attn_mask=~mask, need_weights=False)
        assert torch.equal(ours(queries, *ours.keys_and_values(memory), mask), expected)


def test_window_mask_and_positions():
    assert window_mask(2, 2, 1).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert window_mask(1, 2).int().tolist() == [[1, 1, 0], [1, 1, 1]]
    positions = sinusoidal_positions(torch.tensor([0, 3]), 6, 100.0)
    expected = [math.cos(3 / period) for period in (1, 10, 100)] + [math.sin(3 / period) for period in (1, 10, 100)]
    torch.testing.assert_close(positions, torch.tensor([[1.0, 1, 1, 0, 0, 0], expected]))


# --- training ------------------------------------------------------------------------------------------------------


def test_loss_is_the_mean_over_known_codes():
    model, labels = tiny(), random_codes(2, 3, 7)
    labels[1, :, 4:] = -100
    output = model(labels=labels)
    alone = model(labels=labels[1:, :, :4])
    torch.testing.assert_close(output.logits[1:, :, :4], alone.logits)
    nats = F.cross_entropy(output.logits.permute(0, 3, 1, 2), labels, ignore_index=-100)
    torch.testing.assert_close(output.loss, nats)
    torch.testing.assert_close(model(labels=labels, num_items_in_batch=66).loss, nats * 33 / 66)
    torch.testing.assert_close(model(model.inputs_for(labels), labels=labels).loss, nats)
    as_tuple = model(labels=labels, return_dict=False)
    torch.testing.assert_close(as_tuple[0], nats)


def test_a_plain_trainer_trains_it(tmp_path):
    codes = random_codes(4, 3, 10)
    codes[3, :, 6:] = -100
    arguments = TrainingArguments(
        tmp_path,
        max_steps=120,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    data = [{"labels": row} for row in codes]
    trainer = Trainer(tiny(initializer_range=0.05), arguments, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert before == pytest.approx(math.log(20), rel=0.1)
    assert trainer.evaluate()["eval_loss"] < 0.3


def test_every_weight_gets_a_gradient_and_checkpointing_the_same_one():
    model, labels = tiny().train(), random_codes(1, 3, 8)
    model(labels=labels).loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients.values())
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(labels=labels).loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name])


# --- saving and loading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_save_and_load_through_auto_model(variant, tmp_path):
    model = tiny(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is EncodecEntropyLMModel and not loaded.training
    assert AutoConfig.from_pretrained(tmp_path).past_context == 5
    inputs = model.inputs_for(random_codes(1, 3, 8))
    assert torch.equal(loaded(inputs).logits, model(inputs).logits)


@torch.no_grad()
def test_weights_that_a_file_lacks_start_as_fresh_ones(tmp_path):
    """`from_pretrained` builds on memory that holds anything; what the file lacks must be filled all the same."""
    model = tiny()
    model.save_pretrained(tmp_path)
    names = list(load_file(tmp_path / "model.safetensors"))
    save_file({}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    poison = [torch.full((256, 1024), float("nan")) for _ in range(20)]
    del poison
    loaded = AutoModel.from_pretrained(tmp_path)
    assert sorted(loaded.state_dict()) == sorted(names)
    for name, weight in loaded.state_dict().items():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            assert weight.std().item() == pytest.approx(0.3, rel=0.25), name


@torch.no_grad()
def test_half_precision():
    model = tiny().to(torch.bfloat16)
    output = model(model.inputs_for(random_codes(1, 3, 8)), use_cache=True)
    assert output.logits.dtype == torch.bfloat16
    probabilities = model.probabilities(output.logits)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 3, 8))


def test_public_converter(tmp_path):
    folder = next(path for path in find_cases() if path.parts[-2:] == ("encodec", "causal_mono"))
    case = Case(folder)
    (tmp_path / "lm.json").write_text(json.dumps(case.meta["lm_config"]))
    output = codec_lm_hf.convert("encodec_entropy_lm", folder / "lm.th", tmp_path / "lm", config=tmp_path / "lm.json")
    model = AutoModel.from_pretrained(output)
    with torch.no_grad():
        hidden = model(case["lm.indices"]).last_hidden_state
    torch.testing.assert_close(hidden, case["lm.hidden"], atol=1e-5, rtol=0)
    assert "AutoModel.from_pretrained" in (output / "README.md").read_text()
    with pytest.raises(ConversionError, match="lm.th holds weights only"):
        codec_lm_hf.convert("encodec_entropy_lm", folder / "lm.th", tmp_path / "none")


def test_configuration_from_the_original():
    config = config_from_original({"dim": 32, "hidden_scale": 2.5, "gelu": False, "past_context": 7})
    assert (config.intermediate_size, config.hidden_act, config.past_context) == (80, "relu", 7)
    assert config_from_original({}).past_context == 1000  # the original's default, which no published model has
    with pytest.raises(ConversionError, match="no argument 'heads'"):
        config_from_original({"heads": 3})
    assert EncodecEntropyLMConfig.from_preset("encodec_lm_48khz").num_codebooks == 16
    with pytest.raises(ValueError, match="no preset 'x'"):
        EncodecEntropyLMConfig.from_preset("x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 8}, "multiple of num_attention_heads"),
        ({"hidden_size": 9, "num_attention_heads": 3}, "even and at least 4"),
        ({"past_context": 0}, "past_context must be at least 1, got 0"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        EncodecEntropyLMConfig(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give input_ids, or labels"),
        ({"input_ids": torch.zeros(3, 4, dtype=torch.long)}, r"got \(3, 4\)"),
        ({"input_ids": torch.zeros(1, 4, 2, dtype=torch.long)}, "at most 3 codebooks"),
        ({"input_ids": torch.zeros(1, 3, 0, dtype=torch.long)}, "not empty"),
        ({"input_ids": torch.zeros(1, 3, 2)}, "must be integers, got torch.float32"),
        ({"input_ids": torch.full((1, 3, 2), 21)}, "must lie in 0..20, found 21 to 21"),
        ({"labels": torch.full((1, 3, 2), 20)}, "must lie in -100..19, found 20 to 20"),
    ],
)
def test_inputs_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny()(**arguments)
