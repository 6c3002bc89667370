"""Gives `trust_remote_code=True` the classes of the installed package: pip install codec-lm-hf."""

from codec_lm_hf import __getattr__  # noqa: F401  (every public class, by its name)
