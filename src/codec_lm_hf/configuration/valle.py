"""VALL-E: a codec language model that speaks a text in the voice of a prompt."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .lm_base import CodecLMConfig

_README = {"prefix_mode": 1}


@strict
class ValleConfig(CodecLMConfig):
    """Configuration of `ValleForConditionalGeneration`. The sizes are those of the paper (section 5.1).

    Args:
        vocab_size: text symbols; 0 pads.
        num_codebooks: codes per frame.
        codebook_size: entries per codebook. The id after the last one ends speech, the next one begins it.
        hidden_size, num_hidden_layers, num_attention_heads: of the autoregressive transformer, for the first codebook.
            The feed-forward parts are `intermediate_ratio` times as wide.
        intermediate_ratio: see above.
        nar_scale_factor: how the other transformer's width, heads and layers relate to these (rounded down).
        norm_first: normalise before attention and feed-forward part, and once more at the end, instead of after them.
        add_prenet: layers between the embeddings and the positions.
        prefix_mode: what tells the second transformer how the speaker sounds. 0: nothing in training, at inference the
            prompt's codes of the levels before; 1: all levels of the first frames; 2: a piece of the utterance put in
            front; 4: a prompt of its own, which training has to give.
        prepend_bos: begin speech with an id of its own. Without it the first frame is never predicted, and a prompt of
            at least one frame is needed.
        code_embedding_size: width of the tables of codes, which are projected to and from `hidden_size`; `None`: the
            same, without projections, as in the original. Needs `tie_word_embeddings=False`.
        tie_word_embeddings: heads of the second transformer use the embeddings of the level after next, but the last.
        text_condition: `"prefix"`: the text stands before the codes; `"cross_attention"`: it is attended to, in every
            layer (VALL-F in lifeiteng/vall-e).
        dropout: in training.
        attention_dropout: of attention weights, in training; `None`: as `dropout`. At 0 torch computes attention in
            one fused pass on a CPU too.
        activation_dropout: of the hidden activations of feed-forward parts, in training; `None`: as `dropout`.
        condition_dropout: in training, probability that a row goes without its text, for guidance in `generate`; with
            `monotonic_alignment`, without its prompt's codes, too. Not in the original.
        train_stage: what `labels` train: `"both"`, or one of `"ar"` and `"nar"`, as the original does in turn.
        original_loss: sums that count padding as ends of speech, as the original's, instead of means over frames.
        prenet_sees_padding: in training and evaluation the prenet's convolutions run on into the padding of a shorter
            text, as the original's do; generation never does.
        continual_swaps_prenet: in prefix mode 0, `continual` adds the positions before the prenet, as the original's
            does, and not after it, as in training.
        max_frames_per_symbol: speech longer than this, in frames per text symbol, is broken off.
        stop_on_argmax: end also where the most likely code is the end, whatever was drawn.
        monotonic_alignment: tell both transformers which symbol each frame says, and let the first one say when the
            next symbol begins, as VALL-E R (Han et al., 2024) does; speech ends with the text, and no symbol lasts
            longer than `max_frames_per_symbol`. Not in the original. Training needs durations; needs prefix mode 4.
        alignment_context: neighbours of the symbol, on each side, that a frame is told as well.
        max_advance: symbols that the next frame goes on by at most; symbols without sound are passed over.
        advance_loss_weight: of the loss of that beside the codes'.
        code_dropout: probability, in training, that the first transformer does not see a frame's code.
        initializer_range: standard deviation of fresh linear layers.
        embedding_initializer_range: of fresh embeddings.
        pad_token_id: pads texts.

    Source: `valle/models/valle.py` of lifeiteng/vall-e; VALL-E (Wang et al., 2023).
    """

    model_type = "valle_codec_lm"
    # `Trainer.predict` collects `code_hits`: the rest has lengths of its own in each batch, or no rows.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["logits", "nar_logits", "levels", "advance_logits"]

    presets: ClassVar[dict[str, dict]] = {
        "valle_paper": {},
        "libritts_readme_default": _README,
        "cli_defaults_prefix0": {"prefix_mode": 0},
        "add_prenet_bos": {**_README, "add_prenet": True, "prepend_bos": True},
        "vallf_1024_12": {**_README, "text_condition": "cross_attention"},
    }

    vocab_size: int = 512
    num_codebooks: int = 8
    codebook_size: int = 1024
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_ratio: int = 4
    nar_scale_factor: int | float = 1.0
    norm_first: bool = True
    add_prenet: bool = False
    prefix_mode: int = 1
    prepend_bos: bool = False
    code_embedding_size: int | None = None
    tie_word_embeddings: bool = True
    text_condition: str = "prefix"
    dropout: int | float = 0.1
    attention_dropout: int | float | None = None
    activation_dropout: int | float | None = None
    condition_dropout: int | float = 0.0
    train_stage: str = "both"
    original_loss: bool = False
    prenet_sees_padding: bool = False
    continual_swaps_prenet: bool = False
    max_frames_per_symbol: int = 16
    stop_on_argmax: bool = True
    monotonic_alignment: bool = False
    alignment_context: int = 0
    max_advance: int = 3
    advance_loss_weight: int | float = 1.0
    code_dropout: int | float = 0.0
    initializer_range: int | float = 0.02
    embedding_initializer_range: int | float = 1.0
    pad_token_id: int | None = 0

    @property
    def end_id(self) -> int:
        """The code of the first codebook that ends speech (and stands on padding)."""
        return self.codebook_size

    @property
    def begin_id(self) -> int:
        """The code of the first codebook that begins speech, where `prepend_bos`."""
        return self.codebook_size + 1

    @property
    def nar_sizes(self) -> dict[str, int]:
        """Width, heads and layers of the second transformer."""
        sizes = {"dim": self.hidden_size, "num_heads": self.num_attention_heads, "num_layers": self.num_hidden_layers}
        return {name: int(size * self.nar_scale_factor) for name, size in sizes.items()}

    def validate_architecture(self):
        self._check_at_least_one("vocab_size", "num_codebooks", "codebook_size", "num_hidden_layers")
        self._check_at_least_one("intermediate_ratio", "max_frames_per_symbol", "max_advance")
        self._check_choice("prefix_mode", (0, 1, 2, 4))
        self._check_choice("text_condition", ("prefix", "cross_attention"))
        self._check_choice("train_stage", ("both", "ar", "nar"))
        if self.alignment_context < 0 or self.advance_loss_weight < 0 or not 0 <= self.code_dropout < 1:
            raise ValueError(
                "alignment_context and advance_loss_weight must be 0 or more and code_dropout in [0, 1), got "
                f"{self.alignment_context}, {self.advance_loss_weight} and {self.code_dropout}."
            )
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout must be in [0, 1], got {self.condition_dropout}.")
        if self.monotonic_alignment and (self.prefix_mode != 4 or self.original_loss):
            raise ValueError(
                "monotonic_alignment needs prefix_mode=4 and original_loss=False: a prompt of its own, and no ends of "
                f"speech among the codes; got prefix_mode={self.prefix_mode}, original_loss={self.original_loss}."
            )
        if self.code_embedding_size is not None:
            self._check_at_least_one("code_embedding_size")
            if self.tie_word_embeddings:
                raise ValueError(
                    "code_embedding_size needs tie_word_embeddings=False: heads have tables of their own."
                )
        nar = self.nar_sizes
        if min(nar.values()) < 1:
            raise ValueError(f"nar_scale_factor={self.nar_scale_factor} leaves nothing: {nar}.")
        for dim, heads in ((self.hidden_size, self.num_attention_heads), (nar["dim"], nar["num_heads"])):
            if dim % heads or dim % 2:
                raise ValueError(f"a width must be even and a multiple of its {heads} heads, got {dim}.")
        if self.train_stage == "nar" and self.num_codebooks == 1:
            raise ValueError("train_stage='nar' needs more than one codebook, got num_codebooks=1.")
