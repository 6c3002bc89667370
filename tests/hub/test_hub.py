"""Pushed to a hub and loaded again, by the real client in fresh processes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from codec_lm_hf.hub import STUB, build_model_card
from codec_lm_hf.registry import family
from tests.common.tiny import TINY
from tests.common.tiny_lm import TEXTS, TINY_LM
from tests.hub.conftest import Client
from tests.hub.hub_server import Cut

CONFIG, EXTRACTOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"

PUSH = """
    import codec_lm_hf
    from transformers import AutoFeatureExtractor, AutoModel
    for directory, repo in json.loads(argv[0]):
        AutoModel.from_pretrained(directory).push_to_hub(repo, license="apache-2.0")
        AutoFeatureExtractor.from_pretrained(directory).push_to_hub(repo)
    print("null")
"""

LOAD = """
    import codec_lm_hf
    from transformers import AutoModel
    print(json.dumps([codes(AutoModel.from_pretrained(argv[0], revision=revision)) for revision in argv[1:]]))
"""


def codes(model: torch.nn.Module) -> list:
    """What the clients' function of this name returns."""
    chirp = torch.sin(torch.arange(4000.0) ** 1.5 / 50)
    return model.encode(chirp.repeat(1, model.config.audio_channels, 1)).audio_codes.tolist()


def save(model: torch.nn.Module, name: str, directory: Path) -> Path:
    model.save_pretrained(directory)
    TINY[name].feature_extractor().save_pretrained(directory)
    return directory


