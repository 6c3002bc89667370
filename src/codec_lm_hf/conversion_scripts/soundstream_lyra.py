"""Lyra V2's TensorFlow Lite graphs: encoder, quantizer and decoder ("lyragan"), three files in one directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..configuration.soundstream_lyra import LyraCodecConfig
from ..modeling.soundstream_lyra import LyraCodecModel
from .engine import ConversionError, Converter, State

_FILES = {"encoder": "soundstream_encoder.tflite", "decoder": "lyragan.tflite", "quantizer": "quantizer.tflite"}

# Tensors are named by the operator that makes them: `streamable_model_46/quant_encoder_2/resnet_0bconv/BiasAdd;...`.
# Layers of one block are not always marked `quant_` together, so the mark is left out.
_LAYER = re.compile(
    r"(?:streamable_model_\d+/)?(?:quant_)?"
    r"(first_layerconv|last_layer|\w+_\d+/(?:resnet_\d\w+|act|simple[a-z]*))(?:_g\d)?/"
)

_UNIT_PARTS = {
    "adepthwise_conv": "depthwise",
    "apointwise_conv": "pointwise",
    "bconv": "output",
    "a_act": "activation",
    "b_act": "middle_activation",
    "_add": "add",
}


def _place(theirs: str, ours: str) -> list[tuple[str, str | None]]:
    """Rules for what one layer holds: weights of torch's convolution, and grids."""
    group = re.compile(theirs).groups + 1
    return [
        (rf"{theirs}:(weight|bias)", rf"{ours}.conv.\{group}"),
        (rf"{theirs}:(\w*grid\.\w+)", rf"{ours}.\{group}"),
    ]


def _rules() -> Iterator[tuple[str, str | None]]:
    yield from _place("encoder:first_layerconv", "encoder.first")
    yield from _place("encoder:bottleneck_1/act", "encoder.activation")
    yield from _place("encoder:bottleneck_1/simpleconv", "encoder.last")
    yield from _place("decoder:bottleneck_2/simpleconv", "decoder.first")
    yield from _place("decoder:last_layer", "decoder.last")
    for side, strided in (("encoder", "down"), ("decoder", "up")):
        for theirs, ours in _UNIT_PARTS.items():
            yield from _place(rf"{side}:{side}_(\d)/resnet_(\d){theirs}", rf"{side}.stages.\1.units.\2.{ours}")
        yield from _place(rf"{side}:{side}_(\d)/act", rf"{side}.stages.\1.activation")
        yield from _place(rf"{side}:{side}_(\d)/simple\w*", rf"{side}.stages.\1.{strided}")
    yield r"quantizer:(\d+)\.(\w+)", r"quantizer.layers.\1.codebook.\2"


