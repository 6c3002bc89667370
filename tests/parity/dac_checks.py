"""DAC against the original: codec, the quantizer's training step, `.dac` files, discriminator and losses."""

from __future__ import annotations

import copy
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import codec_lm_hf
from codec_lm_hf.bitstream import dac
from codec_lm_hf.bitstream.dac_container import read, write
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original
from codec_lm_hf.modeling.layers.snake import Snake
from tests.parity import dac_losses as losses
from tests.parity.harness import Case, maps_with_logits

# The tolerances of case.json.
AUDIO = {"atol": 2e-5, "rtol": 1e-4}
GRADIENT = {"atol": 1e-6, "rtol": 1e-3}
DECOMPRESSED = {"atol": 1e-4, "rtol": 1e-3}
LOSS = {"atol": 0.0, "rtol": 1e-4}


def check(case: Case, workspace: Path) -> None:
    checkpoint = case.folder / "weights.pth"
    folder = codec_lm_hf.convert("dac", checkpoint, workspace / "codec", config=case.meta["config"])
    model = codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        check_encoder(case, model)
        check_codec(case, model)
        check_quantizer(case, model)
        check_snake(case)
        check_files(case, model)
        if "discriminator_config" in case.meta:
            check_discriminator(case)
        losses.check_losses(case)
    check_training_step(case, model)


def check_encoder(case: Case, model) -> None:
    """The encoder's latents, less what rounding does to them.

    The random weights of the cases magnify float32 rounding to more than the tolerance: the original's own operations
    miss it as soon as they run on other kernels than those that recorded it. So the operations are repeated here one
    by one, in float64, where rounding is far below the tolerance: our encoder must equal them, and the record be as
    near to them as float32 is on this machine. On the kernels that recorded it (`ONEDNN_MAX_CPU_ISA=AVX2` chooses
    them) the record is repeated within the tolerance.
    """
    audio = model.whole_frames(case.input("input_values"))
    case.same("preprocessed", audio)
    state = torch.load(case.folder / "weights.pth", weights_only=True)["state_dict"]
    rates = case.meta["config"]["encoder_rates"]
    exact = original_encoder({key: value.double() for key, value in state.items()}, audio.double(), rates)
    rounding = original_encoder(state, audio, rates) - exact
    if not torch.allclose(exact + rounding, case["encoder_out"].double(), **AUDIO):
        warnings.warn(f"{case.system}/{case.name}: float32 differs from where it was recorded", stacklevel=2)
        here, rounding = rounding, case["encoder_out"] - exact
        assert rounding.abs().max() < 2 * here.abs().max()
        assert rounding.square().mean() < 2 * here.square().mean()
    ours = copy.deepcopy(model.encoder)
    for parameter in ours.parameters():
        parameter.data = parameter.data.double()
    latents = ours(audio.double())
    torch.testing.assert_close(latents, exact, atol=1e-9, rtol=1e-9)
    case.same("encoder_out", latents + rounding, **AUDIO)


def original_encoder(state: dict[str, Tensor], x: Tensor, rates: list[int]) -> Tensor:
    """The encoder's operations as the original does them, on tensors by its names."""

    def conv(name: str, x: Tensor, **options) -> Tensor:
        weight = torch._weight_norm(state[f"{name}.weight_v"], state[f"{name}.weight_g"], 0)
        return F.conv1d(x, weight, state[f"{name}.bias"], **options)

    def snake(name: str, x: Tensor) -> Tensor:
        alpha = state[f"{name}.alpha"]
        return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)

    x = conv("encoder.block.0", x, padding=3)
    for index, rate in enumerate(rates, start=1):
        block = f"encoder.block.{index}.block"
        for unit, dilation in enumerate((1, 3, 9)):
            parts = f"{block}.{unit}.block"
            y = conv(f"{parts}.1", snake(f"{parts}.0", x), dilation=dilation, padding=3 * dilation)
            x = x + conv(f"{parts}.3", snake(f"{parts}.2", y))
        x = conv(f"{block}.4", snake(f"{block}.3", x), stride=rate, padding=math.ceil(rate / 2))
    last = len(rates) + 1
    return conv(f"encoder.block.{last + 1}", snake(f"encoder.block.{last}", x), padding=1)


def check_codec(case: Case, model) -> None:
    audio, latents = case.input("input_values"), case["encoder_out"]
    ones = torch.ones(audio[:, 0].shape)
    for prefix in prefixes(case, "full.") + prefixes(case, "nq"):
        count = None if prefix == "full" else int(prefix[2:])
        losses = model.quantizer(latents, count)
        codes = model.encode(audio, num_quantizers=count).audio_codes
        found = {
            "codes": codes,
            "z": model.quantizer.decode(codes),
            "latents": model.quantizer.project(latents, count)[1],
            "commitment_loss": losses.commitment_loss,
            "codebook_loss": losses.codebook_loss,
            "audio": model(audio, ones, num_quantizers=count).audio_values,
            "audio_untrimmed": model.decode(codes).audio_values,
        }
        if f"{prefix}.audio" in case:
            found["audio"] = without_filling(found["audio"], case[f"{prefix}.audio"].shape[-1])
        same_of(case, prefix, found)


