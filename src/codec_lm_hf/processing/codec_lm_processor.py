"""What a person has and a codec language model takes: codes of audio in, audio of codes out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import CONFIG_NAME

from ..configuration.codec_base import CodecConfig
from ..configuration.lm_base import CodecLMConfig
from ..hub import Home, RemoteStubMixin
from ..modeling.auto import AutoCodecModel
from ..modeling.codec_base import CodecPreTrainedModel
from ..modeling.lm_base import NO_CODE, check_codes, check_ends
from ..registry import family_of
from .feature_extraction import CodecFeatureExtractor
from .tasks import Task, task_named

_SUBFOLDER = "codec"


class _NoSpecialTokens:
    """What a processor without a tokenizer of transformers shows a `Trainer` in its place.

    A `Trainer` copies the special tokens of `processing_class.tokenizer` into the model's configuration. Those of our
    families are the configuration's own: there is nothing to copy.
    """

    eos_token_id = bos_token_id = pad_token_id = None


class CodecLMProcessor(RemoteStubMixin, ProcessorMixin):
    """Holds the codec of a codec language model. A family adds what it does with texts.

    The codec is loaded when it is first needed; with codes made before, it never is.

    Args:
        codec_name: repository or directory of the codec, or `"bundled:codec"`; `None`: the folder `codec` beside the
            processor's own file.
        codec_revision: of the repository.
        num_codebooks: codes per frame that the model takes; the codec may have more.
        codebook_size: entries per codebook.
        audio_channels: of the model's audio; the codec's own by default. Where it is 2 and the codec's is 1, the codec
            works on each side, and codebooks alternate between left and right.
        tasks: what the model has learnt, by the names of `Task`; those of its family by default.
    """

    # transformers asks a trainer's processor for a tokenizer's special tokens.
    tokenizer = _NoSpecialTokens()
    # A pipeline of transformers asks its tokenizer, which a processor is there (`codec_lm_hf.register`), what to pad
    # by. It knows only of texts, so it is told not to make batches.
    pad_token_id = None
    # The first one is what a trainer measures examples by, to batch those of one length.
    model_input_names = ("input_ids", "attention_mask")

    def __init__(
        self,
        codec_name: str | None = None,
        codec_revision: str | None = None,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        audio_channels: int | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.codec_name = codec_name
        self.codec_revision = codec_revision
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.audio_channels = audio_channels
        self.tasks = [task_named(name, Task.__members__).name for name in tasks]
        self._codec: CodecPreTrainedModel | None = None
        self._home: Home | None = None

    @classmethod
    def from_config(cls, config: CodecLMConfig, **fields) -> CodecLMProcessor:
        """The processor of a model.

        Args:
            config: of the model.
            **fields: arguments that the configuration says nothing of, or that replace what it says.
        """
        known = {"num_codebooks": config.num_codebooks, "codebook_size": config.codebook_size}
        return cls(**{**known, **cls._tasks_of(config), **fields})

    @staticmethod
    def _tasks_of(config: CodecLMConfig) -> dict[str, tuple[str, ...]]:
        row = family_of(config.model_type)
        return {} if row is None else {"tasks": row.tasks}

    @classmethod
    def for_corpus(cls, config: CodecLMConfig, texts: Iterable[str], **fields) -> CodecLMProcessor:
        """The processor of a model that is to be trained; a family with a table of symbols makes it of the texts.

        Args:
            config: of the model, but for what `model_fields` then says.
            texts: of the corpus.
            **fields: as for `from_config`.
        """
        return cls.from_config(config, **fields)

    @staticmethod
    def _check_format(padding: bool | str, return_tensors: str) -> None:
        """Refuse batches of another kind than a processor makes."""
        if padding not in (True, "longest"):
            raise ValueError(
                f"padding must be True or 'longest', got {padding!r}: rows are made as long as the longest."
            )
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}.")

    @property
    def model_fields(self) -> dict[str, int]:
        """Fields of a model's configuration that follow from this processor."""
        return {}

    @property
    def codec(self) -> CodecPreTrainedModel:
        """The codec.

        Raises:
            ValueError: there is none, or its codes are not the model's.
        """
        if self._codec is None:
            if self.codec_name is None and not self._codec_lies_beside():
                raise ValueError(
                    "this processor has no codec: make it with codec_name=..., or assign one to its `codec`. Codes "
                    "made before need none."
                )
            if self.codec_name is not None:
                self.codec = AutoCodecModel.from_pretrained(self.codec_name, revision=self.codec_revision)
            else:
                self.codec = self._codec_home.load(AutoCodecModel)
        return self._codec

    @codec.setter
    def codec(self, codec: CodecPreTrainedModel) -> None:
        theirs, name = codec.config, codec.name_or_path or type(codec).__name__
        if self._channels(theirs) % theirs.audio_channels:
            raise ValueError(
                f"the codec {name} has {theirs.audio_channels} channels; the language model's audio has "
                f"{self.audio_channels}. Choose a codec for as many, or for each of them."
            )
        count = self.num_codebooks // self._sides(theirs)
        if theirs.num_codebooks < count or theirs.codebook_size != self.codebook_size:
            raise ValueError(
                f"the codec {name} has {theirs.num_codebooks} codebooks of {theirs.codebook_size} entries; the "
                f"language model takes {count} of {self.codebook_size}. Choose a codec whose codebooks fit, or train "
                "the model for this one."
            )
        self._codec = codec.eval()

    @property
    def feature_extractor(self) -> CodecFeatureExtractor:
        """Of the model's audio. A pipeline of transformers reads the rate off it."""
        config = self.codec.config
        return CodecFeatureExtractor(self._channels(config), config.sampling_rate)

    def _channels(self, codec: CodecConfig) -> int:
        return codec.audio_channels if self.audio_channels is None else self.audio_channels

    def _sides(self, codec: CodecConfig) -> int:
        """Signals that the codec works on one by one."""
        return self._channels(codec) // codec.audio_channels

    def sides_of(self, codes: Tensor) -> Tensor:
        """Codes `(codebooks, frames)` of a row as those `(signals, codebooks, frames)` that the codec works on."""
        return codes.unflatten(0, (-1, self._sides(self.codec.config))).transpose(0, 1)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        processor._home = Home.of(pretrained_model_name_or_path, kwargs)
        return loaded

    @property
    def _codec_home(self) -> Home:
        """Where the codec is that has no repository of its own."""
        return self._home.inside(_SUBFOLDER)

    def _codec_lies_beside(self) -> bool:
        return self._home is not None and self._codec_home.has(CONFIG_NAME)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Write the processor; a codec without a repository of its own goes beside it, into the folder `codec`."""
        written = super().save_pretrained(save_directory, **kwargs)
        # transformers leaves it in the file when it loads a processor: what was saved is not to differ.
        vars(self).pop("auto_map", None)
        if self.codec_name is None and (self._codec is not None or self._codec_lies_beside()):
            self.codec.save_pretrained(Path(save_directory, _SUBFOLDER))
        return written

    def to_dict(self) -> dict:
        # What is held would be copied.
        held = {name: self.__dict__.pop(name) for name in list(self.__dict__) if name.startswith("_")}
        try:
            return super().to_dict()
        finally:
            self.__dict__.update(held)

    @torch.no_grad()
    def encode(self, audio, sampling_rate: int | None = None) -> list[Tensor]:
        """Codes `(codebooks, frames)` of each recording.

        Args:
            audio: one recording or a list of them, `(samples,)` or `(channels, samples)`, floats in [-1, 1].
            sampling_rate: Hz of `audio`, converted where the codec has another one. Channels are averaged or repeated.
        """
        inputs = self.feature_extractor(
            audio, sampling_rate=sampling_rate, resample=True, remix=True, return_tensors="pt"
        )
        inputs, sides = inputs.to(self.codec.device), self._sides(self.codec.config)
        found = self.codec.encode(
            inputs["input_values"].unflatten(1, (sides, -1)).flatten(0, 1),
            inputs["padding_mask"].repeat_interleave(sides, dim=0),
            num_quantizers=self.num_codebooks // sides,
        )
        found_codes = found.audio_codes.unflatten(0, (-1, sides)).transpose(1, 2).flatten(1, 2).cpu()
        if found.codes_mask is None:
            return list(found_codes)
        return [codes[:, mask] for codes, mask in zip(found_codes, found.codes_mask[::sides].cpu(), strict=True)]

    @torch.no_grad()
    def batch_decode(self, codes: Tensor | np.ndarray | Sequence) -> list[Tensor]:
        """Waveforms `(channels, samples)`, float32 on the CPU, of the codes that `generate` or `encode` give.

        Args:
            codes: `(batch, codebooks, frames)`, -100 after a row's end; or a list of rows `(codebooks, frames)`. A row
                without frames becomes no samples. Codes say nothing of the gain that a codec which normalises has
                beside them: it is 1 throughout.

        Raises:
            ValueError: codes that are not the model's.
        """
        codes = _batch_of(codes)
        if codes.ndim == 3 and codes.shape[-1] == 0:
            lengths = [0] * len(codes)
        else:
            codes = check_codes("codes", codes, self.codebook_size, self.num_codebooks, exact=False)
            lengths = check_ends("codes", codes).tolist()
        config, waves = self.codec.config, []
        if codes.shape[1] % self._sides(config):
            raise ValueError(f"codes of stereo have as many codebooks for each side; got {codes.shape[1]} altogether.")
        for row, length in zip(codes, lengths, strict=True):
            if length == 0:
                waves.append(torch.zeros(self._channels(config), 0))
                continue
            sides = self.sides_of(row[:, :length]).to(self.codec.device)
            scales = None
            if config.normalize:
                scales = torch.ones(len(sides), self.codec.segments_of(length), device=sides.device)
            waves.append(self.codec.decode(sides, scales).audio_values.flatten(0, 1).float().cpu())
        return waves

    def decode(self, codes: Tensor | np.ndarray | Sequence) -> Tensor | list[Tensor]:
        """The waveform `(channels, samples)` of one row, `(codebooks, frames)` or `(1, codebooks, frames)`.

        Of several rows, all their waveforms, as `batch_decode` gives them: a pipeline of transformers decodes by this
        whatever number `num_return_sequences` asked for.

        Raises:
            ValueError: as `batch_decode`.
        """
        codes = as_codes(codes)
        waves = self.batch_decode(codes if codes.ndim == 3 else codes[None])
        return waves[0] if len(waves) == 1 else waves

    def pad(self, features: Sequence[dict], pad_to_multiple_of: int | None = None) -> BatchFeature:
        """A batch of rows, `data_collator` of a `Trainer`: codes padded by -100, anything else by 0.

        Args:
            features: rows of `input_ids` `(symbols,)`, and perhaps of their `attention_mask`, of `labels` and
                `prompt_codes` `(codebooks, frames)`, and what else the family's model takes: numbers, or tensors that
                are padded at the end of their last axis.
            pad_to_multiple_of: of symbols and of frames.

        Raises:
            ValueError: rows that do not hold the same.
        """
        for index, row in enumerate(features):
            if other := row.keys() ^ features[0].keys():
                raise ValueError(
                    f"rows 0 and {index} differ in {sorted(other)}: give all rows of a batch the same, in place of a "
                    "melody None, and batches of their own to rows with and without prompts or labels."
                )
        batch: dict[str, Tensor] = {}
        for name in features[0]:
            coded = name in ("labels", "prompt_codes")
            rows = [as_codes(row[name]) if coded else torch.as_tensor(row[name]) for row in features]
            longest = max(row.shape[-1] for row in rows) if rows[0].ndim else 0
            longest += -longest % (pad_to_multiple_of or 1)
            fill = NO_CODE if coded else 0
            padded = [
                torch.nn.functional.pad(row, (0, longest - row.shape[-1]), value=fill) if row.ndim else row
                for row in rows
            ]
            batch[name] = torch.stack(padded)
            if name == "input_ids" and "attention_mask" not in features[0]:
                lengths = torch.tensor([len(row) for row in rows])
                batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return BatchFeature(batch)

    def _check_task(self, task: str | Task | None, **given) -> None:
        """Refuse a task that the model has not learnt, or without what it needs.

        Args:
            task: of the model's, or `None`: whatever follows from what is given.
            **given: `text` and `audio`, as far as there is some.
        """
        if task is None:
            return
        task = task_named(task, self.tasks)
        missing = [name for name in task.value.inputs if given.get(name) is None]
        if missing:
            raise ValueError(f"the task {task.name}, {task.value}, needs {' and '.join(missing)}: give it.")
        if task.value.channels > (self.audio_channels or 1):
            raise ValueError(
                f"the task {task.name}, {task.value}, is one of models with {task.value.channels} channels; this "
                f"one's audio has {self.audio_channels or 1}."
            )

    @staticmethod
    def _rows_of_texts(text, without: bool = False) -> list[str]:
        """One text or several, as a list of them; `without`: `None` is one too, an empty one."""
        texts = [text] if text is None or isinstance(text, str) else list(text)
        if without:
            texts = ["" if one is None else one for one in texts]
        if not texts or not all(isinstance(one, str) for one in texts):
            raise ValueError(f"text must be a text, or a list of at least one; got {text!r}.")
        return texts

    def _rows_of_codes(self, name: str, audio, codes, sampling_rate: int | None, rows: int) -> list[Tensor]:
        """What was given as audio or as codes, as codes, one for each row."""
        if audio is not None and codes is not None:
            raise ValueError(f"{name}: give audio or codes, not both.")
        if audio is not None:
            found = self.encode(audio, sampling_rate)
        else:
            single = isinstance(codes, (Tensor, np.ndarray)) and codes.ndim == 2
            found = [torch.as_tensor(row) for row in ([codes] if single else codes)]
            found = [check_codes(name, row[None], self.codebook_size, self.num_codebooks)[0] for row in found]
        if len(found) != rows:
            raise ValueError(f"{name}: {len(found)} for {rows} texts; give one for each.")
        return found

    def _auto_classes(self) -> dict[str, str]:
        ours = type(self).__module__.startswith(f"{__package__}.")
        return {"AutoProcessor": type(self).__name__} if ours else {}


def as_codes(codes: Tensor | np.ndarray | Sequence) -> Tensor:
    """Codes of whatever integers as int64, which -100 fits into; what is no integer stays what it is."""
    codes = torch.as_tensor(codes)
    return codes if codes.is_floating_point() or codes.dtype == torch.bool else codes.long()


def _batch_of(codes: Tensor | np.ndarray | Sequence) -> Tensor:
    """Codes of a batch, or a list of rows of them, as `(batch, codebooks, frames)`."""
    if not isinstance(codes, (list, tuple)):
        return as_codes(codes)
    rows = [as_codes(row) for row in codes]
    if not rows or any(row.ndim != 2 or len(row) != len(rows[0]) for row in rows):
        raise ValueError(
            "a list of codes must hold rows (codebooks, frames), at least one and all with as many codebooks; got "
            f"{[tuple(row.shape) for row in rows]}."
        )
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[-1]), value=NO_CODE) for row in rows])
