"""The wheel built from the source distribution works outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: the build back end is in this environment, and nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, PROJECT]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory) -> Path:
    """The programs of an empty environment with the wheel in it; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", *options]
    subprocess.run([*pip, next(built.glob("*.whl"))], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    # A plain path: what makes this environment's own copy of the package importable is not read with it.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_folder


def run(program: Path, *arguments: object, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([program, *map(str, arguments)], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names} == {"codec_lm_hf", "codec_lm_hf-0.1.0.dist-info"}
    assert {"codec_lm_hf/py.typed", "codec_lm_hf/demo/speech.flac"} <= set(names)
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    sources = (PROJECT / "src").rglob("*.py")
    assert {path.relative_to(PROJECT / "src").as_posix() for path in sources} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "test" in Path(name).name]


def test_the_source_distribution_can_be_tested(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "Makefile", "constraints.txt", "README.md", "CONTRIBUTING.md", "LICENSE", "NOTICE"}
    assert wanted | {"tests/test_wheel.py", "tests/conftest.py", "recipes/bundled_codec.yaml"} <= names
    assert not [name for name in names if name.startswith((".venv", ".cache", "runs", "out"))]


def test_it_works_from_an_empty_folder(environment, tmp_path):
    soundfile.write(tmp_path / "speech.wav", 0.1 * np.sin(np.arange(8000) / 9), 16000)
    where = run(environment / "python", "-c", "import codec_lm_hf; print(codec_lm_hf.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)
    run(environment / "codec-lm", "encode", "speech.wav", cwd=tmp_path)
    assert b"bundled:codec" in (tmp_path / "speech.codes").read_bytes()
    run(environment / "codec-lm", "decode", "speech.codes", "-o", "back.wav", cwd=tmp_path)
    assert soundfile.info(tmp_path / "back.wav").frames == 8000
