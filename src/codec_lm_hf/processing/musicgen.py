"""Texts, melodies and prompts for MusicGen and AudioGen."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from ..configuration.musicgen import MusicGenLMConfig
from ..hub import Home
from ..registry import family
from .codec_lm_processor import CodecLMProcessor
from .feature_extraction import CodecFeatureExtractor, as_list
from .tasks import Task


class MusicGenLMProcessor(CodecLMProcessor):
    """Texts to what the T5 reads, prompts to codes, melodies to what the model listens to, codes to waveforms.

    Like the codec, the T5's tokenizer is loaded when it is first needed.

    Args:
        text_encoder_name: repository or directory of the T5; `None`: its tokenizer lies beside the processor's own
            file.
        text_encoder_revision: of the repository.
        sampling_rate: of melodies, in Hz.
        codec_name, codec_revision, num_codebooks, codebook_size, audio_channels, tasks: see `CodecLMProcessor`. The
            defaults are those of `facebook/musicgen-small`.
    """

    def __init__(
        self,
        text_encoder_name: str | None = None,
        text_encoder_revision: str | None = None,
        sampling_rate: int = 32000,
        codec_name: str | None = None,
        codec_revision: str | None = None,
        num_codebooks: int = 4,
        codebook_size: int = 2048,
        audio_channels: int = 1,
        tasks: Sequence[str] = family("musicgen").tasks,
    ) -> None:
        super().__init__(codec_name, codec_revision, num_codebooks, codebook_size, audio_channels, tasks)
        self.text_encoder_name = text_encoder_name
        self.text_encoder_revision = text_encoder_revision
        self.sampling_rate = sampling_rate
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._native = False  # whether the home is a checkpoint of transformers' own, with the codec in it

    @classmethod
    def from_config(cls, config: MusicGenLMConfig, **fields) -> MusicGenLMProcessor:
        """The processor of a model.

        Args:
            config: of the model.
            **fields: arguments that replace what the configuration says, or that it says nothing of.
        """
        names = ("num_codebooks", "codebook_size", "audio_channels", "sampling_rate", "text_encoder_name")
        known = {name: getattr(config, name) for name in (*names, "text_encoder_revision")}
        return cls(**{**known, **cls._tasks_of(config), **fields})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """As in transformers; also reads its own MusicGen checkpoints, whose codec becomes ours."""
        home = Home.of(pretrained_model_name_or_path, kwargs)
        config_dict = home.config()
        if config_dict.get("model_type") not in MusicGenLMConfig.native_types:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor = cls.from_config(MusicGenLMConfig.from_dict(config_dict))
        processor._home, processor._native = home, True
        return processor

    @property
    def _codec_home(self) -> Home:
        return self._home if self._native else super()._codec_home

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Write the processor, and beside it what has no repository of its own: the tokenizer, the codec."""
        written = super().save_pretrained(save_directory, **kwargs)
        if self.text_encoder_name is None and (self._tokenizer is not None or self._tokenizer_lies_beside()):
            self.tokenizer.save_pretrained(save_directory)
        return written

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The T5's tokenizer.

        Raises:
            ValueError: there is none.
        """
        if self._tokenizer is None:
            home = self._home
            if self.text_encoder_name is not None:
                home = Home.of(self.text_encoder_name, {"revision": self.text_encoder_revision})
            elif not self._tokenizer_lies_beside():
                raise ValueError(
                    "this processor has no tokenizer: make it with text_encoder_name=..., or assign one to its "
                    "`tokenizer`."
                )
            self._tokenizer = home.load(AutoTokenizer)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def _tokenizer_lies_beside(self) -> bool:
        return self._home is not None and self._home.has(TOKENIZER_CONFIG_FILE)

    def __call__(
        self,
        text: str | None | Sequence[str | None],
        audio=None,
        sampling_rate: int | None = None,
        melody=None,
        prompt_codes=None,
        target_audio=None,
        target_codes=None,
        task: str | Task | None = None,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Make what `forward` and `generate` take.

        Args:
            text: descriptions, one or several. `""` or `None`: the row is played without one.
            audio: prompts to go on from, one for each text: `(samples,)` or `(channels, samples)`, floats in [-1, 1].
                Channels are averaged for mono, repeated for stereo.
            sampling_rate: Hz of `audio`, `melody` and `target_audio`; another one than the codec's is converted.
            melody: for models that take one: recordings whose melody is followed, one for each text, `None` for a text
                without one. Channels are averaged.
            prompt_codes: prompts as codes made before, `(codebooks, frames)` each.
            target_audio, target_codes: recordings of what the texts describe, for training.
            task: one of `tasks`; it says what has to be given, and is checked.
            padding: only to the longest row, `True` or `"longest"`.
            return_tensors: only `"pt"`.

        Returns:
            `input_ids`, `attention_mask` (0 on padding and on texts that are not there), and as far as given
            `prompt_codes`, `labels`, `melody_values` and `melody_mask`.

        Raises:
            ValueError: no text, another task, or things that do not fit each other.
        """
        self._check_format(padding, return_tensors)
        rows, texts = [], self._rows_of_texts(text, without=True)
        audio_given = prompt_codes if audio is None else audio
        self._check_task(task, text=texts if all(texts) else None, audio=audio_given)
        for one, ids in zip(texts, self.tokenizer(texts)["input_ids"], strict=True):
            ids = torch.tensor(ids)
            rows.append({"input_ids": ids, "attention_mask": torch.full_like(ids, bool(one))})
        sources = {"prompt_codes": (audio, prompt_codes), "labels": (target_audio, target_codes)}
        for name, (sound, codes) in sources.items():
            if sound is not None or codes is not None:
                found = self._rows_of_codes(name, sound, codes, sampling_rate, len(rows))
                rows = [{**row, name: its} for row, its in zip(rows, found, strict=True)]
        if melody is not None:
            found = self._melodies(melody, sampling_rate, len(rows))
            rows = [{**row, **its} for row, its in zip(rows, found, strict=True)]
        return self.pad(rows)

    def _melodies(self, melody, sampling_rate: int | None, rows: int) -> list[dict[str, Tensor]]:
        given = as_list(melody)
        if len(given) != rows:
            raise ValueError(f"melody: {len(given)} for {rows} texts; give one for each, None where there is none.")
        features = CodecFeatureExtractor(1, self.sampling_rate)
        found = []
        for wave in given:
            if wave is None:
                values = torch.zeros(1, 1)
            else:
                row = features(wave, sampling_rate=sampling_rate, resample=True, remix=True, return_tensors="pt")
                values = row["input_values"][0]
            mask = torch.full(values.shape[1:], wave is not None, dtype=torch.long)
            found.append({"melody_values": values, "melody_mask": mask})
        return found
