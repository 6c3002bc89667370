"""What `codec_speed.py` compares with: other implementations of a codec, each with the weights of ours.

An original is built with random weights, and ours takes them over by the converter's key rules; so both must find the
same codes. What originals import for files and training only (torchaudio, Descript's audiotools, ...) is stood in for
by empty modules while they are imported, because it need not fit the torch that is here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from codec_lm_hf.conversion_scripts.engine import rename
from codec_lm_hf.modeling.dac import NATIVE_KEYS as NATIVE_DAC_KEYS
from codec_lm_hf.modeling.quantization import EuclideanCodebook
from codec_lm_hf.registry import family

PYPI, NATIVE = "PyPI", "transformers"
OURS = ("ours", "ours fused")


@dataclass
class Codec:
    """One implementation: audio `(batch, 1, samples)` to codes `(batch, codebooks, frames)` and back."""

    model: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


@dataclass
class Case:
    """A published model.

    Attributes:
        family: in the registry.
        preset: of its configuration.
        options: of `encode`.
        original: makes the model of PyPI's package (with random weights) and the `Codec` of such a model.
        native: the same for transformers, given the state of our fused model.
    """

    family: str
    preset: str
    options: dict = field(default_factory=dict)
    original: Callable | None = None
    native: Callable | None = None

    @functools.cached_property
    def config(self):
        return family(self.family).load("config").from_preset(self.preset)


class _Absent(nn.Module):
    """Whatever is asked of a module that is not here: a class to inherit from, or a check that passes."""

    INTERN: list = []
    EXTERN: list = []

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()

    def forward(self, decorated: object) -> object:
        return decorated


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] not in self.names:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = self._attribute
        return module

    @staticmethod
    def _attribute(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent

    def exec_module(self, module) -> None:
        pass


@contextlib.contextmanager
def stood_in(*names: str) -> Iterator[None]:
    """Empty modules for these packages and all below them, if something imports them."""
    finder = _StandIns(names)
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}
    sys.meta_path.insert(0, finder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older weight norm, and of escapes in strings
            yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _spread(codebooks: list[Tensor], latents: Tensor) -> None:
    """Fill codebooks `(size, dim)` with entries that spread over `latents` `(steps, dim)`, less what came before."""
    residual = latents
    for embed in codebooks:
        entries = residual[torch.randint(len(residual), (len(embed),))]
        embed.copy_(entries + torch.randn_like(entries) * residual.std() * 0.3)
        residual = residual - embed[torch.cdist(residual, embed).argmin(1)]


def _spread_layers(layers: nn.ModuleList, latents: Tensor) -> None:
    """`_spread` for the codebooks of EnCodec's quantizer and its descendants."""
    _spread([layer._codebook.embed for layer in layers], latents)
    for layer in layers:
        layer._codebook.inited.fill_(1)


def _noise(rate: int) -> Tensor:
    return torch.randn(1, 1, 20 * rate) * 0.1


# --- originals: a model with random weights, and how it is called ---------------------------------------------------


def encodec_original(case: Case) -> Codec:
    with stood_in("torchaudio"):
        model = importlib.import_module("encodec").EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(case.options["bandwidth"])
    latents = model.encoder(_noise(model.sample_rate))[0].t()
    _spread_layers(model.quantizer.vq.layers, latents)
    return Codec(model, lambda audio: model.encode(audio)[0][0], lambda codes: model.decode([(codes, None)]))


def speechtokenizer_original(case: Case) -> Codec:
    config = case.config
    with stood_in("torchaudio", "matplotlib", "lion_pytorch", "accelerate", "beartype", "tensorboard"):
        # Its trainer is imported with it, and not used.
        sys.modules["speechtokenizer.trainer"] = types.ModuleType("speechtokenizer.trainer")
        sys.modules["speechtokenizer.trainer"].SpeechTokenizerTrainer = None
        model = importlib.import_module("speechtokenizer").SpeechTokenizer(
            {
                "n_filters": config.num_filters,
                "dimension": config.hidden_size,
                "strides": list(config.upsampling_ratios),
                "lstm_layers": config.num_lstm_layers,
                "bidirectional": config.bidirectional_lstm,
                "dilation_base": config.dilation_growth_rate,
                "residual_kernel_size": config.residual_kernel_size,
                "n_residual_layers": config.num_residual_layers,
                "activation": "ELU",
                "sample_rate": config.sampling_rate,
                "n_q": config.num_quantizers,
                "semantic_dimension": config.semantic_hidden_size,
                "codebook_size": config.codebook_size,
            }
        )
    model.eval()
    _spread_layers(model.quantizer.vq.layers, model.encoder(_noise(config.sampling_rate))[0].t())
    return Codec(
        model,
        lambda audio: model.encode(audio).transpose(0, 1),
        lambda codes: model.decode(codes.transpose(0, 1)),
    )


