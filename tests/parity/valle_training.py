"""VALL-E's passes in training: logits, losses, accuracies and gradients, whatever the original drew at random."""

from __future__ import annotations

import re
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from codec_lm_hf.conversion_scripts.engine import rename
from codec_lm_hf.conversion_scripts.valle import rules
from codec_lm_hf.modeling.lm_base import NO_CODE
from codec_lm_hf.modeling.valle_stage import LONGEST_PREFIX
from tests.parity.harness import Case

LOSS = {"rtol": 1e-5}


def check_training(case: Case, model, codes: Tensor, same_logits) -> None:
    """All passes that the case has, over `codes` `(batch, codebooks, frames)`."""
    text, text_lengths, lengths = (case.input(f"train.{name}") for name in ("text_tokens", "text_lens", "code_lens"))
    valid = torch.arange(codes.shape[-1]) < lengths[:, None]
    inputs = {
        "input_ids": text,
        "attention_mask": torch.arange(text.shape[1]) < text_lengths[:, None],
        "labels": codes.masked_fill(~valid[:, None], NO_CODE),
    }
    for name in case.names("train."):
        if "prompt" in name:
            given = case.input(name)
            if given.ndim == 3:
                inputs["prompt_codes"] = given[..., : codes.shape[1]].transpose(1, 2)
    if case.names("ar."):
        _check_pass(case, model, "ar", "ar", inputs, same_logits)
    for level in range(1, model.config.num_codebooks):
        run = f"nar.{level}"
        if case.names(f"{run}."):
            at = {**inputs, "level": level}
            _check_pass(case, model, run, "nar", {**at, **drawn(case, model, run, at)}, same_logits)
    if case.names("joint."):
        _check_pass(case, model, "joint", "both", joint_inputs(case, model, inputs))


def _check_pass(case: Case, model, run: str, stage: str, inputs: dict, same_logits=None) -> None:
    names = case.names(f"{run}.")
    gradients = [name for name in names if ".grad." in name]
    with torch.set_grad_enabled(bool(gradients)):
        losses = {
            name: _loss(case, model, name, stage, inputs) for name in names if "loss" in name and name not in gradients
        }
    for name, loss in losses.items():
        case.same(name, loss, **LOSS)
    model.config.train_stage = stage
    found = model(**inputs)
    if f"{run}.logits" in case:
        same_logits(case, f"{run}.logits", model, lambda m: _logits(m(**inputs)))
    for name in names:
        if "top10" in name.lower():
            case.same(name, _accuracy(model, found, inputs, "nar" in name.lower()), **LOSS)
    if gradients:
        check_gradients(case, model, run, losses[f"{run}.loss"], gradients)


def _logits(found) -> Tensor:
    return found.logits if found.nar_logits is None else found.nar_logits[0]


def _loss(case: Case, model, name: str, stage: str, inputs: dict) -> Tensor:
    """As the original returns it: a sum, or with another `reduction` a mean over codes, padding as it counts it."""
    model.config.train_stage = stage
    found = model(**inputs)
    if "mean" not in (case.meta["config"].get("reduction"), *re.split(r"[._]", name)):
        return found.loss
    if stage == "both" and model.nar is not None:
        return (_loss(case, model, name, "ar", inputs) + _loss(case, model, name, "nar", inputs)) / 2
    # The first codebook's padding counts as ends of speech, the others' not at all.
    return found.loss / (found.code_hits[..., 1].sum() if stage == "nar" else found.logits.shape[:2].numel())


def _accuracy(model, found, inputs: dict, second: bool) -> Tensor:
    """How many codes are among the ten most likely ones, times all frames; ends of speech do not count."""
    labels = inputs["labels"]
    if second:
        logits, level = found.nar_logits[0], found.levels[0]
        prompt = inputs.get("prompt_codes", labels[..., :0])
        drawn = inputs.get("prefix_length"), inputs.get("prefix_starts")
        targets = model._split(labels, _lengths(labels), prompt, level, *drawn)[2]
    else:
        logits = found.logits
        targets = pad(labels[:, 0], (0, 1), value=NO_CODE)[:, not model.config.prepend_bos :]
    best = logits.topk(10).indices
    likely = torch.where((best == targets[..., None]).any(-1), targets, NO_CODE)
    hits, count = (likely != NO_CODE).sum(), (targets != NO_CODE).sum()
    return hits / count * _lengths(labels).sum()


def _lengths(labels: Tensor) -> Tensor:
    return (labels[:, 0] != NO_CODE).sum(1)


def check_gradients(case: Case, model, run: str, loss: Tensor, names: list[str]) -> None:
    """Of parameters by the original's names."""
    parameters = {}
    for name in names:
        (ours,) = rename({name.removeprefix(f"{run}.grad."): None}, rules(model.config))
        parameters[name] = model.get_parameter(ours)
    found = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient in zip(parameters, found, strict=True):
        case.same(name, gradient, atol=2e-4 * max(1.0, float(gradient.abs().max())), rtol=1e-4)


