"""EnCodec against the original: codec, training step, discriminator, balancer; the entropy model in its own file."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

import codec_lm_hf
from codec_lm_hf.conversion_scripts import encodec
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original
from codec_lm_hf.modeling.quantization import ResidualVectorQuantizer, kmeans
from codec_lm_hf.modeling.quantization import vector as vector_module
from codec_lm_hf.training.balancer import Balancer
from tests.parity.encodec_lm_checks import check_ecdc, check_language_model
from tests.parity.harness import Case

# The tolerances of case.json.
AUDIO = {"atol": 2e-5, "rtol": 1e-4}
DISCRIMINATOR_TOLERANCE = {"atol": 1e-6, "rtol": 1e-3}
TRAINING = {"atol": 1e-6, "rtol": 1e-4}


def check(case: Case, workspace: Path) -> None:
    checkpoint = case.folder / f"{case.name}.th"
    folder = codec_lm_hf.convert("encodec", checkpoint, workspace / "codec", config=case.meta["config"])
    model = codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        check_codec(case, model)
    check_language_model(case)
    check_ecdc(case, model)
    check_discriminator(case)
    check_training_step(case)
    check_kmeans(case)
    check_balancer(case)


def segments_of(model, samples: int) -> list[slice]:
    """Where each segment stands on the frame axis, without the unused end of its slot."""
    if model.config.chunk_length is None:
        return [slice(0, model._num_frames(samples))]
    count = -(-samples // model.config.chunk_stride)
    lengths = [int(model._segment_frames(torch.tensor(samples), index)) for index in range(count)]
    return [slice(index * model._slot, index * model._slot + length) for index, length in enumerate(lengths)]


def check_codec(case: Case, model) -> None:
    audio = case.input("input_values")
    places = segments_of(model, audio.shape[-1])
    top = f"bw{model.config.target_bandwidths[-1]}"
    for name in case.names("codes.bw"):
        bandwidth = re.match(r"codes\.bw(.+)\.seg(\d+)", name)
        rate = None if bandwidth[1] == "None" else float(bandwidth[1])
        codes = model.encode(audio, bandwidth=rate).audio_codes
        case.same(name, codes[..., places[int(bandwidth[2])]])
    for name in case.names("scale.seg"):
        index = int(name[len("scale.seg") :])
        case.same(name, model.encode(audio).audio_scales[:, index : index + 1], **AUDIO)
    for name in case.names("latents.seg"):
        index = int(name[len("latents.seg") :])
        case.same(name, segment_latents(model, audio, index), **AUDIO)
    for name in case.names("quantized.bw"):
        rate, index = re.match(r"quantized\.bw(.+)\.seg(\d+)", name).groups()
        codes = model.encode(audio, bandwidth=float(rate)).audio_codes[..., places[int(index)]]
        case.same(name, model.quantizer.decode(codes), **AUDIO)
    for name in case.names("audio.bw"):
        codes = model.encode(audio, bandwidth=float(name[len("audio.bw") :]))
        case.same(name, model.decode(**codes).audio_values, **AUDIO)
    for name in case.names("forward.bw"):
        case.same(name, model(audio, bandwidth=float(name[len("forward.bw") :])).audio_values, **AUDIO)
    for name in case.names("short"):
        length, what = re.match(r"short(\d+)\.(.+)", name).groups()
        codes = model.encode(audio[:1, :, : int(length)], bandwidth=float(top[2:]))
        if what == "codes":
            case.same(
                name,
                codes.audio_codes[:, :, codes.codes_mask[0]] if codes.codes_mask is not None else codes.audio_codes,
            )
        elif what == "audio":
            case.same(name, model.decode(**codes).audio_values, **AUDIO)
        else:
            case.same(name, torch.tensor([s.stop - s.start for s in segments_of(model, int(length))]))


def segment_latents(model, audio, index: int):
    if model.config.chunk_length is not None:
        start = index * model.config.chunk_stride
        audio = audio[..., start : start + model.config.chunk_length]
    if model.config.normalize:
        audio = audio / model._scale(audio, None)[..., None]
    return model._encode_latents(audio)


def check_discriminator(case: Case) -> None:
    config = DISCRIMINATOR.config_from_original(case.meta["discriminator_config"])
    model = load_original(DISCRIMINATOR, case.folder / "msstftd.th", config)
    with torch.no_grad():
        output = model(case.input("disc.input"))
    for scale, (logits, maps) in enumerate(zip(output.logits, output.feature_maps, strict=True)):
        case.same(f"disc.logits.{scale}", logits, **DISCRIMINATOR_TOLERANCE)
        for index, feature_map in enumerate(maps):
            case.same(f"disc.fmap.{scale}.{index}", feature_map, **DISCRIMINATOR_TOLERANCE)


def quantizer_of(options: dict) -> ResidualVectorQuantizer:
    return ResidualVectorQuantizer(
        options["n_q"],
        options["bins"],
        options["dimension"],
        decay=options["decay"],
        kmeans_iterations=options["kmeans_iters"],
    ).train()


def check_training_step(case: Case) -> None:
    options = case.meta["vq_train_config"]
    quantizer = quantizer_of(options)
    prefix = "vqtrain.before.vq.layers."
    state = {}
    for name in case.names(prefix):
        layer, buffer = name[len(prefix) :].split("._codebook.")
        state[f"layers.{layer}.codebook.{buffer}"] = case.input(name)
    quantizer.load_state_dict(state)
    latents = case.input("vqtrain.input").clone().requires_grad_()
    output = quantizer(latents)
    case.same("vqtrain.codes", output.codes.transpose(0, 1))
    case.same("vqtrain.quantized", output.quantized.detach(), **TRAINING)
    case.same("vqtrain.penalty", output.commitment_loss.detach(), **TRAINING)
    # What the original reports beside them, in bit/s: codebooks x bits x the frame rate of the case's model.
    config = encodec.config_from_original(case.meta["config"])
    bandwidth = options["n_q"] * math.log2(options["bins"]) * config.frame_rate
    case.same("vqtrain.bandwidth", torch.tensor(bandwidth), **TRAINING)
    (gradient,) = torch.autograd.grad(output.commitment_loss, latents, retain_graph=True)
    case.same("vqtrain.grad_penalty", gradient, **DISCRIMINATOR_TOLERANCE)
    (gradient,) = torch.autograd.grad((output.quantized * case.input("vqtrain.probe")).sum(), latents)
    case.same("vqtrain.grad_output", gradient, **DISCRIMINATOR_TOLERANCE)
    for name in case.names("vqtrain.after.vq.layers."):
        layer, buffer = name[len("vqtrain.after.vq.layers.") :].split("._codebook.")
        case.same(name, getattr(quantizer.layers[int(layer)].codebook, buffer), **TRAINING)


def check_kmeans(case: Case) -> None:
    options = case.meta["vq_train_config"]
    samples, start = case.input("kmeans.samples"), case.input("kmeans.init_means")
    means, counts = kmeans(samples, options["bins"], options["kmeans_iters"], start)
    case.same("kmeans.means", means, **TRAINING)
    case.same("kmeans.cluster_size", counts)
    quantizer = quantizer_of({**options, "n_q": 1})
    # The only random step of the original is the draw of the starting means, which the case holds.
    drawn = vector_module.kmeans
    try:
        vector_module.kmeans = lambda vectors, size, iterations: drawn(vectors, size, iterations, start)
        output = quantizer(samples.t()[None])
    finally:
        vector_module.kmeans = drawn
    case.same("kmeans.first_step.codes", output.codes.transpose(0, 1))
    for buffer in ("embed", "embed_avg", "cluster_size", "inited"):
        case.same(f"kmeans.first_step.{buffer}", getattr(quantizer.layers[0].codebook, buffer), **TRAINING)


def check_balancer(case: Case) -> None:
    meta = case.meta["balancer"]
    pred, target = case.input("balancer.pred"), case.input("balancer.target")
    for name, settings in meta["settings"].items():
        balancer = Balancer(meta["weights"], **settings)
        for call, factor in enumerate((1.0, 0.5, 2.0)):
            audio = (pred * factor).requires_grad_()
            error = audio - target
            losses = {"l1": error.abs().mean(), "mse": error.square().mean(), "msq": 100 * audio.square().mean()}
            case.same(f"balancer.{name}.grad{call}", balancer.gradient(losses, audio), atol=1e-7, rtol=1e-4)
            ratios = torch.tensor([balancer.ratios[loss] for loss in meta["weights"]])
            case.same(f"balancer.{name}.ratios{call}", ratios, atol=1e-7, rtol=1e-4)
