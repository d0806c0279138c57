"""Published checkpoints, downloaded from a stand-in for the Hub, translated once, and read without it afterwards."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import huggingface_hub.constants as hub_settings
import huggingface_hub.file_download as hub_download
import pytest
import torch
from hub_server import COMMIT, Hub, serve
from safetensors.torch import load_file, save_file
from test_checkpoint import folder, released, same_weights, saved  # noqa: F401 - fixtures
from test_cli import error

from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.jobs.weights import inspect
from egoexo_xseg.model.checkpoint import load_checkpoint, read_headers
from egoexo_xseg.model.hub import cache_home, find_cached, resolve_model
from egoexo_xseg.model.store import fetch_model, find_translations, read_origin

NAME = "owner/name"


@pytest.fixture
def hub(tmp_path, monkeypatch, released):  # noqa: F811
    """A Hub with one repository in the released names; caches lie in the test's folder."""
    monkeypatch.setenv("XSEG_CACHE", str(tmp_path / "xseg"))
    with serve(Hub({NAME: released})) as server:
        monkeypatch.setattr(hub_settings, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_settings, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_settings, "HF_HUB_CACHE", str(tmp_path / "downloads"))
        yield server


def test_translated_once_and_read_without_network_afterwards(hub, saved, tmp_path):  # noqa: F811
    first = fetch_model(NAME)
    assert first == tmp_path / "xseg" / "models" / "owner--name" / f"{COMMIT}-float32"
    names = {"config.json", "tokenizer.json", "origin.json", "model.safetensors.index.json"}
    assert {path.name for path in first.iterdir()} == names | {"model-00001-of-00001.safetensors"}
    assert {path.stat().st_mode for path in first.iterdir()} == {(first / "config.json").stat().st_mode}
    assert same_weights(load_checkpoint(first)[0], load_checkpoint(saved)[0])
    origin = read_origin(first)
    assert (origin["repository"], origin["commit"]) == (NAME, COMMIT)
    assert inspect(first).provenance["commit"] == COMMIT and inspect(first).settings["names"] == "xseg"
    hub.asked.clear()
    assert fetch_model(NAME) == first and not hub.asked
    half = fetch_model(NAME, dtype=torch.bfloat16)
    weights = load_file(half / "model-00001-of-00001.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {
        torch.bfloat16,
        torch.float32,
        torch.int64,
    } and not hub.asked
    assert weights["mask_decoder.query_embed.weight"].dtype == torch.float32  # not rounded on the way
    assert fetch_model(NAME, newest=True) == first and hub.asked
    assert not [path for path in first.parent.iterdir() if path.name.startswith(".")]


def test_what_is_translated_is_not_looked_at_again(hub, monkeypatch):
    """Even the names of pickled weights cost reading all of them."""
    looks = []

    def counted(place):
        looks.append(place)
        return read_headers(place)

    monkeypatch.setattr("egoexo_xseg.model.store.read_headers", counted)
    monkeypatch.setattr("egoexo_xseg.model.checkpoint.read_headers", counted)
    first = fetch_model(NAME)
    assert len(looks) == 1
    assert fetch_model(NAME) == first and len(looks) == 1


def test_files_that_nobody_wants_are_not_missed_afterwards(hub, released, tmp_path, monkeypatch):  # noqa: F811
    """As the Hub's own cards are, which are never downloaded."""
    (released / "README.md").write_text("a card")
    first = fetch_model(NAME)
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetch_model(NAME) == first and not hub.asked
    download = find_cached(NAME)
    assert download and download.name == COMMIT and find_translations(NAME) == [first]
    next(download.glob("*.safetensors")).unlink()
    assert find_cached(NAME) is None


def test_a_renamed_repository_is_found_by_its_old_name(hub, saved):  # noqa: F811
    hub.renamed = {"owner/old": NAME}
    assert same_weights(load_checkpoint(fetch_model("owner/old"))[0], load_checkpoint(saved)[0])
    assert ("GET", f"/api/models/{NAME}/revision/main", "") in hub.asked


