"""Recordings in, random crops out."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..configuration.codec_base import LARGEST_PEAK
from ..processing.audio import AudioFileError, audio_files, load_audio
from ..processing.metadata import read_metadata

logger = logging.getLogger(__name__)

# A file, or a name and an open file.
Recording = str | Path | tuple[str, str | io.BytesIO]


def find_recordings(source: str | Path) -> list[Path]:
    """Audio files of a folder: those that its `metadata.jsonl` or `metadata.csv` names if it has one, else all below.

    Raises:
        FileNotFoundError: the folder does not exist or holds no audio.
        ValueError: a line of the metadata names no file.
    """
    folder = Path(source)
    rows = read_metadata(folder)
    paths = audio_files(folder) if rows is None else [folder / row["file_name"] for row in rows]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no audio files; give a folder with wav, flac, ogg or mp3 files.")
    return paths


@dataclass
class Augmentation:
    """Changes made to a crop before training.

    Attributes:
        loudness_db: lowest and highest RMS level in dB full scale; a crop is scaled to a level drawn between them, as
            far as its peak stays below 0.95. `None`: no change.
    """

    loudness_db: tuple[float, float] | None = None

    def __call__(self, audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.loudness_db is None:
            return audio
        level = float(np.sqrt(np.mean(audio**2)))
        peak = float(np.abs(audio).max())
        if level < 1e-4:
            return audio
        gain = 10 ** (rng.uniform(*self.loudness_db) / 20) / level
        return audio * min(gain, 0.95 / peak)


class Noise:
    """Background noise under crops, for codecs that learn to leave it away.

    Args:
        recordings: noises, see `CropDataset`.
        sampling_rate, channels: of the codec.
        snr_db: lowest and highest ratio of a crop's power to the noise's, in dB.
        denoise_share: of the crops; their target is the crop without the noise. The others' is what they hold: the
            SoundStream paper's training of a switch (section III-F). With 1, a codec without a switch learns to
            denoise.

    Raises:
        ValueError: a share that is none.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        sampling_rate: int,
        channels: int,
        snr_db: tuple[float, float] = (0.0, 15.0),
        denoise_share: float = 0.5,
    ) -> None:
        if not 0 <= denoise_share <= 1:
            raise ValueError(f"denoise_share must be between 0 and 1, got {denoise_share}.")
        self.recordings, self.bad = decode_all(recordings, sampling_rate, channels)
        self.snr_db = snr_db
        self.denoise_share = denoise_share

    def under(self, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A crop `(channels, samples)` with noise; as it is where it or the noise is silent."""
        noise = self.recordings[rng.integers(len(self.recordings))].astype(np.float32) / 32768
        noise = random_crop(noise, crop.shape[-1], rng)
        power, level = np.mean(crop**2), np.mean(noise**2)
        if min(power, level) < 1e-8:
            return crop
        return crop + noise * np.sqrt(power / level * 10 ** (-rng.uniform(*self.snr_db) / 10))


def _item(crop: np.ndarray, noise: Noise | None, rng: np.random.Generator) -> dict[str, Tensor]:
    """What a data set gives of a crop."""
    if noise is None:
        return {"input_values": torch.from_numpy(crop.astype(np.float32))}
    heard, denoise = noise.under(crop, rng).astype(np.float32), rng.random() < noise.denoise_share
    return {
        "input_values": torch.from_numpy(heard),
        "target_values": torch.from_numpy(crop.astype(np.float32) if denoise else heard),
        "denoise": torch.tensor(denoise),
    }


def undecoded(dataset, column: str = "audio"):
    """A `datasets` data set whose audio `column` gives files or bytes: soundfile decodes them, not torchcodec.

    Raises:
        ValueError: there is no such column.
    """
    import datasets

    if dataset.column_names is not None and column not in dataset.column_names:
        raise ValueError(f"the data set has no column {column!r}; it has {dataset.column_names}.")
    return dataset.cast_column(column, datasets.Audio(decode=False))


def audio_of(row: dict, column: str, index: int) -> tuple[str, str | io.BytesIO]:
    """Name, and file name or open file, of a row's audio."""
    entry = row[column] or {}
    name = str(entry.get("path") or f"row {index}")
    return name, io.BytesIO(entry["bytes"]) if entry.get("bytes") else name


def recordings_of(dataset, column: str = "audio") -> list[tuple[str, str | io.BytesIO]]:
    """Recordings of a `datasets` data set that is not streamed, for `CropDataset`."""
    return [audio_of(row, column, index) for index, row in enumerate(undecoded(dataset, column))]


class EpochDataset(Dataset):
    """A data set each epoch of which is another one."""

    def __init__(self) -> None:
        # Shared: loading processes that stay for the next epoch (`dataloader_persistent_workers`) hear of it, too.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)


def without_shard(dataset) -> bool:
    """Whether this loading process has no part of a streamed `datasets` data set, which has fewer than processes."""
    worker = get_worker_info()
    return worker is not None and worker.id >= dataset.num_shards


class CropDataset(EpochDataset):
    """Random crops of recordings that are kept decoded in memory as 16-bit samples.

    An epoch has about one crop per `crop_length` samples of audio. Which crop an index gives is a function of
    (seed, epoch, index) alone, so an interrupted run goes on with what it would have seen.

    Args:
        recordings: audio files, or pairs of a name and an open file. Those that cannot be read are counted and named
            in a warning, and in `bad`.
        sampling_rate, channels: of the codec.
        crop_length: samples of a crop; shorter recordings are padded with zeros.
        augmentation: applied to each crop.
        seed: of the crops.
        repeat: crops per crop length of audio in an epoch.
        noise: put under each crop.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        sampling_rate: int,
        channels: int,
        crop_length: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        repeat: int = 1,
        noise: Noise | None = None,
    ) -> None:
        super().__init__()
        self.crop_length = crop_length
        self.noise = noise
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.recordings, self.bad = decode_all(recordings, sampling_rate, channels)
        counts = [max(1, round(audio.shape[-1] / crop_length)) * repeat for audio in self.recordings]
        self.owner = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        audio = self.recordings[self.owner[index]]
        crop = random_crop(audio, self.crop_length, rng).astype(np.float32) / 32768
        return _item(self.augmentation(crop, rng), self.noise, rng)


class StreamCropDataset(IterableDataset):
    """Random crops of a streamed `datasets` data set, decoded as they come; for what does not fit in memory.

    The stream never ends: after the last row the next epoch begins, in another order. What its n-th crop is follows
    from the seed (and, with several loading processes, from their number), so an interrupted run goes on with what it
    would have seen.

    Args:
        dataset: as `datasets.load_dataset(..., streaming=True)` returned it.
        sampling_rate, channels, crop_length, augmentation, seed, noise: as in `CropDataset`.
        column: the audio column.
        shuffle_buffer: rows among which the next one is drawn.
    """

    def __init__(
        self,
        dataset,
        sampling_rate: int,
        channels: int,
        crop_length: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        column: str = "audio",
        shuffle_buffer: int = 1000,
        noise: Noise | None = None,
    ) -> None:
        self.dataset = undecoded(dataset, column).shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.sampling_rate, self.channels = sampling_rate, channels
        self.crop_length, self.column = crop_length, column
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.noise = noise
        self.bad: list[str] = []

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.bad.clear()
        if without_shard(self.dataset):
            return
        worker = get_worker_info()
        part = 0 if worker is None else worker.id
        for epoch in itertools.count():
            self.dataset.set_epoch(epoch)
            empty = True
            for index, row in enumerate(self.dataset):
                name, source = audio_of(row, self.column, index)
                try:
                    audio = decode(source, self.sampling_rate, self.channels, name)
                except AudioFileError as error:
                    if epoch == 0:
                        self.bad.append(name)
                        logger.warning("skipped a file (%d so far): %s", len(self.bad), error)
                    continue
                empty = False
                rng = np.random.default_rng((self.seed, part, epoch, index))
                crop = self.augmentation(random_crop(audio, self.crop_length, rng), rng)
                yield _item(crop, self.noise, rng)
            if empty:
                raise AudioFileError(f"the stream has no readable recording in its column {self.column!r}.")


class ClipDataset(Dataset):
    """Whole recordings for evaluation, from the start, at most `max_length` samples of each."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        sampling_rate: int,
        channels: int,
        max_length: int,
        limit: int | None = None,
    ) -> None:
        decoded, self.bad = decode_all(recordings[:limit], sampling_rate, channels)
        self.clips = [torch.from_numpy(audio[:, :max_length].astype(np.float32) / 32768) for audio in decoded]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_values": self.clips[index]}


