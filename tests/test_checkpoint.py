"""Checkpoint folders: saving, strict loading, released folders, and every way in which one can be wrong."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from egoexo_xseg.api import CrossViewSegmenter
from egoexo_xseg.errors import CheckpointError, XsegError
from egoexo_xseg.model.checkpoint import checkpoint_hash, load_checkpoint, new_checkpoint, save_checkpoint
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.folders import whole_folder
from egoexo_xseg.model.released import to_released
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.model.weight_files import DTYPES

CONFIG = CrossViewConfig.tiny()
HEADS = CONFIG.language.num_attention_heads


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    new_checkpoint(folder, CONFIG, seed=3)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "model")


def test_a_new_checkpoint_is_small_and_repeatable(saved, tmp_path):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert sum(path.stat().st_size for path in saved.iterdir()) < 5_000_000
    new_checkpoint(tmp_path / "same", CONFIG, seed=3)
    new_checkpoint(tmp_path / "other", CONFIG, seed=4)
    assert checkpoint_hash(tmp_path / "same") == checkpoint_hash(saved) != checkpoint_hash(tmp_path / "other")
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # nothing temporary is left


def test_load_gives_back_what_was_saved(saved, tmp_path):
    segmenter, prompts = load_checkpoint(saved)
    assert not segmenter.training and prompts.seg_id == 258
    save_checkpoint(segmenter, prompts, tmp_path / "again")
    again, _ = load_checkpoint(tmp_path / "again")
    assert same_weights(segmenter, again)
    assert again.config.to_dict() == segmenter.config.to_dict()


def same_weights(one: CrossViewModel, other: CrossViewModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_transformers_reads_our_folders(saved):
    ours, _ = load_checkpoint(saved)
    theirs = CrossViewModel.from_pretrained(saved)
    assert same_weights(ours, theirs)
    images = torch.randint(0, 256, (1, 3, CONFIG.image_size, CONFIG.image_size), dtype=torch.uint8)
    assert torch.equal(ours.encode(images).tokens, theirs.encode(images).tokens)
    embeddings = torch.randn(1, 5, CONFIG.language.hidden_size)
    hidden = [model.language(inputs_embeds=embeddings).last_hidden_state for model in (ours, theirs)]
    assert torch.equal(*hidden)


def test_load_in_another_precision(saved):
    half, _ = load_checkpoint(saved, dtype=torch.float16)
    full, _ = load_checkpoint(saved)
    assert same_weights(half, full.to(torch.float16))
    assert half.language.rotary_emb.inv_freq.dtype == torch.float32


def test_in_bfloat16_only_the_image_tower_and_the_language_model_are_rough(saved):
    rough, _ = load_checkpoint(saved, dtype=torch.bfloat16)
    full, _ = load_checkpoint(saved)
    parts = {name.split(".")[0] for name, _ in full.named_parameters()} - {"swin", "language", "mask_tokens"}
    for part in (*parts, "swin.patch_embed"):
        assert same_weights(rough.get_submodule(part), full.get_submodule(part))
    rest = (rough.language, rough.swin.layers)
    assert rough.dtype == torch.bfloat16
    assert {weight.dtype for part in rest for weight in part.parameters()} == {torch.bfloat16}


def test_saving_replaces_a_checkpoint_but_nothing_else(saved, folder, tmp_path):
    segmenter, prompts = load_checkpoint(saved)
    beside = tmp_path / "train.json"
    for path in (folder / "model-00001-of-00002.safetensors", folder / "calibration.json", beside):
        path.write_bytes(b"")
    (folder / "README.md").write_text("my own words")
    (folder / "notes").mkdir()
    (folder / "notes" / "monday.txt").write_text("lab book")
    save_checkpoint(segmenter, prompts, folder, beside=[beside])
    # The calibration was of other weights; pages and notes are somebody's work.
    names = ["README.md", "config.json", "model.safetensors", "notes", "tokenizer.json", "train.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "README.md").read_text() == "my own words"
    assert (folder / "notes" / "monday.txt").read_text() == "lab book"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(CheckpointError) as fault:
        save_checkpoint(segmenter, prompts, tmp_path / "photos")
    assert str(fault.value) == f"{tmp_path / 'photos'}: not a checkpoint folder. Choose a new or an empty one"


@pytest.fixture
def released(folder, monkeypatch):
    """A folder in the released form: fused attention, dead weights, two shards, a foreign configuration."""
    monkeypatch.setattr(CrossViewConfig, "from_released", lambda values, vocab_size: CONFIG)
    weights = to_released(load_file(folder / "model.safetensors"), HEADS)
    weights |= {"lm_head.weight": torch.zeros(3, 4), "predictor.query_feat.weight": torch.zeros(2, 2)}
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_phi"}))
    write_shards(folder, weights)
    return folder


def write_shards(folder, weights):
    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: weights[name].contiguous() for name in own}, folder / shard)
    table = {name: shard for shard, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_released_folder(saved, released, caplog):
    caplog.set_level(logging.INFO, "egoexo_xseg")
    segmenter, _ = load_checkpoint(released)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "egoexo_xseg"]
    line = f"{released}: weights that play no part are dropped: lm_head.weight, predictor.query_feat.weight"
    assert said == [("INFO", line)]
    assert same_weights(segmenter, load_checkpoint(saved)[0])


def test_released_folder_as_pickled_weights(saved, released):
    weights = {}
    for path in released.glob("*.safetensors"):
        weights |= load_file(path)
        path.unlink()
    (released / "model.safetensors.index.json").unlink()
    torch.save(weights, released / "pytorch_model.bin")
    assert same_weights(load_checkpoint(released)[0], load_checkpoint(saved)[0])


def test_a_pickle_that_would_run_code_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(str(folder / "touched")), protocol=2))
    with pytest.raises(
        CheckpointError, match="pytorch_model.bin: the file holds something else than weights, and nothing is unpickled"
    ):
        load_checkpoint(folder)
    assert not (folder / "touched").exists()
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: the file holds something else than weights$"):
        load_checkpoint(folder)


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_missing_and_misshapen_weights_are_listed_together(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["fusion.k"], weights["mask_head.bias"]
    weights["mask_tokens"] = torch.zeros(2, 3)
    weights["caption_head.bias"] = torch.tensor(1.0)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    assert str(fault.value) == (
        f"{folder}: the weights do not fit the model; missing: mask_head.bias, fusion.k; "
        "wrong shape: mask_tokens (2x3 instead of 12x64), caption_head.bias (scalar instead of 32)"
    )


def test_long_lists_are_cut(folder):
    save_file({"fusion.k": torch.tensor(0.5)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    assert len(str(fault.value)) < 2000 and str(fault.value).split(" and ")[-1].endswith(" more")


def test_unknown_weights_are_named_in_a_warning(folder, caplog):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "predictor.extra.weight": torch.zeros(1)}, folder / "model.safetensors")
    load_checkpoint(folder)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"{folder}: weights that this model does not know are skipped: predictor.extra.weight"]


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "none.safetensors", 3, None])
def test_shards_stay_in_their_folder(folder, shard):
    (folder.parent / "secret.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"fusion.k": shard}}))
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    assert str(fault.value) == f"{index}: no shard {shard!r} in this folder"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("config.json", None, "the file is missing"),
        ("config.json", "{", "the file is not readable JSON"),
        ("config.json", "[]", "the file must hold a JSON object"),
        ("config.json", '{"model_type": "bert"}', "model_type is 'bert', not 'xseg' or 'llava_phi'"),
        ("config.json", '{"model_type": "xseg", "swin": [1]}', "swin must be a JSON object"),
        ("config.json", '{"model_type": "xseg", "pixel_mean": [NaN, 1.0, 1.0]}', "pixel_mean must be three numbers"),
        ("model.safetensors", "nonsense", "the file cannot be read ("),
        ("model.safetensors.index.json", '{"weight_map": {"fusion.k": ["a"]}}', "no shard ['a'] in this folder"),
    ],
)
def test_spoilt_files(folder, name, content, line):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    assert str(fault.value).removeprefix(f"{folder}/").startswith(f"{name}: {line}")


VALUES = st.sampled_from([None, True, -1, 0, 1, 7, 2.5, 1 << 40, "", "gelu", [], [3], {}, {"a": 1}])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_configuration_with_any_value_changed_loads_or_is_refused(saved, data):
    """A change that leaves all shapes alone may load, and then answers; nothing but one line may come of the others."""
    values = json.loads((saved / "config.json").read_text())
    part = data.draw(st.sampled_from(["swin", "projector", "decoder", "language", None]))
    changed = values if part is None else values[part]
    key = data.draw(st.sampled_from([name for name in sorted(changed) if name != "transformers_version"]))
    changed[key] = data.draw(VALUES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("model.safetensors", "tokenizer.json"):
            (folder / file).symlink_to(saved / file)
        (folder / "config.json").write_text(json.dumps(values))
        with contextlib.suppress(XsegError):
            answer(folder)


def answer(folder):
    """The objects of a small picture in itself."""
    image = np.zeros((20, 30, 3), np.uint8)
    mask = np.zeros((1, 20, 30), bool)
    mask[:, 5:15, 5:15] = True
    return CrossViewSegmenter.from_pretrained(folder, device="cpu").segment(image, mask, image)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"num_key_value_heads": 3}, "language's num_attention_heads must divide its hidden_size, and "),
        ({"num_key_value_heads": 8}, "language's num_attention_heads must divide its hidden_size, and "),
        ({"num_attention_heads": 3}, "language's num_attention_heads must divide its hidden_size, and "),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.35}},
         "language's partial_rotary_factor must turn an even number of a head's 16 channels"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.01}},
         "language's partial_rotary_factor must turn an even number of a head's 16 channels"),
    ],
)  # fmt: skip
def test_a_configuration_that_could_not_answer_is_refused(folder, changes, line):
    values = json.loads((folder / "config.json").read_text())
    values["language"] |= changes
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    assert str(fault.value).startswith(f"config.json: {line}")


def test_changes_are_checked_like_the_configuration_itself(saved):
    segmenter, _ = load_checkpoint(saved, changes={"fusion": "per_object"})
    assert segmenter.config.fusion == "per_object"
    with pytest.raises(CheckpointError, match="region_levels must be numbers from 0 to 3"):
        load_checkpoint(saved, changes={"region_levels": [7]})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool])
def test_weights_that_are_codes_are_refused(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    weights["mask_tokens"] = torch.zeros(weights["mask_tokens"].shape).to(dtype)
    name = next(name for name in weights if name.endswith("num_batches_tracked"))
    weights[name] = weights[name].to(torch.int32)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    kind = str(dtype).removeprefix("torch.")
    assert str(fault.value) == f"{folder}: the weights do not fit the model; wrong type: mask_tokens ({kind})"


def test_weights_of_any_floating_type_are_taken(folder, saved):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "mask_tokens": weights["mask_tokens"].double()}, folder / "model.safetensors")
    assert same_weights(load_checkpoint(folder)[0], load_checkpoint(saved)[0])


def test_a_type_that_nobody_knows_is_no_float32(folder, monkeypatch):
    monkeypatch.delitem(DTYPES, "F32")
    with pytest.raises(CheckpointError, match=r"model.safetensors: '\S+' has a type that is not known \(F32\)$"):
        load_checkpoint(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles_are_one_line(folder, saved, tmp_path, zipped):
    """One of 300 single bytes in a zip file, or of the older form, is another; what still loads does so in silence."""
    weights = {"mask_tokens": torch.zeros(2, 3), "fusion.k": torch.tensor(0.5)}
    torch.save(weights, tmp_path / "small.bin", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "small.bin").read_bytes()
    (folder / "model.safetensors").unlink()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (folder / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(CheckpointError) as fault:  # if only for the weights that are missing
            load_checkpoint(folder)
        assert "\n" not in str(fault.value)


def test_a_tokenizer_larger_than_the_model(folder):
    values = json.loads((folder / "config.json").read_text())
    values["language"]["vocab_size"] = 258
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(folder)
    assert str(fault.value) == f"{folder}: the tokenizer has 259 tokens, the model knows 258"


def test_no_weights_at_all(tmp_path):
    with pytest.raises(CheckpointError) as fault:
        load_checkpoint(tmp_path)
    assert str(fault.value) == f"{tmp_path}: no weights in this folder. It needs model.safetensors or its shards"


def test_what_is_nobodys_checkpoint_is_never_replaced(saved, folder, tmp_path):
    """A project, or a model of another kind, may have a config.json."""
    segmenter, prompts = load_checkpoint(saved)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        save_checkpoint(segmenter, prompts, other)
    assert (other / "config.json").exists()


def test_a_folder_that_could_not_be_replaced_is_there_as_it_was(folder, monkeypatch):
    real, moves = os.replace, []

    def replace(source, target):
        moves.append(source)
        if len(moves) == 2:
            raise OSError("No space left on device")
        real(source, target)

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"), whole_folder(folder, replaced=True) as fresh:
        (fresh / "config.json").write_text("{}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("content", [b".", b"\x80\x02", b"\x80\x02}q\x00.", b"\x80\x02c\xff\xff\n."])
def test_broken_pickles_are_one_line(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^\S*pytorch_model.bin: the file ") as fault:
        load_checkpoint(folder)
    assert "\n" not in str(fault.value)
