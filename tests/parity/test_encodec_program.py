"""`.ecdc` files beside EnCodec's own program, on the machine that runs this test.

A file written with the language model depends on the last bits of float32, so that one recorded elsewhere says little
here. Where the program is (`pip install --no-deps encodec==0.1.1`), both write the same codes and read each other's
files.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings

import pytest
import torch
from torch import Tensor

from codec_lm_hf.bitstream import ecdc
from codec_lm_hf.conversion_scripts.encodec import CONVERTER
from codec_lm_hf.conversion_scripts.engine import load_original
from codec_lm_hf.modeling.codec_base import CodecEncoderOutput
from tests.parity.encodec_checks import segments_of
from tests.parity.encodec_lm_checks import language_model
from tests.parity.harness import Case, find_cases

FOLDERS = [path for path in find_cases() if path.parent.name == "encodec" and (path / "with_lm.ecdc").exists()]


@pytest.fixture(scope="module")
def program():
    """Modules of the original package, by name; what it imports for audio and for training is not needed here."""
    if importlib.util.find_spec("encodec") is None:
        pytest.skip("EnCodec's own program is missing: pip install --no-deps encodec==0.1.1")
    einops = types.ModuleType("einops")
    einops.rearrange = einops.repeat = None
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
        patch.setitem(sys.modules, "einops", einops)
        names = ("model", "modules", "quantization", "compress")
        yield types.SimpleNamespace(**{name: importlib.import_module(f"encodec.{name}") for name in names})
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "encodec":
            del sys.modules[name]


def original_codec(program, case: Case):
    """Its rates, segments and language model; codes are given to it, and audio is not asked of it."""
    config = case.meta["config"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older weight norm
        encoder = program.modules.SEANetEncoder(ratios=config["seanet"]["ratios"], n_filters=2, lstm=0)
    quantizer = program.quantization.ResidualVectorQuantizer(**config["quantizer"])
    codec = program.model.EncodecModel(encoder, torch.nn.Identity(), quantizer, **config["model"])
    lm = program.model.LMModel(**case.meta["lm_config"]).eval()
    lm.load_state_dict(torch.load(case.folder / "lm.th", weights_only=True))
    codec.get_lm_model = lambda: lm
    return codec.eval()


def lengths_for(config) -> tuple[int, ...]:
    """From one sample to two segments; no whole frames, for which the program's reader (0.1.1) may expect one more."""
    hop = config.hop_length
    return 1, hop + 1, 4 * hop - 1, (config.chunk_stride or 12 * hop) + hop + 1


def random_segments(model, samples: int, count: int) -> list[tuple[Tensor, Tensor | None]]:
    """Codes `(1, count, frames)` and scale of each segment, as the original's `encode` returns them."""
    generator = torch.Generator().manual_seed(samples)
    return [
        (
            torch.randint(model.config.codebook_size, (1, count, place.stop - place.start), generator=generator),
            torch.rand(1, 1, generator=generator) if model.config.normalize else None,
        )
        for place in segments_of(model, samples)
    ]


def output_of(model, samples: int, segments: list[tuple[Tensor, Tensor | None]]) -> CodecEncoderOutput:
    """The same as our `encode` returns it."""
    places = segments_of(model, samples)
    codes = torch.zeros(1, segments[0][0].shape[1], places[-1].stop, dtype=torch.long)
    for place, (segment, _) in zip(places, segments, strict=True):
        codes[..., place] = segment
    scales = torch.cat([scale for _, scale in segments], dim=1) if model.config.normalize else None
    return CodecEncoderOutput(codes, audio_scales=scales)


@pytest.mark.parametrize("uses_lm", [False, True], ids=["plain", "lm"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_original_program_writes_the_same_bytes_and_reads_ours(folder, uses_lm, program, monkeypatch):
    case = Case(folder)
    config = CONVERTER.config_from_original(case.meta["config"])
    model, original = load_original(CONVERTER, folder / f"{case.name}.th", config), original_codec(program, case)
    lm = language_model(case) if uses_lm else None
    monkeypatch.setitem(program.compress.MODELS, original.name, lambda: original)
    counts = sorted({config.num_quantizers_for(rate) for rate in config.bandwidths})
    for index, samples in enumerate(lengths_for(config)):
        count, audio = counts[index % len(counts)], torch.zeros(config.audio_channels, samples)
        segments, read = random_segments(model, samples, count), []
        output = output_of(model, samples, segments)
        monkeypatch.setattr(original, "encode", lambda audio, segments=segments: segments)
        monkeypatch.setattr(
            original, "decode", lambda frames, audio=audio, read=read: read.extend(frames) or audio[None]
        )
        monkeypatch.setattr(model, "encode", lambda *args, output=output, **options: output)
        theirs = program.compress.compress(original, audio, use_lm=uses_lm)
        ours = ecdc.compress(model, audio.numpy(), num_quantizers=count, lm=lm)
        assert ours == theirs, f"{samples} samples, {count} codebooks"
        program.compress.decompress(ours)
        for found, (expected, _) in zip(read, segments, strict=True):
            assert torch.equal(found[0], expected)
        for found, (expected, _) in zip(ecdc.decode_codes(theirs, model, lm)[1], segments, strict=True):
            assert torch.equal(torch.from_numpy(found)[None], expected)