def drawn(case: Case, model, run: str, inputs: dict) -> dict:
    """The prefix that the original drew for a level. Where pieces begin, the logits show."""
    mode, lengths = model.config.prefix_mode, _lengths(inputs["labels"])
    found = {"prefix_length": int(case.input(f"{run}.prefix_len"))} if f"{run}.prefix_len" in case else {}
    if mode == 2:
        model.config.train_stage = "nar"
        length = found.setdefault("prefix_length", min(int(lengths.min()) // 4, LONGEST_PREFIX))
        expected, starts = case[f"{run}.logits"], recorded_starts(case, run)
        if starts is None:
            errors = [
                (model(**inputs, **found, prefix_starts=starts).nar_logits[0] - expected).abs().amax((1, 2))
                for starts in all_starts(lengths, length)
            ]
            starts = torch.stack(errors).argmin(0)
        found["prefix_starts"] = starts
        check_pieces(case, run, inputs, **found)
    return found


def all_starts(lengths: Tensor, length: int) -> list[Tensor]:
    """Every place at which a piece may begin in the longest row, and as far as possible in the others."""
    last = lengths - length
    return [last.clamp(max=start) for start in range(int(last.max()) + 1)]


def recorded_starts(case: Case, run: str) -> Tensor | None:
    """Where the pieces begin, if the case says it."""
    named = [name for name in case.names(f"{run}.") if "start" in name and case[name].ndim == 1]
    return case.input(named[0]).long() if named else None


def check_pieces(case: Case, run: str, inputs: dict, prefix_length: int, prefix_starts: Tensor) -> None:
    """The codes of the pieces, if the case has them."""
    for name in case.names(f"{run}."):
        if case[name].ndim == 3 and not case[name].is_floating_point():
            places = prefix_starts[:, None] + torch.arange(prefix_length)
            codes = inputs["labels"].transpose(1, 2)
            case.same(name, codes.gather(1, places[..., None].expand(-1, -1, codes.shape[-1])))


def joint_inputs(case: Case, model, inputs: dict) -> dict:
    """Of the pass of both stages: the level and the prefix that case.json names, or else those that give its loss."""
    if model.nar is None:
        return inputs
    said = case.meta["tensors"].get("joint.loss", "")
    levels = [int(number) for number in re.findall(r"NAR stage (\d+)", said)] or range(1, model.config.num_codebooks)
    prefixes = [int(number) for number in re.findall(r"prefix_len (\d+)", said)]
    if "joint.prefix_len" in case:
        prefixes = [int(case.input("joint.prefix_len"))]
    mode, quarter = model.config.prefix_mode, int(_lengths(inputs["labels"]).min()) // 4
    if not prefixes:
        possible = {1: range(quarter, max(2 * quarter, 1)), 2: [quarter]}.get(mode, [0])
        prefixes = sorted({min(length, LONGEST_PREFIX) for length in possible})
    candidates = [{**inputs, "level": level, "prefix_length": prefix} for level in levels for prefix in prefixes]
    if mode == 2:
        starts = recorded_starts(case, "joint")
        candidates = [
            _with_starts(case, model, one) if starts is None else {**one, "prefix_starts": starts}
            for one in candidates
        ]
    expected = float(case["joint.loss"])

    def difference(candidate: dict) -> float:
        return abs(float(_loss(case, model, "joint.loss", "both", candidate)) - expected)

    found = candidates[0] if len(candidates) == 1 else min(candidates, key=difference)
    if mode == 2:
        check_pieces(case, "joint", inputs, found["prefix_length"], found["prefix_starts"])
    return found


def _with_starts(case: Case, model, inputs: dict) -> dict:
    """With the places at which pieces begin, of all that there may be, those whose loss is nearest to the case's.

    Rows do not see each other: the sum of what each loses is in proportion to the second stage's part of the loss.
    """
    labels, length = inputs["labels"], inputs["prefix_length"]
    lengths, losses = _lengths(labels), []
    model.config.train_stage = "nar"
    for starts in all_starts(lengths, length):
        logits = model(**inputs, prefix_starts=starts).nar_logits[0]
        targets = model._split(labels, lengths, labels[..., :0], inputs["level"], length, starts)[2]
        losses.append(cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_CODE, reduction="none").sum(1))
    rows = torch.stack(losses, dim=1).double()
    counted = [row[: int(last) + 1] for row, last in zip(rows, lengths - length, strict=True)]
    sums = reduce(lambda before, row: before[..., None] + row, counted)
    first = {**inputs, "prefix_starts": torch.zeros_like(lengths)}
    ar, nar = (_loss(case, model, "joint.loss", stage, first).double() for stage in ("ar", "nar"))
    wanted = (2 * case["joint.loss"].double() - ar) * rows[:, 0].sum() / nar
    place = torch.unravel_index((sums - wanted).abs().argmin(), sums.shape)
    return {**inputs, "prefix_starts": torch.stack(place)}