def decode(source: str | Path | io.BytesIO, sampling_rate: int, channels: int, name: str) -> np.ndarray:
    """Float32 `(channels, samples)` of a file.

    Raises:
        AudioFileError: not audio, empty, too many channels, or with samples that are NaN, infinite or far beyond 1.
    """
    audio, _ = load_audio(source, sampling_rate, channels, name)
    if not np.isfinite(audio).all():
        raise AudioFileError(f"{name} holds NaN or infinite samples.")
    if audio.size and np.abs(audio).max() > LARGEST_PEAK:
        raise AudioFileError(f"{name} peaks at {np.abs(audio).max():.0f}; expected samples in [-1, 1].")
    return audio


def decode_all(
    recordings: Sequence[Recording], sampling_rate: int, channels: int
) -> tuple[list[np.ndarray], list[str]]:
    """Decode files to int16 `(channels, samples)`; also the names of those that could not be read.

    Raises:
        AudioFileError: none could be read.
    """
    decoded, bad = [], []
    for recording in tqdm(recordings, desc="decoding", unit="file", disable=len(recordings) < 200):
        name, source = recording if isinstance(recording, tuple) else (str(recording), recording)
        try:
            audio = decode(source, sampling_rate, channels, name)
        except AudioFileError as error:
            bad.append(name)
            logger.warning("skipped a file: %s", error)
            continue
        decoded.append(np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16))
    if bad:
        logger.warning("%d of %d files could not be read: %s", len(bad), len(recordings), ", ".join(bad[:5]))
    if not decoded:
        raise AudioFileError(f"none of the {len(recordings)} files could be read.")
    return decoded, bad


