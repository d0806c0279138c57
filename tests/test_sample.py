"""Sample takes: the raw release's layout, readable by the tools for it, the same bytes every time."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs import sample
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.masks import rle_to_mask
from egoexo_xseg.records import is_ego
from egoexo_xseg.world.recording import SampleFigures
from egoexo_xseg.world.render import render
from egoexo_xseg.world.scene import make_scene


@pytest.fixture(scope="module", autouse=True)
def small_videos():
    """Videos of 64 rows and three or four seconds, of the first scenes that come: nothing else differs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "SMALL_SIDE", 64)
        patch.setattr(sample, "SECONDS", range(3, 5))
        patch.setattr(sample, "ATTEMPTS", 1)
        yield


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    figures = write_sample(folder, seed=7, takes=2, split="val", workers=1)
    return folder, figures


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def videos(folder: Path, take: dict) -> dict[str, Path]:
    small = folder / take["root_dir"] / "frame_aligned_videos" / "downscaled" / "64"
    return {path.stem: path for path in small.iterdir()}


def test_layout_is_that_of_the_release(raw):
    folder, _ = raw
    takes = json.loads((folder / "takes.json").read_text("utf-8"))
    splits = json.loads((folder / "split.json").read_text("utf-8"))
    annotations = json.loads((folder / "annotations" / "relations_val.json").read_text("utf-8"))["annotations"]
    assert sorted(splits["val"]) == sorted(annotations) == sorted(take["take_uid"] for take in takes)
    for take in takes:
        assert str(uuid.UUID(take["take_uid"])) == take["take_uid"]
        assert take["root_dir"] == f"takes/{take['take_name']}"
        assert annotations[take["take_uid"]]["take_name"] == take["take_name"]
        assert take["frame_aligned_videos"]["aria01"]["rgb"]["relative_path"] == "frame_aligned_videos/aria01_214-1.mp4"
        streams = [stream for camera in take["frame_aligned_videos"].values() for stream in camera.values()]
        assert {Path(stream["relative_path"]).stem for stream in streams} == set(videos(folder, take))
        assert [camera["is_ego"] for camera in take["capture"]["cameras"]].count(True) == 1
    assert not list(folder.rglob("*.partial"))


def test_our_own_reader_finds_no_fault(raw):
    folder, figures = raw
    annotations = open_annotations(folder / "annotations" / "relations_val.json")
    takes = list(annotations)
    assert not annotations.faults
    tracks = [
        (take, name, camera, track)
        for take in takes
        for name, cameras in take.masks.items()
        for camera, track in cameras.items()
    ]
    assert sum(len(track) for *_, track in tracks) == figures.masks
    sizes = {rle.hw for _, _, camera, track in tracks if not is_ego(camera) for rle in track.values()}
    assert sizes == {(2160, 3840), (1520, 2704)}
    for take, name, camera, track in tracks:
        looked = take.annotated_frames[name][camera]
        assert set(track) <= set(looked)
        assert all(frame % 30 == 0 for frame in looked)
    assert any(
        len(frames) < figures.frames // 2
        for t in takes
        for own in t.annotated_frames.values()
        for frames in own.values()
    )


def test_videos_show_the_second_that_the_masks_are_of(raw):
    folder, _ = raw
    take = next(t for t in json.loads((folder / "takes.json").read_text("utf-8")) if t["take_name"].endswith("000"))
    scene = sample._draw_take(sample._Order(folder, 7, "val", 0, False)).scene
    with av.open(str(videos(folder, take)["aria01_214-1"])) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(shown) == 30 * int(take["duration_sec"])
    for second in (0, 2):
        truth = render(scene.at(second), scene.ego(second), (64, 64))[0].astype(int)
        gaps = [np.abs(shown[30 * second + offset].astype(int) - truth).mean() for offset in (0, 29)]
        assert max(gaps) < 6
    assert np.abs(shown[60].astype(int) - shown[0].astype(int)).mean() > 6


