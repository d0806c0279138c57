"""Model folders and repositories, without a network."""

from __future__ import annotations

import pytest

from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.model.hub import default_model, resolve_model
from egoexo_xseg.records import Direction


def test_each_direction_has_its_released_model():
    assert default_model(Direction.EGO_EXO) == "wangzeze/ObjectRelator-Ego2Exo-Full"
    assert default_model(Direction.EXO_EGO) == "wangzeze/ObjectRelator-Exo2Ego-Full"


def test_a_folder_is_itself(tmp_path):
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "model", ["weights/none/here", "/nowhere", "../up", "one", "owner/a--b", "owner/.a", "owner/a.git"]
)
def test_neither_folder_nor_repository(model):
    with pytest.raises(CheckpointError) as fault:
        resolve_model(model)
    assert str(fault.value) == f"{model}: no such model folder. Give a folder, or a repository: owner/name"
