"""EnCodec's language model and its `.ecdc` files against the original."""

from __future__ import annotations

import warnings

import numpy as np
import soundfile
import torch

from codec_lm_hf.bitstream import ecdc
from codec_lm_hf.bitstream.arithmetic import ArithmeticDecoder, ArithmeticEncoder, cumulative_tables
from codec_lm_hf.conversion_scripts.encodec_entropy_lm import CONVERTER
from codec_lm_hf.conversion_scripts.engine import load_original
from tests.parity.harness import Case

# The tolerances of case.json.
LM = {"atol": 1e-5}
AUDIO = {"atol": 2e-5, "rtol": 1e-4}


def language_model(case: Case):
    return load_original(CONVERTER, case.folder / "lm.th", CONVERTER.config_from_original(case.meta["lm_config"]))


def original_layout(x: torch.Tensor) -> torch.Tensor:
    """`(batch, codebooks, frames, symbols)` to `(batch, symbols, codebooks, frames)`."""
    return x.permute(0, 3, 1, 2)


@torch.no_grad()
def check_language_model(case: Case) -> None:
    lm = language_model(case)
    indices = case.input("lm.indices")
    output = lm(indices)
    parts, state = [], None
    for piece in indices.tensor_split((3, 4), dim=-1):
        part = lm(piece, state, use_cache=True)
        state = part.past_states
        parts.append(part.logits)
    case.same_where_recorded(
        {
            "lm.hidden": output.last_hidden_state,
            "lm.logits": original_layout(output.logits),
            "lm.probas": original_layout(lm.probabilities(output.logits)),
            "lm.probas_streamed": original_layout(lm.probabilities(torch.cat(parts, dim=2))),
        },
        **LM,
    )
    if "lm.probas_half" in case:
        half = lm(indices[:, : case["lm.probas_half"].shape[2]])
        case.same("lm.probas_half", original_layout(lm.probabilities(half.logits)), **LM)
    if "lm.greedy" in case:
        case.same("lm.greedy", greedy(lm, *case["lm.greedy"].shape[1:]))


def greedy(lm, codebooks: int, frames: int) -> torch.Tensor:
    codes, state = [torch.full((1, codebooks, 1), -1)], None
    for _ in range(frames):
        output = lm(codes[-1] + 1, state, use_cache=True)
        state = output.past_states
        codes.append(output.logits.argmax(-1))
    return torch.cat(codes[1:], dim=-1)


def check_streams(case: Case, model) -> None:
    """The case's `.ecdc` files; a codec that the original has no name for has none."""
    if (case.folder / "no_lm.ecdc").exists():
        check_stream(case, model, input_of(case), "no_lm", None, "ecdc.audio")
    if (case.folder / "with_lm.ecdc").exists():
        check_stream_with_lm(case, model, input_of(case))


def input_of(case: Case) -> np.ndarray:
    audio, _ = soundfile.read(case.folder / "ecdc_input.wav", dtype="float32", always_2d=True)
    return audio.T


def check_stream_with_lm(case: Case, model, audio: np.ndarray) -> None:
    lm = language_model(case)
    for name in case.names("ecdc.lm_probas.seg"):
        check_coder(case, model, name[len("ecdc.lm_probas.seg") :])
    if repeats_recorded_arithmetic(case, lm):
        check_stream(case, model, audio, "with_lm", lm, "ecdc.audio_lm")
        return
    # The original program itself, run on such a machine, does not write the recorded bytes either: a stream with the
    # model depends on the last float bits. What is left to compare are the codes and their audio.
    warnings.warn(
        f"{case.system}/{case.name}: float32 differs from where it was recorded; LM stream compared by its codes",
        stacklevel=2,
    )
    recorded = (case.folder / "with_lm.ecdc").read_bytes()
    header = ecdc.read_header(recorded)
    ours = ecdc.compress(model, audio, num_quantizers=header.num_codebooks, lm=lm)
    assert ours[: header.size] == recorded[: header.size]
    check_decoding(case, model, ours, lm, "ecdc.audio_lm")


def check_stream(case: Case, model, audio, name: str, lm, decoded: str) -> None:
    """The recorded stream is written byte for byte, and read."""
    stream = (case.folder / f"{name}.ecdc").read_bytes()
    count = ecdc.read_header(stream).num_codebooks
    assert ecdc.compress(model, audio, num_quantizers=count, lm=lm) == stream, f"{name}.ecdc: the bytes differ"
    check_decoding(case, model, stream, lm, decoded)


def check_decoding(case: Case, model, stream: bytes, lm, decoded: str) -> None:
    case.same_where_recorded({decoded: torch.from_numpy(ecdc.decompress(stream, model, lm))}, **AUDIO)
    _, segments = ecdc.decode_codes(stream, model, lm)
    known = case.names("ecdc.codes.seg")
    assert len(segments) == len(known)
    for name in known:
        case.same(name, torch.from_numpy(segments[int(name[len("ecdc.codes.seg") :])])[None])


def check_coder(case: Case, model, index: str) -> None:
    """The tables from the recorded probabilities, and from them the recorded bytes and codes, exactly."""
    tables = cumulative_tables(case[f"ecdc.lm_probas.seg{index}"].transpose(1, 2))
    case.same(f"ecdc.quantized_cdf.seg{index}", tables)
    if index != "0":
        return  # where a later segment begins in the file depends on the ones before it
    stream = (case.folder / "with_lm.ecdc").read_bytes()
    start = ecdc.read_header(stream).size + (4 if model.config.normalize else 0)
    codes = case["ecdc.codes.seg0"][0].T.tolist()
    encoder, decoder = ArithmeticEncoder(), ArithmeticDecoder(stream, start)
    for frame, frame_tables in zip(codes, tables.tolist(), strict=True):
        for code, table in zip(frame, frame_tables, strict=True):
            encoder.push(table[code - 1] if code else 0, table[code])
        assert [decoder.pull(table) for table in frame_tables] == frame
    payload = encoder.finish()
    assert stream[start : decoder.finish()] == payload
    if len(case.names("ecdc.codes.seg")) == 1:
        assert stream[start:] == payload


@torch.no_grad()
def repeats_recorded_arithmetic(case: Case, lm) -> bool:
    """Compares the probabilities, run frame by frame; whether they equal the recorded ones to the last bit."""
    exact = True
    for name in case.names("ecdc.lm_probas.seg"):
        codes = case[f"ecdc.codes.seg{name[len('ecdc.lm_probas.seg') :]}"]
        rows, state = [], None
        for frame in lm.inputs_for(codes).unbind(-1):
            output = lm(frame[..., None], state, use_cache=True)
            state = output.past_states
            rows.append(lm.probabilities(output.logits)[0, :, 0].T)
        probabilities = torch.stack(rows)
        case.same(name, probabilities, **LM)
        exact = exact and torch.equal(probabilities, case[name])
    return exact
