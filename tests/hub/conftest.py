"""A hub on loopback, and its clients: fresh Python processes, because huggingface_hub reads its settings on import."""

from __future__ import annotations

import json
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.hub import fresh
from tests.hub.hub_server import Hub

PRELUDE = """
import json, sys
argv = sys.argv[1:]
def codes(model):
    import torch
    chirp = torch.sin(torch.arange(4000.0) ** 1.5 / 50)
    return model.encode(chirp.repeat(1, model.config.audio_channels, 1)).audio_codes.tolist()
"""


class Client:
    """Runs Python code in fresh processes that know only one hub.

    The code may use `argv` and `json`, and `codes(model)`: what a model makes of a chirp.

    Args:
        endpoint: the hub.
        home: `HF_HOME` of the processes, so that one client's runs share a cache.
        token: whom the hub takes them for.
    """

    def __init__(self, endpoint: str, home: Path, token: str = "hf_alice") -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        self.environment = kept | {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, code: str, *arguments: object, **environment: str) -> tuple[BaseProcess, Path, Path]:
        """Start `code` with `argv = arguments`: the process, and the files that it prints to."""
        program = PRELUDE + textwrap.dedent(code)
        return fresh.start(program, [*map(str, arguments)], self.environment | environment, self.home)

    def run(self, code: str, *arguments: object, **environment: str) -> object:
        """Run code to its end; what it printed last, read as JSON."""
        process, output, errors = self.start(code, *arguments, **environment)
        process.join(timeout=300)
        assert process.exitcode == 0, errors.read_text()
        return json.loads(output.read_text().splitlines()[-1])


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def new_client(hub: Hub, tmp_path: Path) -> Callable[..., Client]:
    """Makes clients with empty caches: `new_client(token)`; Alice's token by default."""

    def make(token: str = "hf_alice") -> Client:
        return Client(hub.endpoint, Path(tempfile.mkdtemp(dir=tmp_path)), token)

    return make
