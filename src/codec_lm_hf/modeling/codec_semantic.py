"""Codecs whose first codebook learns content from a speech model, as SpeechTokenizer's does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .codec_base import CodecOutput, CodecPreTrainedModel
from .quantization import QuantizerOutput


@dataclass
class SemanticCodecOutput(CodecOutput):
    """Output of `SemanticCodecModel.forward`.

    Attributes:
        semantic_features: `(batch, frames, semantic_hidden_size)`, see `SemanticCodecModel.semantic_features`. In
            training mode they carry a gradient, for `training.distillation`. `None` where the configuration has no
            `semantic_hidden_size`.
    """

    semantic_features: Tensor | None = None


class SemanticCodecModel(CodecPreTrainedModel):
    """Base of codecs with a residual quantizer whose first codebook can be taught what is said.

    Source: SpeechTokenizer (Zhang et al., 2023), section 3.2.
    """

    output_class = SemanticCodecOutput

    def _semantic_projection(self, hidden_size: int, semantic_hidden_size: int | None) -> nn.Module | None:
        """From the first codebook's entries to the teacher's space; `None` without a teacher."""
        if semantic_hidden_size is None:
            return None
        same = hidden_size == semantic_hidden_size
        return nn.Identity() if same else nn.Linear(hidden_size, semantic_hidden_size)

    def semantic_features(self, audio_codes: Tensor) -> Tensor:
        """What the first codebook says, in the space of the speech model that taught it.

        Args:
            audio_codes: `(batch, codebooks, frames)`, as `encode` returns them; only the first codebook is read.

        Returns:
            `(batch, frames, semantic_hidden_size)`.

        Raises:
            ValueError: codes that are not the model's, or a codec that had no teacher.
        """
        if self.semantic_projection is None:
            raise ValueError("this codec had no teacher of content: its configuration has no semantic_hidden_size.")
        self._check_codes(audio_codes)
        return self._project(self.quantizer.decode(audio_codes[:, :1].long()))

    def _project(self, entries: Tensor) -> Tensor:
        return self.semantic_projection(entries.transpose(1, 2).to(self.dtype))

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
        **given,
    ) -> SemanticCodecOutput:
        """Audio to codes and back, and the content's features; see `CodecPreTrainedModel.forward`."""
        output = super().forward(input_values, padding_mask, num_quantizers, bandwidth, True, **given)
        if not self.training and self.semantic_projection is not None:
            output.semantic_features = self.semantic_features(output.audio_codes)
        return output if self._as_dict(return_dict) else output.to_tuple()

    def _train_step(self, audio: Tensor, lengths: Tensor | None, count: int | Tensor) -> CodecOutput:
        output = super()._train_step(audio, lengths, count)
        if output.semantic_features is not None:
            # Distillation needs a teacher and so is the trainer's. Without one the projection learns nothing, but has
            # a gradient, which distributed training wants of every weight.
            output.loss = output.loss + 0 * output.semantic_features.sum()
        return output

    def _training_outputs(
        self, latents: Tensor, quantization: QuantizerOutput, mask: Tensor | None
    ) -> dict[str, Tensor]:
        if self.semantic_projection is None:
            return {}
        return {"semantic_features": self._project(quantization.first_codebook(latents))}
