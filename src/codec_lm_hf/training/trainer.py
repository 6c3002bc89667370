"""Adversarial codec training on transformers.Trainer: everything that has a state is saved and restored."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm
from transformers import TrainerCallback, get_scheduler
from transformers.trainer_utils import speed_metrics

from ..configuration.discriminators import PART_DEFAULTS
from ..evaluation.metrics import evaluate_pair
from ..modeling.codec_base import CodecPreTrainedModel
from ..modeling.discriminators import CodecDiscriminator, DiscriminatorOutput
from ..modeling.quantization.kmeans import all_reduce, world_size
from ..processing.audio import save_audio
from .balancer import Balancer
from .data import collate
from .distillation import SemanticTeacher
from .losses import (
    ADVERSARIAL,
    REDUCTIONS,
    MultiScaleMelLoss,
    MultiScaleStftLoss,
    adversarial_loss,
    discriminator_loss,
    distillation_loss,
    feature_matching_loss,
    over_real_samples,
    time_l1,
)
from .perceptual import PerceptualDisturbance
from .trainer_base import BaseTrainer, BaseTrainingArguments

_STATE_FILE = "codec_training.pt"

# Arguments of transformers' Trainer that there is no use for here.
_INSTEAD = {
    "model_init": "give a model; a discriminator and averaged weights belong to one",
    "compute_loss_func": "the losses are chosen by their weights in CodecTrainingArguments; for others override "
    "compute_loss",
    "compute_metrics": "evaluation decodes each recording; for other metrics override evaluate",
    "preprocess_logits_for_metrics": "a codec has no logits",
}


@dataclass
class CodecTrainingArguments(BaseTrainingArguments):
    """`BaseTrainingArguments` and what codecs need beside them.

    Args:
        time_weight, mel_weight, stft_weight, perceptual_weight: of the reconstruction losses; the last is
            `PerceptualDisturbance`, for speech.
        freeze_codes: only what decodes learns; see `CodecPreTrainedModel.freeze_codes`.
        codebook_batches: fresh codebooks that follow moving averages start from k-means over the latents of so many
            batches, seen before the first step; by default over the first batch.
        commitment_weight, codebook_weight: of the quantizers' losses; a codec whose codebooks follow moving averages
            has no codebook loss.
        distillation_weight: of the distance of a codec's semantic features to the teacher's, where it has such.
        content_weight: of the distance between what the teacher hears in decoded audio and in the original, relative
            and over all its hidden states.
        mel_scales_per_step: see `MultiScaleMelLoss`.
        mel_loss_kwargs, stft_loss_kwargs: other arguments of `MultiScaleMelLoss` and `MultiScaleStftLoss`.
        adversarial_weight, feature_weight: of the discriminator's two losses, once it takes part.
        adversarial_from_quantizers: rows that quantizer dropout leaves fewer codebooks learn nothing from the
            discriminator, which would have them make up what so few cannot say.
        balance_losses: use EnCodec's balancer: the weights (but for the quantizers' losses) are then shares of the
            gradient.
        adversarial_kind: `"hinge"` or `"least_squares"`.
        adversarial_reduction, feature_reduction: `"mean"` or `"sum"`, over the discriminator's parts and over their
            maps.
        feature_relative: see `feature_matching_loss`.
        feature_logits: kinds of the discriminator's parts (see `PART_DEFAULTS`) whose logits count among their maps.
        discriminator_start_step: the discriminator begins to learn here, and to judge after its head start.
        discriminator_head_start: steps that it learns before it judges. A codec that is already good outruns a fresh
            discriminator, which then learns nothing (its hinge loss stays at 2).
        discriminator_every: from there on it learns at every n-th step; it judges at every step.
        discriminator_seconds: it sees a part this long of each crop, at a place drawn at every step; all of it by
            default. Its cost is proportional.
        discriminator_learning_rate: `learning_rate` if not given.
        ema_decay: of an averaged copy of the weights, used for evaluation and as the final model; 0 for none.
    """

    time_weight: float = field(default=1.0)
    mel_weight: float = field(default=1.0)
    stft_weight: float = field(default=0.0)
    perceptual_weight: float = field(default=0.0)
    mel_scales_per_step: int | None = field(default=None)
    mel_loss_kwargs: dict | None = field(default=None)
    stft_loss_kwargs: dict | None = field(default=None)
    freeze_codes: bool = field(default=False)
    codebook_batches: int | None = field(default=None)
    commitment_weight: float = field(default=0.25)
    codebook_weight: float = field(default=1.0)
    distillation_weight: float = field(default=1.0)
    content_weight: float = field(default=0.0)
    adversarial_weight: float = field(default=1.0)
    feature_weight: float = field(default=2.0)
    adversarial_from_quantizers: int = field(default=1)
    balance_losses: bool = field(default=False)
    adversarial_kind: str = field(default="hinge")
    adversarial_reduction: str = field(default="mean")
    feature_reduction: str = field(default="mean")
    feature_relative: bool = field(default=True)
    feature_logits: list[str] | None = field(default=None)
    discriminator_start_step: int = field(default=0)
    discriminator_head_start: int = field(default=0)
    discriminator_every: int = field(default=1)
    discriminator_seconds: float | None = field(default=None)
    discriminator_learning_rate: float | None = field(default=None)
    ema_decay: float = field(default=0.0)

    def __post_init__(self):
        super().__post_init__()
        if self.adversarial_kind not in ADVERSARIAL:
            raise ValueError(f"adversarial_kind must be one of {ADVERSARIAL}, got {self.adversarial_kind!r}.")
        for name in ("adversarial_reduction", "feature_reduction"):
            if getattr(self, name) not in REDUCTIONS:
                raise ValueError(f"{name} must be one of {REDUCTIONS}, got {getattr(self, name)!r}.")
        unknown = sorted(set(self.feature_logits or ()) - set(PART_DEFAULTS))
        if unknown:
            raise ValueError(f"feature_logits must be some of {tuple(PART_DEFAULTS)}, got {unknown}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 (no average) and less than 1, got {self.ema_decay}.")
        for name in ("discriminator_every", "adversarial_from_quantizers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for entry in fields(CodecTrainingArguments):
            if entry.name.endswith("_weight") and getattr(self, entry.name) < 0:
                raise ValueError(f"{entry.name} must not be negative, got {getattr(self, entry.name)}.")


class _StartCodebooks(TrainerCallback):
    """Fills fresh codebooks before the first step."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    @torch.no_grad()
    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        if state.global_step:
            return
        latents = [
            model._encode_latents(batch["input_values"].to(args.device))
            for batch in tqdm(islice(train_dataloader, self.batches), "starting codebooks", self.batches, unit="batch")
        ]
        model.quantizer.start(torch.cat(latents).transpose(1, 2).flatten(0, 1).float())