class _Graph:
    """One sub-graph of a .tflite file.

    Args:
        data: the file.
        name: of the sub-graph.
    """

    def __init__(self, data: bytes, name: bytes) -> None:
        import tflite

        kinds = tflite.TensorType
        self.types = {kinds.FLOAT32: np.dtype("<f4"), kinds.INT8: np.dtype("i1"), kinds.INT32: np.dtype("<i4")}
        self.operator_names = {
            code: text for text, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
        }
        self.model = tflite.Model.GetRootAsModel(data, 0)
        graphs = (self.model.Subgraphs(index) for index in range(self.model.SubgraphsLength()))
        self.graph = next(graph for graph in graphs if graph.Name() == name)

    def operators(self) -> Iterator[tuple]:
        """For every operator its name, its input tensors, its output tensor, and its layer, if any."""
        for index in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(index)
            if operator.OutputsLength() == 0:
                continue
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            name = self.operator_names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs = [self.graph.Tensors(operator.Inputs(place)) for place in range(operator.InputsLength())]
            output = self.graph.Tensors(operator.Outputs(0))
            layer = _LAYER.match(output.Name().decode().split(";")[0] + "/")
            yield name, inputs, output, layer and layer[1]

    def is_int8(self, tensor) -> bool:
        return self.types.get(tensor.Type()) == np.int8

    def constant(self, tensor) -> np.ndarray:
        """A stored tensor as float32; integers times their scale."""
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        stored = data.view(self.types[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
        if stored.dtype.kind == "f":
            return stored
        scale = self.scale(tensor)
        shape = [1] * stored.ndim
        shape[tensor.Quantization().QuantizedDimension()] = len(scale)
        return stored.astype(np.float32) * scale.reshape(shape)

    def scale(self, tensor) -> np.ndarray:
        return tensor.Quantization().ScaleAsNumpy().astype(np.float32)

    def grid(self, prefix: str, tensor, *shape: int) -> dict[str, np.ndarray]:
        """What our `Int8Grid` stores about a tensor, in the shape that it has there."""
        zero_point = tensor.Quantization().ZeroPointAsNumpy().astype(np.int32)
        values = {"scale": self.scale(tensor), "zero_point": zero_point}
        size = int(np.prod(shape))
        return {f"{prefix}.{name}": np.broadcast_to(value, size).reshape(shape) for name, value in values.items()}


def _layers(graph: _Graph) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Layers and what they hold, in our layout and shapes. Groups of a transposed convolution come one by one."""
    for operator, inputs, output, layer in graph.operators():
        if layer is None:
            continue
        int8 = graph.is_int8(output)
        grids = {}
        if int8 and operator in ("CONV_2D", "DEPTHWISE_CONV_2D", "LEAKY_RELU", "ADD"):
            grids = {**graph.grid("input_grid", inputs[0], 1, 1), **graph.grid("grid", output, 1, 1)}
        if operator in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight = graph.constant(inputs[1])[:, :, 0]
            if int8:
                channels = weight.shape[-1] if operator == "DEPTHWISE_CONV_2D" else len(weight)
                grids |= graph.grid("weight_grid", inputs[1], channels, 1, 1)
            if operator == "CONV_2D":
                yield layer, {"weight": weight.transpose(0, 2, 1), "bias": graph.constant(inputs[2]), **grids}
            else:
                yield layer, {"weight": weight.transpose(2, 0, 1), **grids}
        elif operator == "TRANSPOSE_CONV":
            weight = graph.constant(inputs[1])[:, :, 0]
            if int8:
                channels = len(weight)
                grids = graph.grid("weight_grid", inputs[1], 1, 1, channels, 1) | graph.grid(
                    "grid", output, channels, 1
                )
                grids |= graph.grid("input_grid", inputs[2], 1, 1)
            yield layer, {"weight": weight.transpose(2, 0, 1), **grids}
        elif operator == "SUB":
            # Int8 ones store their bias twice, and the integers are this one rounded.
            yield layer, {"bias": graph.constant(inputs[1])}
        elif operator == "ADD" and int8:
            yield layer, {**grids, **graph.grid("skip_grid", inputs[1], 1, 1)}
        elif operator == "LEAKY_RELU" and int8:
            yield layer, grids


def _network_state(graph: _Graph) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for layer, parts in _layers(graph):
        for part, value in parts.items():
            found.setdefault(f"{layer}:{part}", []).append(value)
    # Groups of a transposed convolution share their input.
    return {key: values[0] if ":input_grid" in key else np.concatenate(values) for key, values in found.items()}


def _codebooks(graph: _Graph) -> dict[str, np.ndarray]:
    """The entries that each stage compares its residual with, in the order of the stages."""
    operators = graph.operators()
    tables = [graph.constant(inputs[1])[0] for name, inputs, _, _ in operators if name == "SQUARED_DIFFERENCE"]
    state = {}
    for index, table in enumerate(tables):
        state |= {f"{index}.embed": table, f"{index}.embed_avg": table}
        state |= {f"{index}.cluster_size": np.ones(len(table), np.float32), f"{index}.inited": np.ones(1, np.float32)}
    return state


def _files(checkpoint: Path) -> list[Path]:
    paths = [checkpoint / name for name in _FILES.values()]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ConversionError(f"{checkpoint} has no {', '.join(missing)}; give Lyra's directory model_coeffs.")
    return paths


def _read(checkpoint: Path) -> State:
    try:
        import flatbuffers  # noqa: F401
        import tflite  # noqa: F401
    except ImportError as error:
        raise ImportError(f"reading .tflite files needs {error.name}: pip install 'codec-lm-hf[lyra]'.") from error
    state = {}
    for (part, _), path in zip(_FILES.items(), _files(checkpoint), strict=True):
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise ConversionError(f"{path} is not a TensorFlow Lite model: it lacks the mark TFL3.")
        try:
            if part == "quantizer":
                tensors = _codebooks(_Graph(data, b"encode"))
            else:
                tensors = _network_state(_Graph(data, b"main"))
        except Exception as error:
            # Offsets of a damaged file can lead anywhere: all of that means the same here.
            raise ConversionError(f"{path} cannot be read; it may be cut short or another model: {error!r}") from error
        state |= {f"{part}:{key}": torch.tensor(value) for key, value in tensors.items()}
    return state


def config_from_original(original: dict) -> LyraCodecConfig:
    """Fields of `LyraCodecConfig`: Lyra has no configuration of its own but the graphs."""
    return LyraCodecConfig(**original)


CONVERTER = Converter(LyraCodecConfig, LyraCodecModel, tuple(_rules()), config_from_original, _read, _files)
