"""The raw release becomes processed takes, whatever is missing or broken in it, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.images import read_image
from egoexo_xseg.data.lzstring import compress
from egoexo_xseg.data.pairs import iter_pairs, required_keys
from egoexo_xseg.errors import AnnotationError
from egoexo_xseg.jobs.prepare import prepare
from egoexo_xseg.masks import mask_to_rle
from egoexo_xseg.records import Direction

EGO, EXO = "aria01_214-1", "cam01"
HW = {EGO: (64, 64), EXO: (36, 64)}


def write_video(path: Path, frames: int, hw: tuple[int, int]) -> None:
    """Each frame is grey, a little brighter than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(frames):
            image = np.full((*hw, 3), 40 + 2 * (index % 100), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_raw(raw: Path, takes: int = 1, frames: int = 65, small: bool = True) -> list[str]:
    uids = [f"uid-{index}" for index in range(takes)]
    annotations = {}
    for index, uid in enumerate(uids):
        tracks = {}
        for camera, hw in HW.items():
            rle = mask_to_rle(np.eye(*hw, dtype=bool))
            coded = {"height": hw[0], "width": hw[1], "encodedMask": compress(rle.counts)}
            tracks[camera] = {"annotation": {"0": coded, "60": coded}, "annotated_frames": [0, 30, 60]}
            folder = raw / "takes" / f"take_{index}" / "frame_aligned_videos" / ("downscaled/448" if small else "")
            write_video(folder / f"{camera}.mp4", frames, hw)
        annotations[uid] = {"take_name": f"take_{index}", "scenario": "Tea", "object_masks": {"cup _0 ": tracks}}
    (raw / "annotations").mkdir(parents=True)
    (raw / "annotations" / "relations_val.json").write_text(json.dumps({"annotations": annotations}))
    names = [{"take_uid": uid, "take_name": f"take_{index}"} for index, uid in enumerate(uids)]
    (raw / "takes.json").write_text(json.dumps(names))
    return uids


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_prepares_small_videos_as_they_are(tmp_path):
    (uid,) = write_raw(tmp_path / "raw")
    summary = prepare(tmp_path / "raw", tmp_path / "data", split="val", workers=1)
    assert (summary.prepared, summary.frames, summary.skipped, summary.notes) == (1, 6, [], [])
    (take,) = open_annotations(tmp_path / "data", split="val")
    (raw_take,) = open_annotations(tmp_path / "raw" / "annotations" / "relations_val.json")
    assert (take.masks, take.annotated_frames, take.camera_hw) == (raw_take.masks, raw_take.annotated_frames, HW)
    assert take.sampled_frames == (0, 30, 60) and take.take_name == "take_0" and take.scenario == "Tea"
    for frame in (0, 30, 60):
        image = read_image(tmp_path / "data" / uid / EXO / f"{frame}.jpg")
        assert image.shape == (36, 64, 3) and abs(int(image.mean()) - (40 + 2 * frame)) <= 3


def test_shrinks_full_size_videos_like_the_official_baseline(tmp_path):
    (uid,) = write_raw(tmp_path / "raw", small=False)
    prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    assert read_image(tmp_path / "data" / uid / EGO / "0.jpg").shape == (32, 32, 3)
    assert read_image(tmp_path / "data" / uid / EXO / "0.jpg").shape == (9, 16, 3)


def test_finished_takes_are_skipped_and_leftovers_cleared(tmp_path):
    uids = write_raw(tmp_path / "raw", takes=2)
    prepare(tmp_path / "raw", tmp_path / "data", takes=[uids[0]], workers=1)
    (tmp_path / "data" / f".{uids[1]}.partial" / "junk").mkdir(parents=True)
    summary = prepare(tmp_path / "raw", tmp_path / "data", workers=2)
    assert (summary.prepared, summary.already) == (1, 1)
    assert not list((tmp_path / "data").glob(".*"))
    assert json.loads((tmp_path / "data" / "split.json").read_text()) == {"val": uids}


def test_faults_of_the_release_are_reported(tmp_path):
    raw = tmp_path / "raw"
    uids = write_raw(raw, takes=4)
    videos = [raw / "takes" / f"take_{i}" / "frame_aligned_videos/downscaled/448" for i in range(4)]
    (videos[0] / f"{EXO}.mp4").unlink()
    (videos[1] / f"{EGO}.mp4").unlink()
    (videos[2] / f"{EGO}.mp4").write_bytes(b"no video")
    write_video(videos[3] / f"{EXO}.mp4", 20, HW[EXO])
    summary = prepare(raw, tmp_path / "data", workers=1)
    assert summary.prepared == 2
    assert summary.notes == [
        f"take {uids[0]}, camera {EXO}: no video",
        f"take {uids[3]}, camera {EXO}: the video ends at frame 20, masks go on to 60",
    ]
    broken = videos[2] / f"{EGO}.mp4"
    assert summary.skipped == [
        f"take {uids[1]}: no video of its ego camera in {videos[1].parents[1]}",
        f"take {uids[2]}, camera {EGO}: {broken}: not readable as a video",
    ]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["split.json", uids[0], uids[3]]


def edit_annotations(raw: Path, edit) -> None:
    path = raw / "annotations" / "relations_val.json"
    value = json.loads(path.read_text())
    for take in value["annotations"].values():
        edit(take["object_masks"]["cup _0 "])
    path.write_text(json.dumps(value))


def test_frames_whose_mask_is_broken_are_kept_in_mind(tmp_path):
    """The server asks for them all the same."""
    (uid,) = write_raw(tmp_path / "raw")
    edit_annotations(tmp_path / "raw", lambda cup: cup[EGO]["annotation"]["60"].update(encodedMask="?"))
    summary = prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    assert [str(fault) for fault in summary.faults] == [
        f"take '{uid}', object 'cup _0 ', camera '{EGO}', frame '60': a mask's text is not LZString"
    ]
    written = json.loads((tmp_path / "data" / uid / "annotation.json").read_text())
    assert written["masks"]["cup _0 "][EGO]["60"] is None
    for source in (tmp_path / "data", tmp_path / "raw/annotations/relations_val.json"):
        (take,) = open_annotations(source)
        assert take.lost_frames["cup _0 "][EGO] == (60,) and take.annotated_frames["cup _0 "][EGO] == (0, 30)
        asked = required_keys(take, Direction.EGO_EXO)["cup _0 "][EGO, EXO]
        assert asked == (0, 60) and [pair.frame for pair in iter_pairs(take, Direction.EGO_EXO)] == [0]


@pytest.mark.parametrize("hidden", [EGO, EXO])
@pytest.mark.parametrize("small", [True, False])
def test_cameras_of_hidden_targets_are_those_that_recorded(tmp_path, hidden, small):
    """The challenge's test split: masks of one side only; the other side's cameras are in takes.json or on the disk."""
    raw = tmp_path / "raw"
    (uid,) = write_raw(raw, small=small)
    edit_annotations(raw, lambda cup: cup.pop(hidden))
    folder = raw / "takes/take_0/frame_aligned_videos" / ("downscaled/448" if small else "")
    write_video(folder / "aria01_1201-1.mp4", 5, (48, 64))  # not the colour camera
    write_video(folder / "cam02.mp4", 65, (48, 64))
    cameras = [{"cam_id": "aria01"}, {"cam_id": "cam01"}, {"cam_id": "cam03"}]
    listing = {"take_uid": uid, "take_name": "take_0", "capture": {"cameras": cameras}}
    (raw / "takes.json").write_text(json.dumps([listing]))
    summary = prepare(raw, tmp_path / "data", workers=1)
    (take,) = open_annotations(tmp_path / "data", split="val")
    if hidden == EGO:
        assert take.cameras == (EGO, EXO) and summary.notes == []
        assert take.camera_hw[EGO] == ((1408, 1408) if small else (64, 64))
        assert list(required_keys(take, Direction.EXO_EGO)["cup _0 "]) == [(EXO, EGO)]
    else:
        # A small 16:9 video is most likely a 4K one; of another shape its own size is all that is known.
        assert take.camera_hw == {EGO: (64, 64), EXO: (2160, 3840) if small else (36, 64), "cam02": (48, 64)}
        assert summary.notes == [f"take {uid}, camera cam03: no video"]
        assert {pair.target_camera for pair in iter_pairs(take, Direction.EGO_EXO)} == {"cam01", "cam02"}
    assert (tmp_path / "data" / uid / hidden / "60.jpg").is_file()


def test_what_another_program_left_unfinished_is_replaced(tmp_path):
    (uid,) = write_raw(tmp_path / "raw")
    (tmp_path / "data" / uid / EGO).mkdir(parents=True)
    (tmp_path / "data" / uid / EGO / "7.jpg").write_text("half")
    assert prepare(tmp_path / "raw", tmp_path / "data", workers=1).prepared == 1
    assert not (tmp_path / "data" / uid / EGO / "7.jpg").exists()


def test_takes_are_found_in_whichever_split_has_them(tmp_path):
    raw = tmp_path / "raw"
    (uid,) = write_raw(raw)
    (raw / "annotations" / "relations_train.json").write_text('{"annotations": {"other": {"take_name": "gone"}}}')
    assert prepare(raw, tmp_path / "data", takes=["take_0"], workers=1).prepared == 1
    assert json.loads((tmp_path / "data" / "split.json").read_text()) == {"train": [], "val": [uid]}
    with pytest.raises(AnnotationError, match="annotations: no take 'nobody' here"):
        prepare(raw, tmp_path / "data", takes=["nobody"], workers=1)


def test_a_split_is_whole_though_few_of_its_takes_are_prepared(tmp_path):
    uids = write_raw(tmp_path / "raw", takes=2)
    prepare(tmp_path / "raw", tmp_path / "data", takes=uids[1:], workers=1)
    assert json.loads((tmp_path / "data" / "split.json").read_text()) == {"val": uids}
    assert open_annotations(tmp_path / "data", split="val").unprepared == (uids[0],)


def test_takes_that_nobody_has_are_not_official(tmp_path):
    raw = tmp_path / "raw"
    (uid,) = write_raw(raw)
    (raw / "annotations" / "relations_train.json").write_text('{"annotations": {"other": {"take_name": "gone"}}}')
    summary = prepare(raw, tmp_path / "data", workers=1)
    assert summary.skipped == ["take other: no ego camera in its annotations"]
    assert json.loads((tmp_path / "data" / "split.json").read_text()) == {"train": [], "val": [uid]}


def test_takes_without_a_name_are_not_official(tmp_path):
    raw = tmp_path / "raw"
    write_raw(raw)
    (raw / "annotations" / "relations_train.json").write_text('{"annotations": {"other": {"object_masks": {}}}}')
    summary = prepare(raw, tmp_path / "data", workers=1)
    assert summary.skipped == ["take other: it is not in takes.json and has no usable name ('')"]
    assert json.loads((tmp_path / "data" / "split.json").read_text())["train"] == []


def test_a_take_of_no_usable_name_is_skipped(tmp_path):
    (uid,) = write_raw(tmp_path / "raw")
    (tmp_path / "raw" / "takes.json").write_text(json.dumps([{"take_uid": uid, "take_name": "../../etc"}]))
    summary = prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    assert summary.skipped == [f"take {uid}: it is not in takes.json and has no usable name ('../../etc')"]


@pytest.mark.parametrize("cut", [100, 1000, 3000])
def test_videos_cut_before_their_index_give_nothing(tmp_path, cut):
    write_raw(tmp_path / "raw")
    video = tmp_path / "raw/takes/take_0/frame_aligned_videos/downscaled/448" / f"{EGO}.mp4"
    video.write_bytes(video.read_bytes()[:cut])
    summary = prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    assert summary.prepared == 0 and len(summary.skipped) == 1 and EGO in summary.skipped[0]


def test_no_annotations(tmp_path):
    with pytest.raises(AnnotationError) as caught:
        prepare(tmp_path, tmp_path / "data", split="test")
    assert str(caught.value) == f"{tmp_path}: no annotations/relations_test.json here. Download part `annotations`"


def test_killed_in_the_middle_and_started_again(tmp_path):
    write_raw(tmp_path / "raw", takes=3, frames=150)
    prepare(tmp_path / "raw", tmp_path / "calm", workers=1)
    code = f"from pathlib import Path; from egoexo_xseg.jobs.prepare import prepare; prepare(Path({str(tmp_path / 'raw')!r}), Path({str(tmp_path / 'data')!r}), workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list((tmp_path / "data").glob(".uid*.partial/*/*.jpg")):
        assert process.poll() is None, "it was too quick to be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "data").glob(".uid*.partial"))
    prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    assert contents(tmp_path / "data") == contents(tmp_path / "calm")


def test_a_name_that_nobody_knows_is_refused_before_anything_is_done(tmp_path):
    uids = write_raw(tmp_path / "raw", takes=2)
    with pytest.raises(AnnotationError, match="annotations: no take 'take_9' here"):
        prepare(tmp_path / "raw", tmp_path / "data", takes=[uids[0], "take_9"], workers=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["notes.txt", "cam01/30.txt", "cam01/more/30.jpg", "30.jpg"])
def test_a_folder_that_holds_something_else_is_never_deleted(tmp_path, name):
    (uid,) = write_raw(tmp_path / "raw")
    place = tmp_path / "data" / uid / name
    place.parent.mkdir(parents=True)
    place.write_text("years of work")
    with pytest.raises(AnnotationError) as fault:
        prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    remedy = "Choose another folder as DATA"
    assert str(fault.value) == f"{tmp_path / 'data' / uid}: something else is in the way. {remedy}"
    assert place.read_text() == "years of work" and not (tmp_path / "data" / "split.json").exists()


def test_frames_that_another_program_left_are_replaced(tmp_path):
    (uid,) = write_raw(tmp_path / "raw")
    frame = tmp_path / "data" / uid / "cam99" / "30.jpg"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"half a fra")
    assert prepare(tmp_path / "raw", tmp_path / "data", workers=1).prepared == 1
    assert not frame.exists()


def test_what_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    write_raw(tmp_path / "raw")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("egoexo_xseg.jobs.prepare.take_to_json", refuse)  # after the frames
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path / "raw", tmp_path / "data", workers=1)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["split.json"]
