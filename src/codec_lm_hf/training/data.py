"""Recordings in, random crops out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from tqdm.auto import tqdm

from ..processing.audio import AudioFileError, audio_files, load_audio

logger = logging.getLogger(__name__)


def find_recordings(source: str | Path) -> list[Path]:
    """Audio files of a folder: those named in its `metadata.jsonl` if it has one, else all below it.

    Raises:
        FileNotFoundError: the folder does not exist or holds no audio.
    """
    folder = Path(source)
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        lines = metadata.read_text(encoding="utf-8").splitlines()
        paths = [folder / json.loads(line)["file_name"] for line in lines if line.strip()]
    else:
        paths = audio_files(folder)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no audio files; give a folder with wav, flac, ogg or mp3 files.")
    return paths


@dataclass
class Augmentation:
    """Changes made to a crop before training.

    Attributes:
        loudness_db: lowest and highest RMS level in dB full scale; a crop is scaled to a level drawn between them, as far
            as its peak stays below 0.95. `None`: no change.
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


class CropDataset(Dataset):
    """Random crops of recordings that are kept decoded in memory as 16-bit samples.

    An epoch has about one crop per `crop_length` samples of audio. Which crop an index gives is a function of
    (seed, epoch, index) alone, so an interrupted run goes on with what it would have seen.

    Args:
        paths: audio files. Those that cannot be read are counted and named in a warning.
        sampling_rate, channels: of the codec.
        crop_length: samples of a crop; shorter recordings are padded with zeros.
        augmentation: applied to each crop.
        seed: of the crops.
        repeat: crops per crop length of audio in an epoch.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        sampling_rate: int,
        channels: int,
        crop_length: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        repeat: int = 1,
    ) -> None:
        self.crop_length = crop_length
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.epoch = 0
        self.recordings, self.bad = decode_all(paths, sampling_rate, channels)
        counts = [max(1, round(audio.shape[-1] / crop_length)) * repeat for audio in self.recordings]
        self.owner = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.owner)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        audio = self.recordings[self.owner[index]]
        crop = random_crop(audio, self.crop_length, rng).astype(np.float32) / 32768
        return {"input_values": torch.from_numpy(self.augmentation(crop, rng).astype(np.float32))}


class HubCropDataset(IterableDataset):
    """Random crops of a `datasets` data set with an `audio` column, streamed or not, decoded by soundfile.

    Args:
        dataset: as `datasets.load_dataset(...)` returned it.
        sampling_rate, channels, crop_length, augmentation, seed: as in `CropDataset`.
        column: the audio column.
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
    ) -> None:
        import datasets

        self.dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        self.sampling_rate, self.channels = sampling_rate, channels
        self.crop_length, self.column = crop_length, column
        self.augmentation = augmentation or Augmentation()
        self.seed, self.epoch = seed, 0
        self.bad: list[str] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for index, row in enumerate(self.dataset):
            entry = row[self.column]
            rng = np.random.default_rng((self.seed, self.epoch, index))
            name = str(entry.get("path") or f"row {index}")
            try:
                source = io.BytesIO(entry["bytes"]) if entry.get("bytes") else entry["path"]
                audio, _ = load_audio(source, self.sampling_rate, self.channels)
            except AudioFileError as error:
                self.bad.append(name)
                logger.warning("skipped %s: %s", name, error)
                continue
            crop = self.augmentation(random_crop(audio, self.crop_length, rng), rng)
            yield {"input_values": torch.from_numpy(crop.astype(np.float32))}


class ClipDataset(Dataset):
    """Whole recordings for evaluation, from the start, at most `max_length` samples of each."""

    def __init__(
        self, paths: Sequence[str | Path], sampling_rate: int, channels: int, max_length: int, limit: int | None = None
    ) -> None:
        recordings, self.bad = decode_all(list(paths)[:limit], sampling_rate, channels)
        self.clips = [torch.from_numpy(audio[:, :max_length].astype(np.float32) / 32768) for audio in recordings]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_values": self.clips[index]}


def decode_all(paths: Sequence[str | Path], sampling_rate: int, channels: int) -> tuple[list[np.ndarray], list[str]]:
    """Decode files to int16 `(channels, samples)`; also the names of those that could not be read.

    Raises:
        AudioFileError: none could be read.
    """
    recordings, bad = [], []
    for path in tqdm(paths, desc="decoding", unit="file", disable=len(paths) < 200):
        try:
            audio, _ = load_audio(path, sampling_rate, channels)
        except AudioFileError as error:
            bad.append(str(path))
            logger.warning("skipped a file: %s", error)
            continue
        recordings.append(np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16))
    if bad:
        logger.warning("%d of %d files could not be read: %s", len(bad), len(paths), ", ".join(bad[:5]))
    if not recordings:
        raise AudioFileError(f"none of the {len(paths)} files could be read.")
    return recordings, bad


def random_crop(audio: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` samples of `audio` `(channels, samples)` from a random place, zeros after the end of a shorter one."""
    missing = length - audio.shape[-1]
    if missing > 0:
        return np.pad(audio, ((0, 0), (0, missing)))
    start = int(rng.integers(0, -missing + 1))
    return audio[:, start : start + length]


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Crops or clips to `input_values (batch, channels, samples)`, with a `padding_mask` where lengths differ."""
    audio = [item["input_values"] for item in items]
    longest = max(clip.shape[-1] for clip in audio)
    batch = {"input_values": torch.stack([torch.nn.functional.pad(clip, (0, longest - clip.shape[-1])) for clip in audio])}
    if any(clip.shape[-1] < longest for clip in audio):
        lengths = torch.tensor([clip.shape[-1] for clip in audio])
        batch["padding_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


