"""AudioDec against the original: autoencoder, vocoder, its own way to stream, and the quantizer's training."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import codec_lm_hf
from codec_lm_hf.conversion_scripts.audiodec import RULES
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original, read_checkpoint, read_config_file, rename
from codec_lm_hf.modeling.discriminators import CodecDiscriminator, DiscriminatorOutput
from codec_lm_hf.modeling.layers.conv import Conv1d, ConvTranspose1d
from tests.parity.audiodec_losses import check_adversarial, check_features, check_losses
from tests.parity.harness import Case

# The tolerance of case.json.
FLOAT = {"atol": 1e-4, "rtol": 1e-3}
# The original's streams start with zeros where its transposed convolutions repeat the first frame offline.
COLD = {"decoder_pad_mode": "constant"}


def check(case: Case, workspace: Path) -> None:
    checkpoints = published(case, workspace)
    folders = {name: codec_lm_hf.convert("audiodec", path, workspace / name) for name, path in checkpoints.items()}
    if "vocoder" in folders:
        sources = json.loads((folders["vocoder"] / "conversion.json").read_text())["source"]
        assert set(sources) == {str(path.relative_to(workspace / "exp")) for path in checkpoints.values()}
    models = {name: codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval() for name, folder in folders.items()}
    with torch.no_grad():
        check_codec(case, models)
        if "stream.input_values" in case:
            check_streams(case, folders)
        if "disc.real_input" in case:
            check_discriminator(case, checkpoints["symmetric"])
            check_losses(case)
    if "train.output_weight" in case:
        check_training_step(case, models["symmetric"])


def published(case: Case, workspace: Path) -> dict[str, Path]:
    """The checkpoints with the decoders, in the folders that the original's archive has."""
    (autoencoder,) = (case.folder / "autoencoder").glob("*.pkl")
    vocoders = list((case.folder / "vocoder").glob("*.pkl"))
    if not vocoders:
        return {
            "symmetric": shutil.copytree(autoencoder.parent, workspace / "exp/autoencoder/only") / autoencoder.name
        }
    analyzer = workspace / read_config_file(case.folder / "vocoder" / "config.yml")["analyzer"]
    shutil.copytree(autoencoder.parent, analyzer.parent)
    folder = shutil.copytree(case.folder / "vocoder", workspace / "exp" / "vocoder" / case.name)
    return {"symmetric": analyzer, "vocoder": folder / vocoders[0].name}


def check_codec(case: Case, models: dict) -> None:
    model = models["symmetric"]
    # Channels that a model does not have, the original takes for rows.
    audio = case.input("input_values").reshape(-1, model.config.audio_channels, case["input_values"].shape[-1])
    case.same("encoder_output", model.encoder.features(audio), **FLOAT)
    latents = model._encode_latents(audio)
    case.same("latents", latents, **FLOAT)
    codes = model.encode(audio).audio_codes
    case.same("codes", codes.transpose(0, 1))
    quantized = model.quantizer.decode(codes)
    case.same("quantized", quantized, **FLOAT)
    case.same("vq_loss", commitment_losses(model, latents), **FLOAT)
    case.same("perplexity", perplexity(codes, model.config.codebook_size), **FLOAT)
    for name, decoding in models.items():
        assert torch.equal(decoding.encode(audio).audio_codes, codes)
        case.same(f"audio_{name}", decoding.decode(codes).audio_values, **FLOAT)


def commitment_losses(model, latents: Tensor) -> Tensor:
    """Of each codebook, `(codebooks,)`: what each one adds to the sum that the quantizer returns."""
    sums = [model.quantizer(latents, count).commitment_loss for count in range(1, model.config.num_codebooks + 1)]
    return torch.stack(sums).diff(prepend=torch.zeros(1))


def perplexity(codes: Tensor, size: int) -> Tensor:
    """Of the codes `(batch, codebooks, frames)`, `(codebooks,)`."""
    share = F.one_hot(codes, size).float().mean((0, 2))
    return (-torch.xlogy(share, share).sum(-1)).exp()


