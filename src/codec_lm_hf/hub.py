"""What goes to the Hub beside the weights: a stub that finds this package, and a model card."""

from __future__ import annotations

import os
import posixpath
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME, cached_file, extract_commit_hash, logging

from .registry import Family, family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.get_logger(__name__)

STUB = "codec_lm_hf_stub.py"
_STUB_TEXT = '''"""Gives `trust_remote_code=True` the classes of the installed package: pip install codec-lm-hf."""

from codec_lm_hf import __getattr__  # noqa: F401  (every public class, by its name)
'''

_CODEC_EXAMPLE = """from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained("{repo_id}")
features = AutoFeatureExtractor.from_pretrained("{repo_id}")

inputs = features(audio, sampling_rate={sampling_rate}, return_tensors="pt")
codes = model.encode(**inputs)  # codes.audio_codes: (batch, codebooks, frames)
decoded = model.decode(**codes, padding_mask=inputs["padding_mask"]).audio_values"""

_LM_EXAMPLE = """from transformers import AutoModelForTextToWaveform, AutoProcessor

model = AutoModelForTextToWaveform.from_pretrained("{repo_id}")
processor = AutoProcessor.from_pretrained("{repo_id}")

inputs = processor({inputs})
codes = model.generate(**inputs)  # (batch, codebooks, frames)
waves = processor.batch_decode(codes)  # of each text (channels, samples), at processor.codec.config.sampling_rate"""

_MODEL_EXAMPLE = """from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}")"""

_USAGE = """## Usage

    pip install codec-lm-hf

```python
import codec_lm_hf
{example}
```

With `trust_remote_code=True` the first line is not needed; the package must be installed all the same."""

# Cards that transformers writes where it finds none say so; ours takes their place.
_PLACEHOLDER = "This model card has been automatically generated"


class _InstalledCode:
    """Keeps transformers from copying this package's sources next to what is saved."""

    @classmethod
    def register_for_auto_class(cls, *auto_class: str) -> None:
        """Does nothing for classes of this package; for a class of yours, what it does in transformers.

        transformers calls it on what it loads by `trust_remote_code=True`, and would then, on saving, copy the sources
        of the class, which it can for flat modules only.
        """
        if not cls.__module__.startswith(f"{__package__}."):
            super().register_for_auto_class(*auto_class)


class RemoteStubMixin(_InstalledCode):
    """For configs and processors: what `save_pretrained` writes loads also where this package was not imported.

    That takes `trust_remote_code=True` and the installed package, which a stub beside the files imports; where it is
    missing, transformers says so in an `ImportError`.
    """

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        classes = self._auto_classes()
        if classes:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            Path(save_directory, STUB).write_text(_STUB_TEXT, encoding="utf-8")
            self.auto_map = {auto: f"{STUB.removesuffix('.py')}.{name}" for auto, name in classes.items()}
        return super().save_pretrained(save_directory, **kwargs)

    def _auto_classes(self) -> dict[str, str]:
        """Name of an Auto class -> name of the class of ours that it gives."""
        row = _row(self)
        if row is None:
            return {}
        config_name, model_name = (dotted.split(":")[1] for dotted in (row.config, row.model))
        classes = {"AutoConfig": config_name, "AutoModel": model_name}
        more = {"codec": "AutoModelForAudioTokenization", "lm": "AutoModelForTextToWaveform"}
        return classes | {more[row.kind]: model_name} if row.kind in more else classes


