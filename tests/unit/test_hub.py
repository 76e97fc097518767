"""Data sets and models by hub id: from the cache when offline, and a message with the fix when they cannot be had."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from datasets_kit import write_vsi_bench
from huggingface_hub import constants, errors

import harness.hub as hub
from harness.data.reader import read_dataset
from harness.data.sources import is_ready, resolve_source
from harness.errors import UserError
from harness.io import sha256_file

CONFIG = '{"model_type": "qwen2_vl"}'
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Offline mode with a hub cache of our own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub_cache: Path, repository: str, kind: str = "datasets") -> Path:
    """The folder of a snapshot in a hub cache, empty."""
    root = hub_cache / f"{kind}--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    snapshot.parent.mkdir()
    return snapshot


def test_vsi_bench_by_its_id_is_prepared_once_from_the_cache(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.data.sources as sources

    monkeypatch.setattr(
        sources.vsibench, "check_counts", lambda records: None
    )  # the copy is a small part of the benchmark
    snapshot = cached(offline, "nyu-visionx/VSI-Bench")
    name = "nyu-visionx/VSI-Bench#debiased"
    assert not is_ready(name, tmp_path / "cache")
    write_vsi_bench(snapshot, tmp_path / "cache")
    assert is_ready(name, tmp_path / "cache")
    root, split = resolve_source(name, tmp_path / "cache")
    assert root == (tmp_path / "cache" / "hub" / "nyu-visionx--VSI-Bench").resolve()
    debiased = read_dataset(root, split)
    assert debiased.split == "debiased" and len(debiased.records) > 0
    for file in snapshot.iterdir():
        file.unlink()
    assert len(read_dataset(*resolve_source("nyu-visionx/VSI-Bench", tmp_path / "cache")).records) > len(
        debiased.records
    )


def test_any_data_set_of_the_schema_by_its_id(offline: Path, tmp_path: Path) -> None:
    write_vsi_bench(cached(offline, "someone/rooms"), tmp_path / "cache", zipped=False)
    root, split = resolve_source("hub:someone/rooms", tmp_path / "cache")
    assert len(read_dataset(root, split).records) == sum(1 for _ in (root / "test.jsonl").open())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hub:nobody/nothing", r"dataset nobody/nothing: offline mode is on .*hf download nobody/nothing --repo-type"),
        ("nyu-visionx/VSI-Bench", "dataset nyu-visionx/VSI-Bench: offline mode is on"),
        ("hub:nobody", "write hub:OWNER/NAME"),
        ("nobody/nothing", r"no such folder or file\. .*hub:OWNER/NAME"),
    ],
)
def test_what_is_not_in_the_cache_offline(offline: Path, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_source(name, tmp_path)


class _Answer(SimpleNamespace):
    """As much of a response as the hub's errors read."""

    def __init__(self, status: int) -> None:
        request = SimpleNamespace(url="https://huggingface.co", method="GET")
        super().__init__(status_code=status, headers={}, request=request)


REASONS = {
    "gated": (
        lambda: errors.GatedRepoError("x", response=_Answer(403)),
        r"access is restricted\. Accept its terms at https://huggingface.co/datasets/a/b, log in with `hf auth login`",
    ),
    "missing": (
        lambda: errors.RepositoryNotFoundError("x", response=_Answer(404)),
        "it does not exist or is private",
    ),
    "revision": (lambda: errors.RevisionNotFoundError("x", response=_Answer(404)), "it has no revision v9. Name a"),
    "unreachable": (lambda: errors.LocalEntryNotFoundError("x"), "the hub cannot be reached and the cache"),
    "other": (lambda: RuntimeError("disk on fire"), "RuntimeError: disk on fire. Name a local folder"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_why_a_data_set_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: str) -> None:
    make, words = REASONS[reason]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*args: Any, **options: Any) -> Any:
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=words):
        resolve_source("hub:a/b@v9", tmp_path)


def _model(snapshot: Path, *shards: str) -> dict[str, str]:
    """A cached model whose weights link to blobs named by their digest, as the hub's cache keeps them."""
    snapshot.mkdir()
    (snapshot / "config.json").write_text(CONFIG)
    blobs, digests = snapshot.parents[1] / "blobs", {}
    blobs.mkdir()
    for name in shards:
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
        (blobs / digests[name]).write_bytes(name.encode())
        (snapshot / name).symlink_to(blobs / digests[name])
    return digests


