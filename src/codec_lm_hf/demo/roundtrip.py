"""The main job, measured: speech to codes to speech."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..evaluation.metrics import available, evaluate_pair
from ..evaluation.plots import roundtrip_picture
from ..modeling.codec_base import CodecPreTrainedModel
from ..processing.audio import load_audio, save_audio

SPEECH = Path(__file__).parent / "speech.flac"


def run(
    source: Path | None, output: Path, model: CodecPreTrainedModel, bandwidth: float | None = None
) -> dict[str, str]:
    """Code and decode a recording.

    Args:
        source: audio file; the recording that comes with the package if `None`.
        output: folder for original.wav, reconstructed.wav, codes.safetensors and roundtrip.png.
        model: the codec, in eval mode.
        bandwidth: rate in kbps; the codec's highest by default.

    Returns:
        The rows of a table: what was measured, as text.
    """
    config = model.config
    audio, rate = load_audio(source or SPEECH, config.sampling_rate, config.audio_channels)
    batch = torch.from_numpy(audio)[None]
    with torch.no_grad():
        model(batch)
        started = time.perf_counter()
        codes = model.encode(batch, bandwidth=bandwidth)
        middle = time.perf_counter()
        decoded = model.decode(**codes, padding_mask=torch.ones(1, batch.shape[-1]))
        ended = time.perf_counter()
    result = decoded.audio_values[0].float().numpy()
    matrix = codes.audio_codes[0].numpy()
    output.mkdir(parents=True, exist_ok=True)
    save_audio(output / "original.wav", audio, rate)
    save_audio(output / "reconstructed.wav", result, rate)
    save_file({k: v.contiguous() for k, v in codes.items()}, output / "codes.safetensors")
    roundtrip_picture(audio, result, matrix, rate, config.frame_rate, output / "roundtrip.png")
    seconds = audio.shape[1] / rate
    kbps = matrix.shape[0] * config.bits_per_code * config.frame_rate / 1000
    scores = evaluate_pair(result, audio, rate)
    rows = {
        "recording": f"{Path(source or SPEECH).name}, {seconds:.2f} s, {rate} Hz",
        "codec": f"{type(model).__name__}, {config.frame_rate:g} frames/s",
        "frames x codebooks": f"{matrix.shape[1]} x {matrix.shape[0]}",
        "rate": f"{kbps:g} kbps",
        "compression": f"{rate * 16 * config.audio_channels / 1000 / kbps:.0f} : 1 against 16-bit PCM",
        "encoding": f"{seconds / (middle - started):.0f} x real time",
        "decoding": f"{seconds / (ended - middle):.0f} x real time",
        "SI-SDR": f"{scores['si_sdr']:.1f} dB",
        "log-mel distance": f"{scores['log_mel_distance']:.2f} dB",
    }
    if available():
        rows |= {"PESQ-WB": f"{scores['pesq_wb']:.2f} of 4.64", "STOI": f"{scores['stoi']:.3f} of 1"}
    return rows
