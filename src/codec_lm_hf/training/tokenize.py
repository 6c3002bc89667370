"""Recordings to codes, once and for all: a data set of Parquet shards that language models train on."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from ..bitstream.codes import CodesHeader
from ..modeling.codec_base import CodecPreTrainedModel
from ..processing.audio import AudioFileError, open_audio
from ..processing.files import appearing
from .data import collate, decode
from .labelled import LabelledRecordings

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from accelerate import PartialState
    from accelerate.utils import gather_object
except ImportError as error:
    raise ImportError(f"data sets need {error.name}: pip install 'codec-lm-hf[train]'.") from error

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Beside Parquet files, `datasets` takes no file of this name for data.
INFO = "dataset_info.json"
SHARDS = "codes-*.parquet"
_MUST_AGREE = (
    "fingerprint",
    "sampling_rate",
    "channels",
    "hop_length",
    "num_codebooks",
    "codebook_size",
    "speed",
    "columns",
)


@dataclass
class TokenizeReport:
    """What a run did, all processes together.

    Attributes:
        written: recordings coded now.
        present: recordings that were there before.
        seconds: of audio coded now.
        skipped: name of a file that could not be coded -> why.
    """

    written: int = 0
    present: int = 0
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)


class _Shard(NamedTuple):
    """Recordings that become one file."""

    places: list[int]
    path: Path


class _Batch(NamedTuple):
    """What is encoded at once: audio `(channels, samples)` by place. `bad` is that of the whole shard once `last`."""

    shard: _Shard
    clips: dict[int, np.ndarray]
    bad: dict[str, str]
    last: bool


class _Row(NamedTuple):
    """Codes `(codebooks, frames)`, the scales of a codec that normalises, and the length of the audio."""

    codes: np.ndarray
    scales: np.ndarray | None
    samples: int


def processes() -> PartialState:
    """This process among those that `accelerate launch` started, perhaps the only one."""
    # It takes processes without an accelerator for single ones, unless told. One that has done its share waits for the
    # others, perhaps for days.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=365))


def tokenize(
    model: CodecPreTrainedModel,
    recordings: LabelledRecordings,
    output_dir: str | os.PathLike,
    num_quantizers: int | None = None,
    batch_seconds: float = 60.0,
    shard_rows: int = 200,
    skip_bad: bool = False,
    whole_batches: bool | None = None,
    speed: float = 1.0,
    speaker_column: str | None = None,
) -> TokenizeReport:
    """Code every recording that is not coded yet.

    The recordings are cut, in their order, into runs of `shard_rows`; each becomes a Parquet file, which appears once
    it is complete. So whatever ends the program costs the shards in work, a later call does the rest, and what is
    there in the end is what an uninterrupted run leaves. Processes started by `accelerate launch` share the shards.

    Args:
        model: the codec, in eval mode, on its device.
        recordings: from `training.labelled`.
        output_dir: made if it is not there. One run at a time may write to it; on Windows, and on network drives that
            have no locks, another one is not noticed.
        num_quantizers: codes per frame; all codebooks by default.
        batch_seconds: audio encoded at once, padding included. A longer recording is a batch of its own, for codecs
            that take it in bounded memory. One that looks at the whole signal (`tileable` is false) does not: segments
            by which `codec-lm encode` helps itself overlap, so their codes are no sequence that a language model could
            learn from, and such a recording counts as one that cannot be read.
        shard_rows: recordings of a file.
        skip_bad: leave out what cannot be read as audio or is too long, instead of stopping there. A later call tries
            it again.
        whole_batches: encode a batch in one piece, even where the model would take long recordings one by one, tile by
            tile; the codes are the same. By default everywhere but on a CPU, where tiles are as fast.
        speed: recordings are played so many times as fast, and sound higher by that: more voices for little data (Ko
            et al., "Audio Augmentation for Speech Recognition", 2015, with 0.9 and 1.1).
        speaker_column: says who speaks. At another speed it is somebody else, who is called `NAME x0.9`.

    Returns:
        The same in every process.

    Raises:
        AudioFileError: a recording cannot be read as audio, or is too long for the codec.
        BlockingIOError: another run is writing to `output_dir`.
        ValueError: a size that is not positive, no such column, or `output_dir` holds codes of another codec, with
            other settings or with other columns.
    """
    if not (batch_seconds > 0 and shard_rows >= 1):
        raise ValueError(f"batch_seconds={batch_seconds} and shard_rows={shard_rows} must be positive numbers.")
    if not 0.1 <= speed <= 10:
        raise ValueError(f"speed={speed} must lie from 0.1 to 10; voices bear about 0.8 to 1.25.")
    if speed != 1 and speaker_column is not None:
        recordings = recordings.renamed(speaker_column, f" x{speed:g}")
    state, output = processes(), Path(output_dir)
    header = CodesHeader.of(model, num_quantizers)
    features = _features(recordings, model)
    columns = {entry.name: str(entry.type) for entry in features.arrow_schema}
    info = {**asdict(header), "frame_rate": model.config.frame_rate, "speed": float(speed), "columns": columns}
    with _alone_in(output, state, info):
        _check_agreement(output, info)
        done = ids_of(output)
        shards = _plan(recordings, done, output, shard_rows)[state.process_index :: state.num_processes]
        # All processes must have seen the same files before one of them adds to these.
        state.wait_for_everyone()
        report = TokenizeReport(present=len(done.intersection(recordings.ids)))
        batches = _prefetched(_read(shards, recordings, model, batch_seconds, skip_bad, speed))
        whole = model.device.type != "cpu" if whole_batches is None else whole_batches
        total = sum(len(shard.places) for shard in shards)
        with (
            _tiling(model, batch_seconds if whole else None),
            tqdm(total=total, unit="file", desc="tokenizing", disable=not state.is_main_process) as bar,
        ):
            rows: dict[int, _Row] = {}
            for batch in batches:
                rows |= _encode(model, batch.clips, header.num_codebooks)
                bar.update(len(batch.clips))
                if not batch.last:
                    continue
                if rows:
                    _write(batch.shard.path, _table(rows, recordings, features, header))
                report.written += len(rows)
                report.seconds += sum(row.samples for row in rows.values()) / header.sampling_rate
                report.skipped |= batch.bad
                bar.update(len(batch.bad))
                rows = {}
        state.wait_for_everyone()
        return _joined(gather_object([report]))


def read_header(folder: str | os.PathLike) -> CodesHeader:
    """Which codec made the data set of codes in a folder; the header's `check_codec` refuses another one.

    Raises:
        FileNotFoundError: there is no data set of codes.
        ValueError: what says so is damaged.
    """
    info = _read_info(Path(folder))
    try:
        return CodesHeader(**{entry.name: info[entry.name] for entry in fields(CodesHeader)})
    except KeyError as error:
        raise ValueError(f"{Path(folder) / INFO} lacks {error}: it was not written by codec-lm tokenize.") from error


def shards_of(folder: str | os.PathLike, columns: Sequence[str] = ()) -> list[Path]:
    """Files of the data set of codes in a folder.

    Args:
        folder: that `tokenize` wrote.
        columns: that each of them must have.

    Raises:
        FileNotFoundError: there is no data set of codes, or nothing in it yet.
        ValueError: a column is not there.
    """
    read_header(folder)
    paths = sorted(Path(folder).glob(SHARDS))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no codes yet: run codec-lm tokenize to its end.")
    for path in paths:
        there = pq.read_schema(path).names
        missing = sorted(set(columns) - set(there))
        if missing:
            raise ValueError(
                f"{folder} has no column {', '.join(map(repr, missing))}; it has {', '.join(sorted(there))}."
            )
    return paths


def read_codes(folder: str | os.PathLike, columns: Sequence[str] | None = None) -> datasets.Dataset:
    """The data set of codes in a folder, or some columns of it, all in memory.

    Raises:
        FileNotFoundError: there is no data set of codes.
        ValueError: a column is not there.
    """
    wanted = None if columns is None else list(columns)
    table = pa.concat_tables(pq.read_table(path, columns=wanted) for path in shards_of(folder, wanted or ()))
    # What describes the columns describes all of them.
    return datasets.Dataset(table if wanted is None else table.replace_schema_metadata(None))


def texts_of(rows: datasets.Dataset, column: str) -> datasets.Column:
    """A column of texts, `None` where a row has none.

    Raises:
        ValueError: it has something else.
    """
    kind = rows.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"the column {column!r} has no texts, but {kind}; name one with texts.")
    return rows[column]


def new_folder(path: str | os.PathLike) -> Path:
    """A folder for `write_codes`, made if it is not there: called before the work, what is wrong is known before it.

    Raises:
        OSError: it cannot be made.
        ValueError: it holds a data set of codes already.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INFO).is_file() or any(folder.glob(SHARDS)):
        raise ValueError(f"{folder} holds a data set of codes already: name another folder.")
    return folder


