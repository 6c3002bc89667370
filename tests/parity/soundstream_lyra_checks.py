"""SoundStream of Lyra V2 against its released graphs, run by TensorFlow Lite."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import codec_lm_hf
from codec_lm_hf.bitstream.lyra import compress, decompress, pack, to_pcm16, unpack
from tests.parity.harness import Case

# The tolerances of case.json. Features of the integers may be a step off where a float sum before them is a tie, which
# depends on the machine; `RARELY` bounds the share of such frames.
RARELY = 0.02
FEATURE_STEP = {"atol": 0.2634916}
QUANTIZED = {"atol": 1e-4}
AUDIO = {"atol": 1e-5}
TAPS = {"atol": 1e-3}
FLOAT_FEATURES = {"atol": 5e-4}
FLOAT_AUDIO = {"atol": 5e-5}
CLAMPED = 0.08


def check(case: Case, workspace: Path) -> None:
    folder = codec_lm_hf.convert("soundstream_lyra", case.folder.parent / "model_coeffs", workspace / "codec")
    models = {
        arithmetic: codec_lm_hf.AutoCodecModel.from_pretrained(folder, arithmetic=arithmetic).eval()
        for arithmetic in ("integer", "clamped", "float")
    }
    rates = {int(rate): count for rate, count in case.meta["config"]["bitrate_to_num_quantizers"].items()}
    config = models["integer"].config
    assert {round(1000 * rate): config.num_quantizers_for(rate) for rate in config.bandwidths} == rates
    with torch.no_grad():
        check_integers(case, models["integer"], rates)
        check_taps(case, models["integer"])
        check_stream(case, models["integer"].fuse())
        check_clamped(case, models["clamped"], rates)
        check_float(case, models["float"], models["integer"], rates)


def audio_of(case: Case, model) -> Tensor:
    """The input in whole frames: the original drops the rest."""
    audio = case.input("input_values")
    return audio[None, None, : len(case["features"]) * model.config.hop_length]


def features_of(model, audio: Tensor) -> Tensor:
    """`(frames, dim)`."""
    return model._encode_latents(audio)[0].T


def decoded(model, quantized: Tensor) -> Tensor:
    """Samples for features `(frames, dim)`."""
    return model._decode_latents(quantized.T[None])[0, 0]


def relative_rms(value: Tensor, expected: Tensor) -> float:
    """RMS of the difference over the standard deviation, which is how the case measures it."""
    return float((value - expected).square().mean().sqrt() / expected.std(correction=0))


def check_integers(case: Case, model, rates: dict[int, int]) -> None:
    """The same numbers as the reference kernels, from the audio on."""
    audio = audio_of(case, model)
    case.same("input_pcm16", torch.from_numpy(to_pcm16(case["input_values"].numpy())))
    features = features_of(model, audio)
    case.same("features", features, **FEATURE_STEP)
    check_rarely_different(features, case["features"])
    check_distance(case, "features_xnnpack", features, case.meta["measured"]["features"]["rel_rms_xnnpack"])
    for rate, count in rates.items():
        codes = model.encode(audio, bandwidth=rate / 1000).audio_codes
        check_rarely_different(codes[0].T, case[f"codes_{rate}"])
        codes = model.quantizer.encode(case["features"].T[None], count)
        case.same(f"codes_{rate}", codes[0].T)
        case.same(f"quantized_{rate}", model.quantizer.decode(codes)[0].T, **QUANTIZED)
        samples = model.decode(codes).audio_values[0, 0]
        case.same(f"audio_{rate}", samples, **AUDIO)
        measured = case.meta["measured"][str(rate)]["rel_rms_audio_xnnpack"]
        check_distance(case, f"audio_{rate}_xnnpack", samples, measured)
        case.same(f"pcm16_{rate}", torch.from_numpy(to_pcm16(case[f"audio_{rate}"].numpy())))
        check_packets(case, model, rate, count)


def check_packets(case: Case, model, rate: int, count: int) -> None:
    """The bytes, from codes and from audio that has a last incomplete frame; and back."""
    shape = tuple(case[f"packets_{rate}"].shape)
    data = case[f"packets_{rate}"].numpy().tobytes()
    codes = case[f"codes_{rate}"].T.numpy()
    case.same(f"packets_{rate}", packets_of(pack(codes), shape))
    assert np.array_equal(unpack(data, count), codes)
    ours = compress(model, case["input_values"][None].numpy(), count)
    check_rarely_different(packets_of(ours, shape), case[f"packets_{rate}"])
    case.same(f"audio_{rate}", torch.from_numpy(decompress(data, model, bandwidth=rate / 1000)[0]), **AUDIO)


def packets_of(data: bytes, shape: tuple[int, int]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(shape)


def check_rarely_different(value: Tensor, expected: Tensor) -> None:
    """Rows (frames) are equal, but for a few."""
    assert value.shape == expected.shape
    assert float((value != expected).any(1).float().mean()) <= RARELY


def check_distance(case: Case, name: str, value: Tensor, measured: float) -> None:
    """TensorFlow Lite's other kernels round differently: ours are as far from them as the reference kernels are."""
    np.testing.assert_allclose(relative_rms(case.input(name), value), measured, rtol=1e-2)


