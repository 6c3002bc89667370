"""Codecs as ONNX graphs, for programs without torch. Needs the extra `onnx`."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.codec_base import CodecPreTrainedModel
from ..modeling.layers.lstm import ResidualLSTM


class _Encoder(nn.Module):
    """`encode` with tensors for outputs: codes, and scales where the codec normalises."""

    def __init__(self, model: CodecPreTrainedModel, num_quantizers: int | None) -> None:
        super().__init__()
        self.model, self.num_quantizers = model, num_quantizers

    def forward(self, input_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.model.encode(input_values, num_quantizers=self.num_quantizers)
        return output.audio_codes if output.audio_scales is None else (output.audio_codes, output.audio_scales)


class _Decoder(nn.Module):
    """`decode` with a tensor for output."""

    def __init__(self, model: CodecPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio_codes: Tensor, audio_scales: Tensor | None = None) -> Tensor:
        return self.model.decode(audio_codes, audio_scales).audio_values


@torch.no_grad()
def export_onnx(
    model: CodecPreTrainedModel,
    output: str | os.PathLike,
    samples: int,
    num_quantizers: int | None = None,
    dynamic: bool = False,
) -> Path:
    """Write `encoder.onnx`, `decoder.onnx` and `codec.json`, for audio of one length or of any.

    The encoder takes `input_values` `(1, channels, samples)` and gives `audio_codes` `(1, codebooks, frames)` and,
    where the codec normalises, `audio_scales`; the decoder takes these and gives `audio_values`. The graphs have no
    padding mask: pad shorter audio with zeros (codes near the end then see the zeros), cut longer audio.

    Codecs of angles (FunCodec's domain `"mag_angle"`) are the exception: where a spectrum is real, rounding decides
    between plus and minus pi, so that another program's encoder gives other codes in some frames.

    Args:
        model: any codec whose weights are float32. It is fused (`fuse()`) and put into eval mode.
        output: directory to write; made if it is not there.
        samples: length of the audio.
        num_quantizers: codebooks; all of them by default.
        dynamic: the graphs take any whole number of frames from `samples` upwards. Codecs with LSTM layers, which the
            exporter unrolls, and with segments have one length only.

    Returns:
        `output`.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: no samples, or more codebooks than the model has; weights in half precision; `dynamic`, and
            `samples` are no whole number of frames or the codec has one length only.
    """
    try:
        from onnxscript import opset18
    except ImportError as error:
        raise ImportError("exporting to ONNX needs its packages: pip install 'codec-lm-hf[onnx]'.") from error
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if model.dtype != torch.float32:
        raise ValueError(f"the weights are {model.dtype}; export them in float32: model.float().")
    config = model.config
    frames = _any_frames(model, samples) if dynamic else None
    model.eval().fuse()
    audio = torch.zeros(1, config.audio_channels, samples, device=model.device)
    encoded = model.encode(audio, num_quantizers=num_quantizers)
    inputs, names = (encoded.audio_codes,), ["audio_codes"]
    if encoded.audio_scales is not None:
        inputs, names = (*inputs, encoded.audio_scales), [*names, "audio_scales"]
    encoder_axes = decoder_axes = None
    if frames is not None:
        encoder_axes, decoder_axes = ({2: config.hop_length * frames},), ({2: frames}, {})[: len(names)]
    translations = _translations(opset18)
    figures = {
        "model_type": config.model_type,
        "sampling_rate": config.sampling_rate,
        "audio_channels": config.audio_channels,
        "samples": samples,
        "codebooks": encoded.audio_codes.shape[1],
        "frames": encoded.audio_codes.shape[2],
        "dynamic": dynamic,
    }
    output = Path(output)
    # After what may be refused; before the export, which takes minutes and is not to be lost.
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnx.", dir=output) as partial:
        encoder = _export(
            _Encoder(model, num_quantizers), (audio,), ["input_values"], names, encoder_axes, translations
        )
        encoder.save(Path(partial, "encoder.onnx"))
        decoder = _export(_Decoder(model), inputs, names, ["audio_values"], decoder_axes, translations)
        decoder.save(Path(partial, "decoder.onnx"))
        Path(partial, "codec.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        # What is too large for one file lies beside it.
        for file in Path(partial).iterdir():
            file.replace(output / file.name)
    return output


def _any_frames(model: CodecPreTrainedModel, samples: int) -> Any:
    """The number of frames, `samples` or more, as a dimension for `torch.export`."""
    hop = model.config.hop_length
    if samples % hop:
        raise ValueError(
            f"samples={samples} is no whole number of frames of {hop} samples, which graphs of any length need; take "
            f"{-(-samples // hop) * hop}."
        )
    segmented = model.config.chunk_length is not None
    if segmented or any(isinstance(module, ResidualLSTM) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} so configured {'has segments' if segmented else 'has LSTM layers'} and can be "
            "exported for one length only; leave dynamic off and export once for each length."
        )
    return torch.export.Dim("frames", min=samples // hop)


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    axes: tuple[dict, ...] | None,
    translations: dict[Any, Callable],
) -> Any:
    with warnings.catch_warnings():
        # torch warns of its own use of its own deprecated functions.
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            module.eval(),
            inputs,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=axes,
            custom_translation_table=translations,
            dynamo=True,
            verbose=False,
            # The optimiser drops the small constants that keep silence finite.
            optimize=False,
        )


def _translations(op: Any) -> dict[Any, Callable]:
    """What the exporter does not know, in terms of the operators `op` of ONNX."""

    def right_shift(x, bits):
        # ONNX shifts unsigned integers only. This is the same, rounding down, for signed ones: Mod has the divisor's
        # sign, so the division leaves no remainder.
        divisor = op.Pow(op.Constant(value_ints=[2]), bits)
        return op.Div(op.Sub(x, op.Mod(x, divisor)), divisor)

    return {torch.ops.aten.__rshift__.Tensor: right_shift}