def louder(name: str) -> torch.nn.Module:
    """Other weights for the same configuration."""
    model = TINY[name].model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A tiny codec of every family, and one with segments, in directories of their own."""
    root = tmp_path_factory.mktemp("saved")
    names = [name for name in TINY if "-" not in name or name == "encodec-segments"]
    return {name: save(TINY[name].model(), name, root / name) for name in names}


@pytest.fixture(scope="module")
def pushed(hub, saved, tmp_path_factory) -> list[str]:
    """These codecs on the hub."""
    rows = [(str(directory), f"alice/{name}") for name, directory in saved.items()]
    Client(hub.endpoint, tmp_path_factory.mktemp("pusher")).run(PUSH, json.dumps(rows))
    return [repo for _, repo in rows]


@pytest.fixture(scope="module")
def large(hub, tmp_path_factory) -> bytes:
    """`alice/large`, and its weights: more than the 10 MB that the client takes from the line at a time."""
    directory = tmp_path_factory.mktemp("large")
    save(TINY["stft_codec"].model(codebook_size=32768, latent_size=32), "stft_codec", directory)
    Client(hub.endpoint, tmp_path_factory.mktemp("pusher")).run(PUSH, json.dumps([(str(directory), "alice/large")]))
    return (directory / WEIGHTS).read_bytes()


# --- push ------------------------------------------------------------------------------------------------------------


def test_push_stores_what_save_pretrained_wrote(hub, saved, pushed):
    for name, directory in saved.items():
        repo = hub.model(f"alice/{name}")
        assert list(repo.titles.values()) == ["initial commit", "Upload model", "Upload feature extractor"]
        files = repo.files()
        assert files.keys() == {".gitattributes", "README.md", STUB, CONFIG, EXTRACTOR, WEIGHTS}
        for file in (STUB, CONFIG, EXTRACTOR, WEIGHTS):
            assert files[file].content == (directory / file).read_bytes(), (name, file)
        digest = hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
        assert files[WEIGHTS].lfs and list(repo.objects) == [digest]


def test_revisions_stay_and_a_blob_is_uploaded_once(hub, new_client, tmp_path):
    repo, alice = "alice/revised", new_client()
    first = str(save(TINY["encodec"].model(), "encodec", tmp_path / "first"))
    second = str(save(louder("encodec"), "encodec", tmp_path / "second"))
    alice.run(PUSH, json.dumps([(directory, repo) for directory in (first, first, second, first)]))
    assert len(hub.asked("PUT", f"/store/models/{repo}/")) == 2
    titles = ["initial commit", "Upload model", "Upload feature extractor", "Upload model", "Upload model"]
    assert list(hub.model(repo).titles.values()) == titles, "pushing what is there already makes no commit"
    tag = "from huggingface_hub import HfApi\nHfApi().create_tag(argv[0], tag='v2', revision=argv[1])\nprint(0)"
    _, model, _, newer, newest = hub.model(repo).commits
    alice.run(tag, repo, newer)
    old_codes, new_codes = codes(TINY["encodec"].model()), codes(louder("encodec"))
    assert old_codes != new_codes
    loaded = alice.run(LOAD, repo, model, newer, "v2", newest, "main")
    assert loaded == [old_codes, new_codes, new_codes, old_codes, old_codes]


def test_card_says_what_it_is_and_its_example_runs(hub, pushed, new_client):
    run_examples = """
        import numpy as np
        shapes = []
        for text in argv:
            audio = np.zeros((2, 5000) if "stereo" in text else 5000)
            exec(text.split("```python")[1].split("```")[0])
            shapes.append([codes.audio_codes.shape[1], *decoded.shape])
        print(json.dumps(shapes))
    """
    configs = {name: TINY[name].config() for name in ("encodec", "encodec-segments")}
    cards = [ModelCard(hub.model(f"alice/{name}").files()["README.md"].content.decode()) for name in configs]
    for config, card in zip(configs.values(), cards, strict=True):
        assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
        assert {"codec-lm-hf", config.model_type} <= set(card.data.tags)
        assert f"{config.sampling_rate} Hz" in card.text and "kbps" in card.text
    shapes = new_client().run(run_examples, *(card.text for card in cards))
    assert shapes == [[config.num_codebooks, 1, config.audio_channels, 5000] for config in configs.values()]


def test_card_of_somebody_else_is_kept_and_a_placeholder_is_not(hub, saved, new_client, tmp_path):
    push = """
        import logging
        import codec_lm_hf
        from huggingface_hub import ModelCard
        from transformers import AutoFeatureExtractor, AutoModel
        AutoFeatureExtractor.from_pretrained(argv[0]).push_to_hub("alice/card")
        AutoModel.from_pretrained(argv[0]).push_to_hub("alice/card", license="mit")
        ModelCard("---\\nlicense: cc-by-4.0\\n---\\n# By hand\\n").push_to_hub("alice/card")
        for revision in (None, "dev"):
            AutoModel.from_pretrained(argv[0]).push_to_hub("alice/card", license="mit", revision=revision)
        ModelCard("---\\nlicense: cc0-1.0\\n---\\n# Of dev\\n").push_to_hub("alice/card", revision="dev")
        said = []
        logging.getLogger("codec_lm_hf.hub").addFilter(lambda record: said.append(record.getMessage()))
        for options in ({}, {"license": "mit", "tags": ["new"]}):
            AutoModel.from_pretrained(argv[1]).push_to_hub("alice/card", revision="dev", **options)
        print(json.dumps(said))
    """
    said = new_client().run(push, saved["encodec"], save(louder("encodec"), "encodec", tmp_path))
    assert len(said) == 1 and "stays as it is, without license='mit' and tags=['new']" in said[0]
    repo = hub.model("alice/card")
    assert repo.branches.keys() == {"main", "dev"}
    cards = [ModelCard(files["README.md"].content.decode()) for files in list(repo.commits.values())[1:]]
    assert [card.data.license for card in cards] == [None, "mit", "cc-by-4.0", "cc0-1.0", "cc0-1.0"]
    assert "automatically generated" in cards[0].text and "# By hand" in cards[2].text


def test_card_without_a_licence_says_so():
    config = TINY["encodec"].config()
    card = build_model_card(config, source="Converted from `x.th`.")
    assert card.data.license is None and "ask before you build on them" in card.text and "Converted from" in card.text
    with pytest.raises(ValueError, match="Other is of no family"):
        build_model_card(type("Other", (type(config),), {})())


# --- load ------------------------------------------------------------------------------------------------------------


def test_every_auto_class_loads_every_codec_then_offline(hub, saved, pushed, new_client):
    load = """
        import codec_lm_hf
        from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, AutoProcessor
        loaded = {}
        for repo in argv:
            models = [AutoModel, AutoModelForAudioTokenization, codec_lm_hf.AutoCodecModel]
            models = [auto.from_pretrained(repo) for auto in models]
            extractors = [auto.from_pretrained(repo) for auto in (AutoFeatureExtractor, AutoProcessor)]
            classes = [type(part).__name__ for part in models + extractors]
            loaded[repo] = classes, [codes(model) for model in models], [part.to_dict() for part in extractors]
        print(json.dumps(loaded))
    """
    alice = new_client()
    loaded = alice.run(load, *pushed)
    for name in saved:
        case = TINY[name]
        classes, found_codes, extractors = loaded[f"alice/{name}"]
        assert classes == [case.model_class.__name__] * 3 + ["CodecFeatureExtractor"] * 2
        assert found_codes == [codes(case.model())] * 3
        for extractor in extractors:
            assert case.feature_extractor().to_dict().items() <= extractor.items()
    asked, some = len(hub.requests), pushed[:3]
    assert alice.run(load, *some, HF_HUB_OFFLINE="1") == {repo: loaded[repo] for repo in some}
    assert len(hub.requests) == asked


def test_a_loaded_codec_knows_its_commit(hub, saved, pushed, new_client):
    """`.codes` files name it, and decoding loads just that."""
    code = """
        import codec_lm_hf
        from codec_lm_hf.bitstream.codes import CodesHeader
        from transformers import AutoModel
        models = [auto.from_pretrained(argv[0]) for auto in (AutoModel, codec_lm_hf.AutoCodecModel)]
        models.append(AutoModel.from_pretrained(argv[0], revision=argv[1]))
        models.append(AutoModel.from_pretrained(argv[2]))
        print(json.dumps([[CodesHeader.of(model).codec, CodesHeader.of(model).revision] for model in models]))
    """
    repo = hub.model("alice/encodec")
    pinned = list(repo.commits)[1]
    found = new_client().run(code, "alice/encodec", pinned, saved["encodec"])
    newest = ["alice/encodec", repo.sha("main")]
    assert found == [newest, newest, ["alice/encodec", pinned], [str(saved["encodec"]), None]]


def test_language_models_go_with_their_processors(hub, new_client, tmp_path):
    """And these with their codecs, and what reads texts: nothing of them is left behind on the machine that pushed."""
    given = {"text": TEXTS, "audio": [[0.1, -0.1] * 80, [0.2, 0.0] * 60], "sampling_rate": 800}
    expected, rows = {}, []
    for name, case in TINY_LM.items():
        for part in case.pair():
            part.save_pretrained(tmp_path / name)
        rows.append((str(tmp_path / name), f"alice/{name}-lm"))
        model, processor = case.pair()
        codes = model.generate(**processor(**given), do_sample=False, max_new_tokens=5)
        expected[rows[-1][1]] = codes.tolist(), [wave.shape for wave in processor.batch_decode(codes)]
    push = """
        import codec_lm_hf
        from transformers import AutoModelForTextToWaveform, AutoProcessor
        for directory, repo in json.loads(argv[0]):
            for auto in (AutoModelForTextToWaveform, AutoProcessor):
                auto.from_pretrained(directory).push_to_hub(repo)
        print("null")
    """
    load = """
        from transformers import AutoModelForTextToWaveform, AutoProcessor
        found = {}
        for repo in argv[1:]:
            model = AutoModelForTextToWaveform.from_pretrained(repo, trust_remote_code=True)
            processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
            inputs = processor(**json.loads(argv[0]))
            codes = model.generate(**inputs, do_sample=False, max_new_tokens=5)
            found[repo] = codes.tolist(), [wave.shape for wave in processor.batch_decode(codes)]
        print(json.dumps(found))
    """
    run_examples = """
        import numpy as np
        voice, rate = np.full(160, 0.1), 800
        for text in argv[1:]:
            example = text.split("```python")[1].split("```")[0]
            exec(example.replace("good morning", argv[0]))  # in letters that the tiny table has
            assert [wave.ndim for wave in waves] == [2]
        print("null")
    """
    new_client().run(push, json.dumps(rows))
    cards = []
    for _, repo in rows:
        assert "codec/model.safetensors" in hub.model(repo).files()
        cards.append(hub.model(repo).files()["README.md"].content.decode())
    new_client().run(run_examples, TEXTS[0], *cards)
    for directory, _ in rows:
        shutil.rmtree(directory)
    assert new_client().run(load, json.dumps(given), *expected) == json.loads(json.dumps(expected))


def test_discriminator_goes_the_same_way(hub, new_client, tmp_path):
    row = family("discriminator")
    config = row.load("config")(parts=[{"kind": "period", "period": 2, "channels": (4,), "strides": (3,)}])
    row.load("model")(config).save_pretrained(tmp_path / "discriminator")
    push = """
        import codec_lm_hf
        from transformers import AutoModel
        AutoModel.from_pretrained(argv[0]).push_to_hub("alice/discriminator")
        print("null")
    """
    load = """
        from transformers import AutoModel
        print(json.dumps(type(AutoModel.from_pretrained("alice/discriminator", trust_remote_code=True)).__name__))
    """
    new_client().run(push, tmp_path / "discriminator")
    assert "kbps" not in hub.model("alice/discriminator").files()["README.md"].content.decode()
    assert new_client().run(load) == "CodecDiscriminator"


# --- refusals --------------------------------------------------------------------------------------------------------

RAISED = """
    import codec_lm_hf
    from huggingface_hub import hf_hub_download
    from transformers import AutoModel

    def raised(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except Exception as error:
            return [type(error).__name__, str(error)]
"""


def test_what_is_missing_is_named(hub, pushed, new_client):
    code = (
        RAISED
        + """
    print(json.dumps([
        raised(hf_hub_download, "alice/nothing", "config.json"),
        raised(AutoModel.from_pretrained, "alice/nothing"),
        raised(codec_lm_hf.AutoCodecModel.from_pretrained, "alice/nothing"),
        raised(hf_hub_download, "alice/encodec", "config.json", revision="v9"),
        raised(AutoModel.from_pretrained, "alice/encodec", revision="v9"),
        raised(hf_hub_download, "alice/encodec", "vocab.txt"),
    ]))
    """
    )
    repo, model, ours, revision, model_revision, entry = new_client().run(code)
    assert repo[0] == "RepositoryNotFoundError"
    for name, message in (model, ours):
        assert name == "OSError" and "alice/nothing is not a local folder and is not a valid model" in message
    assert revision[0] == "RevisionNotFoundError"
    assert model_revision[0] == "OSError" and "v9 is not a valid git identifier" in model_revision[1]
    assert entry[0] == "RemoteEntryNotFoundError"
    name, message = new_client().run(
        RAISED
        + """
    print(json.dumps(raised(AutoModel.from_pretrained, "alice/encodec")))
    """,
        HF_HUB_OFFLINE="1",
    )
    assert name == "OSError" and "couldn't connect" in message.lower()


def test_private_repositories_and_other_peoples(hub, saved, new_client):
    code = (
        RAISED
        + """
    model = AutoModel.from_pretrained(argv[0])
    print(json.dumps([
        raised(model.push_to_hub, "alice/secret", private=True),
        raised(hf_hub_download, "alice/secret", "config.json"),
        raised(AutoModel.from_pretrained, "alice/secret"),
    ]))
    """
    )
    assert new_client("hf_alice").run(code, saved["encodec"]) == [None, None, None]
    push, download, load = new_client("hf_bob").run(code, saved["encodec"])
    assert push[0] == "HfHubHTTPError" and "403" in push[1]
    assert download[0] == "RepositoryNotFoundError"
    assert load[0] == "OSError" and "is a private repository" in load[1]


# --- broken downloads ------------------------------------------------------------------------------------------------


def cached_weights(client: Client) -> list[Path]:
    return list(client.home.glob(f"hub/models--alice--large/snapshots/*/{WEIGHTS}"))


def test_a_broken_line_is_resumed_where_it_broke(hub, large, new_client):
    hub.cuts[WEIGHTS] = Cut(after=15_000_000)
    alice, asked = new_client(), len(hub.requests)
    assert alice.run(LOAD, "alice/large", "main")
    # The client had written one chunk of 10 MiB when the line broke.
    downloads = hub.requests[asked:]
    assert [got.range for got in downloads if got in hub.asked("GET", "/store/")] == [None, "bytes=10485760-"]
    assert [file.read_bytes() for file in cached_weights(alice)] == [large]


def test_a_killed_download_leaves_nothing_that_a_later_one_takes_for_whole(hub, large, new_client):
    cut = hub.cuts[WEIGHTS] = Cut(after=15_000_000, stall=True)
    alice = new_client()
    process, *_ = alice.start(LOAD, "alice/large", "main")
    assert cut.reached.wait(timeout=120)
    process.kill()
    process.join()
    assert not cached_weights(alice)
    assert alice.run(LOAD, "alice/large", "main")
    assert [file.read_bytes() for file in cached_weights(alice)] == [large]


# --- remote code -----------------------------------------------------------------------------------------------------


def test_loads_where_the_package_was_not_imported_and_saves_again(saved, pushed, new_client):
    load = """
        import sys
        from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, AutoProcessor
        name, repo, target = argv
        auto = globals()[name]
        assert not [module for module in sys.modules if module.startswith("codec_lm_hf")]
        part = auto.from_pretrained(repo, trust_remote_code=True)
        part.save_pretrained(target)
        again = type(part).from_pretrained(target)
        print(json.dumps([type(part).__module__, codes(again) if hasattr(again, "encode") else again.to_dict()]))
    """
    alice, case = new_client(), TINY["encodec"]
    for auto in ("AutoModel", "AutoModelForAudioTokenization"):
        module, found = alice.run(load, auto, "alice/encodec", alice.home / auto)
        assert (module, found) == ("codec_lm_hf.modeling.encodec", codes(case.model()))
        for file in (STUB, CONFIG, WEIGHTS):
            assert (alice.home / auto / file).read_bytes() == (saved["encodec"] / file).read_bytes()
    for auto in ("AutoFeatureExtractor", "AutoProcessor"):
        module, found = alice.run(load, auto, "alice/encodec", alice.home / auto)
        assert module == "codec_lm_hf.processing.feature_extraction"
        assert case.feature_extractor().to_dict().items() <= found.items()
        for file in (STUB, EXTRACTOR):
            assert (alice.home / auto / file).read_bytes() == (saved["encodec"] / file).read_bytes()


def test_without_trust_or_without_the_package_the_error_says_what_to_do(pushed, new_client):
    load = """
        import importlib.abc, sys
        class Absent(importlib.abc.MetaPathFinder):
            def find_spec(self, name, *_):
                if name == "codec_lm_hf":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if argv[0] == "absent":
            sys.meta_path.insert(0, Absent())
        from transformers import AutoModel
        try:
            AutoModel.from_pretrained("alice/encodec", trust_remote_code=argv[0] == "absent")
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
    """
    name, message = new_client().run(load, "absent")
    assert name == "ImportError" and "pip install codec_lm_hf" in message
    name, message = new_client().run(load, "untrusted")
    assert name == "ValueError" and "trust_remote_code=True" in message


def test_classes_of_a_user_go_transformers_way(tmp_path):
    config_class, model_class = type(TINY["encodec"].config()), TINY["encodec"].model_class
    own_config = type("OwnConfig", (config_class,), {"__module__": "own"})
    own_model = type("OwnModel", (model_class,), {"__module__": "own"})
    for ours in (config_class, model_class, type(TINY["encodec"].feature_extractor())):
        ours.register_for_auto_class()
        assert ours._auto_class is None
    own_config(**TINY["encodec"].fields).save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [CONFIG]
    own_config.register_for_auto_class()
    own_model.register_for_auto_class("AutoModelForAudioTokenization")
    assert (own_config._auto_class, own_model._auto_class) == ("AutoConfig", "AutoModelForAudioTokenization")


# --- the rest of the client ------------------------------------------------------------------------------------------


def test_client_reads_the_whole_repository(hub, saved, pushed, new_client):
    code = """
        from huggingface_hub import HfApi, snapshot_download
        api = HfApi()
        info, refs = api.model_info(argv[0]), api.list_repo_refs(argv[0])
        tree = {entry.path: entry.lfs and entry.lfs.sha256 for entry in api.list_repo_tree(argv[0], recursive=True)}
        print(json.dumps([
            api.whoami()["name"], info.sha, info.card_data.license, [branch.target_commit for branch in refs.branches],
            [commit.title for commit in api.list_repo_commits(argv[0])], tree, snapshot_download(argv[0]),
        ]))
    """
    repo = hub.model("alice/stft_codec")
    user, sha, license, branches, titles, tree, folder = new_client().run(code, "alice/stft_codec")
    assert (user, sha, license, branches) == ("alice", repo.sha("main"), "apache-2.0", [repo.sha("main")])
    assert titles == ["Upload feature extractor", "Upload model", "initial commit"]
    assert tree.keys() == repo.files().keys() == {path.name for path in Path(folder).iterdir()}
    assert tree[WEIGHTS] == hashlib.sha256((saved["stft_codec"] / WEIGHTS).read_bytes()).hexdigest()


def test_spaces_and_datasets(hub, new_client, tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntitle: Demo\nsdk: gradio\n---\n")
    (folder / "speech.wav").write_bytes(b"RIFF")
    code = """
        from huggingface_hub import HfApi, hf_hub_download
        api, found = HfApi(), []
        for kind, options in (("space", {"space_sdk": "gradio"}), ("dataset", {})):
            api.create_repo("alice/demo", repo_type=kind, **options)
            api.upload_folder(repo_id="alice/demo", repo_type=kind, folder_path=argv[0])
            file = hf_hub_download("alice/demo", "speech.wav", repo_type=kind)
            found.append([sorted(api.list_repo_files("alice/demo", repo_type=kind)), open(file).read()])
        print(json.dumps(found))
    """
    assert new_client().run(code, folder) == [[[".gitattributes", "README.md", "speech.wav"], "RIFF"]] * 2
    assert {kind for kind, repo_id in hub.repos if repo_id == "alice/demo"} == {"spaces", "datasets"}
