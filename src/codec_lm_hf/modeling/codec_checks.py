"""What every codec refuses: each message names the value, what was expected, and a way out."""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor

from ..configuration.codec_base import LARGEST_PEAK, CodecConfig
from .codec_stream import CodecStream


class CodecChecks:
    """The part of `CodecPreTrainedModel` that looks at what it is given."""

    config: CodecConfig
    streamable: bool

    @staticmethod
    def _check_whole(device_map: dict) -> None:
        """Refuse to have a codec in parts: its layers read each other's weights, past what would fetch them."""
        devices = {str(device) for device in device_map.values()}
        if len(devices) > 1 or devices & {"disk", "meta"}:
            raise ValueError(
                f"a codec stays whole, on one device: got {', '.join(sorted(devices))}. Load it with "
                "device_map={'': device}, and do not offload it; it is small beside a language model."
            )

    def _check_placed(self) -> None:
        """Refuse to run in parts, as accelerate's functions leave a model."""
        if not torch.compiler.is_compiling():
            self._check_whole(getattr(self, "hf_device_map", {}))
            self._check_whole({"": self.device})

    def _check_given(self, method: str, given: dict, known: tuple[str, ...]) -> None:
        """Refuse what a method is given beside its own arguments, unless it is known."""
        unknown = sorted(set(given) - set(known))
        if unknown:
            own = [name for name in inspect.signature(getattr(self, method)).parameters if name != "given"]
            raise TypeError(
                f"{type(self).__name__}.{method}() has no argument {unknown[0]!r}; it takes "
                f"{', '.join([*own, *known])}."
            )

    def _count(self, num_quantizers: int | None, bandwidth: float | None) -> int:
        available = self.config.num_codebooks
        if num_quantizers is not None and bandwidth is not None:
            raise ValueError("give num_quantizers or bandwidth, not both: they choose the same thing.")
        if bandwidth is not None:
            return self.config.num_quantizers_for(bandwidth)
        if num_quantizers is None:
            return available
        # True would be 1, and 2.0 break far from here.
        whole = hasattr(num_quantizers, "__index__") and not isinstance(num_quantizers, bool)
        if not whole or not 1 <= num_quantizers <= available:
            raise ValueError(
                f"num_quantizers={num_quantizers!r}, but this model has 1 to {available} quantizers; give a whole "
                "number, or bandwidth=... for a rate in kbps."
            )
        return num_quantizers

    @staticmethod
    def _check_tensor(name: str, value: object) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; torch.as_tensor makes one of it."
            )

    def _check_audio(self, input_values: Tensor, padding_mask: Tensor | None) -> Tensor | None:
        """Refuse what is not audio; the rows' lengths where they differ, else `None`."""
        self._check_placed()
        self._check_tensor("input_values", input_values)
        channels = self.config.audio_channels
        if input_values.ndim != 3 or input_values.shape[1] != channels:
            raise ValueError(
                f"input_values must have shape (batch, {channels}, samples), got {tuple(input_values.shape)}; "
                "the feature extractor makes this shape."
            )
        if input_values.shape[-1] == 0 or len(input_values) == 0:
            raise ValueError(f"input_values is empty, shape {tuple(input_values.shape)}; give at least one sample.")
        self._check_samples(input_values)
        if padding_mask is None:
            return None
        lengths = self._lengths(padding_mask, len(input_values), input_values.shape[-1])
        if not torch.compiler.is_compiling() and bool((lengths == input_values.shape[-1]).all()):
            return None
        return lengths

    @staticmethod
    def _check_samples(audio: Tensor) -> None:
        if not audio.is_floating_point():
            raise ValueError(
                f"input_values must be float in [-1, 1], got {audio.dtype}; divide 16-bit samples by 32768."
            )
        if torch.compiler.is_compiling() or audio.numel() == 0:
            return
        # One pass over the samples; NaN comes through.
        low, high = (float(value) for value in audio.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("input_values holds NaN or infinite samples; clean the audio first (numpy.nan_to_num).")
        peak = max(-low, high)
        if peak > LARGEST_PEAK:
            raise ValueError(
                f"input_values peaks at {peak:.0f}; expected floats in [-1, 1]: divide 16-bit samples by 32768."
            )

    def _lengths(self, padding_mask: Tensor, rows: int, samples: int | None = None) -> Tensor:
        """Samples of each row, by a mask that is checked."""
        return self._check_mask("padding_mask", padding_mask, "sample", rows, samples).sum(-1)

    @staticmethod
    def _check_mask(
        name: str,
        mask: Tensor,
        unit: str,
        rows: int,
        steps: int | None = None,
        span: int | None = None,
        empty_rows: bool = False,
    ) -> Tensor:
        """A mask of `rows` rows and `steps` (`None`: any number of) steps of that unit as bool, or what is wrong.

        Real steps stand at the left of a row, or of each `span` steps of it; there may be none if `empty_rows`.
        """
        CodecChecks._check_tensor(name, mask)
        if mask.ndim != 2 or len(mask) != rows or steps not in (None, mask.shape[1]):
            expected = f"({rows}, {f'{unit}s' if steps is None else steps})"
            raise ValueError(f"{name} must have shape {expected}, one entry per {unit}, got {tuple(mask.shape)}.")
        mask = mask.bool()
        if torch.compiler.is_compiling():
            return mask
        after_padding = mask[:, 1:] & ~mask[:, :-1]
        if span is not None:
            # The end of a segment may be padding, and still the next one begins; but not after one without a frame.
            after_padding[:, span - 1 :: span] = mask[:, span::span] & ~mask[:, :-span:span]
        if bool(after_padding.any()):
            raise ValueError(f"{name} has padding before or between real {unit}s; pad at the right.")
        empty = ~mask.any(-1)
        if not empty_rows and bool(empty.any()):
            raise ValueError(f"rows {empty.nonzero().flatten().tolist()} of {name} hold no real {unit}.")
        return mask

    def _check_codes(self, codes: Tensor, empty: bool = False) -> None:
        self._check_placed()
        self._check_tensor("audio_codes", codes)
        available, size = self.config.num_codebooks, self.config.codebook_size
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"audio_codes must be integers, got {codes.dtype}.")
        if codes.ndim != 3:
            raise ValueError(f"audio_codes must have shape (batch, codebooks, frames), got {tuple(codes.shape)}.")
        if not 1 <= codes.shape[1] <= available:
            raise ValueError(f"audio_codes has {codes.shape[1]} codebooks, but this model has {available}.")
        if not empty and codes.numel() == 0:
            raise ValueError(f"audio_codes is empty, shape {tuple(codes.shape)}; give at least one frame.")
        self._check_code_range(codes, size)

    @staticmethod
    def _check_code_range(codes: Tensor, size: int) -> None:
        if torch.compiler.is_compiling() or codes.numel() == 0:
            return
        low, high = (int(value) for value in codes.aminmax())
        if low < 0 or high >= size:
            raise ValueError(f"audio_codes must lie in 0..{size - 1}, found {low if low < 0 else high}.")

    def _check_chunk(self, side: str, x: Tensor, state: CodecStream) -> None:
        """Refuse what is no next chunk of a stream: of audio where `side` is "encoder", of codes where "decoder"."""
        if getattr(state, "model", None) is not self:
            got = "that of another model" if isinstance(state, CodecStream) else type(state).__name__
            raise ValueError(f"state must be what init_stream() of this model returned, got {got}.")
        ended = [row for group in state.groups if getattr(group, side).final for row in group.rows]
        if ended:
            raise ValueError(
                f"rows {ended} of this stream's {side} ended with final=True; begin them anew by state.reset()."
            )
        coded = side == "decoder"
        name, channels = ("audio_codes", "codebooks") if coded else ("input_values", self.config.audio_channels)
        self._check_tensor(name, x)
        if x.ndim != 3 or len(x) != state.batch_size or not (coded or x.shape[1] == channels):
            expected = f"({state.batch_size}, {channels}, steps)"
            raise ValueError(f"{name} must have shape {expected} in this stream, got {tuple(x.shape)}.")
        if coded:
            self._check_codes(x, empty=True)
        else:
            self._check_placed()
            self._check_samples(x)

    def _frames_of_groups(self, codes: Tensor, mask: Tensor | None, state: CodecStream) -> list[int]:
        """How many frames of `codes` each group of rows of a stream has."""
        if mask is None:
            return [codes.shape[-1]] * len(state.groups)
        frames = self._check_mask("codes_mask", mask, "frame", *codes.shape[::2], empty_rows=True).sum(-1).tolist()
        found = []
        for group in state.groups:
            counts = {frames[row] for row in group.rows}
            if len(counts) > 1:
                raise ValueError(
                    f"rows {group.rows} of this stream move in step, but in codes_mask have {sorted(counts)} frames: "
                    "give codes and mask as encode_chunk() returned them."
                )
            found.append(counts.pop())
        return found

    def _check_streamable(self) -> None:
        if not self.streamable:
            raise ValueError(
                f"{type(self).__name__} so configured looks at the whole signal (or a whole segment) at once and "
                "cannot be streamed; use encode() and decode()."
            )

    def _check_scales(self, codes: Tensor, scales: Tensor | None) -> None:
        if not self.config.normalize:
            if scales is not None:
                raise ValueError(
                    "audio_scales were given, but this model does not normalise its input and has none: leave them "
                    "out, or decode with the model that made these codes."
                )
            return
        if scales is not None:
            self._check_tensor("audio_scales", scales)
        expected = (len(codes), self.segments_of(codes.shape[-1]))
        if scales is None or scales.shape != expected:
            got = None if scales is None else tuple(scales.shape)
            raise ValueError(
                f"this model normalises its input: decode() needs audio_scales of shape {expected}, as encode() "
                f"returned them; got {got}."
            )
