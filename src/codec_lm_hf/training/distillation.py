"""Teachers of semantic features: what a speech model hears, frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel, WhisperFeatureExtractor

from .spectrograms import Spectrogram


class SemanticTeacher(nn.Module):
    """Hidden states of a speech model of transformers, for `losses.distillation_loss`.

    It hears waveforms (HuBERT, WavLM, wav2vec 2.0), or spectra of up to half a minute (Whisper's encoder); of several
    channels their mean.

    Args:
        model: it is put into eval mode and gets no gradient. Its frame rate should be the codec's: 50 Hz for HuBERT
            and Whisper.
        layer: which hidden state, 0 being what enters the first layer; `None`: the mean of all of them.
        normalize: give each row zero mean and unit variance first, as these models' feature extractors do where their
            `do_normalize` is set.
        spectra: the feature extractor of a model that hears spectra. Such a model is used up: it hears what it is
            given as it is, not filled up with silence to half a minute as it was trained with.
        sampling_rate: of the audio that it hears, in Hz.

    Source: SpeechTokenizer, section 3.2; `scripts/hubert_rep_extract.py` of its code.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layer: int | None = None,
        normalize: bool = True,
        spectra: WhisperFeatureExtractor | None = None,
        sampling_rate: int = 16000,
    ) -> None:
        super().__init__()
        count = model.config.num_hidden_layers + 1
        if layer is not None and not 0 <= layer < count:
            raise ValueError(
                f"layer={layer}, but this teacher has hidden states 0 to {count - 1}; None is their mean."
            )
        self.model = model.eval().requires_grad_(False)
        self.layer = layer
        self.normalize = normalize
        self.spectra = spectra
        self.sampling_rate = sampling_rate
        self._positions = None if spectra is None else model.embed_positions.weight
        if spectra is not None:
            self.spectrogram = Spectrogram(spectra.n_fft, spectra.hop_length, padding="reflect", power=2)
            self.register_buffer("filters", torch.from_numpy(spectra.mel_filters.T).float(), persistent=False)

    @classmethod
    def from_pretrained(cls, name: str, layer: int | None = None) -> SemanticTeacher:
        """A teacher from the Hub or a folder that holds a speech model and its feature extractor."""
        extractor = AutoFeatureExtractor.from_pretrained(name)
        model = AutoModel.from_pretrained(name)
        if isinstance(extractor, WhisperFeatureExtractor):
            return cls(model.get_encoder(), layer, False, extractor, extractor.sampling_rate)
        return cls(model, layer, extractor.do_normalize, sampling_rate=extractor.sampling_rate)

    def train(self, mode: bool = True) -> SemanticTeacher:
        """A teacher does not learn: it stays in eval mode."""
        return super().train(False)

    def forward(self, input_values: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Audio to features. Audio that has a gradient gets one from them.

        Args:
            input_values: `(batch, channels, samples)` at the rate of both models.
            padding_mask: `(batch, samples)`, true on real samples. Each row is heard alone then: speech models with
                norms over time hear padding, too.

        Returns:
            `(batch, frames, dim)`, zero beyond a row's end, and a bool mask `(batch, frames)`, `None` where all frames
            count.
        """
        if padding_mask is None or bool(padding_mask.bool().all()):
            return self._hear(input_values.mean(1)), None
        lengths = padding_mask.bool().sum(-1).tolist()
        rows = [self._hear(row[None, :length])[0] for row, length in zip(input_values.mean(1), lengths, strict=True)]
        features = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        frames = torch.tensor([len(row) for row in rows], device=features.device)
        return features, torch.arange(features.shape[1], device=features.device) < frames[:, None]

    def states(self, input_values: Tensor) -> list[Tensor]:
        """All hidden states `(batch, frames, dim)` of audio `(batch, channels, samples)`, all of it heard."""
        return self._states(input_values.mean(1))

    def _hear(self, audio: Tensor) -> Tensor:
        states = self._states(audio)
        heard = torch.stack(states).mean(0) if self.layer is None else states[self.layer]
        return heard.float()

    def _states(self, audio: Tensor) -> list[Tensor]:
        audio = audio.float()
        if self.normalize:
            variance, mean = torch.var_mean(audio, dim=-1, correction=0, keepdim=True)
            audio = (audio - mean) / (variance + 1e-7).sqrt()
        heard = audio if self.spectra is None else self._look(audio)
        return list(self.model(heard.to(self.model.dtype), output_hidden_states=True).hidden_states)

    def _look(self, audio: Tensor) -> Tensor:
        """Spectra of audio `(batch, samples)` as its feature extractor has them, and as many positions for it.

        They are computed here, because the extractor's have no gradient.
        """
        powers = self.spectrogram(audio[:, None])[:, 0, :, :-1]
        bands = (self.filters @ powers).clamp(min=1e-10).log10()
        bands = bands.maximum(bands.amax((1, 2), keepdim=True) - 8.0)
        frames = bands.shape[-1] // 2
        if frames > len(self._positions):
            seconds = audio.shape[-1] / self.sampling_rate
            raise ValueError(f"this teacher hears up to {self.spectra.chunk_length} s at once; got {seconds:g} s.")
        self.model.config.max_source_positions = frames
        self.model.embed_positions = nn.Embedding.from_pretrained(self._positions[:frames])
        return (bands[..., : 2 * frames] + 4.0) / 4.0
