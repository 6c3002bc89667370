"""MusicGen against audiocraft: conditions, teacher forcing, generation in all its ways, the codec."""

from __future__ import annotations

import torch
from transformers import AutoModel, AutoProcessor

import codec_lm_hf
from codec_lm_hf.modeling import code_patterns
from tests.parity.harness import Case

# The tolerance of case.json.
FLOATS = {"atol": 1e-4, "rtol": 1e-4}
GREEDY = {"do_sample": False}

# What case.json calls the special token.
FILL = 9999
PATTERNS = {
    "delay_default": code_patterns.delay(5, [0, 1, 2, 3]),
    "delay_stereo": code_patterns.delay(4, [0, 0, 1, 1, 2, 2, 3, 3]),
    "delay_irregular": code_patterns.delay(6, [0, 2, 5]),
    "delay_flatten_first2": code_patterns.delay(5, [0, 1, 2], flatten_first=2),
    "delay_empty_initial2": code_patterns.delay(4, [0, 1, 2], empty_initial=2),
    "parallel": code_patterns.parallel(5, 4),
    "unroll_full": code_patterns.unroll(4, [0, 1, 2]),
    "unroll_partial": code_patterns.unroll(4, [0, 1, 1]),
    "unroll_delay": code_patterns.unroll(4, [0, 1, 1], [0, 3, 3]),
    "coarse_first": code_patterns.coarse_first(4, 4),
    "coarse_first_delay": code_patterns.coarse_first(4, 4, [0, 1, 2]),
    "musiclm_group2": code_patterns.grouped(3, 4, 2),
}


def check(case: Case, workspace) -> None:
    if case.name == "patterns":
        check_patterns(case)
        return
    with torch.no_grad():
        folder = codec_lm_hf.convert(case.system, case.folder, workspace / "lm")
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        # The original's codec decides the frame rate.
        assert str(model.config.frame_rate) == str(processor.codec.config.frame_rate) == case.meta["frame_rate"]
        given = {"encoder_hidden_states": case.input("t5_hidden"), "attention_mask": case.input("t5_mask")}
        if "melody_wav" in case:
            given["melody_values"] = case.input("melody_wav")
        check_conditions(case, model, given)
        check_teacher_forcing(case, model, given)
        check_generation(case, model, given)
        check_codec(case, processor)


def check_conditions(case: Case, model, given: dict) -> None:
    states, mask, melody = given["encoder_hidden_states"], given["attention_mask"].bool(), given.get("melody_values")
    nobody = torch.zeros(len(states), dtype=torch.bool)
    found, null = (model._condition(states, mask, melody, dropped) for dropped in (nobody, ~nobody))
    if melody is None:
        case.same("cond_text", found.memory, **FLOATS)
        case.same("null_cond_description", null.memory, **FLOATS)
        return
    frames = model.config.chroma_frames
    # The text is made first, then the melody put before it.
    case.same("order_of_conditions", torch.tensor([0, 1]))
    for part, text, tune in (
        (found, "cond_text", "cond_melody"),
        (null, "null_cond_description", "null_cond_self_wav"),
    ):
        case.same(text, part.prefix[:, frames:], **FLOATS)
        case.same(tune, part.prefix[:, :frames], **FLOATS)
    case.same("chroma", model.melody_features(melody), **FLOATS)
    case.same("chroma_raw_first", model.chroma(melody[:1, 0]), **FLOATS)
    case.same("chroma_soft_first", model.chroma.energies(melody[:1, 0]), **FLOATS)
    case.same("chroma_filterbank", model.chroma.filters, **FLOATS)