def check_streams(case: Case, folders: dict[str, Path]) -> None:
    models = {name: codec_lm_hf.AutoCodecModel.from_pretrained(folder, **COLD) for name, folder in folders.items()}
    for name, model in models.items():
        check_warm_stream(case, name, model.eval())
    check_cold_stream(case, models["symmetric"])


def check_warm_stream(case: Case, name: str, model) -> None:
    """As the original's demos stream: silence first, then the signal in chunks of a few frames.

    The original's convolutions start a new window with every chunk, so that the begun hop at the end of its silence
    counts as a whole one.
    """
    note = next(note for note in case.meta["notes"] if note.startswith("streaming: "))
    frames, hop, warm_up = map(
        int, re.fullmatch(r"streaming: chunk = (\d+) .* hop (\d+); .* = (\d+) .*", note).groups()
    )
    assert hop == model.config.hop_length
    state = model.init_stream()
    silence = torch.zeros(1, model.config.audio_channels, model._num_frames(warm_up) * hop)
    codes = model.encode_chunk(silence, state).audio_codes
    model.decode_chunk(codes, state)
    case.same(f"stream.{name}.warmup_zq", model.quantizer.decode(codes).transpose(1, 2), **FLOAT)
    codes, audio = [], []
    for chunk in case.input("stream.input_values").split(frames * hop, dim=-1):
        codes.append(model.encode_chunk(chunk, state).audio_codes)
        audio.append(model.decode_chunk(codes[-1], state).audio_values)
    codes = torch.cat(codes, dim=-1)
    case.same(f"stream.{name}.flat_indices", flat(codes, model.config.codebook_size))
    case.same(f"stream.{name}.lookup", model.quantizer.decode(codes).transpose(1, 2), **FLOAT)
    case.same(f"stream.{name}.audio", torch.cat(audio, dim=-1), **FLOAT)
    if name == "symmetric":
        check_stream_state(case, model, state)


def check_stream_state(case: Case, model, state) -> None:
    (group,) = state.groups
    for name in case.names("stream.state."):
        layer = layer_of(model, name.removeprefix("stream.state."))
        kept = group.encoder.take(layer) or group.decoder.take(layer)
        if isinstance(layer, Conv1d):
            case.same(name, kept["input"], **FLOAT)
        else:
            # Of a transposed convolution the original keeps the last input, we what that adds to the outputs to come.
            torch.testing.assert_close(kept[0], layer.compute(case.input(name))[..., layer.stride :], **FLOAT)


def layer_of(model, name: str) -> Conv1d | ConvTranspose1d:
    """Our layer for the buffer of the original's layer of that name."""
    if name == "decoder.conv_blocks_first_deconv":
        return model.decoder.stages[0].up
    layer = name.removesuffix(".pad_buffer")
    keys = {f"{layer}.{conv}.weight": None for conv in ("conv", "deconv")}
    (ours,) = rename(keys, [*RULES, (".*", None)])
    return model.get_submodule(ours.removesuffix(".conv.weight"))


def check_cold_stream(case: Case, model) -> None:
    """A stream that starts with the signal."""
    audio, state = case.input("stream.input_values"), model.init_stream()
    case.same("stream.cold.latents", model._encode_latents(audio), **FLOAT)
    codes = model.encode_chunk(audio, state, final=True).audio_codes
    case.same("stream.cold.flat_indices", flat(codes, model.config.codebook_size))
    case.same("stream.cold.audio", model.decode_chunk(codes, state, final=True).audio_values, **FLOAT)


def flat(codes: Tensor, size: int) -> Tensor:
    """Codes `(1, codebooks, frames)` as the original's streams have them, numbered through all codebooks."""
    return codes[0] + size * torch.arange(codes.shape[1])[:, None]