def dac_original(case: Case) -> Codec:
    config = case.config
    with stood_in("audiotools", "argbind"):
        importlib.import_module("audiotools.ml")
        model = importlib.import_module("dac.model").DAC(
            encoder_dim=config.encoder_hidden_size,
            encoder_rates=list(config.downsampling_ratios),
            latent_dim=config.hidden_size,
            decoder_dim=config.decoder_hidden_size,
            decoder_rates=list(config.upsampling_ratios),
            n_codebooks=config.n_codebooks,
            codebook_size=config.codebook_size,
            codebook_dim=config.codebook_dim,
            sample_rate=config.sampling_rate,
        )
    model.eval()
    return Codec(
        model,
        lambda audio: model.encode(model.preprocess(audio, config.sampling_rate))[1],
        lambda codes: model.decode(model.quantizer.from_codes(codes)[0]),
    )


class _FunCodecParts(nn.Module):
    """FunCodec's own encoder, quantizer and decoder: its `Encodec` builds its losses on a GPU."""

    def __init__(self, config) -> None:
        super().__init__()
        common = {"norm": config.norm_type, "causal": config.use_causal_conv, "n_filters": config.num_filters}
        common["ratios"] = list(config.upsampling_ratios)
        encoders, decoders, quantizers = (
            importlib.import_module(f"funcodec.models.{name}")
            for name in ("encoder.seanet_encoder", "decoder.seanet_decoder", "quantizer.costume_quantizer")
        )
        self.encoder = encoders.SEANetEncoder(input_size=1, dimension=config.hidden_size, **common)
        self.quantizer = quantizers.CostumeQuantizer(
            input_size=config.hidden_size,
            codebook_size=config.codebook_size,
            num_quantizers=config.num_quantizers,
            sampling_rate=config.sampling_rate,
            encoder_hop_length=config.hop_length,
            use_ddp=True,
        )
        self.decoder = decoders.SEANetDecoder(input_size=config.hidden_size, **common)


def funcodec_original(case: Case) -> Codec:
    with stood_in("torchaudio", "typeguard", "librosa", "torch_complex", "humanfriendly"):
        model = _FunCodecParts(case.config).eval()
    quantizer = model.quantizer.rq.model
    quantizer.inited.fill_(1)
    _spread(list(quantizer.embed), model.encoder(_noise(case.config.sampling_rate))[0])

    def encode(audio: Tensor) -> Tensor:
        scale = audio.pow(2).mean(dim=2, keepdim=True).sqrt() + 1e-8  # `_encode_frame` of its codec_basic.py
        return model.quantizer.inference(model.encoder(audio / scale))[1].transpose(0, 1)

    def decode(codes: Tensor) -> Tensor:
        return model.decoder(quantizer.decode(codes.transpose(0, 1)).transpose(1, 2))

    return Codec(model, encode, decode)


# --- transformers, with the state of our fused model ----------------------------------------------------------------


def native_encodec(case: Case, state: dict[str, Tensor]) -> Codec:
    model = EncodecModel(EncodecConfig()).eval()
    # Folded as ours is: transformers has no weight norm in a model that is not trained here.
    for part in model.modules():
        if nn.utils.parametrize.is_parametrized(part, "weight"):
            nn.utils.parametrize.remove_parametrizations(part, "weight")
    # Its convolutions keep their sizes in buffers that no checkpoint has.
    missing, unexpected = model.load_state_dict(state, strict=False)
    unknown = [key for key in missing if not key.endswith(("stride", "kernel_size", "padding_total"))]
    if unexpected or unknown:
        raise RuntimeError(f"transformers' EncodecModel does not take these weights: {unexpected or unknown}")
    bandwidth = case.options["bandwidth"]
    return Codec(
        model,
        lambda audio: model.encode(audio, bandwidth=bandwidth).audio_codes[0],
        lambda codes: model.decode(codes[None], [None]).audio_values,
    )


