"""MusicGen: a codec language model that plays what a text describes."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..registry import family
from .lm_base import CodecLMConfig

_MEDIUM = {"hidden_size": 1536, "num_hidden_layers": 48, "num_attention_heads": 24}
_LARGE = {"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "condition_dropout": 0.2}
_STEREO = {"num_codebooks": 8, "delays": (0, 0, 1, 1, 2, 2, 3, 3), "audio_channels": 2}
_MELODY = {"text_condition": "prefix", "num_chroma": 12, "condition_dropout": 0.2}


@strict
class MusicGenLMConfig(CodecLMConfig):
    """Configuration of `MusicGenLMForConditionalGeneration`. The defaults are `facebook/musicgen-small`.

    Args:
        num_codebooks: codes per frame; of both sides in turn, where stereo.
        codebook_size: entries per codebook. The id after the last one stands where no code does.
        delays: steps by which each codebook is late.
        audio_channels: 2: the codec works on each side, and codebooks alternate between left and right.
        sampling_rate: of the codec and of melodies, in Hz.
        frame_rate: of the codes, in Hz.
        hidden_size, num_hidden_layers, num_attention_heads: of the transformer. Its feed-forward parts are
            `intermediate_ratio` times as wide.
        intermediate_ratio: see above.
        text_encoder_name: repository or directory of the T5 that reads texts, whose weights are not part of the model;
            `None`: the folder `text_encoder` beside the model's own files.
        text_encoder_revision: of the repository.
        text_hidden_size: width of its hidden states.
        text_condition: `"cross_attention"`, or `"prefix"`: the texts's states stand before the codes.
        mask_text_padding: hide the padding of shorter texts. The original does not: it stands as zeros, and takes its
            share of the attention.
        num_chroma: pitch classes of a melody, in the models that take one, before the text; 0: none.
        chroma_n_fft: samples of a window of its analysis.
        max_duration: seconds of the training's segments; longer music is made in windows of this length, and melodies
            are repeated or cut to it.
        extend_stride: seconds from window to window.
        condition_dropout: in training, probability that a row goes without text and melody, for guidance.
        guidance_scale: default of `generate`.
        original_loss: leave out the last frames of late codebooks, as the original's training does.
        dropout: in training.
        initializer_range: standard deviation of fresh weights.
    """

    model_type = "musicgen_codec_lm"
    native_types: ClassVar[tuple[str, ...]] = family("musicgen").native
    # `Trainer.predict` collects `code_hits`: the rest has lengths of its own in each batch, or no rows.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["codebook_losses", "logits", "logits_mask"]

    presets: ClassVar[dict[str, dict]] = {
        "musicgen-small": {},
        "musicgen-medium": _MEDIUM,
        "musicgen-large": _LARGE,
        "musicgen-melody": {**_MEDIUM, **_MELODY},
        "musicgen-melody-large": {**_LARGE, **_MELODY},
        "musicgen-stereo-small": _STEREO,
        "musicgen-stereo-medium": {**_MEDIUM, **_STEREO},
        "musicgen-stereo-large": {**_LARGE, **_STEREO},
        "musicgen-stereo-melody": {**_MEDIUM, **_MELODY, **_STEREO},
        "musicgen-stereo-melody-large": {**_LARGE, **_MELODY, **_STEREO},
    }

    num_codebooks: int = 4
    codebook_size: int = 2048
    delays: list[int] | tuple[int, ...] = (0, 1, 2, 3)
    audio_channels: int = 1
    sampling_rate: int = 32000
    frame_rate: int | float = 50
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_ratio: int = 4
    text_encoder_name: str | None = "t5-base"
    text_encoder_revision: str | None = None
    text_hidden_size: int = 768
    text_condition: str = "cross_attention"
    mask_text_padding: bool = False
    num_chroma: int = 0
    chroma_n_fft: int = 16384
    max_duration: int | float = 30
    extend_stride: int | float = 18
    condition_dropout: int | float = 0.3
    guidance_scale: int | float = 3.0
    original_loss: bool = True
    dropout: int | float = 0.0
    initializer_range: int | float = 0.02

    @property
    def special_id(self) -> int:
        """Stands in a sequence where no code does."""
        return self.codebook_size

    @property
    def chroma_frames(self) -> int:
        """Frames that every melody is repeated or cut to."""
        return int(self.max_duration * self.sampling_rate) // (self.chroma_n_fft // 4) + 1

    def _fields_for_codebooks(self, num_codebooks: int, codebook_size: int) -> dict:
        # Further codebooks are each later than those before, on both sides alike.
        delays = list(self.delays[:num_codebooks])
        while len(delays) < num_codebooks:
            delays.append(delays[-self.audio_channels] + 1)
        return {**super()._fields_for_codebooks(num_codebooks, codebook_size), "delays": delays}

    def validate_architecture(self):
        self._check_at_least_one("num_codebooks", "codebook_size", "num_hidden_layers", "intermediate_ratio")
        self._check_at_least_one("text_hidden_size", "frame_rate")
        self._check_choice("text_condition", ("cross_attention", "prefix"))
        self._check_choice("audio_channels", (1, 2))
        if len(self.delays) != self.num_codebooks or min(self.delays) < 0:
            raise ValueError(f"delays must be {self.num_codebooks} numbers from 0, got {list(self.delays)}.")
        if self.num_codebooks % self.audio_channels:
            raise ValueError(f"num_codebooks ({self.num_codebooks}) must be even where there are two channels.")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2 or self.hidden_size < 4:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be even, at least 4 and a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
        if self.num_chroma and self.text_condition != "prefix":
            raise ValueError("a melody stands before the codes: num_chroma needs text_condition='prefix'.")
        if not 0 < self.extend_stride <= self.max_duration:
            raise ValueError(f"extend_stride must be above 0 and at most max_duration, got {self.extend_stride} s.")

    @staticmethod
    def _from_native(config_dict: dict) -> dict:
        """Theirs is silent about the training and about windows.

        Raises:
            ValueError: an architecture that no published model has.
        """
        from transformers import MusicgenConfig, MusicgenMelodyConfig

        melody = config_dict["model_type"] == MusicgenMelodyConfig.model_type
        native = (MusicgenMelodyConfig if melody else MusicgenConfig).from_dict(config_dict)
        decoder, codec, text_width = native.decoder, native.audio_encoder, native.text_encoder.hidden_size
        codebooks, width = decoder.num_codebooks, decoder.hidden_size
        for name, value in {"activation_function": "gelu", "scale_embedding": False}.items():
            found = getattr(decoder, name)
            if found != value:
                raise ValueError(f"{name}={found!r} is not supported; every published model has {value!r}.")
        if decoder.ffn_dim % width or width in (text_width, native.num_chroma if melody else None):
            raise ValueError(
                f"hidden_size={width} is not supported with ffn_dim={decoder.ffn_dim} and a text encoder {text_width} "
                "wide: ffn_dim must be a multiple, and conditions are projected to another width than their own."
            )
        fields = {
            "num_codebooks": codebooks,
            "codebook_size": decoder.vocab_size,
            "delays": [index // decoder.audio_channels for index in range(codebooks)],
            "audio_channels": decoder.audio_channels,
            "sampling_rate": codec.sampling_rate,
            "frame_rate": codec.frame_rate,
            "hidden_size": width,
            "num_hidden_layers": decoder.num_hidden_layers,
            "num_attention_heads": decoder.num_attention_heads,
            "intermediate_ratio": decoder.ffn_dim // width,
            "text_encoder_name": None,
            "text_hidden_size": text_width,
            "text_condition": "prefix" if melody else "cross_attention",
            "mask_text_padding": not melody,
            "dropout": decoder.dropout,
            "initializer_range": decoder.initializer_factor,
        }
        if melody:
            fields["num_chroma"] = native.num_chroma
            published = MusicGenLMConfig(**fields)
            if published.chroma_frames != native.chroma_length:
                # Any length with as many frames of the analysis.
                hop = published.chroma_n_fft // 4
                fields["max_duration"] = (native.chroma_length - 0.5) * hop / codec.sampling_rate
                fields["extend_stride"] = fields["max_duration"] * published.extend_stride / published.max_duration
        return fields
