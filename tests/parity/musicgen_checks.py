"""MusicGen against audiocraft: conditions, teacher forcing, generation in all its ways, the codec."""

from __future__ import annotations

import re

import torch
from transformers import AutoModel, AutoProcessor

import codec_lm_hf
from codec_lm_hf.modeling import code_patterns
from tests.parity.harness import Case

# The tolerance of case.json.
FLOATS = {"atol": 1e-4, "rtol": 1e-4}
GREEDY = {"do_sample": False}

# What a name says of how tokens were made. `two_step` takes the coefficient of the configuration, whatever is asked.
GREEDY_TOKENS = re.compile(r"greedy(?:_cfg(?P<scale>[\d.]*))?(?P<apart>_two_step)?(?P<prompt>_prompt)?_tokens")
SAMPLED_TOKENS = re.compile(r"sampled(?:_topk(?P<top_k>\d+))?(?:_temp(?P<temperature>[\d.]+))?_seed(?P<seed>\d+)")

NUMBERS = ("no", "one", "two", "three", "four")


def check(case: Case, workspace) -> None:
    if not (case.folder / "state_dict.bin").exists():
        check_patterns(case)
        return
    with torch.no_grad():
        folder = codec_lm_hf.convert(case.system, case.folder, workspace / "lm")
        model = AutoModel.from_pretrained(folder)
        # The original's codec decides the frame rate, where it is there.
        if (case.folder / "compression_state_dict.bin").exists():
            assert model.config.frame_rate == float(case.meta["frame_rate"])
        assert model.generation_config.guidance_scale == case.meta["guidance_coef"]
        assert model.config.special_id == case.meta["special_token_id"]
        given = {"encoder_hidden_states": case.input("t5_hidden"), "attention_mask": case.input("t5_mask")}
        if "melody_wav" in case:
            given["melody_values"] = case.input("melody_wav")
        check_conditions(case, model, given)
        if "codes" in case:
            check_teacher_forcing(case, model, given)
        check_generation(case, model, given)
        check_codec(case, AutoProcessor.from_pretrained(folder))


def compare(case: Case, found: dict[str, torch.Tensor]) -> None:
    """Those that the case holds."""
    for name, value in found.items():
        if name in case:
            case.same(name, value, **FLOATS)


def check_conditions(case: Case, model, given: dict) -> None:
    states, mask, melody = given["encoder_hidden_states"], given["attention_mask"].bool(), given.get("melody_values")
    nobody = torch.zeros(len(states), dtype=torch.bool)
    found, null = (model._condition(states, mask, melody, dropped) for dropped in (nobody, ~nobody))
    if not model.config.num_chroma:
        text, no_text = (part.prefix if part.memory is None else part.memory for part in (found, null))
        compare(case, {"cond_text": text, "null_cond_description": no_text})
        return
    frames = model.config.chroma_frames
    for part, text, tune in (
        (found, "cond_text", "cond_melody"),
        (null, "null_cond_description", "null_cond_self_wav"),
    ):
        compare(case, {text: part.prefix[:, frames:], tune: part.prefix[:, :frames]})
    # The text is made first, then the melody put before it.
    compare(case, {"order_of_conditions": torch.tensor([0, 1]), "chroma_filterbank": model.chroma.filters})
    if melody is not None:
        first = melody[:1, 0]
        compare(case, {"chroma": model.melody_features(melody), "chroma_raw_first": model.chroma(first)})
        compare(case, {"chroma_soft_first": model.chroma.energies(first)})


def check_teacher_forcing(case: Case, model, given: dict) -> None:
    codes = case.input("codes")
    pattern = code_patterns.delay(codes.shape[-1], model.config.delays)
    compare(case, {"pattern_sequence": pattern.build(codes, model.config.special_id), "pattern_mask": pattern.mask})
    found = model(**given, labels=codes)
    compare(case, {"logits_mask": found.logits_mask.expand_as(codes), "logits": found.logits})
    compare(case, {"ce_per_codebook": found.codebook_losses})
    torch.testing.assert_close(found.loss, found.codebook_losses.mean())
    model.config.original_loss = False
    compare(case, {"logits_all_steps": model(**given, labels=codes).logits})
    model.config.original_loss = True
    silent = {**given, "attention_mask": torch.zeros_like(given["attention_mask"])}
    if "melody_values" in given:
        silent["melody_values"] = torch.zeros_like(given["melody_values"])
    null = model(**silent, labels=codes).logits
    guided = null + case.meta["guidance_coef"] * (found.logits - null)
    compare(case, {"logits_null": null, "logits_cfg": guided})
    for name in ("encoder_hidden_states", "attention_mask"):
        silent[name] = silent[name][:, :1]
    compare(case, {"logits_null_alone": model(**silent, labels=codes).logits})