def write_codes(rows: datasets.Dataset, source: str | os.PathLike, output_dir: str | os.PathLike) -> None:
    """Write what was made of the data set of codes in the folder `source`, by other columns or rows, to a new one.

    Raises:
        ValueError: the new folder holds a data set of codes already.
    """
    output, table = new_folder(output_dir), rows.with_format("arrow")[:]
    columns = {entry.name: str(entry.type) for entry in table.schema}
    _prepare(output, {**_read_info(Path(source)), "columns": columns}, clean=False)
    metadata = {**(table.schema.metadata or {}), b"codec_lm_hf": json.dumps(asdict(read_header(source))).encode()}
    _write(output / "codes-000000.parquet", table.replace_schema_metadata(metadata))


def ids_of(folder: str | os.PathLike) -> set[str]:
    """Ids of the recordings whose codes a folder holds.

    Raises:
        ValueError: a shard is damaged.
    """
    found: set[str] = set()
    for path in sorted(Path(folder).glob(SHARDS)):
        try:
            found.update(pq.read_table(path, columns=["id"])["id"].to_pylist())
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run again.") from error
    return found


# --- what is there and what is to do ---------------------------------------------------------------------------------


def _features(recordings: LabelledRecordings, model: CodecPreTrainedModel) -> datasets.Features:
    """Columns of the data set: ours, then the recordings' own, which give way as `source_NAME`."""
    code = datasets.Value("int16" if model.config.codebook_size <= 1 << 15 else "int32")
    ours = {
        "id": datasets.Value("string"),
        "codes": datasets.List(datasets.List(code)),
        "num_frames": datasets.Value("int64"),
        "duration": datasets.Value("float64"),
    }
    if model.config.normalize:
        ours["scales"] = datasets.List(datasets.Value("float32"))
    # Whatever the codec, nothing but its scales is called so.
    taken = {*ours, "scales"}
    theirs = {f"source_{name}" if name in taken else name: kind for name, kind in recordings.features.items()}
    if len(theirs) < len(recordings.features):
        raise ValueError(
            f"of the columns {', '.join(recordings.features)} one is to become source_NAME, which another is called: "
            "rename that."
        )
    features = datasets.Features({**ours, **theirs})
    try:
        # Not after the first shard was coded.
        pq.ParquetWriter(io.BytesIO(), features.arrow_schema).close()
    except pa.ArrowException as error:
        raise ValueError(f"the recordings' columns cannot be written as Parquet: {error}; leave that out.") from error
    return features