def test_a_model_has_the_same_digests_online_offline_and_in_a_folder(
    offline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of its weights and of all settings; a copy beside the weights, which is not read, does not count."""
    from harness.models.loading import model_digest

    snapshot = cached(offline, "a/model", "models")
    weights = _model(snapshot, "model.safetensors")
    (snapshot / "tokenizer.json").write_text("{}")
    settings = {name: sha256_file(snapshot / name) for name in ("config.json", "tokenizer.json")}
    assert hub.model_digests("a/model") == settings | weights
    listed = weights | {"consolidated.safetensors": "0" * 64}
    files = [SimpleNamespace(rfilename=n, lfs=SimpleNamespace(sha256=d)) for n, d in listed.items()]
    files.append(SimpleNamespace(rfilename="config.json", lfs=None))
    listing = SimpleNamespace(siblings=files)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **options: listing)
        patch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(snapshot))
        assert hub.model_digests("a/model") == settings | weights
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in settings:
        (folder / name).write_bytes((snapshot / name).read_bytes())
    (folder / "model.safetensors").write_bytes(b"model.safetensors")
    assert model_digest(str(folder)) == model_digest("a/model")
    (folder / "tokenizer.json").write_text("{ }")
    assert model_digest(str(folder)) != model_digest("a/model")


def test_a_model_that_is_not_whole_in_the_cache_is_not_taken(offline: Path) -> None:
    snapshot = cached(offline, "a/model", "models")
    _model(snapshot, "model-00001-of-00002.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    assert hub.cached_model("a/model") is None
    for call in (hub.model_digests, hub.fetch_model):
        with pytest.raises(UserError, match=r"model a/model: offline mode is on .*is incomplete"):
            call("a/model")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a/b", ("a/b", None)),
        ("a/b@v1.0", ("a/b", "v1.0")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        (f"a/b@{COMMIT}", ("a/b", COMMIT)),
        *((name, None) for name in ("a", "a/b/c", "a/b@", "a/b@/x", "a/b@x y", "../b", "a/b\n", "https://x/y")),
    ],
)
def test_which_names_are_of_the_hub(name: str, meant: tuple[str, str | None] | None) -> None:
    assert hub.hub_name(name) == meant


def test_a_revision_is_the_one_that_is_used_and_recorded(offline: Path, tmp_path: Path) -> None:
    """Of a model and of data; the newest one is another, and one that is not there is refused by its name."""
    from harness.data.sources import source_commit
    from harness.models.loading import model_digest, settings_folder

    old = "f" * 40
    for kind, repository in (("models", "a/model"), ("datasets", "someone/rooms")):
        snapshot = cached(offline, repository, kind)
        if kind == "models":
            _model(snapshot, "model.safetensors")
        else:
            write_vsi_bench(snapshot, tmp_path / "cache", zipped=False)
        shutil.copytree(snapshot, snapshot.with_name(old))
        (snapshot.parents[1] / "refs" / "v1").write_text(old)
    (offline / "models--a--model" / "snapshots" / old / "tokenizer.json").write_text("{}")
    assert model_digest("a/model@v1") == model_digest(f"a/model@{old}") != model_digest("a/model")
    assert hub.commit_of(settings_folder("a/model@v1")) == old
    assert hub.commit_of(settings_folder("a/model")) == COMMIT
    assert hub.commit_of(tmp_path) is None
    root, _ = resolve_source("hub:someone/rooms@v1#test", tmp_path)
    assert root.name == old == source_commit("hub:someone/rooms@v1", tmp_path)
    assert source_commit("hub:someone/rooms", tmp_path) == COMMIT
    assert source_commit(str(root), tmp_path) is None
    for call in (lambda: settings_folder("a/model@v2"), lambda: resolve_source("hub:someone/rooms@v2", tmp_path)):
        with pytest.raises(UserError, match=r"@v2: offline mode is on .*--revision v2"):
            call()


def test_a_model_of_the_hub_is_loaded_from_the_cache_and_named_by_its_id(offline: Path) -> None:
    """With the same checks as a folder's."""
    import torch
    from engine_kit import tiny_model, tiny_tokenizer

    from harness.config.study import ModelSection
    from harness.models.loading import load_model

    snapshot = cached(offline, "a/model", "models")
    tiny_model().save_pretrained(snapshot)
    tiny_tokenizer().save_pretrained(snapshot)
    loaded = load_model(ModelSection(name="a/model"), torch.device("cpu"))
    assert loaded.model.peft_config["default"].base_model_name_or_path == "a/model"
    pinned = load_model(ModelSection(name=f"a/model@{COMMIT}"), torch.device("cpu")).model.peft_config["default"]
    assert (pinned.base_model_name_or_path, pinned.revision) == ("a/model", COMMIT)
    (snapshot / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds adapters"):
        load_model(ModelSection(name="a/model"), torch.device("cpu"))