def prefixes(case: Case, start: str) -> list[str]:
    """What stands before the first dot in the names of tensors that begin so, each once."""
    return list(dict.fromkeys(name.split(".")[0] for name in case.names(start)))


def same_of(case: Case, prefix: str, found: dict[str, Tensor]) -> None:
    """Every tensor `prefix.*` of the case is what was found by that name."""
    for name in case.names(f"{prefix}."):
        what = name[len(prefix) + 1 :]
        if what in found:
            case.same(name, found[what], **(LOSS if what.endswith("loss") else AUDIO))


def without_filling(audio: Tensor, samples: int) -> Tensor:
    """The original's forward() leaves out the last samples where strides are odd; ours makes them zeros."""
    assert not audio[..., samples:].any()
    return audio[..., :samples]


def check_quantizer(case: Case, model) -> None:
    """`from_codes.*` and `from_latents*.*`, and what is decoded from each."""
    codes, projections = case["full.codes"], case["full.latents"]
    for prefix in prefixes(case, "from_"):
        count = count_of(case, prefix)
        if prefix.startswith("from_codes"):
            latents, entries, found = model.quantizer.from_codes(codes[:, :count])
        else:
            latents, entries, found = model.quantizer.from_latents(projections[:, :count])
        audio = model.decode(found).audio_values
        same_of(case, prefix, {"z": latents, "latents": entries, "codes": found, "audio": audio})


def count_of(case: Case, prefix: str) -> int | None:
    """The number of codebooks or channels of which these tensors were made; `None` where it is all of them."""
    found = re.search(r"of the first (\d+) ", case.meta["tensors"][f"{prefix}.z"])
    return None if found is None else int(found[1])


def check_snake(case: Case) -> None:
    x, alpha = case.input("snake.x"), case.input("snake.alpha")
    snake = Snake(x.shape[1])
    snake.load_state_dict({"alpha": alpha})
    case.same("snake.y", snake(x), **AUDIO)


def check_training_step(case: Case, model) -> None:
    quantizer = model.quantizer.train()
    latents = case.input("train.encoder_out").clone().requires_grad_()
    output = quantizer(latents, case.input("train.n_quantizers").long())
    found = {
        "z": output.quantized.detach(),
        "codes": output.codes,
        "latents": quantizer.project(latents)[1].detach(),
        "commitment_loss": output.commitment_loss.detach(),
        "codebook_loss": output.codebook_loss.detach(),
    }
    same_of(case, "train", found)
    losses = output.commitment_loss + output.codebook_loss
    case.same("train.grad_losses", *torch.autograd.grad(losses, latents, retain_graph=True), **GRADIENT)
    probed = (output.quantized * case.input("train.probe")).sum()
    case.same("train.grad_output", *torch.autograd.grad(probed, latents, retain_graph=True), **GRADIENT)
    entries = [layer.codebook.embed for layer in quantizer.layers]
    weighted = 0.25 * output.commitment_loss + output.codebook_loss
    for index, gradient in enumerate(torch.autograd.grad(weighted, entries)):
        if f"train.grad_codebook.{index}" in case:
            case.same(f"train.grad_codebook.{index}", gradient, **GRADIENT)


def check_files(case: Case, model) -> None:
    """Files written by the original are read, and what it compressed gives the same files here."""
    for made in case.meta["compress"]:
        name, options = made["name"], made["kwargs"]
        data = (case.folder / f"{name}.dac").read_bytes()
        file = read(data)
        assert write(file) == data, name
        assert {
            "chunk_length": file.chunk_length,
            "original_length": file.original_length,
            "sample_rate": file.sampling_rate,
            "channels": len(file.codes),
            "padding": file.padding,
        }.items() <= made.items()
        audio = case.input(f"{name}.input")[0].numpy()
        ours = read(
            dac.compress(
                model,
                audio,
                num_quantizers=options.get("n_quantizers"),
                sampling_rate=made["sample_rate"],
                window_seconds=options.get("win_duration", dac.WINDOW_SECONDS),
                normalize_db=options.get("normalize_db", dac.NORMALIZED_DB),
            )
        )
        case.same(f"{name}.codes", torch.from_numpy(ours.codes))
        case.same(f"{name}.input_db", torch.tensor([ours.input_db]), **AUDIO)
        assert replace(ours, codes=None, input_db=0) == replace(file, codes=None, input_db=0)
        case.same(f"{name}.audio", torch.from_numpy(dac.decompress(data, model))[None], **DECOMPRESSED)
    assert dac.delay(model) == case.meta["delay"]


def check_discriminator(case: Case) -> None:
    config = DISCRIMINATOR.config_from_original(case.meta["discriminator_config"])
    model = load_original(DISCRIMINATOR, case.folder / "discriminator.pth", config)
    outputs = {side: model(case.input(f"disc.{side}")) for side in ("real", "fake")}
    for side, output in outputs.items():
        for part, maps in enumerate(maps_with_logits(output)):
            for index, values in enumerate(maps):
                if f"disc.{side}.{part}.{index}" in case:
                    case.same(f"disc.{side}.{part}.{index}", values, **GRADIENT)
    losses.check_adversarial(case, **outputs)