def check_teacher_forcing(case: Case, model, given: dict) -> None:
    codes = case.input("codes")
    pattern = code_patterns.delay(codes.shape[-1], model.config.delays)
    case.same("pattern_sequence", pattern.build(codes, model.config.special_id))
    case.same("pattern_mask", pattern.mask)
    found = model(**given, labels=codes)
    case.same("logits_mask", found.logits_mask.expand_as(codes))
    case.same("logits", found.logits, **FLOATS)
    case.same("ce_per_codebook", found.codebook_losses, **FLOATS)
    torch.testing.assert_close(found.loss, case["ce_per_codebook"].mean(), **FLOATS)
    model.config.original_loss = False
    case.same("logits_all_steps", model(**given, labels=codes).logits, **FLOATS)
    model.config.original_loss = True
    silent = {**given, "attention_mask": torch.zeros_like(given["attention_mask"])}
    if "melody_values" in given:
        silent["melody_values"] = torch.zeros_like(given["melody_values"])
    null = model(**silent, labels=codes).logits
    case.same("logits_null", null, **FLOATS)
    case.same("logits_cfg", null + case.meta["guidance_coef"] * (found.logits - null), **FLOATS)
    for name in ("encoder_hidden_states", "attention_mask"):
        silent[name] = silent[name][:, :1]
    case.same("logits_null_alone", model(**silent, labels=codes).logits, **FLOATS)


def check_generation(case: Case, model, given: dict) -> None:
    frames, prompt = case["greedy_cfg_tokens"].shape[-1], case.input("prompt_tokens")
    assert model.generation_config.guidance_scale == case.meta["guidance_coef"]
    case.same("greedy_cfg_tokens", model.generate(**given, **GREEDY, max_new_tokens=frames))
    found = model.generate(**given, **GREEDY, prompt_codes=prompt, max_new_tokens=frames - prompt.shape[-1])
    case.same("greedy_cfg_prompt_tokens", torch.cat([prompt, found], dim=-1))
    case.same("greedy_cfg1_tokens", model.generate(**given, **GREEDY, max_new_tokens=frames, guidance_scale=1.0))
    apart = model.generate(**given, **GREEDY, max_new_tokens=frames, joint_padding=False)
    case.same("greedy_two_step_tokens", apart)
    sampling = {"do_sample": True, "top_k": 5, "temperature": 0.9, "seed": 4321}
    case.same("sampled_topk5_seed4321", model.generate(**given, **sampling, max_new_tokens=frames))
    if "long_tokens" in case:
        # Seconds in case.json, at 100 frames a second.
        window, stride = (20, 15) if "melody_values" in given else (20, 12)
        total = case["long_tokens"].shape[-1]
        found = model.generate(**given, **GREEDY, max_new_tokens=total, window=window, stride=stride)
        case.same("long_tokens", found)


def check_codec(case: Case, processor) -> None:
    audio, codes = case.input("input_values"), case["greedy_cfg_tokens"]
    codec, channels, found = (
        processor.codec,
        processor.audio_channels,
        torch.stack(processor.encode(list(audio.numpy()))),
    )
    case.same("codec_codes", found)
    if channels == 2:
        case.same("codec_codes_left", found[:, ::2])
        case.same("codec_codes_right", found[:, 1::2])
    for name, heard in (("codec_audio", case["codec_codes"]), ("audio", codes)):
        case.same(name, torch.stack(processor.batch_decode(heard)), **FLOATS)
    left = audio[:, :1]
    case.same("codec_latent", codec._encode_latents(left), **FLOATS)
    case.same("codec_decoded_latent", codec.quantizer.decode(found[:, ::channels]), **FLOATS)


def check_patterns(case: Case) -> None:
    """Sequences, valid parts, masks, reverted codes and predicting steps of the pattern providers, exactly."""
    for name, pattern in PATTERNS.items():
        codes = case.input(f"{name}.codes")
        sequence = pattern.build(codes, FILL)
        case.same(f"{name}.sequence", sequence)
        case.same(f"{name}.sequence_valid", pattern.build(codes, FILL, only_valid=True))
        case.same(f"{name}.mask", pattern.mask)
        case.same(f"{name}.reverted", pattern.revert(sequence, FILL))
        case.same(f"{name}.logit_step", pattern.steps - 1)