@contextmanager
def _alone_in(output: Path, state: PartialState, info: dict) -> Iterator[None]:
    """Write to a folder that no other run writes to meanwhile, after saying what will be in it.

    Every process has the folder locked, so that a run of which one is left counts as at work; the system unlocks what
    a killed process had locked. Nothing is locked on Windows and on network drives that cannot.

    Raises:
        BlockingIOError: another run is writing to it.
    """
    first = state.is_main_process
    if first:
        output.mkdir(parents=True, exist_ok=True)
    else:
        state.wait_for_everyone()
    handle = None if fcntl is None else os.open(output, os.O_RDONLY)
    try:
        if first:
            _prepare(output, info, clean=_locked(output, handle, shared=False))
        _locked(output, handle, shared=True)
        if first:
            state.wait_for_everyone()
        # Nobody begins before all are seen.
        state.wait_for_everyone()
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path, handle: int | None, shared: bool) -> bool:
    """Lock an open folder until it is closed, or change its lock; whether that can be done here."""
    if handle is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except BlockingIOError as error:
        raise BlockingIOError(
            f"another run is writing to {folder}: wait for its end, or name another folder."
        ) from error
    except OSError:
        return False
    return True


def _prepare(output: Path, info: dict, clean: bool) -> None:
    """Say what will be in a folder, unless that is said already, and `clean` up after runs that were killed."""
    if not (output / INFO).is_file():
        if any(output.glob(SHARDS)):
            raise ValueError(f"{output} holds shards but no {INFO} that says whose: name another folder.")
        with appearing(output / INFO) as file:
            file.write((json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode())
    if clean:
        for partial in output.glob(f".{SHARDS}.*partial"):
            partial.unlink()


def _read_info(folder: Path) -> dict:
    path = folder / INFO
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {INFO}: it is no data set made by codec-lm tokenize.")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _check_agreement(output: Path, info: dict) -> None:
    there = {"speed": 1.0, **_read_info(output)}
    for name in _MUST_AGREE:
        if there.get(name) != info[name]:
            raise ValueError(
                f"{output} holds codes of {there.get('codec')} with {name} {there.get(name)}; those of "
                f"{info['codec']} would have {name} {info[name]}. Go on as the data set was begun, or name another "
                "folder."
            )


def _plan(recordings: LabelledRecordings, done: set[str], output: Path, shard_rows: int) -> list[_Shard]:
    """What is not done yet, as shards whose bounds and names do not depend on what is done."""
    shards = []
    for start in range(0, len(recordings.ids), shard_rows):
        run = range(start, min(start + shard_rows, len(recordings.ids)))
        places = [place for place in run if recordings.ids[place] not in done]
        # A later run over a source that has grown may have other recordings at this place.
        digest = sha256("\0".join(recordings.ids[place] for place in places).encode()).hexdigest()[:12]
        if places:
            shards.append(_Shard(places, output / f"codes-{start // shard_rows:06d}-{digest}.parquet"))
    return shards


# --- audio in --------------------------------------------------------------------------------------------------------


def _read(
    shards: Sequence[_Shard],
    recordings: LabelledRecordings,
    model: CodecPreTrainedModel,
    batch_seconds: float,
    skip_bad: bool,
    speed: float,
) -> Iterator[_Batch]:
    """The shards' audio, batch by batch, recordings of about the same length together."""
    config = model.config
    for shard in shards:
        bad: dict[str, str] = {}
        sources = dict(zip(shard.places, recordings.audio(shard.places), strict=True))
        durations = {}
        for place, (name, source) in sources.items():
            with _bad_named(bad, name, skip_bad):
                seconds = _duration(name, source) / speed
                _check_fits(name, seconds, model, batch_seconds)
                durations[place] = seconds
        # Without a readable file the shard still has its end.
        batches = _batches(durations, batch_seconds) or [[]]
        for number, places in enumerate(batches, 1):
            clips = {}
            for place in places:
                name, source = sources.pop(place)
                with _bad_named(bad, name, skip_bad):
                    # At the codec's rate, what was resampled to a lower one takes less time.
                    clips[place] = decode(source, config.sampling_rate / speed, config.audio_channels, name)
            yield _Batch(shard, clips, bad, number == len(batches))


@contextmanager
def _bad_named(bad: dict[str, str], name: str, skip: bool) -> Iterator[None]:
    """Note a file that is not audio, or say what can be done about it."""
    try:
        yield
    except AudioFileError as error:
        if not skip:
            raise AudioFileError(f"{error} Mend it or take it away, or skip such files (--skip-bad).") from error
        bad[name] = str(error)
        logger.warning("skipped a file: %s", error)


def _duration(name: str, source: str | io.BytesIO) -> float:
    """Seconds, as the file's header says."""
    try:
        with open_audio(source, name) as file:
            return file.frames / file.samplerate
    finally:
        if isinstance(source, io.BytesIO):
            source.seek(0)


def _check_fits(name: str, seconds: float, model: CodecPreTrainedModel, limit: float) -> None:
    """Refuse a recording that only fits into memory in pieces which the codec does not take."""
    if seconds > limit and not model.tileable and model.config.chunk_length is None:
        raise AudioFileError(
            f"{name} has {seconds:.1f} s, and {type(model).__name__} looks at all of a recording at once, in memory "
            f"that grows with it: cut it to at most batch_seconds, {limit:g} s, or raise these (--batch-seconds) as "
            "far as there is memory."
        )


def _batches(durations: dict[int, float], limit: float) -> list[list[int]]:
    """Places, shortest first, in groups that take at most `limit` seconds each when padded to their longest."""
    groups: list[list[int]] = []
    for place in sorted(durations, key=lambda place: (durations[place], place)):
        if groups and (len(groups[-1]) + 1) * durations[place] <= limit:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _prefetched(items: Iterator[T]) -> Iterator[T]:
    """The items, each made by a thread while the one before is in use."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = thread.submit(next, items, end)
            yield item


# --- codes out -------------------------------------------------------------------------------------------------------


@contextmanager
def _tiling(model: CodecPreTrainedModel, seconds: float | None) -> Iterator[None]:
    """Let the model take batches of `seconds` in one piece; `None`: as it likes."""
    before = model.whole_seconds
    model.whole_seconds = before if seconds is None else max(before, seconds)
    try:
        yield
    finally:
        model.whole_seconds = before


def _encode(model: CodecPreTrainedModel, clips: dict[int, np.ndarray], count: int) -> dict[int, _Row]:
    """Codes of each recording, as it has them alone."""
    if not clips:
        return {}
    batch = collate([{"input_values": torch.from_numpy(clip)} for clip in clips.values()])
    audio, mask = batch["input_values"], batch.get("padding_mask")
    mask = None if mask is None else mask.to(model.device)
    output = model.encode(audio.to(model.device), mask, num_quantizers=count)
    codes = output.audio_codes.cpu().numpy()
    valid = np.ones(codes[:, 0].shape, bool) if output.codes_mask is None else output.codes_mask.cpu().numpy()
    rows = {}
    for number, (place, clip) in enumerate(clips.items()):
        scales = None
        if output.audio_scales is not None:
            scales = output.audio_scales[number].float().cpu().numpy()
            # A segment that the row does not have.
            scales = scales[scales > 0]
        frames = int(np.flatnonzero(valid[number])[-1]) + 1
        rows[place] = _Row(codes[number, :, :frames], scales, clip.shape[-1])
    return rows


def _table(
    rows: dict[int, _Row], recordings: LabelledRecordings, features: datasets.Features, header: CodesHeader
) -> pa.Table:
    """A shard's rows in the order of the recordings."""
    places = sorted(rows)
    ordered = [rows[place] for place in places]
    schema = features.arrow_schema
    frames = [row.codes.shape[1] for row in ordered]
    kind = schema.field("codes").type.value_type.value_type.to_pandas_dtype()
    flat = np.concatenate([row.codes.ravel() for row in ordered]).astype(kind)
    lists = pa.ListArray.from_arrays(_offsets(np.repeat(frames, header.num_codebooks)), flat)
    columns = {
        "id": [recordings.ids[place] for place in places],
        "codes": pa.ListArray.from_arrays(_offsets([header.num_codebooks] * len(places)), lists),
        "num_frames": frames,
        "duration": [row.samples / header.sampling_rate for row in ordered],
    }
    if "scales" in schema.names:
        columns["scales"] = [row.scales.tolist() for row in ordered]
    labels = recordings.labels(places)
    theirs = dict(zip(schema.names[len(columns) :], labels.columns, strict=True))
    # A shard says whose codes it holds also where it lies alone.
    metadata = {**schema.metadata, b"codec_lm_hf": json.dumps(asdict(header)).encode()}
    return pa.table({**columns, **theirs}, schema=schema.with_metadata(metadata))


def _offsets(lengths: Sequence[int] | np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _write(path: Path, table: pa.Table) -> None:
    with appearing(path) as file:
        pq.write_table(table, file, compression="zstd")
        # It does not appear before it is on the disk: a later run would take it for done.
        file.flush()
        os.fsync(file.fileno())


def _joined(reports: list[TokenizeReport]) -> TokenizeReport:
    whole = TokenizeReport(present=reports[0].present)
    for part in reports:
        whole.written += part.written
        whole.seconds += part.seconds
        whole.skipped |= part.skipped
    return whole