def random_crop(audio: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` samples of `audio` `(channels, samples)` from a random place, zeros after the end of a shorter one."""
    missing = length - audio.shape[-1]
    if missing > 0:
        return np.pad(audio, ((0, 0), (0, missing)))
    start = int(rng.integers(0, -missing + 1))
    return audio[:, start : start + length]


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Crops or clips to `input_values (batch, channels, samples)`, with a `padding_mask` where lengths differ.

    With noise, there are also `target_values` of the same shape and `denoise (batch,)`.
    """
    lengths = torch.tensor([item["input_values"].shape[-1] for item in items])
    longest = int(lengths.max())
    batch = {}
    for name in items[0]:
        rows = [item[name] for item in items]
        batch[name] = torch.stack(
            [torch.nn.functional.pad(x, (0, longest - x.shape[-1])) if x.ndim else x for x in rows]
        )
    if bool((lengths < longest).any()):
        batch["padding_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def collate_codes(rows: Sequence[dict]) -> dict[str, Tensor]:
    """Rows of a data set of codes (`training.tokenize`) to `audio_codes (batch, codebooks, frames)` int64.

    Where lengths differ, `codes_mask (batch, frames)` bool is true on frames of the row; codes are 0 elsewhere, as a
    codec gives them.
    """
    codes = [torch.as_tensor(row["codes"], dtype=torch.long) for row in rows]
    frames = torch.tensor([part.shape[-1] for part in codes])
    longest = int(frames.max())
    batch = {
        "audio_codes": torch.stack([torch.nn.functional.pad(part, (0, longest - part.shape[-1])) for part in codes])
    }
    if bool((frames < longest).any()):
        batch["codes_mask"] = torch.arange(longest) < frames[:, None]
    return batch