def test_a_file_that_is_not_the_announced_one_is_deleted(hub, saved):  # noqa: F811
    for name in ("model-1.safetensors", "config.json"):
        hub.tampered = {name}
        with pytest.raises(CheckpointError) as fault:
            fetch_model(NAME)
        problem = f"{name} is not the file whose hash the Hub gives. It is deleted here; download it again"
        assert str(fault.value) == f"{NAME}: {problem}"
        hub.tampered = set()
        assert same_weights(load_checkpoint(fetch_model(NAME))[0], load_checkpoint(saved)[0])
        shutil.rmtree(cache_home())
        shutil.rmtree(hub_settings.HF_HUB_CACHE)


UNREACHED = "no such folder, and the repository can neither be reached nor is it in the cache. Check the connection"


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"status": 401}, "the Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN to another"),
        (
            {"status": 401, "error_code": "RepoNotFound"},
            "no such folder, and no such repository on the Hub. Check the name; a private one needs `hf auth login`, or HF_TOKEN",
        ),
        (
            {"status": 403, "error_code": "GatedRepo"},
            "the repository is gated. Ask for access on its page, then run `hf auth login`",
        ),
        (
            {"renamed": {NAME: "owner/gone"}},
            "no such folder, and no such repository on the Hub. Check the name; a private one needs `hf auth login`, or HF_TOKEN",
        ),
        ({"always_broken": {"model-1.safetensors"}}, UNREACHED),
        (
            {"tampered": {"model-2.safetensors"}},
            "model-2.safetensors is not the file whose hash the Hub gives. It is deleted here; download it again",
        ),
        ({"offline": True}, UNREACHED),
    ],
)
def test_whatever_is_wrong_with_a_repository_is_one_line(hub, tmp_path, monkeypatch, state, line):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(hub_download.time, "sleep", lambda _: None)
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", state.pop("offline", False))
    for name, value in state.items():
        setattr(hub, name, value)
    assert error("weights", "pull", NAME) == f"{NAME}: {line}"
    assert not (tmp_path / "xseg").exists()


