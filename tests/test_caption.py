"""Captioning jobs: complete, resumable caption by caption, blind to names, honest about what failed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EGO, OBJECT_IDS, write_take
from test_cli import error, run

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Caption, Captions
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.errors import AnnotationError, PredictionError
from egoexo_xseg.jobs import caption as job
from egoexo_xseg.jobs.caption import CaptionOptions, caption, iter_questions
from egoexo_xseg.masks import Rle, mask_to_rle, rle_area
from egoexo_xseg.model.captioner import Captioner
from egoexo_xseg.records import Direction


class FakeCaptioner(Captioner):
    """Says of each image what it hashes to; remembers what it saw."""

    revision = "fake-1"

    def __init__(self, *loaded: object) -> None:
        self.seen: list[np.ndarray] = []
        self.loaded = loaded
        FakeCaptioner.last = self

    @classmethod
    def find(cls, model):
        return Path(model), cls.revision

    @classmethod
    def load(cls, model, *, device, dtype, found):
        assert found == cls.find(model)
        return cls(model, device, dtype)

    def describe(self, images):
        self.seen += images
        return [f"The object highlighted in green is a {word(image)} bowl." for image in images]


def word(image: np.ndarray) -> str:
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return "".join(chr(ord("a") + int(digit, 16)) for digit in digest[:12])


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(job, "Captioner", FakeCaptioner)
    return FakeCaptioner


@pytest.fixture
def options(data, tmp_path) -> CaptionOptions:
    return CaptionOptions(data, tmp_path / "out" / "captions.jsonl", device="cpu", batch_size=3)


def read(path: Path) -> list[Caption]:
    return [Caption.from_line(line) for line in path.read_text("utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_masks(data: Path, uid: str, object_id: str, camera: str, **changes: Rle | None) -> None:
    """Replace masks by frame; None takes one out."""
    path = data / uid / "annotation.json"
    annotation = json.loads(path.read_text())
    for frame, rle in changes.items():
        annotation["masks"][object_id][camera][frame.strip("f")] = rle and rle.to_json()
    path.write_text(json.dumps(annotation))


@pytest.mark.parametrize("per", ["object", "frame"])
def test_whatever_is_asked_of_the_model_has_a_caption(options, per):
    summary = caption(replace(options, per=per))
    lines = read(options.out)
    assert (summary.written, summary.already, summary.faults) == (len(lines), 0, [])
    captions = Captions.read(options.out)
    for take in open_annotations(options.data):
        for direction in Direction:
            pairs = list(iter_pairs(take, direction, captions))
            assert pairs and all(item.caption for pair in pairs for item in pair.objects)
    frames = {line.frame for line in lines}
    # Per take: 2 objects in the ego view, 3 in each exo view; cam02 lacks the middle one of three frames.
    assert len(lines) == 2 * (2 + 3 + 3 if per == "object" else 2 * 3 + 3 * 3 + 3 * 2)
    assert frames == ({None} if per == "object" else {0, 30, 60})
    assert [line.key for line in lines] == sorted((line.key for line in lines), key=lambda key: (*key[:3], key[3] or 0))


def test_directions_are_query_sides(options):
    caption(replace(options, direction="ego2exo"))
    assert {line.camera for line in read(options.out)} == {EGO}
    caption(replace(options, direction="exo2ego"))
    assert {line.camera for line in read(options.out)} == {EGO, "cam01", "cam02"}  # what was there stays


def test_lines_say_what_made_them(options):
    caption(options)
    line = read(options.out)[0]
    assert line.answer == f"The object highlighted in green is a {line.caption}."
    assert line.model_revision == "fake-1" and len(line.mask_hash) == len(line.prompt_hash) == 16
    manifest = json.loads((options.out.parent / "captions.manifest.json").read_text())
    assert manifest["identity"] == {"dtype": "float32"} and manifest["prompt"] == job.ASKED
    assert manifest["model_revision"] == "fake-1" and manifest["per"] == "object"
    assert FakeCaptioner.last.loaded == ("llava-hf/llava-1.5-7b-hf", "cpu", torch.float32)


def test_the_largest_mask_is_shown(options):
    large = np.zeros((36, 64), bool)
    large[:20, :20] = True
    edit_masks(options.data, "take-a", "knife_2", "cam01", f60=mask_to_rle(large))
    caption(options)
    lines = {line.key[:3]: line for line in read(options.out)}
    assert lines["take-a", "knife_2", "cam01"].source_frame == 60
    assert lines["take-a", "red cup _0", "cam01"].source_frame == 0  # all are as large: the first
    take = open_annotations(options.data).load("take-a")
    (question,) = (q for q in iter_questions(take, options, []) if q.key[1:3] == ("knife_2", "cam01"))
    assert rle_area(question.mask) == 400 and question.mask_hash == lines[question.key[:3]].mask_hash
    tinted = question.show()[:20, :20].astype(int)  # the crop begins where the image does
    assert (tinted[..., 1] >= 70).all() and (tinted[..., [0, 2]] <= 0.7 * 255 + 1).all()  # 0.3 of pure green


def test_the_captioner_learns_pixels_and_nothing_else(options, tmp_path):
    caption(options)
    seen = [image.tobytes() for image in FakeCaptioner.last.seen]
    for seed, uid in enumerate(("take-a", "take-b")):
        write_take(options.data / uid, np.random.default_rng(seed), ("a steel kettle", "b", "stainless bowl_0"))
    caption(replace(options, out=tmp_path / "renamed.jsonl"))
    assert [image.tobytes() for image in FakeCaptioner.last.seen] == seen
    anonymous = [
        [replace(line, object_id="") for line in sorted(read(path), key=lambda line: (line.take_uid, names.index(line.object_id), line.camera))]
        for path, names in ((options.out, OBJECT_IDS), (tmp_path / "renamed.jsonl", ("a steel kettle", "b", "stainless bowl_0")))
    ]  # fmt: skip
    assert anonymous[0] == anonymous[1]


def test_nothing_is_asked_twice(options):
    first = caption(options)
    before = contents(options.out.parent)
    FakeCaptioner.last = None
    again = caption(options)
    assert (again.written, again.already) == (0, first.written) and FakeCaptioner.last is None  # nor loaded
    assert contents(options.out.parent) == before


def test_a_changed_mask_is_noticed_and_only_that_redone(options):
    caption(options)
    before = {line.key: line for line in read(options.out)}
    edit_masks(options.data, "take-b", "Bowl_1 ", "cam02", f0=mask_to_rle(np.eye(36, 64, dtype=bool)))
    edit_masks(options.data, "take-b", "Bowl_1 ", "cam02", f60=mask_to_rle(np.eye(36, 64, dtype=bool)))
    summary = caption(options)
    after = {line.key: line for line in read(options.out)}
    assert (summary.written, len(FakeCaptioner.last.seen)) == (1, 1)
    assert [key for key in after if after[key] != before[key]] == [("take-b", "Bowl_1 ", "cam02", None)]


def test_captions_of_frames_do_not_outlive_what_they_describe(options, monkeypatch):
    frames = replace(options, per="frame", direction="ego2exo")
    caption(frames)
    edit_masks(options.data, "take-a", "Bowl_1 ", EGO, f30=mask_to_rle(np.eye(48, dtype=bool)))
    caption(options)  # per object
    kept = {line.key for line in read(options.out) if line.frame is not None}
    assert len(kept) == 11 and ("take-a", "Bowl_1 ", EGO, 30) not in kept
    monkeypatch.setattr(FakeCaptioner, "revision", "fake-2")
    caption(replace(options, takes=("take-a",)))
    assert {line.take_uid for line in read(options.out) if line.frame is not None} == {"take-b"}


@pytest.mark.parametrize("changed", ["model", "prompt"])
def test_another_model_or_prompt_is_noticed(options, monkeypatch, changed):
    first = caption(options)
    monkeypatch.setattr(FakeCaptioner, "revision", "fake-2") if changed == "model" else monkeypatch.setattr(
        job, "ASKED", "What?"
    )
    some = caption(replace(options, takes=("take-a",)))
    assert some.written == first.written // 2 and some.already == 0
    rest = caption(options)
    assert rest.written == rest.already == first.written // 2


def test_another_precision_does_not_mix(options):
    caption(options)
    with pytest.raises(PredictionError) as caught:
        caption(replace(options, dtype="bfloat16"))
    problem = "this file holds captions made with another dtype"
    assert str(caught.value) == f"{options.out}: {problem}. Choose another --out, or delete it"
    options.out.unlink()
    assert caption(replace(options, dtype="bfloat16")).written == 16


def test_a_file_made_by_hand_is_not_overwritten(options):
    options.out.parent.mkdir()
    row = {"take_uid": "take-a", "object_id": "red cup _0", "camera": "cam01", "frame": None, "caption": "a cup"}
    options.out.write_text(json.dumps(row) + "\n")
    with pytest.raises(AnnotationError) as caught:
        caption(options)
    assert str(caught.value) == f"{options.out}, line 1: not a caption that xseg made. Choose another --out"


def test_shards_write_their_own_files(options):
    one, two = (caption(replace(options, shard=(index, 2))) for index in (1, 2))
    assert [one.path.name, two.path.name] == ["captions-1-of-2.jsonl", "captions-2-of-2.jsonl"]
    shards = Captions.read(options.out.parent)
    caption(replace(options, out=options.out.parent / "whole" / "captions.jsonl"))
    assert shards.hash == Captions.read(options.out.parent / "whole" / "captions.jsonl").hash


def test_missing_and_broken_frames_are_named_and_tried_again(options):
    frame = options.data / "take-a" / "cam02" / "0.jpg"
    whole = frame.read_bytes()
    for damage, problem in (
        (frame.unlink, "the frame is missing. Run xseg prepare"),
        (lambda: frame.write_bytes(whole[:100]), "not readable as an image"),
    ):
        damage()
        summary = caption(options)
        assert summary.faults == [
            f"take take-a, object {object_id!r}, cam02, frame 0: {frame}: {problem}" for object_id in OBJECT_IDS
        ]
        assert len(read(options.out)) == 13
    frame.write_bytes(whole)
    again = caption(options)
    assert (again.written, again.already, again.faults) == (3, 13, [])


def test_a_batch_that_is_too_large_is_tried_in_parts(options, monkeypatch):
    describe = FakeCaptioner.describe

    def narrow(self, images):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return describe(self, images)

    caption(options)
    monkeypatch.setattr(FakeCaptioner, "describe", narrow)
    other = replace(options, out=options.out.with_name("narrow.jsonl"))
    assert not caption(other).faults and other.out.read_bytes() == options.out.read_bytes()
    # As torch says it on a CPU.
    fault = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    monkeypatch.setattr(FakeCaptioner, "describe", lambda *_: (_ for _ in ()).throw(fault))
    summary = caption(replace(options, out=options.out.with_name("none.jsonl"), takes=("take-a",)))
    assert summary.faults[0] == f"take take-a, object 'red cup _0', {EGO}, frame 0: out of memory on cpu"
    assert len(summary.faults) == 8


def test_empty_masks_are_nothing_to_describe(options):
    empty = mask_to_rle(np.zeros((36, 64), bool))
    edit_masks(options.data, "take-a", "Bowl_1 ", "cam02", f0=empty, f60=empty)
    summary = caption(options)
    assert summary.notes == ["take take-a, object 'Bowl_1 ', cam02: 2 empty masks"]
    assert not summary.faults and summary.written == 15


def test_a_mask_that_cannot_be_used_is_left_out(options):
    edit_masks(options.data, "take-a", "Bowl_1 ", "cam02", f0=None)
    summary = caption(replace(options, per="frame"))
    assert not summary.faults
    assert ("take-a", "Bowl_1 ", "cam02", 0) not in {line.key for line in read(options.out)}


def test_a_mask_that_vanishes_at_the_frames_size_is_shown_all_the_same(options):
    tiny = np.zeros((48, 48), bool)
    tiny[13, 29] = True
    fitted = job._fit(tiny, (24, 24))
    assert not tiny[::2, ::2].any() and np.argwhere(fitted).tolist() == [[6, 14]]


def test_answers_that_name_nothing_are_counted(options, monkeypatch):
    monkeypatch.setattr(FakeCaptioner, "describe", lambda self, images: ["I'm sorry.\x00" + "x" * 9000] * len(images))
    summary = caption(replace(options, takes=("take-a",)))
    assert summary.unnamed == summary.written == 8
    assert all(line.caption == "object" and len(line.answer) == job.MAX_ANSWER for line in read(options.out))


def test_killed_in_the_middle_and_started_again(options, tmp_path):
    caption(replace(options, out=tmp_path / "calm" / "captions.jsonl"))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom egoexo_xseg.jobs import caption as job\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_caption import FakeCaptioner\n"
        "job.Captioner, describe = FakeCaptioner, FakeCaptioner.describe\n"
        "FakeCaptioner.describe = lambda self, images: time.sleep(60 * (len(self.seen) > 8)) or describe(self, images)\n"
        f"job.caption(job.CaptionOptions(Path({str(options.data)!r}), Path({str(options.out)!r}), device='cpu', batch_size=3))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    side = options.out.parent / ".captions.jsonl.new"
    while not side.exists() or side.read_text().count("\n") < 11:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not options.out.exists()
    with side.open("a") as file:
        file.write('\n{"take_uid": "take-b", "object_id": "red cu')
    summary = caption(options)
    assert (summary.written, summary.already) == (5, 11)
    assert contents(options.out.parent)["captions.jsonl"] == (tmp_path / "calm" / "captions.jsonl").read_bytes()
    assert sorted(contents(options.out.parent)) == ["captions.jsonl", "captions.manifest.json"]


def test_what_cannot_be_finished_loses_nothing(options, monkeypatch):
    full = OSError("No space left on device")
    monkeypatch.setattr(job.Book, "finish", lambda self: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space"):
        caption(options)
    monkeypatch.undo()
    monkeypatch.setattr(job, "Captioner", FakeCaptioner)
    spell, told = job.Caption.to_line, []

    def fails(self):
        told.append(self)
        if len(told) > 10:
            raise full
        return spell(self)

    monkeypatch.setattr(job.Caption, "to_line", fails)
    with pytest.raises(OSError, match="No space"):
        caption(options)
    monkeypatch.setattr(job.Caption, "to_line", spell)
    summary = caption(options)
    assert (summary.written, summary.already) == (0, 16)


def test_the_command(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("caption", "--data", options.data, "--split", "val", "--model", "some/model", "--device", "cpu")
    result = run(*line)
    assert result.exit_code == 0, result.output
    assert result.stdout == "captions.jsonl: 16 captions written (0 name nothing), 0 were there\n"
    assert run(*line).stdout == "captions.jsonl: 0 captions written (0 name nothing), 16 were there\n"
    assert FakeCaptioner.last.loaded[0] == "some/model"
    (options.data / "take-a" / EGO / "0.jpg").unlink()
    result = run(*line, "--per", "frame", "--direction", "ego2exo", "--shard", "1/2")
    assert result.exit_code == 1 and result.stdout.startswith("captions-1-of-2.jsonl: 4 captions written")
    assert result.stderr.endswith("Error: 2 objects have no caption in captions-1-of-2.jsonl\n")
    assert error("caption", "--data", options.data, "--device", "tpu").startswith("no device 'tpu' here")
