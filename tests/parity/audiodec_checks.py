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
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original, read_checkpoint, read_config_file
from codec_lm_hf.modeling.discriminators import CodecDiscriminator, DiscriminatorOutput
from tests.parity.audiodec_losses import check_adversarial, check_features, check_losses
from tests.parity.harness import Case

# The tolerance of case.json.
FLOAT = {"atol": 1e-4, "rtol": 1e-3}
# The original's streams start with zeros where its transposed convolutions repeat the first frame offline.
COLD = {"decoder_pad_mode": "constant"}


def check(case: Case, workspace: Path) -> None:
    autoencoder, vocoder = published(case, workspace)
    folders = {
        "symmetric": codec_lm_hf.convert("audiodec", autoencoder, workspace / "symmetric"),
        "vocoder": codec_lm_hf.convert("audiodec", vocoder, workspace / "vocoder"),
    }
    sources = json.loads((folders["vocoder"] / "conversion.json").read_text())["source"]
    assert set(sources) == {str(path.relative_to(workspace / "exp")) for path in (autoencoder, vocoder)}
    models = {name: codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval() for name, folder in folders.items()}
    with torch.no_grad():
        check_codec(case, models)
        for name, model in models.items():
            check_warm_stream(case, name, model)
        check_cold_stream(case, codec_lm_hf.AutoCodecModel.from_pretrained(folders["symmetric"], **COLD).eval())
        check_discriminator(case, autoencoder)
    check_losses(case)
    check_training_step(case, models["symmetric"])


def published(case: Case, workspace: Path) -> tuple[Path, Path]:
    """The checkpoints of the autoencoder and the vocoder, with the folders that the original's archive has."""
    analyzer = Path(read_config_file(case.folder / "vocoder" / "config.yml")["analyzer"])
    autoencoder = workspace / analyzer
    vocoder = workspace / "exp" / "vocoder" / case.name / "checkpoint-500000steps.pkl"
    shutil.copytree(case.folder / "autoencoder", autoencoder.parent)
    shutil.copytree(case.folder / "vocoder", vocoder.parent)
    return autoencoder, vocoder


def check_codec(case: Case, models: dict) -> None:
    audio, model = case.input("input_values"), models["symmetric"]
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
    silence = torch.zeros(1, 1, model._num_frames(warm_up) * hop)
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
    layers = {
        "encoder.conv": model.encoder.first,
        "encoder.conv_blocks.0.conv": model.encoder.stages[0].down,
        "projector.project": model.encoder.last,
    }
    for name, layer in layers.items():
        case.same(f"stream.state.{name}.pad_buffer", group.encoder.take(layer)["input"], **FLOAT)
    # Of a transposed convolution the original keeps the last input, we what that adds to the outputs to come.
    up = model.decoder.stages[0].up
    coming, _ = group.decoder.take(up)
    last = case.input("stream.state.decoder.conv_blocks_first_deconv")
    torch.testing.assert_close(coming, up.compute(last)[..., up.stride :], **FLOAT)


def check_cold_stream(case: Case, model) -> None:
    """A stream that starts with the signal."""
    audio, state = case["stream.input_values"], model.init_stream()
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
    real, fake = (model(case.input(f"disc.{side}_input")) for side in ("real", "fake"))
    for side, output in (("real", real), ("fake", fake)):
        for index, score in enumerate(scores_of(model, output)):
            case.same(f"disc.{side}.{index}.score", score, **FLOAT)
    for index, maps in enumerate(real.feature_maps):
        case.same(f"disc.real.{index}.feat_means", torch.stack([x.mean() for x in maps]), **FLOAT)
        case.same(f"disc.real.{index}.feat_abs_means", torch.stack([x.abs().mean() for x in maps]), **FLOAT)
    check_adversarial(case, real, fake)
    check_features(case, real, fake)


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
        output = model(case.input(f"disc.{side}_input"))
        scores = [case.input(f"disc.{side}.{index}.score") for index in range(len(output.logits))]
        assert not case.names(f"disc.{side}.{len(scores)}.")
        assert [score.shape for score in scores_of(model, output)] == [score.shape for score in scores]
        recorded[side] = DiscriminatorOutput(logits=tuple(scores))
    for index, maps in enumerate(output.feature_maps):
        for name in (f"disc.real.{index}.feat_means", f"disc.real.{index}.feat_abs_means"):
            assert case.input(name).shape == (len(maps),)
    check_adversarial(case, recorded["real"], recorded["fake"])
    case.input("loss.feat_match")
    warnings.warn(
        f"{case.system}/{case.name} has no weights of its discriminator: its scores, the means of its features, and "
        "feature matching were not compared by value",
        stacklevel=1,
    )
