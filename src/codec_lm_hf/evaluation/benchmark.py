"""How good codecs are on held-out speech, beside codecs that people already use."""

from __future__ import annotations

import io
import math
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from ..bitstream.codes import CodesHeader, CodesWriter
from ..modeling.codec_base import CodecPreTrainedModel
from ..modeling.lm_base import CodecLMPreTrainedModel
from ..processing.audio import audio_files, load_audio, save_audio, to_format
from ..processing.codec_lm_processor import CodecLMProcessor
from ..processing.metadata import read_metadata
from .judges import DIGITS, nearest_speakers, word_errors
from .metrics import evaluate_pair

Metric = Callable[[np.ndarray, np.ndarray, int], float]


@dataclass(frozen=True)
class Recording:
    """Speech to judge with.

    Attributes:
        name: of its file.
        audio: float32 `(samples,)`.
        sampling_rate: Hz.
        text: what is said, if known.
        speaker: who says it, if known.
        kind: of text, where the metadata tell some apart.
    """

    name: str
    audio: np.ndarray
    sampling_rate: int
    text: str = ""
    speaker: str = ""
    kind: str = ""


def read_recordings(folder: str | Path, limit: int | None = None) -> list[Recording]:
    """Recordings of a folder, mixed to one channel; `text`, `speaker` and `kind` from its metadata where it has some.

    Args:
        folder: of audio files.
        limit: take this many, evenly spaced over the sorted names, so that every speaker has a part.

    Raises:
        FileNotFoundError: no audio below the folder.
        ValueError: a limit below 1.
    """
    folder = Path(folder)
    paths = audio_files(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no audio files; give a folder with wav, flac, ogg or mp3 files.")
    if limit is not None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}.")
        paths = [paths[place * len(paths) // limit] for place in range(limit)] if limit < len(paths) else paths
    known = {row["file_name"]: row for row in read_metadata(folder) or []}
    recordings = []
    for path in paths:
        audio, rate = load_audio(path, channels=1)
        name = path.relative_to(folder).as_posix()
        row = known.get(name, {})
        facts = {field: row.get(field, "") for field in ("text", "speaker", "kind")}
        recordings.append(Recording(name, audio[0], rate, **facts))
    return recordings


def digit_strings(recordings: Sequence[Recording], count: int, seed: int = 0) -> list[Recording]:
    """Random strings of three to seven digits, to be said in the voices of recordings.

    A model that speaks can be judged by as many of them as it takes for a rate of errors to mean something.

    Args:
        recordings: whose voices are taken in turn.
        count: of strings.
        seed: of the digits and their number.

    Returns:
        The recordings with such a string as their text, "six zero three", of the kind "digits". Their audio is what it
        was: the voice.
    """
    generator = random.Random(seed)
    strings = (" ".join(generator.choices(DIGITS, k=generator.randint(3, 7))) for _ in range(count))
    return [
        replace(recordings[place % len(recordings)], name=f"digits {place}", text=string, kind="digits")
        for place, string in enumerate(strings)
    ]


@dataclass(frozen=True)
class Coded:
    """A recording after a codec.

    Attributes:
        audio: float32 `(samples,)`, as long as the original and at its rate.
        payload_bits: of the codes alone.
        disk_bits: of the file that a user would keep, headers and checksums included.
        encode_seconds, decode_seconds: what it took.
    """

    audio: np.ndarray
    payload_bits: float
    disk_bits: int
    encode_seconds: float
    decode_seconds: float


class Coder(Protocol):
    """Anything that codes and decodes a recording.

    Attributes:
        name: in the table.
    """

    name: str

    def __call__(self, recording: Recording) -> Coded: ...


class ModelCoder:
    """A codec of this package at one rate. Its file is `.codes`.

    Args:
        model: in eval mode.
        num_quantizers: codes per frame.
        name: of the codec.

    Raises:
        ValueError: more quantizers than the model has.
    """

    def __init__(self, model: CodecPreTrainedModel, num_quantizers: int, name: str) -> None:
        if not 1 <= num_quantizers <= model.config.num_codebooks:
            raise ValueError(f"{name} has 1 to {model.config.num_codebooks} quantizers, not {num_quantizers}.")
        self.model, self.num_quantizers = model, num_quantizers
        self.name = f"{name}, {num_quantizers} x {model.config.codebook_size}"
        self.header = CodesHeader.of(model, num_quantizers)
        # The first call of a model is slow.
        self(Recording("silence", np.zeros(model.config.sampling_rate, np.float32), model.config.sampling_rate))

    @torch.inference_mode()
    def __call__(self, recording: Recording) -> Coded:
        config, rate = self.model.config, recording.sampling_rate
        audio, _ = to_format(recording.audio[None], rate, config.sampling_rate, config.audio_channels)
        batch = torch.from_numpy(audio)[None].to(self.model.device)
        started = time.perf_counter()
        codes = self.model.encode(batch, num_quantizers=self.num_quantizers)
        middle = time.perf_counter()
        decoded = self.model.decode(**codes, padding_mask=batch.new_ones(1, batch.shape[-1])).audio_values
        ended = time.perf_counter()
        matrix = codes.audio_codes[0].cpu().numpy()
        scales = None if codes.audio_scales is None else codes.audio_scales[0].cpu().numpy()
        file = io.BytesIO()
        writer = CodesWriter(file, self.header)
        writer.write(matrix, scales)
        writer.close(batch.shape[-1])
        result, _ = to_format(decoded[0].float().cpu().numpy(), config.sampling_rate, rate, 1)
        return Coded(
            _fit(result[0], len(recording.audio)),
            matrix.size * config.bits_per_code,
            8 * file.tell(),
            middle - started,
            ended - middle,
        )


class OpusCoder:
    """Opus (RFC 6716) by the programs opusenc and opusdec, whose start and file access are part of the time.

    Args:
        bitrate: in kbps. Opus varies it with the signal; the table shows what came out.

    Raises:
        FileNotFoundError: the programs are not installed.
    """

    def __init__(self, bitrate: float) -> None:
        missing = [program for program in ("opusenc", "opusdec") if shutil.which(program) is None]
        if missing:
            raise FileNotFoundError(f"{' and '.join(missing)} not found: install opus-tools (apt install opus-tools).")
        self.bitrate = bitrate
        self.name = f"Opus at {bitrate:g} kbps"

    def __call__(self, recording: Recording) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, back = (Path(folder) / name for name in ("source.wav", "coded.opus", "back.wav"))
            save_audio(source, recording.audio[None], recording.sampling_rate)
            started = time.perf_counter()
            report = _run("opusenc", "--bitrate", f"{self.bitrate:g}", source, coded)
            middle = time.perf_counter()
            _run("opusdec", "--no-dither", "--rate", str(recording.sampling_rate), coded, back)
            ended = time.perf_counter()
            audio, _ = load_audio(back)
            disk_bits = 8 * coded.stat().st_size
        # "6.26 kbit/s (without overhead)", over all packets, the last one padded.
        payload = re.search(r"([\d.]+) kbit/s \(without overhead\)", report)
        seconds = len(recording.audio) / recording.sampling_rate
        return Coded(
            _fit(audio[0], len(recording.audio)),
            1000 * float(payload[1]) * seconds if payload else math.nan,
            disk_bits,
            middle - started,
            ended - middle,
        )


def _run(*command: str | Path) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stderr
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{command[0]} failed: {error.stderr.strip()[-500:]}") from error


def _fit(audio: np.ndarray, samples: int) -> np.ndarray:
    """Resampling may leave a sample too many or too few."""
    return np.pad(audio, (0, max(0, samples - len(audio))))[:samples]


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def measure_quality(coder: Coder, recordings: Iterable[Recording], metrics: dict[str, Metric] | None = None) -> dict:
    """Code every recording and score what comes back.

    Args:
        coder: the codec.
        recordings: to judge with.
        metrics: further ones, by name; each takes the decoded audio, the original `(samples,)` and the rate in Hz.

    Returns:
        One row of the report: `name`; `seconds` of speech; `kbps` (codes alone) and `kbps_on_disk` over all of it;
        `encode_speed` and `decode_speed` (times real time); the mean of every metric over the recordings for which it
        can be computed; `not_measured`, how many there were for which a metric could not be; and `recordings`, the
        scores one by one (`None` where not measured).
    """
    rows, coded_all, seconds = [], [], 0.0
    for recording in recordings:
        coded = coder(recording)
        scores = evaluate_pair(coded.audio[None], recording.audio[None], recording.sampling_rate)
        for name, metric in (metrics or {}).items():
            scores[name] = metric(coded.audio, recording.audio, recording.sampling_rate)
        rows.append((recording.name, scores))
        coded_all.append(coded)
        seconds += len(recording.audio) / recording.sampling_rate
    names = list(rows[0][1])
    return {
        "name": coder.name,
        "seconds": seconds,
        "kbps": _finite(sum(coded.payload_bits for coded in coded_all) / seconds / 1000),
        "kbps_on_disk": sum(coded.disk_bits for coded in coded_all) / seconds / 1000,
        "encode_speed": seconds / sum(coded.encode_seconds for coded in coded_all),
        "decode_speed": seconds / sum(coded.decode_seconds for coded in coded_all),
        **{name: _mean(scores[name] for _, scores in rows) for name in names},
        "not_measured": {name: sum(not math.isfinite(scores[name]) for _, scores in rows) for name in names},
        "recordings": [{"name": file} | {k: _finite(v) for k, v in scores.items()} for file, scores in rows],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Spoken:
    """What a language model said.

    Attributes:
        audio: float32 `(samples,)`, at the rate of the recording whose text it is.
        seconds: it lasts.
        took: seconds of work, from text and prompt to audio.
    """

    audio: np.ndarray
    seconds: float
    took: float


class Speaker:
    """A language model that says what was said in recordings, each in the voice of another one of its speaker.

    Args:
        model: in eval mode.
        processor: of the model.
        recordings: of every speaker at least two.
        prompt_seconds: of the other recording, from its beginning.
        name: of the model.
        **options: of `generate`; a recording's place is added to the `seed`, 0 by default.

    Attributes:
        spoken: what was said so far, with the name of its recording.

    Raises:
        ValueError: a speaker has one recording only.
    """

    def __init__(
        self,
        model: CodecLMPreTrainedModel,
        processor: CodecLMProcessor,
        recordings: Sequence[Recording],
        prompt_seconds: float,
        name: str,
        **options,
    ) -> None:
        self.model, self.processor, self.prompt_seconds, self.name = model, processor, prompt_seconds, name
        self.seed, self.options = options.pop("seed", 0), options
        self.places = {recording.name: place for place, recording in enumerate(recordings)}
        self.prompts: dict[str, Recording] = {}
        self.spoken: dict[str, Spoken] = {}
        for recording in recordings:
            own = [other for other in recordings if other.speaker == recording.speaker]
            if len(own) < 2:
                raise ValueError(
                    f"{recording.speaker!r} has one recording only, and the prompt has to be another one."
                )
            self.prompts[recording.name] = own[(own.index(recording) + 1) % len(own)]

    @torch.inference_mode()
    def __call__(self, recording: Recording) -> Spoken:
        rate, other = self.processor.codec.config.sampling_rate, self.prompts[recording.name]
        piece = other.audio[: round(self.prompt_seconds * other.sampling_rate)]
        prompt, _ = to_format(piece[None], other.sampling_rate, rate, 1)
        started = time.perf_counter()
        inputs = self.processor(recording.text, audio=prompt[0], sampling_rate=rate)
        codes = self.model.generate(**inputs, seed=self.seed + self.places[recording.name], **self.options)
        wave = self.processor.batch_decode(codes)[0].float().numpy()
        took = time.perf_counter() - started
        audio, _ = to_format(wave, rate, recording.sampling_rate, 1)
        self.spoken[recording.name] = Spoken(audio[0], wave.shape[-1] / rate, took)
        return self.spoken[recording.name]


class SpeechJudge:
    """Whether words and voices survive a codec, or are there in what a model says.

    Args:
        recordings: originals with transcripts and speakers.
        recognise: audio `(samples,)` and rate to text, e.g. `judges.Recogniser`.
        embed: audio `(samples,)` and rate to a unit vector, e.g. `judges.SpeakerEncoder`.

    Raises:
        ValueError: a recording has no transcript or no speaker.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        recognise: Callable[[np.ndarray, int], str],
        embed: Callable[[np.ndarray, int], np.ndarray],
    ) -> None:
        for recording in recordings:
            if not recording.text or not recording.speaker:
                raise ValueError(
                    f"{recording.name} has no text or no speaker; words and voices can only be judged with a "
                    "metadata.jsonl beside the files that has file_name, text and speaker."
                )
        self.recordings, self.recognise, self.embed = recordings, recognise, embed
        self.voices = np.stack([embed(recording.audio, recording.sampling_rate) for recording in recordings])

    def __call__(self, coder: Coder | Speaker | None, progress: Callable[[Sequence], Iterable] = iter) -> dict:
        """Judge what `coder` makes of the recordings, or the recordings themselves for `None`.

        Returns:
            One row of the report: `name`; `wer`, word errors over words; `wer_by_sound`, where words that sound as a
            number does count as that number; `exact`, the share of recordings without an error; `speaker_nearest`,
            the share whose voice is nearest to its own speaker's other recordings (`None` if no speaker has two);
            `speaker_cosine`, to the original; `kinds` and `kinds_by_sound`, the word error rates of each kind of text;
            and `recordings`, one by one.
        """
        rows, voices = [], []
        for recording in progress(self.recordings):
            audio = recording.audio if coder is None else coder(recording).audio
            heard = self.recognise(audio, recording.sampling_rate)
            errors, words = word_errors(heard, recording.text)
            by_sound, _ = word_errors(heard, recording.text, by_sound=True)
            counts = {"errors": errors, "errors_by_sound": by_sound, "words": words}
            rows.append({"name": recording.name, "kind": recording.kind, "heard": heard, **counts})
            voices.append(self.embed(audio, recording.sampling_rate))
        speakers = [recording.speaker for recording in self.recordings]
        nearest = nearest_speakers(np.stack(voices), self.voices, speakers)
        for row, name in zip(rows, nearest, strict=True):
            row["nearest_speaker"] = name
        right = [float(name == own) for name, own in zip(nearest, speakers, strict=True) if name is not None]
        return {
            "name": "originals" if coder is None else coder.name,
            "wer": _word_error_rate(rows, "errors"),
            "wer_by_sound": _word_error_rate(rows, "errors_by_sound"),
            "exact": float(np.mean([row["errors"] == 0 for row in rows])),
            "speaker_nearest": _mean(right),
            "speaker_cosine": float(np.mean([a @ b for a, b in zip(voices, self.voices, strict=True)])),
            "kinds": _rates_by_kind(rows, "errors"),
            "kinds_by_sound": _rates_by_kind(rows, "errors_by_sound"),
            "recordings": rows,
        }


def judge_all(judge: SpeechJudge, sources: Iterable[Coder | Speaker | None]) -> list[dict]:
    """Rows of a report: of what each source makes of the recordings; `None` is the recordings themselves."""
    rows = []
    for source in sources:
        name = "originals" if source is None else source.name
        rows.append(judge(source, lambda clips, name=name: tqdm(clips, desc=name, unit="clip", leave=False)))
    return rows


def _word_error_rate(rows: Sequence[dict], count: str) -> float:
    return sum(row[count] for row in rows) / sum(row["words"] for row in rows)


def _rates_by_kind(rows: Sequence[dict], count: str) -> dict[str, float]:
    kinds = sorted({row["kind"] for row in rows} - {""})
    return {kind: _word_error_rate([row for row in rows if row["kind"] == kind], count) for kind in kinds}


# Column of a row -> title and format.
QUALITY_COLUMNS = {
    "name": ("codec", "{}"),
    "kbps": ("kbps", "{:.2f}"),
    "kbps_on_disk": ("kbps on disk", "{:.2f}"),
    "si_sdr": ("SI-SDR (dB)", "{:.2f}"),
    "log_mel_distance": ("log-mel (dB)", "{:.2f}"),
    "pesq_wb": ("PESQ-WB", "{:.2f}"),
    "stoi": ("STOI", "{:.3f}"),
    "visqol": ("ViSQOL", "{:.2f}"),
    "encode_speed": ("encode (x real time)", "{:.0f}"),
    "decode_speed": ("decode (x real time)", "{:.0f}"),
}
SPEECH_COLUMNS = {
    "name": ("codec", "{}"),
    "wer": ("WER", "{:.1%}"),
    "exact": ("without error", "{:.0%}"),
    "speaker_nearest": ("speaker nearest", "{:.0%}"),
    "speaker_cosine": ("speaker cosine", "{:.2f}"),
}


def markdown_table(rows: Sequence[dict], columns: dict[str, tuple[str, str]]) -> str:
    """Rows of a report as Markdown. A column that no row has is left out; "-" is what could not be measured."""
    shown = {name: column for name, column in columns.items() if any(row.get(name) is not None for row in rows)}
    lines = [[title for title, _ in shown.values()], ["---"] + ["---:"] * (len(shown) - 1)]
    for row in rows:
        lines.append(
            [layout.format(row[name]) if row.get(name) is not None else "-" for name, (_, layout) in shown.items()]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
