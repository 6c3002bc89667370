"""AudioGen against audiocraft: its layout, and so its checks, are MusicGen's."""

from __future__ import annotations

from tests.parity.musicgen_checks import check

__all__ = ["check"]