def check_generation(case: Case, model, given: dict) -> None:
    for name, tokens in case.tensors.items():
        if asked := GREEDY_TOKENS.fullmatch(name):
            options = {**GREEDY, "joint_padding": not asked["apart"]}
            if asked["scale"] and not asked["apart"]:
                options["guidance_scale"] = float(asked["scale"])
            prompt = case.input("prompt_tokens") if asked["prompt"] else tokens[..., :0]
            options["prompt_codes"] = prompt if asked["prompt"] else None
        elif asked := SAMPLED_TOKENS.fullmatch(name):
            # Where the name is silent of it, the words beside it say it.
            told = re.search(r"temperature ([\d.]+\d)", case.meta["tensors"][name])
            warmth = asked["temperature"] or (told and told[1]) or 1
            options = {"do_sample": True, "top_k": int(asked["top_k"] or 0), "temperature": float(warmth)}
            options["seed"] = int(asked["seed"])
            prompt = tokens[..., :0]
        else:
            continue
        found = model.generate(**given, **options, max_new_tokens=tokens.shape[-1] - prompt.shape[-1])
        case.same(name, torch.cat([prompt, found], dim=-1))
    if "long_tokens" in case:
        told, total = case.meta["long_form"], case["long_tokens"].shape[-1]
        window, stride = (int(told[name] * model.config.frame_rate) for name in ("max_duration", "extend_stride"))
        found = model.generate(**given, **GREEDY, max_new_tokens=total, window=window, stride=stride)
        case.same("long_tokens", found)


def check_codec(case: Case, processor) -> None:
    for name, codes in {"codec_audio": "codec_codes", "audio": "greedy_cfg_tokens"}.items():
        if name in case:
            case.same(name, torch.stack(processor.batch_decode(case[codes])), **FLOATS)
    if "input_values" not in case:
        return
    audio, codec, sides = case.input("input_values"), processor.codec, 1
    found = torch.stack(processor.encode(list(audio.numpy())))
    if processor.audio_channels != codec.config.audio_channels:
        sides = processor.audio_channels
        compare(case, {"codec_codes_left": found[:, ::2], "codec_codes_right": found[:, 1::2]})
    heard = audio[:, ::sides]
    if codec.config.normalize:
        heard = heard / codec._scale(heard, None)[..., None]
    compare(case, {"codec_codes": found, "codec_latent": codec._encode_latents(heard)})
    compare(case, {"codec_decoded_latent": codec.quantizer.decode(found[:, ::sides])})


def check_patterns(case: Case) -> None:
    """Sequences, valid parts, masks, reverted codes and predicting steps of the pattern providers, exactly."""
    for name, told in case.meta["config"].items():
        pattern = pattern_of(name, told)
        codes = case.input(f"{name}.codes")
        # The first step holds no codes.
        fill = int(case[f"{name}.sequence"][0, 0, 0])
        sequence = pattern.build(codes, fill)
        compare(
            case,
            {
                f"{name}.sequence": sequence,
                f"{name}.sequence_valid": pattern.build(codes, fill, only_valid=True),
                f"{name}.mask": pattern.mask,
                f"{name}.reverted": pattern.revert(sequence, fill),
                f"{name}.logit_step": pattern.steps - 1,
            },
        )
        if "first_step_of_t2" in told:
            assert pattern.first_step(2) == told["first_step_of_t2"]


def pattern_of(name: str, told: dict) -> code_patterns.CodePattern:
    """The pattern that a name and the description beside it stand for."""
    frames, levels, text = told["timesteps"], told["levels"], told["description"]

    def number(around: str) -> int:
        found = re.search(around, text)
        return NUMBERS.index(found[1]) if found and found[1] in NUMBERS else int(found[1]) if found else 0

    def numbers(before: str, default: list[int] | None = None) -> list[int] | None:
        found = re.search(before + r" (\d+(?:,\d+)*)", text)
        return [int(part) for part in found[1].split(",")] if found else default

    kind = re.match("delay|parallel|unroll|coarse_first|musiclm", name)[0]
    if kind == "unroll":
        return code_patterns.unroll(frames, numbers("flattening", list(range(levels))), numbers("delays"))
    if kind == "coarse_first":
        return code_patterns.coarse_first(frames, levels, numbers("delays"))
    if kind == "musiclm":
        return code_patterns.grouped(frames, levels, number(r"groups of (\w+)"))
    flat, empty = number(r"first (\w+) timesteps"), number(r"(\w+) extra empty")
    return code_patterns.delay(frames, numbers("delays", [0] * levels), flat, empty)