def check_training_step(case: Case, model) -> None:
    quantizer = model.quantizer.train()
    latents = case["latents"].clone().requires_grad_()
    losses = []
    for layer in quantizer.layers:
        layer.register_forward_hook(lambda _, __, output: losses.append(output[2]))
    output = quantizer(latents)
    case.same("train.quantized", output.quantized.detach(), **FLOAT)
    case.same("train.vq_loss", torch.stack(losses).detach(), **FLOAT)
    torch.testing.assert_close(output.commitment_loss, torch.stack(losses).sum())
    case.same("train.perplexity", perplexity(output.codes, model.config.codebook_size), **FLOAT)
    total = (output.quantized * case.input("train.output_weight")).sum() + output.commitment_loss
    case.same("train.grad_latents", torch.autograd.grad(total, latents)[0], **FLOAT)
    for index, layer in enumerate(quantizer.layers):
        case.same(f"train.after.{index}.embed", layer.codebook.embed.t(), **FLOAT)
        case.same(f"train.after.{index}.embed_avg", layer.codebook.embed_avg.t(), **FLOAT)
        case.same(f"train.after.{index}.cluster_size", layer.codebook.cluster_size, **FLOAT)


def check_discriminator(case: Case, checkpoint: Path) -> None:
    """Scores and features of each part, and the losses made of them."""
    config = DISCRIMINATOR.config_from_original(case.meta["config"]["autoencoder"])
    if "discriminator" not in read_checkpoint(checkpoint)["model"]:
        check_recorded_scores(case, CodecDiscriminator(config))
        return
    model = load_original(DISCRIMINATOR, checkpoint, config)
    real, fake = (model(judged(case, side)) for side in ("real", "fake"))
    for side, output in (("real", real), ("fake", fake)):
        for index, score in enumerate(scores_of(model, output)):
            case.same(f"disc.{side}.{index}.score", score, **FLOAT)
    for index, maps in enumerate(real.feature_maps):
        case.same(f"disc.real.{index}.feat_means", torch.stack([x.mean() for x in maps]), **FLOAT)
        case.same(f"disc.real.{index}.feat_abs_means", torch.stack([x.abs().mean() for x in maps]), **FLOAT)
    check_adversarial(case, real, fake)
    check_features(case, real, fake)


def judged(case: Case, side: str) -> Tensor:
    """The original's discriminators hear every channel on its own."""
    return case.input(f"disc.{side}_input").flatten(0, 1)[:, None]


def scores_of(model: CodecDiscriminator, output: DiscriminatorOutput) -> list[Tensor]:
    """The original flattens the scores of periods."""
    return [
        logits.flatten(1) if part["kind"] == "period" else logits
        for part, logits in zip(model.config.parts, output.logits, strict=True)
    ]


def check_recorded_scores(case: Case, model: CodecDiscriminator) -> None:
    """Where the case has no weights of the discriminator, as the published files have none.

    Its scores cannot be computed then. The losses made of the recorded ones are compared, and so is what does not
    depend on weights: which parts there are, with how many layers and scores.
    """
    recorded = {}
    for side in ("real", "fake"):
        output = model(judged(case, side))
        if f"disc.{side}.0.score" not in case:
            return
        scores = [case.input(f"disc.{side}.{index}.score") for index in range(len(output.logits))]
        assert not case.names(f"disc.{side}.{len(scores)}.")
        assert [score.shape for score in scores_of(model, output)] == [score.shape for score in scores]
        recorded[side] = DiscriminatorOutput(logits=tuple(scores))
    for index, maps in enumerate(output.feature_maps):
        for name in case.names(f"disc.real.{index}.feat_"):
            assert case.input(name).shape == (len(maps),)
    check_adversarial(case, recorded["real"], recorded["fake"])
    for name in case.names("loss.feat_match"):
        case.input(name)
    warnings.warn(
        f"{case.system}/{case.name} has no weights of its discriminator: its scores, the means of its features, and "
        "feature matching were not compared by value",
        stacklevel=1,
    )
