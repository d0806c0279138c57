"""What checkpoints hold, and the same weights under other names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_cli import error, run

from egoexo_xseg.jobs import weights as job
from egoexo_xseg.model.checkpoint import checkpoint_hash, load_checkpoint
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.hub import KNOWN


def test_contents_are_those_of_the_model(tiny_model):
    contents = job.inspect(tiny_model)
    segmenter, _ = load_checkpoint(tiny_model)
    assert contents.num_parameters == sum(tensor.numel() for tensor in segmenter.state_dict().values())
    assert contents.parts["projector"] == sum(tensor.numel() for tensor in segmenter.projector.state_dict().values())
    assert contents.dtypes == ("float32",) and contents.digest == checkpoint_hash(tiny_model)
    assert contents.settings["fusion"] == "released" and contents.settings["trained"] == "no"


def test_the_shipped_model_tells_where_it_came_from():
    shipped = Path(__file__).parents[1] / "weights" / "xseg-tiny"
    result = run("weights", "inspect", shipped, "--json")
    values = json.loads(result.stdout)
    assert values["dtypes"] == ["float16"] and values["parts"]["language model (Phi)"] > 100_000
    assert values["provenance"]["training's direction"] == "both"
    assert values["provenance"]["calibrated for"] == "ego2exo and exo2ego"
    shown = run("weights", "inspect", shipped).stdout
    assert values["sha256"] in shown and f"{values['parameters']:,}" in shown


def test_weights_that_do_not_fit_are_an_error(tiny_model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    values["decoder"]["num_mask_tokens"] += 1
    (folder / "config.json").write_text(json.dumps(values))
    assert "wrong shape: mask_tokens (12x64 instead of 13x64)" in error("weights", "inspect", folder)


def test_there_and_back_again(tiny_model, tmp_path, monkeypatch):
    config = CrossViewConfig.tiny()
    monkeypatch.setattr(CrossViewConfig, "from_released", lambda values, vocab_size: CrossViewConfig.tiny())
    assert run("weights", "convert", tiny_model, tmp_path / "theirs", "--to", "released").exit_code == 0
    names = load_file(tmp_path / "theirs" / "model.safetensors").keys()
    assert "seg_query" in names and "model.layers.0.self_attn.query_key_value.weight" in names
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["hidden_size"] == config.language.hidden_size
    assert run("weights", "convert", tmp_path / "theirs", tmp_path / "back").exit_code == 0
    ours, back = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "back"))
    assert ours.keys() == back.keys() and all(torch.equal(ours[name], back[name]) for name in ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "theirs"]
    assert error("weights", "convert", tiny_model, tmp_path / "theirs", "--to", "released") == (
        f"{tmp_path / 'theirs'}: the folder is there already. Choose a new one"
    )


def test_another_precision(tiny_model, tmp_path):
    assert run("weights", "convert", tiny_model, tmp_path / "half", "--dtype", "bfloat16").exit_code == 0
    assert job.inspect(tmp_path / "half").dtypes == ("bfloat16", "float32")  # pixels and decoders are not rounded


def test_the_released_form_has_no_room_for_other_models(tiny_model, tmp_path):
    assert error("weights", "convert", tiny_model, tmp_path / "theirs", "--to", "released") == (
        f"{tiny_model}: the released form holds the published models' size and settings only. Convert to xseg's names"
    )
    assert not list(tmp_path.iterdir())


def test_the_list_says_what_is_known_and_here(tmp_path, monkeypatch):
    names = list(KNOWN)
    monkeypatch.setenv("XSEG_CACHE", str(tmp_path))
    translation = tmp_path / "models" / names[1].replace("/", "--") / "abc-float32"
    translation.mkdir(parents=True)
    (translation / "origin.json").write_text("{}")
    (translation.parent / ".abc-bfloat16.half").mkdir()
    download = tmp_path / "download"
    monkeypatch.setattr(job, "find_cached", lambda name: download if name == names[0] else None)
    lines = run("weights", "list").stdout.splitlines()
    rows = {name: next(line for line in lines if line.strip().startswith(f"{name} ")) for name in names}
    for name, row in rows.items():
        assert KNOWN[name].what in row and "Apache-2.0" in row and " 6.4 GB " in row
        assert row.rstrip().endswith("yes") == (name in names[:2])
    assert "0.454 (val, the authors')" in rows[names[0]] and "0.074 / 0.021 (test, the challenge's)" in rows[names[-1]]
    assert rows["wangzeze/ObjectRelator-Joint"].split()[-2:] == ["-", "-"]
    assert lines[-2:] == [f"{names[0]}: {download}", f"{names[1]}: {translation}"]
    values = {value["name"]: value for value in json.loads(run("weights", "list", "--json").stdout)}
    assert list(values) == names
    assert values[names[0]] | {"reported": None} == {
        "name": names[0],
        "direction": "ego2exo",
        "what": "trained on all records",
        "gigabytes": 6.36,
        "licence": "Apache-2.0",
        "reported": None,
        "download": str(download),
        "translations": [],
    }
    assert values[names[0]]["reported"] == [
        {"direction": "ego2exo", "split": "val", "measure": "the authors'", "iou": 0.454}
    ]
    assert values[names[1]]["download"] is None and values[names[1]]["translations"] == [str(translation)]


def test_pull_says_where_a_model_lies(tiny_model):
    assert run("weights", "pull", tiny_model).stdout.strip() == str(tiny_model)


@pytest.mark.parametrize("name", ["nobody", "/nowhere"])
def test_a_model_that_is_not_there(name):
    assert error("weights", "pull", name) == f"{name}: no such model folder. Give a folder, or a repository: owner/name"
