"""Training: the loss falls, a killed run goes on with the same losses, and each stage trains what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_take
from safetensors.torch import load_file, save_file

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data import moments
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.dataset import SampleMaker
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs import train as job
from egoexo_xseg.jobs import train_log, train_state
from egoexo_xseg.jobs.train import Batches, HeldOut, TrainOptions, train
from egoexo_xseg.jobs.train_state import Processes
from egoexo_xseg.model.answers import segment
from egoexo_xseg.model.checkpoint import load_checkpoint
from egoexo_xseg.model.inputs import Batch, collate
from egoexo_xseg.model.objective import Objective, freeze
from egoexo_xseg.model.prompts import PromptBuilder

PARTS = ("swin", "projector", "language", "fusion", "pixel_decoder", "mask_decoder")
QUICK = {"steps": 4, "batch_size": 2, "num_points": 64, "keep_every": 2, "lr": 1e-3}


@pytest.fixture
def options(data, tmp_path, tiny_model) -> TrainOptions:
    return TrainOptions(str(tiny_model), tmp_path / "run", TrainConfig(**QUICK), data, device="cpu")


def log(folder: Path) -> list[dict]:
    """Rows of the log without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    return {name.partition(".")[0] for name in new if not torch.equal(old[name], new[name])}


def test_a_killed_run_goes_on_with_the_same_losses(options, tmp_path, monkeypatch):
    train(options)
    stopped = replace(options, out=tmp_path / "stopped")
    real = moments.PreparedMoments.read
    monkeypatch.setattr(
        moments.PreparedMoments, "read", lambda self, position: real(self, position) if position < 6 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        train(stopped)
    assert len(log(stopped.out)) == 3 and [path.name for path in stopped.out.glob("state-*")] == ["state-2.pt"]
    monkeypatch.undo()
    train(stopped)
    assert log(stopped.out) == log(options.out)
    ours, theirs = (weights(folder / "model") for folder in (stopped.out, options.out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("line", ["{", '{"step": "two"}', "[]", "null", "\x00"])
def test_figures_that_were_damaged_are_named(tmp_path, line):
    for name in ("log", "validation"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2, "lo')
        with pytest.raises(XsegError) as fault:
            train_log.Log(tmp_path, 2, Processes(0, 1, torch.device("cpu")), tensorboard=False)
        remedy = "Delete that line, or move the file away"
        assert str(fault.value) == f"{path}, line 2: not a line of a training's figures. {remedy}"
        path.write_text('{"step": 1}\n{"step": 2, "lo')
    told = train_log.Log(tmp_path, 2, Processes(0, 1, torch.device("cpu")), tensorboard=False)
    assert told.tells("log", 1) and not told.tells("log", 2)


def test_only_the_last_states_stay(options):
    train(replace(options, config=replace(options.config, keep_every=1, keep_last=2)))
    assert sorted(path.name for path in options.out.glob("state-*")) == ["state-3.pt", "state-4.pt"]
    assert not list(options.out.glob(".*partial"))


def test_a_finished_run_is_not_repeated(options):
    train(options)
    before = (options.out / "model" / "model.safetensors").stat().st_mtime_ns
    train(options)
    assert (options.out / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_another_run_is_refused(options):
    train(options)
    with pytest.raises(XsegError) as caught:
        train(replace(options, config=replace(options.config, lr=1e-4)))
    assert str(caught.value) == (
        f"{options.out}: this folder holds a run with another configuration. Choose another --out, or delete it"
    )


def test_other_captions_are_another_run(options, captions_file):
    train(replace(options, captions=captions_file))
    with pytest.raises(XsegError, match="another configuration"):
        train(options)


def test_records_that_were_changed_are_another_run(options):
    """The same folder, with a take more: the rest would be learnt from in another order."""
    train(replace(options, config=replace(options.config, steps=None, epochs=0.5)))
    write_take(options.data / "take-c", np.random.default_rng(2))
    (options.data / "split.json").write_text(json.dumps({"val": ["take-a", "take-b", "take-c"]}))
    with pytest.raises(XsegError, match="another configuration"):
        train(replace(options, config=replace(options.config, steps=None, epochs=0.5)))


def test_what_a_killed_run_left_is_cleared(options):
    train(replace(options, config=replace(options.config, steps=2)))
    (options.out / ".model.x").mkdir()
    os.replace(options.out / "model", options.out / ".model.x" / "old")  # killed before the new one took its place
    (options.out / ".state-4.partial").write_bytes(b"half")
    train(replace(options, config=replace(options.config, steps=2)))
    assert (options.out / "model" / "train.json").exists() and not list(options.out.glob(".*"))


def test_a_start_that_was_refused_keeps_no_folder_busy(options):
    with pytest.raises(XsegError, match="drawn scenes never end"):
        train(replace(options, data=None, config=replace(options.config, steps=None)))
    train(options)
    assert len(log(options.out)) == 4


def test_a_copy_of_a_state_is_left_alone(options):
    options.out.mkdir()
    (options.out / "state-best.pt").write_bytes(b"mine")
    train(options)
    assert (options.out / "state-best.pt").read_bytes() == b"mine"


def test_a_model_is_whole_before_its_state_is(options, monkeypatch):
    monkeypatch.setattr(train_state, "save_checkpoint", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(options)
    assert not list(options.out.glob("state-*"))
    monkeypatch.undo()
    train(options)
    assert (options.out / "model" / "train.json").exists()


def test_a_gradient_that_is_not_finite_names_its_records(options, monkeypatch):
    monkeypatch.setattr(job, "_clip_gradients", lambda *_: float("inf"))
    with pytest.raises(XsegError, match="take take-.*: the gradient is not finite at step 1. Lower --lr"):
        train(options)


class Slope(Objective):
    """Its loss is the weight times what a batch says."""

    def __init__(self, **settings) -> None:
        torch.nn.Module.__init__(self)
        self.config = TrainConfig(lr=0.1, warmup=0.0, **settings)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * float(batch.names[0]) + 1}


@pytest.mark.parametrize(("clip", "moved"), [(10.0, -0.3), (1.0, -0.1)])
def test_a_step_takes_the_mean_of_its_batches_and_is_no_longer_than_clip(clip, moved):
    learner = Slope(clip=clip)
    nothing = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), (0,), (0,), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    batches = [Batch(*nothing, (1,), (), (), (slope,)) for slope in ("2", "4")]
    optimizer = torch.optim.SGD(learner.parameters())
    row = job.take_step(learner, optimizer, batches, (0, 10), Processes(0, 1, torch.device("cpu")))
    assert learner.weight.item() == pytest.approx(moved, rel=1e-5)
    assert (row["loss"], row["norm"], row["lr"]) == (1.0, 3.0, 0.1)


def test_only_matrices_decay(tiny_model):
    segmenter, _ = load_checkpoint(tiny_model)
    config = TrainConfig(stage="2", weight_decay=0.02)
    freeze(segmenter, config)
    decaying, others = job.make_optimizer(segmenter, config).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.02, 0.0)
    assert {p.ndim > 1 for p in decaying["params"]} == {True} and {p.ndim > 1 for p in others["params"]} == {False}
    learning = {id(p) for p in segmenter.parameters() if p.requires_grad}
    assert {id(p) for group in (decaying, others) for p in group["params"]} == learning
    assert not learning & {id(p) for p in segmenter.swin.parameters()}


@pytest.mark.parametrize("released", [False, True])
def test_frozen_parts_answer_as_they_will_in_use_unless_as_released(tiny_model, released):
    segmenter, _ = load_checkpoint(tiny_model)
    for stage, learning in (("1", {"fusion"}), ("2", set(PARTS) - {"swin"}), ("all", set(PARTS))):
        freeze(segmenter, TrainConfig(stage=stage, reference_behaviour=released))
        for name in PARTS:
            part = segmenter.get_submodule(name)
            assert {p.requires_grad for p in part.parameters()} == {name in learning}
            assert part.training == (released or name in learning), (stage, name)


@pytest.mark.parametrize(("stage", "parts"), [("1", {"fusion"}), ("2", None), ("all", None)])
def test_stages_train_what_they_should(options, tiny_model, stage, parts):
    config = replace(options.config, stage=stage, share=1.0, alignment="both", reference_behaviour=False)
    train(replace(options, config=config))
    found = changed(tiny_model, options.out / "model")
    assert found == parts if parts else {"projector", "language", "mask_decoder", "pixel_decoder", "fusion"} <= found
    assert ("swin" in found) == (stage == "all")
    row = log(options.out)[-1]
    assert ("alignment" in row) == ("contrast" in row) == (stage != "1")


def test_a_start_without_fusion_and_with_finer_features(options, tmp_path, tiny_model):
    start = tmp_path / "psalm"
    start.mkdir()
    for path in tiny_model.iterdir():
        (start / path.name).write_bytes(path.read_bytes())
    kept = {name: value for name, value in weights(tiny_model).items() if not name.startswith("fusion.")}
    save_file(kept, start / "model.safetensors", {"format": "pt"})
    config = replace(options.config, fusion="per_object", region_levels=(1, 2))
    train(replace(options, init=str(start), config=config))
    saved = json.loads((options.out / "model" / "config.json").read_text())
    assert (saved["fusion"], saved["region_levels"], saved["untrained"]) == ("per_object", [1, 2], False)
    assert {"region_heads.0.weight", "fusion.k"} <= weights(options.out / "model").keys()


def test_the_loss_falls_on_a_few_records_and_their_masks_fit(options, tmp_path):
    config = replace(
        options.config, stage="all", steps=120, batch_size=2, share=1 / 11, augment=False,
        caption_share=0.0, lr=3e-3, keep_every=120, num_points=None,
    )  # fmt: skip
    train(replace(options, config=config))
    losses = [row["loss"] for row in log(options.out)]
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    segmenter, prompts = load_checkpoint(options.out / "model")
    shape = segmenter.config
    maker = SampleMaker(config, prompts, shape.image_size, shape.pad_value, shape.decoder.num_mask_tokens)
    records = moments.PreparedMoments(open_annotations(options.data), config, tmp_path / "index.jsonl", None)
    side, overlaps, scores = shape.image_size, [], {True: [], False: []}
    for position in range(records.length):
        sample = maker.make(records.read(position), np.random.default_rng(0), 0)
        (found,) = segment(segmenter.eval(), collate([sample]), [(side, side)])
        for mask, score, truth in zip(found.masks.numpy(), found.scores.tolist(), sample.target_masks, strict=True):
            scores[bool(truth.any())].append(score)
            overlaps += [(mask & truth).sum() / (mask | truth).sum()] if truth.any() else []
    assert np.mean(overlaps) > 0.6
    assert np.mean(scores[False]) < 0.5 < np.mean(scores[True])


def test_a_loss_that_is_not_finite_names_its_records(options, tmp_path, tiny_model):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    values = weights(tiny_model)
    values["mask_head.weight"][0, 0] = float("nan")
    save_file(values, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(XsegError) as caught:
        train(replace(options, init=str(broken)))
    assert "the loss is not finite at step 1" in str(caught.value)
    assert "take take-" in str(caught.value) and "aria01_214-1" in str(caught.value)
    assert not (options.out / "model").exists()


def test_unreadable_frames_are_left_out(options):
    for path in options.data.glob("take-a/*/*.jpg"):
        path.write_bytes(b"\xff\xd8 cut")
    trained = train(options)
    assert len(log(options.out)) == 4
    assert trained.left_out == sum(row.get("left_out", 0) for row in log(options.out)) > 0


def test_nothing_readable_is_an_error(options):
    for path in options.data.glob("take-*/*/*.jpg"):
        path.unlink()
    with pytest.raises(XsegError, match="no record can be read"):
        train(options)


def test_drawn_scenes_need_a_number_of_steps(options):
    with pytest.raises(XsegError) as caught:
        train(replace(options, data=None, config=replace(options.config, steps=None)))
    assert str(caught.value) == "drawn scenes never end. Give prepared takes (--data), or say how many --steps"


def test_a_new_model_cannot_keep_what_it_never_learnt(options, tiny_model):
    with pytest.raises(XsegError) as caught:
        train(replace(options, init=str(tiny_model / "config.json")))
    assert str(caught.value) == (
        f"{tiny_model / 'config.json'}: a new model has nothing that stage 2 could leave as it is. "
        "Train it with --stage all"
    )


def test_epochs_count_all_records(options):
    train(replace(options, config=replace(options.config, steps=None, epochs=0.5)))
    assert len(log(options.out)) == 6  # half of 22 records, two at a time


def test_two_processes_train_one_model(options, tmp_path):
    """Whole copies and spread weights alike, and killed between two checkpoints: the losses of an undisturbed run."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(QUICK | {"alignment": "both"}))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "egoexo_xseg",
        "train", "--init", options.init, "--data", str(options.data), "--config", str(recipe), "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    copies, spread, resumed = (tmp_path / name for name in ("copies", "spread", "resumed"))
    for folder in (copies, spread, resumed):
        flags = [] if folder == copies else ["--fsdp"]
        done = subprocess.run([*command, *flags, "--out", str(folder)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        if folder == spread:
            resumed.mkdir()
            for name in ("train.json", "state-2.pt"):
                (resumed / name).write_bytes((spread / name).read_bytes())
            lines = (spread / "log.jsonl").read_text().splitlines(keepends=True)
            (resumed / "log.jsonl").write_text("".join(lines[:3]))
    assert log(spread) == log(resumed) and len(log(spread)) == 4
    ours, theirs = (weights(folder / "model") for folder in (resumed, spread))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for one, other in zip(log(copies), log(spread), strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_a_split_is_scored_as_training_goes_on(options):
    held_out = HeldOut(options.data, "val", None, takes=1)
    config = replace(options.config, validate_every=2, direction="ego2exo")
    train(replace(options, config=config, held_out=held_out))
    rows = [json.loads(line) for line in (options.out / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert row.keys() == {"step", "ego2exo"} and row["ego2exo"]["samples"] == 12
        assert 0 <= row["ego2exo"]["iou"] <= 1
    assert sorted(path.name for path in (options.out / "validation").iterdir()) == ["2.png", "4.png"]
    assert not list(options.out.glob(".*"))


def test_takes_that_are_not_prepared_keep_no_run_from_its_validation(options):
    (options.data / "split.json").write_text(json.dumps({"val": ["take-a", "take-b", "take-lost"]}))
    (options.data / "take-a" / "cam01" / "30.jpg").unlink()
    held_out = HeldOut(options.data, "val", None, takes=1)
    train(replace(options, config=replace(options.config, validate_every=4), held_out=held_out))
    (row,) = (json.loads(line) for line in (options.out / "validation.jsonl").read_text().splitlines())
    assert row["unanswered"] == 5  # objects of two pairs of views with that frame
    assert {"ego2exo", "exo2ego"} < row.keys()


def test_a_validation_in_which_a_run_was_killed_is_made_up_for(options, monkeypatch):
    held_out = HeldOut(options.data, "val", None, takes=1)
    options = replace(options, config=replace(options.config, validate_every=2), held_out=held_out)
    monkeypatch.setattr(train_log, "pack", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(options)
    assert (options.out / "state-2.pt").exists() and list(options.out.glob(".validation-2.partial"))
    monkeypatch.undo()
    train(options)
    rows = [json.loads(line) for line in (options.out / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and [row["step"] for row in log(options.out)] == [1, 2, 3, 4]
    train(options)
    assert len((options.out / "validation.jsonl").read_text().splitlines()) == 2
    assert not list(options.out.glob(".*"))


def test_takes_that_cannot_be_scored_are_refused_at_once(options):
    for path in options.data.glob("*/annotation.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotated_frames": {}}))
    with pytest.raises(XsegError) as caught:
        train(replace(options, held_out=HeldOut(options.data, "val", None, takes=1)))
    assert "no annotated target frames to validate on. Choose another --val-split" in str(caught.value)
    assert not options.out.exists()


def test_validation_changes_no_loss(options, tmp_path):
    train(options)
    config = replace(options.config, validate_every=1)
    train(replace(options, out=tmp_path / "scored", config=config, held_out=HeldOut(options.data, "val", None, 1)))
    assert log(tmp_path / "scored") == log(options.out)


def test_tensorboard_is_optional(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(XsegError) as caught:
        train(replace(options, tensorboard=True))
    assert str(caught.value) == "TensorBoard is not installed. pip install tensorboard"


def test_tensorboard_gets_the_figures_of_the_log(options, monkeypatch):
    written = []
    board = SimpleNamespace(add_scalar=lambda *row: written.append(row), flush=lambda: None)
    module = SimpleNamespace(SummaryWriter=lambda folder, purge_step: board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(replace(options, tensorboard=True))
    rows = log(options.out)
    assert [row[1:] for row in written if row[0] == "log/loss"] == [(row["loss"], row["step"]) for row in rows]


def test_a_shape_alone_is_trained_from_scratch(options, tmp_path):
    shape = tmp_path / "config.json"
    values = json.loads((Path(options.init) / "config.json").read_text())
    shape.write_text(json.dumps(values | {"language": values["language"] | {"vocab_size": 512}}))
    train(replace(options, init=str(shape), config=replace(options.config, stage="all")))
    assert json.loads((options.out / "model" / "config.json").read_text())["untrained"] is False
    prompts = PromptBuilder.load(options.out / "model")
    assert len(prompts.build(["red striped box"]).caption_ids) == 5  # three words, a full stop, [SEG]


def test_processes_beside_a_gpu_read_the_same_batches(tiny_model):
    _, prompts = load_checkpoint(tiny_model, device="cpu")
    config = TrainConfig(**QUICK)
    maker = SampleMaker(config, prompts, 64, 128, 4)
    drawn = moments.DrawnMoments(config, 64, 1)
    here, beside = (
        list(Batches(drawn, maker, config, Processes(0, 1, torch.device(kind))).read_ahead(range(1, 4)))
        for kind in ("cpu", "cuda")
    )
    for own, other in zip(here, beside, strict=True):
        assert own.names == other.names
        assert torch.equal(own.images, other.images) and torch.equal(own.target_masks, other.target_masks)


def test_drawn_scenes_are_as_sharp_as_what_is_cut_out_of_them(tmp_path):
    here = Processes(0, 1, torch.device("cpu"))
    for crop, side in ((1.0, 64), (0.5, 128)):
        options = TrainOptions("start", tmp_path, TrainConfig(steps=1, crop=crop))
        assert job._open_moments(options, None, None, 64, here).side == side