def test_masks_lie_on_their_objects(raw):
    folder, _ = raw
    take = next(iter(open_annotations(folder / "annotations" / "relations_val.json")))
    index = int(take.take_name[-3:])
    scene = sample._draw_take(sample._Order(folder, 7, "val", index, False)).scene
    name, camera, frame, rle = next(
        (name, camera, frame, rle)
        for name, cameras in take.masks.items()
        for camera, track in cameras.items()
        for frame, rle in track.items()
        if not is_ego(camera)
    )
    label = int(name.strip().rsplit("_", 1)[1]) + 1
    instances = render(scene.at(frame // 30), scene.exo[int(camera[3:]) - 1], (135, 240), samples=1)[1]
    mask = rle_to_mask(rle)
    scale = mask.shape[0] / 135
    rows, columns = ((np.arange(size) + 0.5) * scale for size in (135, 240))
    small = mask[rows.astype(int)[:, None], np.minimum(columns.astype(int), mask.shape[1] - 1)]
    assert (small & (instances == label)).sum() >= 0.8 * (small | (instances == label)).sum()


def test_the_same_call_gives_the_same_bytes_after_other_splits_and_interruptions(raw, tmp_path):
    folder, figures = raw
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    name = json.loads((copy / "takes.json").read_text("utf-8"))[0]["take_name"]
    (copy / "takes" / f".{name}.partial").mkdir()
    (copy / "takes" / name / "stray").write_text("left over")
    again = write_sample(copy, seed=7, takes=2, split="val", workers=1)
    assert files(copy) == files(folder)
    assert again == figures


def test_splits_are_merged_and_scenes_disjoint(raw, tmp_path):
    folder, _ = raw
    both = tmp_path / "both"
    shutil.copytree(folder, both)
    write_sample(both, seed=7, takes=1, split="train", workers=1)
    splits = json.loads((both / "split.json").read_text("utf-8"))
    takes = {take["take_uid"]: take["take_name"] for take in json.loads((both / "takes.json").read_text("utf-8"))}
    assert {split: len(uids) for split, uids in splits.items()} == {"train": 1, "val": 2}
    assert set(takes) == {uid for uids in splits.values() for uid in uids}
    assert (both / "annotations" / "relations_val.json").read_bytes() == files(folder)["annotations/relations_val.json"]
    first = {
        (t["take_name"], v): p.read_bytes()
        for t in json.loads((both / "takes.json").read_text("utf-8"))
        for v, p in videos(both, t).items()
    }
    assert len(set(first.values())) == len(first)


def test_uids_of_seeds_splits_and_indices_never_meet(tmp_path):
    orders = [
        sample._Order(tmp_path, seed, split, index, False)
        for seed in (0, 1, 10)
        for split in ("val", "train", "1")
        for index in range(12)
    ]
    assert len({order.uid for order in orders}) == len({order.name for order in orders}) == len(orders)


def test_a_folder_of_other_recordings_is_left_alone(tmp_path):
    (tmp_path / "annotations").mkdir()
    precious = tmp_path / "annotations" / "relations_val.json"
    precious.write_text("{}")
    with pytest.raises(XsegError) as caught:
        write_sample(tmp_path, seed=0, takes=1, split="val", workers=1)
    assert str(caught.value) == f"{tmp_path}: the folder holds other recordings. Give xseg sample a folder of its own"
    (tmp_path / "takes.json").write_text('[{"take_uid": "x", "take_name": "y"}]')
    with pytest.raises(XsegError, match="other recordings"):
        write_sample(tmp_path, seed=0, takes=1, split="val", workers=1)
    assert precious.read_text() == "{}"


@pytest.mark.parametrize("split", ["", "../val", "a b", "/val"])
def test_a_split_that_is_no_name_is_refused(tmp_path, split):
    with pytest.raises(XsegError, match="not a split's name"):
        write_sample(tmp_path, seed=0, takes=1, split=split, workers=1)
    assert not list(tmp_path.iterdir())


def test_figures_read_as_a_table(raw):
    _, figures = raw
    rows = dict(figures.rows())
    assert rows["takes"] == 2
    assert rows["queries"] == figures.queries["ego2exo"] + figures.queries["exo2ego"]
    assert rows["absent or hidden, ego2exo"].endswith(f"of {figures.queries['ego2exo']}")
    assert SampleFigures().absent_share("ego2exo") == 0


def test_easy_scenes_are_drawn_again(tmp_path, monkeypatch):
    hard = SampleFigures(
        takes=1, objects=5, look_alikes=2,
        queries={"ego2exo": 20, "exo2ego": 20}, absent={"ego2exo": 3, "exo2ego": 4},
        areas={"ego": [0.1], "exo": [0.001, 0.004, 0.2]},
    )  # fmt: skip
    assert hard.is_hard
    easy = [
        replace(hard, look_alikes=0),
        replace(hard, absent={"ego2exo": 2, "exo2ego": 20}),
        replace(hard, areas={"ego": [0.1], "exo": [0.02]}),
        replace(hard, objects=3),
    ]
    assert [figures.is_hard for figures in easy] == [
        False,
        False,
        False,
        True,
    ]  # the number of objects is the job's own
    scene, seeds = make_scene(0), []

    def record(order, attempt):
        seeds.append(order.draw("scene", attempt))
        return sample._Drawn(scene, 0, {}, {}, [*easy, hard][attempt])

    monkeypatch.setattr(sample, "_record", record)
    monkeypatch.setattr(sample, "ATTEMPTS", 9)
    assert sample._draw_take(sample._Order(tmp_path, 7, "val", 0, False)).figures is hard
    assert len(set(seeds)) == 5


def test_what_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("egoexo_xseg.jobs.sample._write_video", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_sample(tmp_path / "raw", seed=7, takes=1, split="val", workers=1)
    assert not [path for path in (tmp_path / "raw").rglob("*") if not path.is_dir() or path.name.startswith(".")]