def check_stream(case: Case, model) -> None:
    """Frame by frame, as the original runs."""
    audio, state = audio_of(case, model), model.init_stream()
    codes = [model.encode_chunk(frame, state).audio_codes for frame in audio.split(model.config.hop_length, dim=-1)]
    check_rarely_different(torch.cat(codes, dim=-1)[0].T, case["codes_9200"])
    codes = case["codes_9200"].T[None].long().split(1, dim=-1)
    samples = [model.decode_chunk(frame, state).audio_values for frame in codes]
    case.same("audio_9200", torch.cat(samples, dim=-1)[0, 0], **AUDIO)


def check_taps(case: Case, model) -> None:
    """Intermediate tensors: those of int8 layers as integers, the others as they are."""
    encoder, decoder = model.encoder, model.decoder
    encoder_units, decoder_units = encoder.stages[2].units, decoder.stages[0].units
    places = {
        "encoder.first_layerconv": (encoder.first, None),
        "encoder.encoder_0": (encoder.stages[0].units[2], None),
        "encoder.encoder_1_down": (encoder.stages[1].down, None),
        # The first sum is floating point here; its reader brings it to the grid.
        "encoder.quant_encoder_2_resnet_0_i8": (encoder_units[0], encoder_units[1].activation.input_grid),
        "encoder.quant_encoder_2_resnet_1_i8": (encoder_units[1], encoder_units[1].add.grid),
        "encoder.quant_encoder_2_resnet_2_i8": (encoder_units[2], encoder_units[2].add.grid),
        "encoder.quant_encoder_2_down_i8": (encoder.stages[2].down, encoder.stages[2].down.grid),
        "encoder.bottleneck_i8": (encoder.last, encoder.last.grid),
        "decoder_6000.bottleneck_2": (decoder.first, None),
        "decoder_6000.decoder_0_up": (decoder.stages[0].up, None),
        "decoder_6000.decoder_0_resnet_0_i8": (decoder_units[0], decoder_units[1].activation.input_grid),
        "decoder_6000.decoder_0_resnet_2_i8": (decoder_units[2], decoder_units[2].add.grid),
        "decoder_6000.decoder_1_up": (decoder.stages[1].up, None),
        "decoder_6000.decoder_1_out": (decoder.stages[1].units[2], None),
        "decoder_6000.decoder_2_out": (decoder.stages[2].units[2], None),
    }
    with recorded({name: layer for name, (layer, _) in places.items()}) as outputs:
        features_of(model, audio_of(case, model))
        decoded(model, case["quantized_6000"])
    for name, (_, grid) in places.items():
        frames, per_frame, channels = case[f"tap.{name}"].shape
        value = outputs[name]
        if grid is not None:
            value = grid.to_integers(value) + grid.zero_point
        value = value[0].T[: frames * per_frame].reshape(frames, per_frame, channels)
        case.same(f"tap.{name}", value, **TAPS)


@contextmanager
def recorded(layers: dict):
    """What each layer returned last."""
    outputs: dict = {}
    handles = [
        layer.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
        for name, layer in layers.items()
    ]
    yield outputs
    for handle in handles:
        handle.remove()


def check_clamped(case: Case, model, rates: dict[int, int]) -> None:
    assert relative_rms(features_of(model, audio_of(case, model)), case["features"]) <= CLAMPED
    for rate in rates:
        assert relative_rms(decoded(model, case[f"quantized_{rate}"]), case[f"audio_{rate}"]) <= CLAMPED


def check_float(case: Case, model, integers, rates: dict[int, int]) -> None:
    """Against another float32 port. It took the int8 layers' biases as their integers say, where the graphs also hold
    them in float32, which is what ours keeps."""
    for ours, gridded in zip(model.decoder.stages[:2], integers.decoder.stages[:2], strict=True):
        step = (gridded.up.input_grid.scale * gridded.up.weight_grid.scale.flatten())[0]
        ours.up.conv.bias.copy_(torch.round(ours.up.conv.bias / step) * step)
    case.same("features_float_port", features_of(model, audio_of(case, model)), **FLOAT_FEATURES)
    for rate in rates:
        case.same(f"audio_{rate}_float_port", decoded(model, case[f"quantized_{rate}"]), **FLOAT_AUDIO)