class HubModelMixin(_InstalledCode):
    """For models: `push_to_hub` adds our model card, and a loaded model knows its commit.

    Attributes:
        commit: of the repository that the model was loaded from; `None` if it came from a directory or is new.
    """

    commit: str | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; damaged weights are refused by name.

        Raises:
            OSError: nothing to load is there, or it is cut short.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"the weights of {pretrained_model_name_or_path} are no complete safetensors file ({error}); download "
                "or copy them again."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        hub = {name: kwargs.get(name) for name in ("subfolder", "revision", "cache_dir")}
        model.commit = _commit(pretrained_model_name_or_path, **hub)
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """As in transformers; weights are written under this class's names, wherever they came from."""
        if kwargs.get("state_dict") is not None:
            # A Trainer that was given `torch.compile(model)` gives the wrapper's names, which nothing would load.
            weights = kwargs["state_dict"].items()
            kwargs["state_dict"] = {name.removeprefix("_orig_mod."): weight for name, weight in weights}
        return super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        commit_message: str = "Upload model",
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ) -> CommitInfo:
        """Upload configuration, weights, and our model card where there is none yet; one that is there stays.

        Args:
            repo_id: where to; made if it does not exist.
            license: of these weights, for the card: see `build_model_card`.
            commit_message, commit_description, private, token, revision, create_pr, max_shard_size: as in
                `PreTrainedModel.push_to_hub`.
            tags: for the card.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        has_card = _has_card(repo_id, revision, token)
        if has_card and (license or tags):
            logger.warning(
                f"{repo_id} has a model card, which stays as it is, without license={license!r} and tags={tags!r}; "
                "huggingface_hub.metadata_update sets them."
            )
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, max_shard_size=max_shard_size)
            if not has_card and _row(self.config) is not None:
                card = build_model_card(self.config, repo_id, license, tags=tags)
                card.save(Path(directory, "README.md"))
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=directory,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )


def build_model_card(
    config: PreTrainedConfig,
    repo_id: str = "path/to/this/directory",
    license: str | None = None,
    license_note: str | None = None,
    source: str | None = None,
    tags: list[str] | None = None,
) -> ModelCard:
    """A card that says what the checkpoint is, at what rates it works, how to use it, and under what licence.

    Args:
        config: of a family of the registry.
        repo_id: what the usage example loads.
        license: of these weights, by its identifier on the Hub (`"apache-2.0"`, `"cc-by-nc-4.0"`, ...).
        license_note: what is known of the licence where no identifier says it.
        source: Markdown on where the weights come from.
        tags: more tags for the Hub.

    Raises:
        ValueError: the configuration is of no family of this package.
    """
    row = _row(config)
    if row is None:
        raise ValueError(f"{type(config).__name__} is of no family of codec-lm-hf; write its model card by hand.")
    is_codec, speaks = row.kind == "codec", "TTS" in row.tasks
    pipelines = {"codec": "feature-extraction", "lm": "text-to-speech" if speaks else "text-to-audio"}
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=pipelines.get(row.kind),
        tags=["codec-lm-hf", config.model_type, *(["audio", "neural-audio-codec"] if is_codec else []), *(tags or [])],
    )
    example = _MODEL_EXAMPLE.format(repo_id=repo_id)
    if is_codec:
        example = _CODEC_EXAMPLE.format(repo_id=repo_id, sampling_rate=config.sampling_rate)
    elif row.kind == "lm":
        inputs = '"good morning", audio=voice, sampling_rate=rate' if speaks else '"a calm piano tune"'
        example = _LM_EXAMPLE.format(repo_id=repo_id, inputs=inputs)
    unknown = "Not stated by whoever uploaded these weights; ask before you build on them."
    stated = f"`{license}`" if license else license_note or unknown
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repo_id.split('/')[-1]}",
        f"{row.title} ({row.paper}), as a model of `codec-lm-hf`. Of the code was checked: {row.summary}.",
        _rates(config) if is_codec else None,
        _USAGE.format(example=example),
        f"## Licence\n\n{stated}",
        f"## Source\n\n{source}" if source else None,
    ]
    return ModelCard("\n\n".join(section for section in sections if section) + "\n")


@dataclass(frozen=True)
class Home:
    """The directory or repository that something was loaded from, for what lies beside it.

    Attributes:
        name: path or repository id.
        access: arguments of a `from_pretrained` that say where in it, at which revision, and who asks.
    """

    name: str
    access: dict = field(repr=False)  # which may hold a token

    @classmethod
    def of(cls, name_or_path: str | os.PathLike, kwargs: dict) -> Home:
        """The home of what `from_pretrained(name_or_path, **kwargs)` loads."""
        names = ("subfolder", "revision", "token", "cache_dir")
        return cls(str(name_or_path), {name: kwargs[name] for name in names if kwargs.get(name) is not None})

    def inside(self, folder: str) -> Home:
        """A folder of it."""
        subfolder = posixpath.join(self.access.get("subfolder", ""), folder)
        return Home(self.name, {**self.access, "subfolder": subfolder})

    def has(self, filename: str) -> bool:
        """Whether it has a file."""
        found = cached_file(self.name, filename, _raise_exceptions_for_missing_entries=False, **self.access)
        return found is not None

    def config(self) -> dict:
        """What its `config.json` says; nothing where there is none."""
        from transformers import PreTrainedConfig

        return PreTrainedConfig.get_config_dict(self.name, **self.access)[0] if self.has(CONFIG_NAME) else {}

    def load(self, loader: type, **kwargs):
        """What the `from_pretrained` of a class finds there."""
        return loader.from_pretrained(self.name, **self.access, **kwargs)


def _row(config: PreTrainedConfig) -> Family | None:
    """The family whose own config class this is; a user's subclass belongs to none."""
    row = family_of(config.model_type)
    return row if row is not None and type(config) is row.load("config") else None


def _has_card(repo_id: str, revision: str | None, token: bool | str | None) -> bool:
    """Whether a repository has a card that is not transformers' placeholder."""
    try:
        card = hf_hub_download(repo_id, "README.md", revision=revision, token=token)
    except EntryNotFoundError:
        return False
    return _PLACEHOLDER not in Path(card).read_text(encoding="utf-8")


def _commit(name_or_path, subfolder: str | None, revision: str | None, cache_dir: str | None) -> str | None:
    """The commit that a revision of a repository was, when it was last downloaded."""
    if name_or_path is None or os.path.exists(name_or_path):
        return None
    file = f"{subfolder}/{CONFIG_NAME}" if subfolder else CONFIG_NAME
    found = try_to_load_from_cache(str(name_or_path), file, cache_dir=cache_dir, revision=revision)
    return extract_commit_hash(found, None) if isinstance(found, str) else None


def _rates(config) -> str:
    channels = {1: "mono", 2: "stereo"}[config.audio_channels]
    rows = {
        "audio": f"{config.sampling_rate} Hz, {channels}",
        "frames": f"{config.frame_rate:g} per second, {config.hop_length} samples each",
        "codes": f"{config.num_codebooks} codebooks of {config.codebook_size} entries",
        "rates": f"{', '.join(f'{rate:g}' for rate in config.bandwidths)} kbps",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