def test_a_fault_of_the_fast_transfer_is_one_line(hub, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("lost")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert error("weights", "pull", NAME) == f"{NAME}: {UNREACHED}"


def test_large_checkpoints_become_shards(hub, saved, monkeypatch):  # noqa: F811
    from egoexo_xseg.model import store

    monkeypatch.setattr(store, "SHARD_BYTES", 200_000)
    target = fetch_model(NAME)
    shards = sorted(target.glob("*.safetensors"))
    assert len(shards) > 5 and shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert same_weights(load_checkpoint(target)[0], load_checkpoint(saved)[0])


def test_an_old_repository_of_pickled_weights(hub, saved, released):  # noqa: F811
    weights = {name: tensor for path in released.glob("*.safetensors") for name, tensor in load_file(path).items()}
    for path in released.glob("*.safetensors*"):
        path.unlink()
    torch.save(weights, released / "pytorch_model.bin")
    target = fetch_model(NAME)
    assert same_weights(load_checkpoint(target)[0], load_checkpoint(saved)[0])
    assert not list(target.glob("*.bin"))


def test_pickles_are_left_alone_where_there_is_better(hub, released, tmp_path):  # noqa: F811
    (released / "pytorch_model.bin").write_bytes(b"anything")
    fetch_model(NAME)
    assert not [path for _, path, _ in hub.asked if path.endswith(".bin")]


def test_ours_are_used_as_they_come(hub, saved):  # noqa: F811
    hub.repositories[NAME] = saved
    found = fetch_model(NAME)
    assert found.name == COMMIT and same_weights(load_checkpoint(found)[0], load_checkpoint(saved)[0])
    hub.asked.clear()
    assert fetch_model(NAME) == found and not hub.asked


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(hub, saved, monkeypatch):  # noqa: F811
    monkeypatch.setattr(hub_settings, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(hub_download.time, "sleep", lambda _: None)
    largest = max(hub.repositories[NAME].glob("*.safetensors"), key=lambda path: path.stat().st_size)
    hub.broken_off = {largest.name}
    target = fetch_model(NAME)
    assert same_weights(load_checkpoint(target)[0], load_checkpoint(saved)[0])
    ranges = [asked for method, path, asked in hub.asked if method == "GET" and path.endswith(largest.name)]
    assert ranges[0] == "" and ranges[1].startswith("bytes=") and ranges[1] != "bytes=0-"


def test_the_network_may_be_gone_afterwards(hub, monkeypatch):
    first = fetch_model(NAME)
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
    assert fetch_model(NAME) == first
    with pytest.raises(CheckpointError) as fault:
        fetch_model("owner/other")
    problem = "no such folder, and the repository can neither be reached nor is it in the cache. Check the connection"
    assert str(fault.value) == f"owner/other: {problem}"


def test_a_token_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_model(NAME)
    assert "Bearer hf_secret" in hub.tokens


@pytest.mark.parametrize(
    ("status", "code", "line"),
    [
        (
            401,
            "RepoNotFound",
            "no such folder, and no such repository on the Hub. Check the name; a private one needs `hf auth login`, or HF_TOKEN",
        ),
        (
            404,
            "RepoNotFound",
            "no such folder, and no such repository on the Hub. Check the name; a private one needs `hf auth login`, or HF_TOKEN",
        ),
        (403, "GatedRepo", "the repository is gated. Ask for access on its page, then run `hf auth login`"),
        (404, "RevisionNotFound", "the repository has no revision 'v9'. Check the name"),
        (
            500,
            "",
            "no such folder, and the repository can neither be reached nor is it in the cache. Check the connection",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, monkeypatch, status, code, line):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.status, hub.error_code = status, code
    with pytest.raises(CheckpointError) as fault:
        resolve_model(NAME, "v9")
    assert str(fault.value) == f"{NAME}: {line}"


def test_a_checkpoint_that_does_not_fit_is_not_translated(hub, released, tmp_path):  # noqa: F811
    path = sorted(released.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError) as fault:
        fetch_model(NAME)
    assert "the file cannot be read" in str(fault.value)
    assert [each.name for each in (tmp_path / "xseg" / "models" / "owner--name").iterdir()] == ["commits.json"]


def test_phis_tokenizer_where_a_checkpoint_has_none(hub, released, tmp_path, saved):  # noqa: F811
    """Phi's words and the released additions, if they make as many as the table has rows."""
    phi = tmp_path / "phi"
    phi.mkdir()
    tokenizer = json.loads((saved / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"] | {"<|endoftext|>": 256}
    (phi / "vocab.json").write_text(json.dumps(vocabulary))
    (phi / "merges.txt").write_text("#version: 0.2\n")
    hub.repositories["microsoft/phi-1_5"] = phi
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"):
        (released / name).unlink(missing_ok=True)
    ours, theirs = load_checkpoint(fetch_model(NAME))[1], load_checkpoint(saved)[1]
    assert ours.build(["a cup", None]) == theirs.build(["a cup", None])
    vocabulary["more"] = 257
    (phi / "vocab.json").write_text(json.dumps(vocabulary))
    shutil.rmtree(tmp_path / "xseg")
    shutil.rmtree(tmp_path / "downloads")
    with pytest.raises(CheckpointError) as fault:
        fetch_model(NAME)
    problem = "it has no tokenizer, and a table of 259 rows is not Phi's with [PAD] and [SEG]"
    assert str(fault.value).endswith(problem)


def test_a_start_without_fusion_is_translated_and_cannot_predict(hub, released, saved):  # noqa: F811
    """As PSALM is, from which training starts by default."""
    for path in released.glob("*.safetensors"):
        kept = {name: tensor for name, tensor in load_file(path).items() if "fuse_model" not in name}
        save_file(kept, path)
    table = {name: path.name for path in released.glob("*.safetensors") for name in load_file(path)}
    (released / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    start = fetch_model(NAME)
    assert inspect(start).settings["fusion"] == inspect(released).settings["fusion"] == "none yet: a start of training"
    segmenter, _ = load_checkpoint(start, changes={})
    assert segmenter.fusion.k.item() == 0.5
    with pytest.raises(CheckpointError, match="the weights do not fit the model; missing: fusion.k"):
        load_checkpoint(start)


def test_what_another_program_fetched_of_a_repository_is_not_taken_for_all_of_it(hub, tmp_path, monkeypatch):
    huggingface_hub.hf_hub_download(NAME, "config.json", cache_dir=tmp_path / "downloads")
    assert find_cached(NAME) is None
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
    assert "no weights in this folder" in error("weights", "pull", NAME)
    assert find_cached(NAME) is None
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", False)
    assert load_checkpoint(fetch_model(NAME))
