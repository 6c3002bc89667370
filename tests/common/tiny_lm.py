"""One table of tiny codec language models; every common test of them runs over all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codec_lm_hf.modeling.lm_base import NO_CODE
from codec_lm_hf.registry import family


@dataclass(frozen=True)
class TinyLM:
    """A configuration small enough to test everything with, and what its family takes.

    Attributes:
        family: of the registry.
        fields: of the configuration.
        inputs: configuration, number of rows and lengths (in frames) to what `forward` takes, labels included.
        prompts: what `forward` takes to what `generate` takes, and the codes that it should give after overfitting.
        reproduced: codebooks that generation reproduces after overfitting; `None`: all.
        logits_of: model, what `generate` takes, and the codes that it gave, to the logits of its steps in one pass,
            for the single row 0.
    """

    family: str
    fields: dict = field(default_factory=dict)
    inputs: Callable[..., dict] = None
    prompts: Callable[[dict], tuple[dict, Tensor]] = None
    logits_of: Callable[..., Tensor] = None
    reproduced: int | None = None

    def config(self, **overrides):
        return family(self.family).load("config")(**{**self.fields, **overrides})

    @property
    def model_class(self):
        return family(self.family).load("model")

    def model(self, **overrides):
        torch.manual_seed(0)
        return self.model_class(self.config(**overrides)).eval()

    def batch(self, lengths: list[int]) -> dict:
        return self.inputs(self.config(), lengths)


def random_codes(config, lengths: list[int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), config.num_codebooks, max(lengths))
    codes = torch.randint(config.codebook_size, shape, generator=generator)
    ended = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return codes.masked_fill(ended[:, None], NO_CODE)


def rows(inputs: dict, row: int) -> dict:
    """What belongs to one row, without its padding."""
    alone = {name: value[row : row + 1] for name, value in inputs.items()}
    for name, value in alone.items():
        if name in ("labels", "prompt_codes"):
            alone[name] = value[..., value[0, 0] != NO_CODE]
    if "attention_mask" in alone:
        kept = alone["attention_mask"][0].bool()
        for name in ("attention_mask", "input_ids", "encoder_hidden_states"):
            if name in alone:
                alone[name] = alone[name][:, kept]
    return alone


# --- VALL-E --------------------------------------------------------------------------------------------------------

_VALLE = {
    "vocab_size": 12,
    "num_codebooks": 3,
    "codebook_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "dropout": 0.0,
    "initializer_range": 0.1,
}
_PROMPT = 3


def _valle_inputs(config, lengths: list[int]) -> dict:
    generator = torch.Generator().manual_seed(1)
    symbols = [5 + row % 3 for row in range(len(lengths))]
    mask = (torch.arange(max(symbols)) < torch.tensor(symbols)[:, None]).long()
    ids = torch.randint(3, config.vocab_size, mask.shape, generator=generator) * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": random_codes(config, lengths)}
    if config.prefix_mode == 4:
        inputs["prompt_codes"] = random_codes(config, [2 + row % 2 for row in range(len(lengths))], seed=2)
    return inputs


def _valle_prompts(inputs: dict) -> tuple[dict, Tensor]:
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    codes = inputs["labels"]
    given["prompt_codes"] = codes[..., :_PROMPT]
    # The begin and the end of an empty text.
    given["prompt_text_lengths"] = torch.full((len(codes),), 2)
    return given, codes[..., _PROMPT:]


def _valle_logits(model, given: dict, codes: Tensor) -> Tensor:
    whole = torch.cat([given["prompt_codes"], codes], dim=-1)
    model.config.train_stage = "ar"
    logits = model(given["input_ids"], given["attention_mask"], labels=whole).logits
    model.config.train_stage = "both"
    first = given["prompt_codes"].shape[-1] - (0 if model.config.prepend_bos else 1)
    return logits[:, first:, None]


def _valle(**fields) -> TinyLM:
    # In modes 2 and 4 the second transformer is trained on whole utterances after a prompt; here it gets the rest of
    # one after its beginning.
    reproduced = 1 if fields["prefix_mode"] in (2, 4) else None
    return TinyLM("valle", {**_VALLE, **fields}, _valle_inputs, _valle_prompts, _valle_logits, reproduced)


TINY_LM: dict[str, TinyLM] = {
    "valle": _valle(prefix_mode=1),
    "valle-prenet": _valle(prefix_mode=0, prepend_bos=True, add_prenet=True, norm_first=False),
    "valle-cross": _valle(prefix_mode=1, text_condition="cross_attention", tie_word_embeddings=False),
    "valle-segment": _valle(prefix_mode=2, nar_scale_factor=0.5, prepend_bos=True),
    "valle-prompt": _valle(prefix_mode=4),
}
