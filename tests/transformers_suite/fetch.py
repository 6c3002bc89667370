"""transformers' own common tests: in its source distribution, not in its wheel, and never in this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

CACHE = Path(__file__).parents[2] / ".cache" / "transformers_suite"

# Modules that the common tests import and the source distribution does not ship, with just what they import from them.
STAND_INS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "../utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Fields that every configuration takes, at values that are not their defaults.
    "utils/test_configuration_utils.py": "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True, "
    "'output_attentions': True, 'dtype': 'float16', 'chunk_size_feed_forward': 2, 'architectures': ['Some'], "
    "'id2label': {0: 'a', 1: 'b'}, 'label2id': {'a': 0, 'b': 1}, 'problem_type': 'regression'}\n",
}


def common_tests() -> Path:
    """A folder with the package `transformers_tests` of the installed version; downloaded by pip the first time."""
    folder = CACHE / transformers.__version__
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as workspace:
            _download(Path(workspace))
            Path(workspace, "package").rename(folder)
    for name, text in STAND_INS.items():
        file = folder / "transformers_tests" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def _download(workspace: Path) -> None:
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet"]
    wanted = f"transformers=={transformers.__version__}"
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", workspace, wanted], check=True)
    with tarfile.open(next(workspace.glob("transformers-*.tar.gz"))) as archive:
        archive.extractall(workspace / "source", filter="data")
    package = workspace / "package" / "transformers_tests"
    shutil.copytree(next(workspace.glob("source/*/tests")), package)
    for name in STAND_INS:
        if (package / name).exists():
            raise RuntimeError(f"transformers {transformers.__version__} ships tests/{name} now; drop its stand-in.")
