"""Model folders and repositories, without a network."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.model.hub import default_model, resolve_model
from egoexo_xseg.records import Direction


def test_each_direction_has_its_released_model():
    assert default_model(Direction.EGO_EXO) == "wangzeze/ObjectRelator-Ego2Exo-Full"
    assert default_model(Direction.EXO_EGO) == "wangzeze/ObjectRelator-Exo2Ego-Full"


def test_a_folder_is_itself(tmp_path):
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", ["weights/none/here", "/nowhere", "../up", "one"])
def test_neither_folder_nor_repository(model):
    with pytest.raises(CheckpointError) as fault:
        resolve_model(model)
    assert str(fault.value) == f"{model}: no such model folder. Give a folder, or a repository: owner/name"


def test_a_repository_is_downloaded_without_pickles(monkeypatch, tmp_path):
    asked = {}

    def download(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("owner/name", "abc") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("owner/name", "abc")
    assert "*.safetensors" in asked["patterns"] and not any("bin" in pattern for pattern in asked["patterns"])


REPLY = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            errors.GatedRepoError("x", response=REPLY),
            "the repository is gated. Ask for access on its page, then run `hf auth login`",
        ),
        (
            errors.RepositoryNotFoundError("x", response=REPLY),
            "no such folder, and no such repository on the Hub. Check the name",
        ),
        (errors.RevisionNotFoundError("x", response=REPLY), "the repository has no revision 'abc'. Check the name"),
        (
            errors.LocalEntryNotFoundError("offline"),
            "no such folder, and the repository can neither be reached nor is it in the cache. Check the connection",
        ),
        (
            ConnectionError(),
            "no such folder, and the repository can neither be reached nor is it in the cache. Check the connection",
        ),
    ],
)
def test_failures_are_one_line(monkeypatch, fault, line):
    def download(*_args, **_options):
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError) as found:
        resolve_model("owner/name", "abc")
    assert str(found.value) == f"owner/name: {line}"
