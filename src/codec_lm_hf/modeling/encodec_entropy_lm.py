"""The language model that EnCodec's entropy coder works with: how likely is each code, given the frames before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.utils import ModelOutput

from ..configuration.encodec_entropy_lm import EncodecEntropyLMConfig
from ..hub import HubModelMixin
from .layers.transformer import StreamingTransformer, TransformerState


@dataclass
class EncodecEntropyLMOutput(ModelOutput):
    """Output of `EncodecEntropyLMModel`.

    Attributes:
        loss: mean cross entropy in nats per code (divide by ln 2 for bits), where labels were given.
        logits: `(batch, codebooks, frames, codebook_size)`.
        last_hidden_state: `(batch, frames, hidden_size)`, output of the transformer.
        past_states: the state after these frames, where it was asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    past_states: TransformerState | None = None


class EncodecEntropyLMModel(HubModelMixin, PreTrainedModel):
    """A small causal transformer over frames of codes (EnCodec, section 3.3).

    The codes of a frame are predicted side by side, from the frames before it; as many codebooks as the input has.
    """

    config: EncodecEntropyLMConfig
    config_class = EncodecEntropyLMConfig
    base_model_prefix = "entropy_lm"
    main_input_name = "input_ids"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TransformerLayer"]

    def __init__(self, config: EncodecEntropyLMConfig) -> None:
        super().__init__(config)
        size, dim = config.codebook_size, config.hidden_size
        self.embeddings = nn.ModuleList([nn.Embedding(size + 1, dim) for _ in range(config.num_codebooks)])
        self.transformer = StreamingTransformer(
            dim,
            config.num_hidden_layers,
            window=config.past_context,
            max_period=config.max_period,
            norm_in=config.norm_in,
            num_heads=config.num_attention_heads,
            feedforward=config.intermediate_size,
            activation=config.hidden_act,
            norm_first=config.norm_first,
            dropout=config.dropout,
            config=config,
        )
        self.heads = nn.ModuleList([nn.Linear(dim, size) for _ in range(config.num_codebooks)])
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_states: TransformerState | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        return_dict: bool | None = None,
        **kwargs,
    ) -> EncodecEntropyLMOutput:
        """Predict the codes of frames from the frames before them.

        Args:
            input_ids: `(batch, codebooks, frames)`, for each frame the codes of the frame *before* it plus one; 0
                where there is none. Made from the labels if not given.
            past_states: of an earlier call with `use_cache`, to go on from.
            labels: `(batch, codebooks, frames)`, the codes themselves, for the loss; -100 is left out of it.
            use_cache: return the state.
            return_dict: `False` returns a plain tuple.
            **kwargs: `num_items_in_batch` of `transformers.Trainer`, which divides the loss in place of its own count.

        Raises:
            ValueError: neither `input_ids` nor `labels`, or one of them of a wrong shape, type or range.
        """
        if labels is not None:
            self._check("labels", labels, -100, self.config.codebook_size - 1)
        if input_ids is None:
            if labels is None:
                raise ValueError("give input_ids, or labels to make them from.")
            input_ids = self.inputs_for(labels)
        self._check("input_ids", input_ids, 0, self.config.codebook_size)
        count = input_ids.shape[1]
        embedded = self.embeddings[0](input_ids[:, 0])
        for index in range(1, count):
            embedded = embedded + self.embeddings[index](input_ids[:, index])
        if past_states is None:
            # As in the original, every layer starts from one zero vector, which is attended to like any other.
            nothing = embedded.new_zeros(len(embedded), 1, embedded.shape[-1])
            past_states = TransformerState((nothing,) * len(self.transformer.layers))
        hidden, state = self.transformer(embedded, past_states)
        logits = torch.stack([head(hidden) for head in self.heads[:count]], dim=1)
        loss = None
        if labels is not None:
            items = kwargs.get("num_items_in_batch")
            loss = fixed_cross_entropy(logits.flatten(0, 2).float(), labels.flatten(), num_items_in_batch=items)
        output = EncodecEntropyLMOutput(loss, logits, hidden, state if use_cache else None)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    @staticmethod
    def inputs_for(codes: Tensor) -> Tensor:
        """The `input_ids` that predict `codes` `(batch, codebooks, frames)`: a frame later, plus one, 0 at first."""
        inputs = torch.zeros_like(codes)
        inputs[..., 1:] = (codes[..., :-1] + 1).clamp(min=0)
        return inputs

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        """Softmax of `logits`, float32, of the same shape.

        The sum runs over the axis where the original has it in memory: in another order it has other last bits, and
        the entropy coder would write other bytes.
        """
        return logits.float().permute(0, 3, 1, 2).softmax(dim=1).permute(0, 2, 3, 1)

    def _check(self, name: str, codes: Tensor, low: int, high: int) -> None:
        count = self.config.num_codebooks
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= count or codes.numel() == 0:
            raise ValueError(
                f"{name} must have shape (batch, codebooks, frames), not empty and with at most {count} codebooks; "
                f"got {tuple(codes.shape)}."
            )
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"{name} must be integers, got {codes.dtype}.")
        if torch.compiler.is_compiling():
            return
        found = [int(value) for value in codes.aminmax()]
        if found[0] < low or found[1] > high:
            raise ValueError(f"{name} must lie in {low}..{high}, found {found[0]} to {found[1]}.")
