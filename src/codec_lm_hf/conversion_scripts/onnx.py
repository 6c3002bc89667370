"""Codecs as ONNX graphs, for programs without torch. Needs the extra `onnx`."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..modeling.codec_base import CodecPreTrainedModel


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
    model: CodecPreTrainedModel, output: str | os.PathLike, samples: int, num_quantizers: int | None = None
) -> Path:
    """Write `encoder.onnx`, `decoder.onnx` and `codec.json` for audio of one length.

    The encoder takes `input_values` `(1, channels, samples)` and gives `audio_codes` `(1, codebooks, frames)` and,
    where the codec normalises, `audio_scales`; the decoder takes these and gives `audio_values`. The graphs are made
    for this length: pad shorter audio with zeros (codes near the end then see the zeros), cut longer audio.

    Args:
        model: any codec. It is fused (`fuse()`) and put into eval mode.
        output: directory to write; made if it is not there.
        samples: length of the audio.
        num_quantizers: codebooks; all of them by default.

    Returns:
        `output`.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: no samples, or more codebooks than the model has.
    """
    try:
        import onnxscript  # noqa: F401 (what torch.onnx builds on)
    except ImportError as error:
        raise ImportError("exporting to ONNX needs its packages: pip install 'codec-lm-hf[onnx]'.") from error
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    model.eval().fuse()
    audio = torch.zeros(1, model.config.audio_channels, samples, device=model.device, dtype=model.dtype)
    encoded = model.encode(audio, num_quantizers=num_quantizers)
    inputs, names = (encoded.audio_codes,), ["audio_codes"]
    if encoded.audio_scales is not None:
        inputs, names = (*inputs, encoded.audio_scales), [*names, "audio_scales"]
    _export(_Encoder(model, num_quantizers), (audio,), ["input_values"], names, output / "encoder.onnx")
    _export(_Decoder(model), inputs, names, ["audio_values"], output / "decoder.onnx")
    figures = {
        "model_type": model.config.model_type,
        "sampling_rate": model.config.sampling_rate,
        "audio_channels": model.config.audio_channels,
        "samples": samples,
        "codebooks": encoded.audio_codes.shape[1],
        "frames": encoded.audio_codes.shape[2],
    }
    (output / "codec.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return output


def _export(module: nn.Module, inputs: tuple, input_names: list[str], output_names: list[str], path: Path) -> None:
    with warnings.catch_warnings():
        # torch warns of its own use of its own deprecated functions.
        warnings.simplefilter("ignore")
        names = {"input_names": input_names, "output_names": output_names}
        # The optimiser drops the small constants that keep silence finite.
        program = torch.onnx.export(module.eval(), inputs, **names, dynamo=True, verbose=False, optimize=False)
    program.save(path)
