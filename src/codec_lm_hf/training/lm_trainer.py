"""Training codec language models with transformers' Trainer, and hearing on the way what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors.numpy import save_file
from tqdm.auto import tqdm
from transformers import EvalPrediction

from ..evaluation.benchmark import markdown_table
from ..evaluation.generated import Generated, Judge
from ..modeling.lm_base import CodecLMPreTrainedModel
from ..processing.audio import save_audio
from ..processing.codec_lm_processor import CodecLMProcessor
from .lm_data import CodesDataset
from .trainer_base import BaseTrainer, BaseTrainingArguments

# Column of the table of samples -> title and format.
_COLUMNS = {
    "id": ("recording", "{}"),
    "prompt": ("prompt", "{}"),
    "text": ("text", "{}"),
    "heard": ("heard", "{}"),
    "seconds": ("seconds", "{:.1f}"),
    "speaker_similarity": ("speaker similarity", "{:.2f}"),
}


@dataclass
class CodecLMTrainingArguments(BaseTrainingArguments):
    """`BaseTrainingArguments` with the defaults that codec language models need.

    With several processes, parts of a model that a step does not train are looked for (some models draw what they
    train), and each process reads a stream for itself (rows of different lengths cannot be sent around).

    Attributes:
        pad_to_multiple_of: lengths of a batch's texts and codes. A CPU makes the kernels of a product anew for each
            shape; 16 leaves few of these.
    """

    pad_to_multiple_of: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True
        if self.accelerator_config.dispatch_batches is None:
            self.accelerator_config.dispatch_batches = False


@dataclass
class Speaking:
    """What a model is to say in evaluation, and who listens.

    Attributes:
        requests: examples that `generate` takes.
        places: which of them.
        text: column of what is to be said, for the judges; `None`: there is none.
        judges: by the names of their scores.
        options: of `generate`.
        seed: of the first one.
    """

    requests: CodesDataset
    places: Sequence[int]
    text: str | None = "text"
    judges: dict[str, Judge] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def code_accuracy(found: EvalPrediction) -> dict[str, float]:
    """Shares of the codes that were the most likely ones, given the codes before: of all, and of each codebook.

    Args:
        found: `predictions` and `label_ids` `(rows, codebooks)`: codes that were, and codes that there are.
    """
    hits, codes = found.predictions.sum(0), found.label_ids.sum(0)
    shares = {f"code_accuracy_{k}": hits[k] / codes[k] for k in range(len(codes)) if codes[k]}
    return {"code_accuracy": hits.sum() / codes.sum(), **shares}


class CodecLMTrainer(BaseTrainer):
    """Trains a codec language model. Its evaluation tells the loss, the accuracy of codes, and what the model says.

    Args:
        model: any family.
        args: `CodecLMTrainingArguments`.
        processing_class: its processor; saved with every checkpoint.
        speaking: what is said in evaluation; nothing by default.
        **kwargs: as for `transformers.Trainer`; data sets are those of `training.lm_data`, or any rows that the
            processor can `pad`.
    """

    def __init__(
        self,
        model: CodecLMPreTrainedModel,
        args: CodecLMTrainingArguments,
        processing_class: CodecLMProcessor,
        speaking: Speaking | None = None,
        **kwargs,
    ) -> None:
        collator = partial(processing_class.pad, pad_to_multiple_of=args.pad_to_multiple_of)
        kwargs = {"data_collator": collator, "compute_metrics": code_accuracy, **kwargs}
        super().__init__(model, args, processing_class=processing_class, **kwargs)
        self.speaking = speaking
        if speaking is not None:
            processing_class.codec.to(args.device)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss of a batch, and how many codes of each row and codebook were the most likely ones, of how many."""
        inputs = self._prepare_inputs(inputs)
        items = self._get_num_items_in_batch([inputs], self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, output = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=items)
        hits, codes = output["code_hits"].unbind(-1)
        return loss.detach().mean(), hits, codes

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As in transformers, with the judges' scores of what the model says among the metrics."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        if self.speaking is not None:
            output.metrics.update({f"{metric_key_prefix}_{name}": score for name, score in self._speak().items()})
        return output

    def _speak(self) -> dict[str, float]:
        """Scores of the judges, over what all processes let the model say.

        One row at a time and with a seed of its own, so that what is said depends neither on the number of processes
        nor on a batch, and no random number of the training is used up.
        """
        self.model.eval()
        own = range(self.args.process_index, len(self.speaking.places), self.args.world_size)
        quiet = self.args.disable_tqdm or not self.is_world_process_zero()
        rows = {number: self._say(number) for number in tqdm(own, desc="generating", leave=False, disable=quiet)}
        everywhere = {number: row for part in gather_object([rows]) for number, row in part.items()}
        ordered = [everywhere[number] for number in sorted(everywhere)]
        if self.is_world_process_zero():
            self._write_samples(ordered)
        return {name: judge.score(ordered) for name, judge in self.speaking.judges.items()}

    @torch.no_grad()
    def _say(self, number: int) -> dict[str, Any]:
        """Let the model say one of the texts, and the judges listen."""
        speaking, processor = self.speaking, self.processing_class
        place, requests = speaking.places[number], speaking.requests
        row, companions = requests.row(place), requests.companions(place)
        # Not `model(...)`, which accelerate has wrapped in autocast.
        codes = self.model.generate(
            **self._prepare_inputs(processor.pad([requests[place]])),
            **{**speaking.options, "seed": speaking.seed + number},
        )
        like = companions[-1] if companions else row
        played = {"generated": codes, "voice": torch.tensor(like["codes"][: processor.num_codebooks])}
        sounds = {name: np.asarray(processor.decode(each)) for name, each in played.items()}
        rate = processor.codec.config.sampling_rate
        text = (row[speaking.text] or "") if speaking.text else ""
        found = {"id": row["id"], "prompt": companions[-1]["id"] if companions else None, "text": text}
        found["seconds"] = sounds["generated"].shape[-1] / rate
        heard = Generated(sounds["generated"].mean(0), rate, text, sounds["voice"].mean(0))
        for judge in speaking.judges.values():
            found |= judge(heard)
        if number < self.args.sample_count:
            found["sample"] = codes[0].cpu().numpy(), sounds
        return found

    def _write_samples(self, rows: list[dict[str, Any]]) -> None:
        """A table of everything that was said, and audio and codes of the first few, by their number in the table."""
        folder, rate = self.sample_folder(), self.processing_class.codec.config.sampling_rate
        for number, row in enumerate(rows):
            codes, sounds = row.pop("sample", (None, {}))
            if codes is not None:
                save_file({"audio_codes": np.ascontiguousarray(codes)}, folder / f"{number}-generated.safetensors")
            for name, audio in sounds.items():
                save_audio(folder / f"{number}-{name}.wav", audio, rate)
                if audio.size:
                    self.report_audio(f"{number}-{name}", audio, rate)
        lines = [json.dumps({"number": number, **row}, ensure_ascii=False) for number, row in enumerate(rows)]
        (folder / "table.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.report_text("table", markdown_table(rows, _COLUMNS))
