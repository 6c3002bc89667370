"""Loading from a hub that somebody else wrote: `olah`, a mirror that also serves git repositories from a disk.

It knows the download side only, and is not in the default run: `make test-olah`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.common.tiny import TINY
from tests.hub.conftest import Client
from tests.hub.test_hub import codes, louder, save

pytestmark = pytest.mark.network

ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "olah"
SETTINGS = """
[basic]
host = "127.0.0.1"
port = {port}
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
repos-path = "{root}/repos"
log-path = "{root}/logs"
mirrors-path = ["{root}/mirrors"]
# Nothing listens there, so nothing leaves this machine.
hf-netloc = "127.0.0.1:9"

[accessibility]
offline = true
"""


def git(*arguments: str, folder: Path) -> str:
    identity = ["-c", "user.name=Alice", "-c", "user.email=alice@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, text=True, capture_output=True
    ).stdout


@pytest.fixture(scope="module")
def program() -> Path:
    """olah in an environment of its own, installed the first time."""
    program = ENVIRONMENT / "bin" / "olah-cli"
    if not program.exists():
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        subprocess.run([ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", "olah==0.5.4"], check=True)
    return program


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """`alice/codec`, two commits: older and newer weights."""
    folder = tmp_path_factory.mktemp("olah") / "mirrors" / "models" / "alice" / "codec"
    folder.mkdir(parents=True)
    git("init", folder=folder)
    for model in (TINY["encodec"].model(), louder("encodec")):
        save(model, "encodec", folder)
        git("add", ".", folder=folder)
        git("commit", "--message", "weights", folder=folder)
    return folder


@pytest.fixture(scope="module")
def client(program, repository, tmp_path_factory) -> Iterator[Client]:
    root = repository.parents[3]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = root / "olah.toml"
    settings.write_text(SETTINGS.format(port=port, root=root))
    with (root / "output").open("w") as output:
        server = subprocess.Popen([program, "-c", settings], cwd=root, env=os.environ, stdout=output, stderr=output)
    try:
        while True:
            assert server.poll() is None, (root / "output").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Client(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("client"))
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_loads_by_every_way_and_by_revision(client, repository):
    code = """
        import sys
        # Where peft is installed, transformers asks for adapters first, and olah answers 401 instead of 404 for a file
        # that a repository does not have: as if it were not installed.
        sys.modules["peft"] = None
        from huggingface_hub import snapshot_download
        from transformers import AutoFeatureExtractor, AutoModel
        remote = AutoModel.from_pretrained("alice/codec", trust_remote_code=True)
        import codec_lm_hf
        models = [AutoModel.from_pretrained("alice/codec", revision=revision) for revision in argv]
        models.append(codec_lm_hf.AutoCodecModel.from_pretrained("alice/codec"))
        # Offline, olah answers 401 instead of 404 for a file that a repository does not have, and a feature extractor
        # may have one of two names: so it comes out of a snapshot.
        extractor = AutoFeatureExtractor.from_pretrained(snapshot_download("alice/codec"))
        print(json.dumps([[codes(model) for model in [remote, *models]], extractor.to_dict()]))
    """
    newer, older = git("log", "--format=%H", folder=repository).split()
    found, extractor = client.run(code, older, newer)
    old_codes, new_codes = codes(TINY["encodec"].model()), codes(louder("encodec"))
    assert found == [new_codes, old_codes, new_codes, new_codes]
    assert TINY["encodec"].feature_extractor().to_dict().items() <= extractor.items()