class _Average(TrainerCallback):
    """Updates the averaged weights after every step."""

    def __init__(self, averaged: AveragedModel) -> None:
        self.averaged = averaged

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.averaged.update_parameters(model)


class CodecTrainer(BaseTrainer):
    """Trains a codec, alone or against a discriminator.

    The codec is `model`, the discriminator has its own optimizer and scheduler. A checkpoint holds both with their
    optimizers and schedulers, the balancer, the averaged weights and the random state: a resumed run is the run that
    was not interrupted.

    Args:
        model: the codec.
        args: `CodecTrainingArguments`.
        discriminator: if any; saved as `discriminator/` in every checkpoint.
        teacher: of the semantic features of a codec that has such, and of what shall still be heard in decoded audio
            (`content_weight`); it is not saved.
        train_dataset, eval_dataset: see `training.data`. Rows of your own may be padded, with a `padding_mask`; a
            discriminator takes the padding for audio, so against one give whole crops.
        **kwargs: as for `transformers.Trainer`.
    """

    def __init__(
        self,
        model: CodecPreTrainedModel,
        args: CodecTrainingArguments,
        discriminator: CodecDiscriminator | None = None,
        teacher: SemanticTeacher | None = None,
        train_dataset=None,
        eval_dataset=None,
        **kwargs,
    ) -> None:
        for name, instead in _INSTEAD.items():
            if kwargs.get(name) is not None:
                raise ValueError(f"CodecTrainer has no use for {name}: {instead}.")
        kwargs.setdefault("data_collator", collate)
        if args.freeze_codes:
            model.freeze_codes()
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        self.discriminator = discriminator
        if discriminator is not None:
            if args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
                raise ValueError(
                    f"lr_scheduler_type={args.lr_scheduler_type.value!r} follows a metric, and a discriminator has "
                    "none; choose a schedule of steps, such as 'cosine'."
                )
            discriminator.to(args.device)
        self.teacher = teacher
        if teacher is not None:
            if getattr(model, "semantic_projection", None) is None and not args.content_weight:
                raise ValueError(
                    f"{type(model).__name__} has no semantic features to teach; leave out the teacher, or give "
                    "content_weight."
                )
            if teacher.sampling_rate != model.config.sampling_rate:
                raise ValueError(
                    f"the teacher hears audio of {teacher.sampling_rate} Hz, and this {type(model).__name__} is for "
                    f"{model.config.sampling_rate} Hz; choose a codec or a teacher of the other's rate."
                )
            teacher.to(args.device)
        elif args.content_weight:
            raise ValueError(f"content_weight={args.content_weight} needs a teacher.")
        self.mel_loss = MultiScaleMelLoss(
            model.config.sampling_rate, scales_per_step=args.mel_scales_per_step, **(args.mel_loss_kwargs or {})
        ).to(args.device)
        self.stft_loss = MultiScaleStftLoss(**(args.stft_loss_kwargs or {})).to(args.device)
        self.perceptual_loss = PerceptualDisturbance(model.config.sampling_rate).to(args.device)
        self.balancer = Balancer(self._weights(adversarial=True)) if args.balance_losses else None
        if args.codebook_batches is not None:
            if not hasattr(getattr(model, "quantizer", None), "start"):
                raise ValueError(f"{type(model).__name__} has no codebooks to start; leave out codebook_batches.")
            self.add_callback(_StartCodebooks(args.codebook_batches))
        self.averaged = None
        if args.ema_decay:
            self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay), use_buffers=True)
            self.add_callback(_Average(self.averaged))
        self._terms: dict[str, list[float]] = defaultdict(list)

    # --- optimizers ------------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        if self.discriminator is not None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.discriminator)
            if self.args.discriminator_learning_rate is not None:
                options["lr"] = self.args.discriminator_learning_rate
            options["weight_decay"] = self.args.weight_decay
            self.discriminator_optimizer = optimizer_class(self.discriminator.parameters(), **options)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.discriminator is not None:
            self._prepared_discriminator, self.discriminator_optimizer = self.accelerator.prepare(
                self.discriminator, self.discriminator_optimizer
            )
            steps = max(1, num_training_steps - self.args.discriminator_start_step)
            self.discriminator_scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                optimizer=self.discriminator_optimizer,
                num_warmup_steps=min(self.args.get_warmup_steps(num_training_steps), steps // 10),
                num_training_steps=steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
        return scheduler

    # --- one step --------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The codec's loss on a batch; on the way, the discriminator learns from it."""
        inputs = dict(inputs)
        target = inputs.pop("target_values", inputs["input_values"])
        denoise = inputs.pop("denoise", None)
        with self._denoising(denoise):
            output = model(**inputs)
        mask, lengths = inputs.get("padding_mask"), None
        if mask is not None:
            target, lengths = target * mask[:, None], mask.bool().sum(-1)
        audio = output["audio_values"].float()
        # Steps since the discriminator began; negative before.
        age = self.state.global_step - self.args.discriminator_start_step
        part = self._judged_part(audio.shape[-1])
        if self.discriminator is not None and age >= 0 and model.training:
            if age % self.args.discriminator_every == 0:
                self._train_discriminator(audio[..., part].detach(), target[..., part])
            if self.accelerator.sync_gradients:
                self.discriminator_scheduler.step()
        with torch.autocast(audio.device.type, enabled=False):
            losses = self._reconstruction(audio, target, lengths)
        if self.discriminator is not None and age >= self.args.discriminator_head_start:
            losses |= self._judged(self._to_judge(audio[..., part], output), target[..., part])
        quantization = {"commitment": output["commitment_loss"].float()}
        if output.get("codebook_loss") is not None:
            quantization["codebook"] = output["codebook_loss"].float()
        if self.teacher is not None and output.get("semantic_features") is not None:
            heard, heard_mask = self.teacher(target, mask)
            quantization["distillation"] = distillation_loss(output["semantic_features"], heard, heard_mask)
        weights = {name: getattr(self.args, f"{name}_weight") for name in quantization}
        loss = self._combine(losses, audio) + sum(weights[name] * term for name, term in quantization.items())
        self._record({**losses, **quantization})
        return (loss, output) if return_outputs else loss

    @contextmanager
    def _denoising(self, rows: Tensor | None):
        """Within this context the codec leaves noise away in these rows, if it has a switch for that."""
        if rows is None or not hasattr(self.model, "denoise"):
            yield
            return
        self.model.denoise = rows
        try:
            yield
        finally:
            self.model.denoise = False

    def _reconstruction(self, audio: Tensor, target: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
        parts = {
            "time": time_l1,
            "mel": self.mel_loss,
            "stft": self.stft_loss,
            "perceptual": self.perceptual_loss,
            "content": self._content,
        }
        weights = self._weights(adversarial=False)
        return {
            name: over_real_samples(part, audio, target, lengths) for name, part in parts.items() if weights[name] > 0
        }

    def _content(self, audio: Tensor, target: Tensor) -> Tensor:
        """How far what the teacher hears in `audio` is from what it hears in `target`."""
        with self.accelerator.autocast():
            return feature_matching_loss([self.teacher.states(target)], [self.teacher.states(audio)])

    def _judged_part(self, samples: int) -> slice:
        """The samples that the discriminator sees in this step."""
        if self.args.discriminator_seconds is None:
            return slice(None)
        length = round(self.args.discriminator_seconds * self.model.config.sampling_rate)
        start = int(torch.randint(0, max(0, samples - length) + 1, ()))
        return slice(start, start + length)

    def _to_judge(self, audio: Tensor, output) -> Tensor:
        """`audio`, without a gradient in the rows that are not to learn from the discriminator."""
        counts = output.get("num_quantizers")
        if counts is None:
            return audio
        return torch.where(counts[:, None, None] >= self.args.adversarial_from_quantizers, audio, audio.detach())

    def _judged(self, audio: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The discriminator's losses for the codec; the discriminator itself gets no gradient from them."""
        self.discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            fake = self.discriminator(audio)
            with torch.no_grad():
                real = self.discriminator(target)
        self.discriminator.requires_grad_(True)
        return {
            "adversarial": adversarial_loss(self.args.adversarial_kind, fake.logits, self.args.adversarial_reduction),
            "feature": feature_matching_loss(
                self._matched_maps(real),
                self._matched_maps(fake),
                self.args.feature_relative,
                self.args.feature_reduction,
            ),
        }

    def _matched_maps(self, output: DiscriminatorOutput) -> list[tuple[Tensor, ...]]:
        """Each part's feature maps, with its logits where `feature_logits` has its kind."""
        kinds = [part["kind"] for part in self.discriminator.config.parts]
        return [
            (*maps, logits) if kind in (self.args.feature_logits or ()) else maps
            for kind, maps, logits in zip(kinds, output.feature_maps, output.logits, strict=True)
        ]

    def _train_discriminator(self, audio: Tensor, target: Tensor) -> None:
        both = self._prepared_discriminator(torch.cat([target, audio]))
        real, fake = zip(*[logits.chunk(2) for logits in both["logits"]], strict=True)
        loss = discriminator_loss(self.args.adversarial_kind, real, fake, self.args.adversarial_reduction)
        self._record({"discriminator": loss})
        self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        if self.args.max_grad_norm and self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.discriminator.parameters(), self.args.max_grad_norm)
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad()

    def _weights(self, adversarial: bool) -> dict[str, float]:
        args = self.args
        weights = {name: getattr(args, f"{name}_weight") for name in ("time", "mel", "stft", "perceptual", "content")}
        if adversarial:
            weights |= {"adversarial": args.adversarial_weight, "feature": args.feature_weight}
        return weights

    def _combine(self, losses: dict[str, Tensor], audio: Tensor) -> Tensor:
        if self.balancer is not None and audio.requires_grad:
            # A loss whose gradient with respect to the audio is the balanced one.
            return (audio * self.balancer.gradient(losses, audio).detach()).sum()
        weights = self._weights(adversarial=True)
        return sum(weights[name] * loss for name, loss in losses.items())

    def _record(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} loss is {value} at step {self.state.global_step}; training stops before it is spoilt "
                    "further. Go on from the last checkpoint with a lower learning_rate or max_grad_norm."
                )
            self._terms[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._terms:
            means = torch.tensor([np.mean(values) for values in self._terms.values()], device=self.args.device)
            # Over the processes, as the loss is; they all log, and the same terms.
            means = (all_reduce(means.float()) / world_size()).tolist()
            logs |= {f"{name}_loss": mean for name, mean in zip(self._terms, means, strict=True)}
            self._terms.clear()
        super().log(logs, start_time)

    # --- evaluation ------------------------------------------------------------------------------------------------

    @contextmanager
    def averaged_weights(self):
        """Within this context the codec has its averaged weights, if there are any."""
        if self.averaged is None:
            yield
            return
        own = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Code and decode every recording of the evaluation set and average the metrics.

        Recordings go one by one and in the codec's own precision, so that the scores depend neither on a batch nor on
        how it is trained. Several sets by their names have scores (and samples) of their own, as in transformers.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("there is no evaluation set; give eval_dataset.")
        if isinstance(dataset, str):
            dataset, metric_key_prefix = self.eval_dataset[dataset], f"{metric_key_prefix}_{dataset}"
        if isinstance(dataset, dict):
            sets = (self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}") for name, part in dataset.items())
            return {name: score for scores in sets for name, score in scores.items()}
        started = time.time()
        scores: dict[str, list[float]] = defaultdict(list)
        samples: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        model, rate = self.model, self.model.config.sampling_rate
        was_training = model.training
        model.eval()
        with self.averaged_weights():
            for place in range(self.args.process_index, len(dataset), self.args.world_size):
                target = dataset[place]["input_values"][None].to(self.args.device)
                # Not `model(...)`, which accelerate has wrapped in autocast.
                audio = model.decode(**model.encode(target), padding_mask=torch.ones_like(target[:, 0])).audio_values
                scores["mel_loss"].append(float(self.mel_loss(audio.float(), target)))
                ours, theirs = audio[0].float().cpu().numpy(), target[0].cpu().numpy()
                for name, value in evaluate_pair(ours, theirs, rate).items():
                    scores[name].append(value)
                if place < self.args.sample_count:
                    samples[place] = ours, theirs
        model.train(was_training)
        everywhere: dict[str, list[float]] = defaultdict(list)
        for part, decoded in gather_object([(dict(scores), samples)]):
            for name, values in part.items():
                everywhere[name] += values
            if self.is_world_process_zero():
                for place, pair in decoded.items():
                    label = str(place) if metric_key_prefix == "eval" else f"{metric_key_prefix}-{place}"
                    self._write_sample(label, *pair, rate)
        metrics = {f"{metric_key_prefix}_{name}": _mean_of_known(values) for name, values in everywhere.items()}
        metrics |= speed_metrics(metric_key_prefix, started, num_samples=len(dataset))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _write_sample(self, label: str, audio: np.ndarray, target: np.ndarray, rate: int) -> None:
        from ..evaluation.plots import spectrogram_pair

        folder = self.sample_folder()
        for name, sound in {f"{label}-original": target, f"{label}-decoded": audio}.items():
            save_audio(folder / f"{name}.wav", sound, rate)
            self.report_audio(name, sound, rate)
        spectrogram_pair(target, audio, rate, folder / f"{label}.png")

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.args.should_save:
            return
        state: dict = {}
        if self.balancer is not None:
            state["balancer"] = self.balancer.state_dict()
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        if self.discriminator is not None:
            self.discriminator.save_pretrained(Path(output_dir) / "discriminator", save_original_format=False)
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
            state["discriminator_scheduler"] = self.discriminator_scheduler.state_dict()
        torch.save(state, Path(output_dir) / _STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / _STATE_FILE, map_location="cpu", weights_only=True)
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        if self.discriminator is not None:
            self._load_discriminator(checkpoint)
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
            self.discriminator_scheduler.load_state_dict(state["discriminator_scheduler"])

    def _load_discriminator(self, checkpoint: str) -> None:
        saved = type(self.discriminator).from_pretrained(Path(checkpoint) / "discriminator")
        self.discriminator.load_state_dict(saved.state_dict())

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.discriminator is not None:
            self._load_discriminator(self.state.best_model_checkpoint)
        if self.averaged is not None and self.args.save_only_model:
            self.averaged.module.load_state_dict(self.model.state_dict())
        elif self.averaged is not None:
            path = Path(self.state.best_model_checkpoint) / _STATE_FILE
            self.averaged.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["averaged"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the codec, and the discriminator beside it.

        It has its averaged weights, if there are any; only a checkpoint from which training can go on has its own.
        """
        if _internal_call and not self.args.save_only_model:
            super().save_model(output_dir, _internal_call)
            return
        with self.averaged_weights():
            super().save_model(output_dir, _internal_call)
        if self.discriminator is not None and self.args.should_save:
            folder = Path(output_dir or self.args.output_dir) / "discriminator"
            self.discriminator.save_pretrained(folder, save_original_format=False)


def _mean_of_known(values: list[float]) -> float:
    """Mean without NaN, which stands for "cannot be measured"; NaN if nothing could."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
