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
from tests.parity.encodec_lm_checks import check_language_model, check_streams
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
    check_streams(case, model)
    for prefix, check_part in PARTS.items():
        if case.names(prefix):
            check_part(case)


def segments_of(model, samples: int) -> list[slice]:
    """Where each segment stands on the frame axis, without the unused end of its slot."""
    if model.config.chunk_length is None:
        return [slice(0, model._num_frames(samples))]
    count = -(-samples // model.config.chunk_stride)
    lengths = [int(model._segment_frames(torch.tensor(samples), index)) for index in range(count)]
    return [slice(index * model._slot, index * model._slot + length) for index, length in enumerate(lengths)]


def rate_of(text: str) -> float | None:
    """The bandwidth in a tensor's name; `None`, where none was ever set, means all codebooks."""
    return None if text == "None" else float(text)


def check_codec(case: Case, model) -> None:
    audio = case.input("input_values")
    places = segments_of(model, audio.shape[-1])
    for name in case.names("scale.seg"):
        index = int(name[len("scale.seg") :])
        case.same(name, model.encode(audio).audio_scales[:, index : index + 1], **AUDIO)
    for name in case.names("latents.seg"):
        case.same(name, segment_latents(model, audio, int(name[len("latents.seg") :])), **AUDIO)
    for what in ("codes", "quantized"):
        for name in case.names(f"{what}.bw"):
            rate, index = re.fullmatch(rf"{what}\.bw(.+)\.seg(\d+)", name).groups()
            codes = model.encode(audio, bandwidth=rate_of(rate)).audio_codes[..., places[int(index)]]
            case.same(name, codes if what == "codes" else model.quantizer.decode(codes), **AUDIO)
    for name in case.names("audio.bw"):
        codes = model.encode(audio, bandwidth=rate_of(name[len("audio.bw") :]))
        case.same(name, model.decode(**codes).audio_values, **AUDIO)
    for name in case.names("forward.bw"):
        case.same(name, model(audio, bandwidth=rate_of(name[len("forward.bw") :])).audio_values, **AUDIO)
    for length in {re.match(r"short(\d+)\.", name)[1] for name in case.names("short")}:
        check_short(case, model, audio[:1, :, : int(length)], f"short{length}")


def check_short(case: Case, model, audio: torch.Tensor, name: str) -> None:
    top = model.config.target_bandwidths[-1]
    encoded = model.encode(audio, bandwidth=top)
    places = segments_of(model, audio.shape[-1])
    codes = torch.cat([encoded.audio_codes[..., place] for place in places], dim=-1)
    case.same_where_recorded(
        {
            f"{name}.n_frames": torch.tensor([place.stop - place.start for place in places]),
            f"{name}.codes": codes,
            f"{name}.latents": torch.cat([segment_latents(model, audio, i) for i in range(len(places))], dim=-1),
            f"{name}.quantized": model.quantizer.decode(codes),
            f"{name}.audio": model.decode(**encoded).audio_values,
            f"{name}.forward": model(audio, bandwidth=top).audio_values,
        },
        **AUDIO,
    )
    if f"{name}.scale" in case:
        case.same(f"{name}.scale", encoded.audio_scales, **AUDIO)


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
        named = {f"disc.fmap.{scale}.{index}": feature_map for index, feature_map in enumerate(maps)}
        case.same_where_recorded({f"disc.logits.{scale}": logits, **named}, **DISCRIMINATOR_TOLERANCE)


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
    count = len(case["vqtrain.codes"])
    output = quantizer(latents, count)
    (penalty_gradient,) = torch.autograd.grad(output.commitment_loss, latents, retain_graph=True)
    (output_gradient,) = torch.autograd.grad((output.quantized * case.input("vqtrain.probe")).sum(), latents)
    # What the original reports beside them, in bit/s: codebooks x bits x the frame rate of the case's model.
    config = encodec.config_from_original(case.meta["config"])
    bandwidth = count * math.log2(options["bins"]) * config.frame_rate
    case.same("vqtrain.codes", output.codes.transpose(0, 1))
    case.same_where_recorded(
        {
            "vqtrain.quantized": output.quantized.detach(),
            "vqtrain.penalty": output.commitment_loss.detach(),
            "vqtrain.bandwidth": torch.tensor(bandwidth),
        },
        **TRAINING,
    )
    gradients = {"vqtrain.grad_penalty": penalty_gradient, "vqtrain.grad_output": output_gradient}
    case.same_where_recorded(gradients, **DISCRIMINATOR_TOLERANCE)
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
            known = {"l1": error.abs().mean(), "mse": error.square().mean(), "msq": 100 * audio.square().mean()}
            losses = {loss: known[loss] for loss in meta["losses"]}
            case.same(f"balancer.{name}.grad{call}", balancer.gradient(losses, audio), atol=1e-7, rtol=1e-4)
            ratios = torch.tensor([balancer.ratios[loss] for loss in meta["weights"] if loss in losses])
            case.same(f"balancer.{name}.ratios{call}", ratios, atol=1e-7, rtol=1e-4)


# What a case may hold beside its codec.
PARTS = {
    "lm.": check_language_model,
    "disc.": check_discriminator,
    "vqtrain.": check_training_step,
    "kmeans.": check_kmeans,
    "balancer.": check_balancer,
}
