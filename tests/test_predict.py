"""Prediction jobs: complete, resumable to the same bytes, honest about what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write_take

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.predictions import lost_shards
from egoexo_xseg.errors import PredictionError, SubmissionError, XsegError, is_out_of_memory
from egoexo_xseg.jobs import predict as job
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.masks import rle_area, scored_hw
from egoexo_xseg.model import answers
from egoexo_xseg.model.checkpoint import new_checkpoint
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.swin import Swin
from egoexo_xseg.records import Direction, Prediction

TAKES = ("take-a", "take-b")


@pytest.fixture
def options(data, tmp_path, tiny_model) -> PredictOptions:
    return PredictOptions(data, tmp_path / "pred", Direction.EGO_EXO, str(tiny_model), device="cpu")


def read(path: Path) -> list[Prediction]:
    return [Prediction.from_line(line) for line in path.read_text("utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_both_directions_together(options, tmp_path):
    summary = predict(replace(options, direction=None))
    assert (summary.folder, summary.takes, summary.faults) == (options.out, 2, [])
    assert predict(replace(options, direction=None)).already == 2
    for direction in Direction:
        predict(replace(options, direction=direction, out=tmp_path / "single"))
        for uid in ("take-a", "take-b"):
            both, single = (read(out / direction.value / f"{uid}.jsonl") for out in (options.out, tmp_path / "single"))
            assert [p.key for p in both] == [p.key for p in single]
            assert max(abs(a.score - b.score) for a, b in zip(both, single, strict=True)) < 1e-5
    (options.out / "exo2ego" / "take-b.jsonl").unlink()
    kept = contents(options.out / "ego2exo")
    assert predict(replace(options, direction=None)).takes == 1
    assert (options.out / "exo2ego" / "take-b.jsonl").exists() and contents(options.out / "ego2exo") == kept


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_both_directions_look_at_each_frame_once_and_enlarge_each_answer_once(options, monkeypatch, batch_size):
    work, look, enlarge = {"images": 0, "masks": 0}, Swin.forward, answers.unfit

    def counted(part: str, amount: int) -> None:
        work[part] += amount

    monkeypatch.setattr(Swin, "forward", lambda self, pixels: (counted("images", len(pixels)), look(self, pixels))[1])
    monkeypatch.setattr(answers, "unfit", lambda own, *rest: (counted("masks", len(own)), enlarge(own, *rest))[1])
    summary = predict(replace(options, direction=None, batch_size=batch_size))
    assert work == {"images": 2 * 3 * 3, "masks": summary.predictions}  # takes, frames, cameras


@pytest.mark.parametrize("direction", Direction)
def test_answers_everything_that_is_asked(options, direction):
    summary = predict(replace(options, direction=direction))
    assert (summary.takes, summary.already, summary.faults) == (2, 0, [])
    for take in open_annotations(options.data):
        pairs = list(iter_pairs(take, direction))
        asked = [(p.take_uid, o.object_id, p.query_camera, p.target_camera, p.frame) for p in pairs for o in p.objects]
        answers = read(options.out / direction.value / f"{take.take_uid}.jsonl")
        assert [answer.key for answer in answers] == asked
        for answer in answers:
            assert answer.mask.hw == scored_hw(take.camera_hw[answer.target_camera])
            assert rle_area(answer.mask) > 0 and 0 <= answer.visibility <= 1


def test_same_command_same_bytes(options, tmp_path):
    predict(options)
    predict(replace(options, out=tmp_path / "again"))
    first, second = contents(options.out / "ego2exo"), contents(tmp_path / "again" / "ego2exo")
    assert first == second and {"take-a.jsonl", "take-b.jsonl", "manifest.json"} == set(first)


def test_renaming_all_objects_changes_no_answer(options, tmp_path):
    import numpy as np

    predict(options)
    for seed, uid in enumerate(("take-a", "take-b")):
        write_take(options.data / uid, np.random.default_rng(seed), ("a steel kettle", "b", "stainless bowl_0"))
    predict(replace(options, out=tmp_path / "renamed"))
    for uid in ("take-a", "take-b"):
        before, after = (read(out / "ego2exo" / f"{uid}.jsonl") for out in (options.out, tmp_path / "renamed"))
        assert [replace(p, object_id="") for p in before] == [replace(p, object_id="") for p in after]


def test_batches_answer_like_single_records(options, tmp_path):
    predict(replace(options, batch_size=1))
    predict(replace(options, batch_size=5, out=tmp_path / "batched"))
    single, batched = (read(out / "ego2exo" / "take-a.jsonl") for out in (options.out, tmp_path / "batched"))
    assert [p.key for p in single] == [p.key for p in batched]
    assert max(abs(a.score - b.score) for a, b in zip(single, batched, strict=True)) < 1e-5
    assert sum(a.mask == b.mask for a, b in zip(single, batched, strict=True)) >= len(single) - 1


def test_finished_takes_are_left_alone(options, monkeypatch):
    predict(options)
    monkeypatch.setattr(job, "load_checkpoint", lambda *args, **kwargs: pytest.fail("nothing was left to do"))
    summary = predict(options)
    assert (summary.takes, summary.already) == (0, 2)


def test_shards_share_the_work(options):
    one, two = (predict(replace(options, shard=(index, 2))) for index in (1, 2))
    assert one.takes == two.takes == 1
    assert {path.name for path in (options.out / "ego2exo").glob("*.jsonl")} == {"take-a.jsonl", "take-b.jsonl"}


def test_torchrun_shares_the_takes_out(options, tmp_path):
    line = f"predict --direction both --data {options.data} --model {options.model} --device cpu --out {options.out}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, "-m", "egoexo_xseg", *line.split()], check=True, capture_output=True)
    for direction in Direction:
        names = {"take-a.jsonl", "take-b.jsonl", "manifest.json", "shard-1-of-2.json", "shard-2-of-2.json"}
        assert set(contents(options.out / direction.value)) == names
        assert not lost_shards(options.out, direction, TAKES)


def test_a_lost_shard_is_named(options, tmp_path):
    predict(replace(options, shard=(1, 3)))
    assert lost_shards(options.out, Direction.EGO_EXO, TAKES) == ["2/3", "3/3"]
    for index in (2, 3):
        predict(replace(options, shard=(index, 3)))
    assert lost_shards(options.out, Direction.EGO_EXO, TAKES) == []
    (options.out / "ego2exo" / "take-b.jsonl").unlink()
    (shard,) = lost_shards(options.out, Direction.EGO_EXO, TAKES)
    with pytest.raises(SubmissionError) as fault:
        pack(options.out, open_annotations(options.data), tmp_path / "s.json", partial=True)
    assert str(fault.value).endswith(f"Run xseg predict again with --direction ego2exo --shard {shard}")
    again = predict(replace(options, shard=tuple(map(int, shard.split("/")))))
    assert (again.takes, lost_shards(options.out, Direction.EGO_EXO, TAKES)) == (1, [])


def test_shards_of_an_abandoned_split_are_not_lost(options):
    """One of eight was predicted, then the rest in another number of shards."""
    predict(replace(options, shard=(1, 8)))
    predict(options)
    assert lost_shards(options.out, Direction.EGO_EXO, TAKES) == []


def test_a_shard_with_pairs_left_to_do_is_lost(options):
    for index in (1, 2):
        predict(replace(options, shard=(index, 2)))
    (options.out / "ego2exo" / "take-a.faults.txt").write_text("a frame is missing")
    (shard,) = lost_shards(options.out, Direction.EGO_EXO, TAKES)
    assert predict(replace(options, shard=tuple(map(int, shard.split("/"))))).takes == 1
    assert lost_shards(options.out, Direction.EGO_EXO, TAKES) == []


def test_two_models_do_not_mix(options, tmp_path):
    predict(replace(options, takes=("take-a",)))
    new_checkpoint(tmp_path / "other", CrossViewConfig.tiny(), seed=1)
    with pytest.raises(PredictionError) as caught:
        predict(replace(options, model=str(tmp_path / "other")))
    problem = "this folder holds predictions made with another model"
    assert str(caught.value) == f"{options.out / 'ego2exo'}: {problem}. Choose another --out, or delete it"


def test_what_is_no_model_leaves_the_folder_free(options, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in Path(options.model).iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: -10 if path.suffix == ".safetensors" else None])
    with pytest.raises(XsegError):
        predict(replace(options, model=str(broken)))
    assert not options.out.exists()
    predict(options)


def test_captions_are_part_of_the_identity(options, tmp_path):
    predict(replace(options, takes=("take-a",)))
    row = {"take_uid": "take-a", "object_id": "red cup _0", "camera": "cam01", "frame": None, "caption": "a cup"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    with pytest.raises(PredictionError, match="made with another captions"):
        predict(replace(options, captions=tmp_path / "captions.jsonl"))


def write_captions(path: Path, **texts: str) -> Path:
    """One caption for each object of take-a, at every frame of the ego camera."""
    row = {"take_uid": "take-a", "camera": "aria01_214-1", "frame": None}
    lines = [json.dumps(row | {"object_id": object_id, "caption": text}) for object_id, text in texts.items()]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def test_shuffled_captions_reach_the_model_and_do_not_mix_with_others(options, tmp_path, monkeypatch):
    seen: list[tuple[str, str | None]] = []
    iter_pairs = job.iter_pairs

    def watched(*args):
        for pair in iter_pairs(*args):
            seen.extend((entry.object_id, entry.caption) for entry in pair.objects)
            yield pair

    monkeypatch.setattr(job, "iter_pairs", watched)
    path = write_captions(tmp_path / "shards" / "one.jsonl", **{"red cup _0": "a cup", "Bowl_1 ": "a bowl"})
    some = replace(options, takes=("take-a",), captions=path.parent)
    predict(some)
    assert set(seen) == {("red cup _0", "a cup"), ("Bowl_1 ", "a bowl")}
    seen.clear()
    with pytest.raises(PredictionError, match="made with another captions and shuffle_captions"):
        predict(replace(some, shuffle_captions=3))
    predict(replace(some, shuffle_captions=3, out=tmp_path / "shuffled"))
    assert set(seen) == {("red cup _0", "a bowl"), ("Bowl_1 ", "a cup")}
    identity = json.loads((tmp_path / "shuffled" / "ego2exo" / "manifest.json").read_text())["identity"]
    assert identity["shuffle_captions"] == 3
    with pytest.raises(PredictionError, match="no captions to shuffle. Give --captions FILE"):
        predict(replace(options, shuffle_captions=3, out=tmp_path / "none"))


def test_manifest_says_what_ran(options, tiny_model):
    predict(options)
    manifest = json.loads((options.out / "ego2exo" / "manifest.json").read_text())
    assert len(manifest["identity"]["model"]) == 64 and manifest["identity"]["dtype"] == "float32"
    assert manifest["model"] == str(tiny_model) and manifest["versions"]["torch"] == torch.__version__


def test_missing_and_broken_frames_are_named_and_tried_again(options):
    missing, broken = (options.data / "take-a" / "cam01" / name for name in ("0.jpg", "30.jpg"))
    kept = missing.read_bytes()
    missing.unlink()
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    summary = predict(options)
    where = "take take-a, aria01_214-1 to cam01, frame"
    assert summary.faults == [
        f"{where} 0: {missing}: the frame is missing. Run xseg prepare",
        f"{where} 30: {broken}: not readable as an image",
    ]
    file = options.out / "ego2exo" / "take-a.jsonl"
    assert {(p.target_camera, p.frame) for p in read(file)} == {
        ("cam01", 60),
        ("cam02", 0),
        ("cam02", 30),
        ("cam02", 60),
    }
    missing.write_bytes(kept)
    broken.write_bytes(whole)
    again = predict(options)
    assert (again.takes, again.already, again.faults) == (1, 1, []) and len(read(file)) == 12
    assert not list(file.parent.glob("*.faults.txt"))


def test_a_batch_that_is_too_large_is_tried_in_parts(options, monkeypatch):
    def answer(segmenter, pairs, joined):
        if len(pairs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if pairs[0].frame == 30:
            torch.empty(1 << 60, dtype=torch.uint8)  # no machine has as much
        return answer_pairs(segmenter, pairs, joined)

    def join(samples):
        if len(samples) == 4:
            raise MemoryError
        return collate(samples)

    answer_pairs, collate = job.answer_pairs, job.collate
    monkeypatch.setattr(job, "answer_pairs", answer)
    monkeypatch.setattr(job, "collate", join)
    summary = predict(replace(options, takes=("take-a",)))
    assert summary.faults == [
        f"take take-a, aria01_214-1 to {camera}, frame 30: out of memory on cpu" for camera in ("cam01", "cam02")
    ]
    assert len(read(options.out / "ego2exo" / "take-a.jsonl")) == 8


def test_a_record_without_finite_scores_is_named_and_the_others_are_answered(options, monkeypatch):
    def answer(segmenter, pairs, joined):
        if any(pair.frame == 30 for pair in pairs):
            raise XsegError("scores are not finite", where="somewhere", remedy="Try harder")
        return answer_pairs(segmenter, pairs, joined)

    answer_pairs = job.answer_pairs
    monkeypatch.setattr(job, "answer_pairs", answer)
    summary = predict(replace(options, takes=("take-a",)))
    assert summary.faults == [
        f"take take-a, aria01_214-1 to {camera}, frame 30: scores are not finite. Try harder"
        for camera in ("cam01", "cam02")
    ]
    assert len(read(options.out / "ego2exo" / "take-a.jsonl")) == 8


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_whoever_runs_out_of_memory_says_so_in_its_own_words(fault):
    assert is_out_of_memory(fault) and not is_out_of_memory(RuntimeError("shapes do not match"))


def test_other_faults_of_the_model_are_not_hidden(options, monkeypatch):
    def answer(*_args):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(job, "answer_pairs", answer)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict(options)


def test_more_objects_than_proposals_are_answered_in_parts(options):
    import numpy as np

    write_take(options.data / "take-a", np.random.default_rng(0), tuple(f"object {index}" for index in range(30)))
    summary = predict(replace(options, takes=("take-a",)))
    answers = read(options.out / "ego2exo" / "take-a.jsonl")
    assert not summary.faults and len({answer.key for answer in answers}) == len(answers) == 29 * 6


def test_killed_in_the_middle_and_started_again(options, tmp_path):
    predict(replace(options, out=tmp_path / "calm"))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom egoexo_xseg.jobs import predict as job\n"
        "from egoexo_xseg.records import Direction\n"
        "write = job.Predictor.write_take\n"
        "job.Predictor.write_take = lambda self, take, *rest: (write(self, take, *rest), time.sleep(60))[0]\n"
        f"job.predict(job.PredictOptions(Path({str(options.data)!r}), Path({str(options.out)!r}), "
        f"Direction.EGO_EXO, {options.model!r}, device='cpu'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (options.out / "ego2exo" / "take-a.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    predict(options)
    assert contents(options.out / "ego2exo") == contents(tmp_path / "calm" / "ego2exo")