def native_dac(case: Case, state: dict[str, Tensor]) -> Codec:
    config = case.config
    names = (
        "encoder_hidden_size",
        "downsampling_ratios",
        "decoder_hidden_size",
        "upsampling_ratios",
        "n_codebooks",
        "codebook_size",
        "codebook_dim",
        "sampling_rate",
    )
    model = DacModel(DacConfig(**{name: getattr(config, name) for name in names})).eval()

    def ours(key: str) -> str:
        for pattern, target in NATIVE_DAC_KEYS.items():
            key = re.sub(pattern, target, key)
        return key

    model.load_state_dict({key: state[ours(key)] for key in model.state_dict()})
    hop = config.hop_length
    return Codec(
        model,
        lambda audio: model.encode(nn.functional.pad(audio, (0, -audio.shape[-1] % hop))).audio_codes,
        lambda codes: model.decode(audio_codes=codes).audio_values,
    )


CASES: dict[str, Case] = {
    "encodec": Case("encodec", "encodec_24khz", {"bandwidth": 6.0}, encodec_original, native_encodec),
    "soundstream": Case("soundstream", "soundstream_24khz", {"num_quantizers": 8}),
    "audiodec": Case("audiodec", "symAD_libritts_24000_hop300"),
    "audiodec-vocoder": Case("audiodec", "AudioDec_v1_symAD_libritts_24000_hop300_clean"),
    "hificodec": Case("hificodec", "HiFi-Codec-16k-320d"),
    "speechtokenizer": Case("speechtokenizer", "speechtokenizer_hubert_avg", original=speechtokenizer_original),
    "dac-16khz": Case("dac", "dac_16khz", original=dac_original, native=native_dac),
    "dac-44khz": Case("dac", "dac_44khz", original=dac_original, native=native_dac),
    "funcodec": Case("funcodec", "audio_codec-encodec-en-libritts-16k-nq32ds320", original=funcodec_original),
    "freqcodec": Case("funcodec", "audio_codec-freqcodec_magphase-en-libritts-16k-gr1nq32ds320"),
}


def _ours(case: Case, state: dict[str, Tensor] | None, fused: bool) -> Codec:
    torch.manual_seed(0)
    model = family(case.family).load("model")(case.config.__class__.from_preset(case.preset)).eval()
    if state is not None:
        model.load_state_dict(state)
    elif any(isinstance(part, EuclideanCodebook) for part in model.modules()):
        codebooks = [part for part in model.modules() if isinstance(part, EuclideanCodebook)]
        for codebook in codebooks:
            codebook.embed.normal_()
            codebook.inited.fill_(1)
    if fused:
        model.fuse()

    def encode(audio: Tensor) -> Tensor:
        return model.encode(audio, **case.options).audio_codes

    def decode(codes: Tensor) -> Tensor:
        scale = torch.ones(len(codes), model.segments_of(codes.shape[-1])) if model.config.normalize else None
        return model.decode(codes, audio_scales=scale).audio_values

    return Codec(model, encode, decode)


@torch.no_grad()
def build(name: str, only: tuple[str, ...] | None = None) -> tuple[dict[str, Codec], dict[str, str]]:
    """The implementations of a case (of these names only), all with the same weights; and why others are missing."""
    case, absent = CASES[name], {}
    codecs: dict[str, Codec] = {}
    torch.manual_seed(0)
    state = None
    if case.original is not None:
        try:
            codecs[PYPI] = case.original(case)
        except ImportError as error:
            absent[PYPI] = f"not installed here: {error}"
    if PYPI in codecs:
        converter = importlib.import_module(f"codec_lm_hf.conversion_scripts.{case.family}").CONVERTER
        original = codecs[PYPI].model.state_dict()
        if case.family == "encodec":
            state = rename(original, converter.rules)
        else:
            state = converter.rename(original, case.config)
    fused = _ours(case, state, fused=True)
    if case.native is not None:
        codecs[NATIVE] = case.native(case, fused.model.state_dict())
    codecs["ours"] = _ours(case, state, fused=False)
    codecs["ours fused"] = fused
    if state is None:
        codecs["ours"].model.load_state_dict(_ours(case, None, fused=False).model.state_dict())
    return {key: codec for key, codec in codecs.items() if only is None or key in only}, absent
