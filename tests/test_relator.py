"""ObjectRelator's lists of records: read into prepared takes, written from them, and there and back without a loss."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import CAMERAS, EGO, OBJECT_IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli import error, run

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.moments import PreparedMoments
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.relator import natural_order, read_records
from egoexo_xseg.errors import AnnotationError
from egoexo_xseg.jobs.relator import export_records, prepare_records
from egoexo_xseg.masks import Rle, mask_to_rle, rle_area
from egoexo_xseg.records import Direction

WAY = Direction.EGO_EXO


def export(data: Path, direction=WAY, captions=None) -> list[dict]:
    path = data.parent / f"{direction.value}.json"
    export_records(open_annotations(data, split="val"), path, direction, "val", captions)
    return json.loads(path.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def seen_pairs(data: Path, direction=WAY) -> dict:
    """What is asked and known of both views, by take, cameras and frame; only objects that both show."""
    found = {}
    for take in open_annotations(data):
        for pair in iter_pairs(take, direction):
            objects = {o.object_id: (o.query_mask, o.target_mask) for o in pair.objects if o.visible}
            if objects:
                found[pair.take_uid, pair.query_camera, pair.target_camera, pair.frame] = objects
    return found


def test_numbers_count_in_natural_order():
    """As natsort 8.4 sorts them: numbers by value, capitals first, no digits before digits."""
    names = ["cup_10", "cup_2", "Cup_1", "cup _2", "cup_02", "1 cup", "cup", "", "10 cup", "é", "e" + "9" * 5000]
    assert natural_order(names) == [
        "", "1 cup", "10 cup", "Cup_1", "cup", "cup _2", "cup_2", "cup_02", "cup_10", names[-1], "é"
    ]  # fmt: skip


def test_a_record_as_that_code_reads_it(data):
    """Numbers count the take's sorted objects from 1; the knife is never in ego; cam01 and cam02 share as many."""
    records = export(data)
    assert [(row["video_name"], row["image"]) for row in records] == [
        (uid, f"{uid}/cam01/{frame}.jpg") for uid in ("take-a", "take-b") for frame in (0, 30, 60)
    ]
    assert [row["new_img_id"] for row in records] == list(range(6))
    assert json.loads((data.parent / "ego2exo.split.json").read_text()) == {"val": ["take-a", "take-b"]}
    masks = json.loads((data / "take-a" / "annotation.json").read_text())["masks"]
    order = ["Bowl_1 ", "knife_2", "red cup _0"]
    assert order == natural_order(OBJECT_IDS)

    def anns(camera):
        found = [(1.0, masks["Bowl_1 "][camera]["30"]), (3.0, masks["red cup _0"][camera]["30"])]
        return [
            {"segmentation": rle, "area": float(rle_area(Rle.from_json(rle))), "category_id": number}
            for number, rle in found
        ]

    assert records[1] == {
        "image": "take-a/cam01/30.jpg",
        "image_info": {"file_name": "take-a/cam01/30.jpg", "height": 36, "width": 64},
        "anns": anns("cam01"),
        "first_frame_image": f"take-a/{EGO}/30.jpg",
        "first_frame_anns": anns(EGO),
        "new_img_id": 1,
        "video_name": "take-a",
    }


def test_texts_follow_the_query_objects(data, captions_file):
    rows = [json.loads(line) for line in captions_file.read_text().splitlines()]
    captions_file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["object_id"] != "Bowl_1 "))
    first, second = (row["instruction"] for row in export(data, captions=Captions.read(captions_file))[:2])
    assert first == [
        {"tokens": ["object"], "raw": "object", "sent_id": 0, "sent": "object"},
        {"tokens": ["a", "red", "cup"], "raw": "a red cup", "sent_id": 1, "sent": "a red cup"},
    ]
    assert [each["sent_id"] for each in second] == [2, 3]


@pytest.mark.parametrize("direction", Direction)
def test_there_and_back(data, tmp_path, captions_file, direction):
    captions = Captions.read(captions_file)
    records = export(data, direction, captions)
    summary = prepare_records([tmp_path / f"{direction.value}.json"], tmp_path / "again", "val", images=data)
    assert (summary.prepared, summary.records, summary.notes) == (2, len(records), [])
    kept = {
        place: {each: masks for each, masks in own.items() if each != "knife_2"}
        for place, own in seen_pairs(data, direction).items()
        if "cam01" in place
    }
    assert seen_pairs(tmp_path / "again", direction) == kept
    again = contents(tmp_path / "again")
    assert again[f"take-a/{EGO}/30.jpg"] == (data / "take-a" / EGO / "30.jpg").read_bytes()
    prepare_records([tmp_path / f"{direction.value}.json"], tmp_path / "again", "val", images=data)
    assert contents(tmp_path / "again") == again
    captions = Captions.read(tmp_path / "again" / "captions-val.jsonl")
    assert export(tmp_path / "again", direction, captions) == [
        row | {name: renumbered(row[name]) for name in ("anns", "first_frame_anns")} for row in records
    ]
    with pytest.raises(AnnotationError, match="record 0: object 2 would be 'knife_2', which .*json does not see there"):
        prepare_records([tmp_path / f"{direction.value}.json"], tmp_path / "other", "val", images=data)


def renumbered(anns):
    """Without the knife, that no record shows, the cup is the second object."""
    return [each | {"category_id": min(each["category_id"], 2.0)} for each in anns]


BOX = st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(1, 4), st.integers(1, 4))


@given(
    st.dictionaries(
        st.sampled_from(["cup_2", "cup_10", "Cup", "a/../b", " 7"]),
        st.fixed_dictionaries(
            {},
            optional={
                camera: st.dictionaries(st.sampled_from([0, 30, 60]), st.none() | BOX) for camera in (EGO, "c2", "c10")
            },
        ),
    ),
    st.sampled_from(Direction),
    st.sampled_from([1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_any_take_there_and_back(tracks, direction, scale):
    """Of one exo camera and the frames of one object, what both pictures show at their size comes back as it was."""
    with tempfile.TemporaryDirectory() as name:
        data, again = Path(name, "data"), Path(name, "again")
        masks: dict = {}
        for object_id, cameras in tracks.items():
            masks[object_id] = {}
            for camera, boxes in cameras.items():
                own = {frame: np.zeros((8, 10), bool) for frame in boxes}
                for frame, box in boxes.items():
                    if box:
                        own[frame][box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
                masks[object_id][camera] = {
                    str(frame): mask_to_rle(np.kron(mask, np.ones((scale, scale), bool))).to_json()
                    for frame, mask in own.items()
                }
        for camera in (EGO, "c2", "c10"):
            (data / "take" / camera).mkdir(parents=True)
            for frame in (0, 30, 60):
                Image.new("RGB", (10, 8)).save(data / "take" / camera / f"{frame}.jpg")
        looked = {each: {camera: [0, 30, 60] for camera in cameras} for each, cameras in masks.items()}
        entry = {"masks": masks, "annotated_frames": looked, "subsample_idx": [0, 30, 60]}
        (data / "take" / "annotation.json").write_text(json.dumps(entry))
        (data / "split.json").write_text('{"val": ["take"]}')
        try:
            records = export(data, direction)
        except AnnotationError as fault:
            assert fault.problem == "no object that both views show"
            return
        prepare_records([Path(name, f"{direction.value}.json")], again, "val", images=data)
        frames = {int(Path(row["image"]).stem) for row in records}
        (camera,) = {Path(row[key]).parent.name for row in records for key in ("image", "first_frame_image")} - {EGO}
        expected = {}
        for place, own in seen_pairs(data, direction).items():
            shown = {each: pair for each, pair in own.items() if all(map(rle_area, pair))}
            if camera in place and place[3] in frames and shown:
                expected[place] = {each: tuple(halved(rle, scale) for rle in pair) for each, pair in shown.items()}
        assert seen_pairs(again, direction) == expected
        assert all(row["image_info"]["height"] == 8 for row in records)


def halved(rle: Rle, scale: int) -> Rle:
    from egoexo_xseg.masks import rle_to_mask

    return mask_to_rle(rle_to_mask(rle)[::scale, ::scale])


def test_both_directions_in_one_folder(data, tmp_path):
    for direction in Direction:
        export(data, direction)
    lists = [tmp_path / f"{direction.value}.json" for direction in Direction]
    summary = prepare_records(lists, tmp_path / "again", "train", images=data)
    assert summary.prepared == 2 and not (tmp_path / "again" / "captions-train.jsonl").exists()
    config = TrainConfig.read(None, direction="both")
    moments = PreparedMoments(
        open_annotations(tmp_path / "again", split="train"), config, tmp_path / "index", captions=None
    )
    assert len(moments.chosen) == 12 and moments.read(0).target_masks.any()


def test_without_names_objects_are_called_by_number(data, tmp_path):
    export(data)
    for path in data.glob("*/annotation.json"):
        path.unlink()
    prepare_records([tmp_path / "ego2exo.json"], tmp_path / "again", "val", images=data)
    (first, _) = open_annotations(tmp_path / "again", split="val")
    assert list(first.masks) == ["object 1", "object 3"] and first.camera_hw == {c: CAMERAS[c] for c in (EGO, "cam01")}
    assert first.annotated_frames["object 1"] == {EGO: (0, 30, 60), "cam01": (0, 30, 60)}


def test_captions_of_other_takes_stay(data, tmp_path, captions_file):
    rows = export(data, captions=Captions.read(captions_file))
    rows.append(json.loads(json.dumps(rows[0])))
    rows[-1]["instruction"][0]["sent"] = "something else"
    rows[1]["instruction"][0]["sent"] = "  "
    (tmp_path / "ego2exo.json").write_text(json.dumps(rows))
    again = tmp_path / "again"
    for uid in ("take-b", "take-a"):
        summary = prepare_records([tmp_path / "ego2exo.json"], again, "val", images=data, takes=[uid])
        assert (summary.prepared, summary.already) == (1, 0)
    assert summary.notes == [
        f"{tmp_path / 'ego2exo.json'}, record 6: another caption of 'Bowl_1 '; the first one stands"
    ]
    found = dict(Captions.read(again / "captions-val.jsonl").items())
    assert len(found) == 11 and found["take-a", "Bowl_1 ", EGO, 0] == "a bowl"
    assert ("take-a", "Bowl_1 ", EGO, 30) not in found
    assert json.loads((again / "split.json").read_text()) == {"val": ["take-b", "take-a"]}


def test_a_second_list_takes_nothing_away_and_says_what_it_cannot_add(data, tmp_path, captions_file):
    captions = Captions.read(captions_file)
    lists = {}
    for way in Direction:
        lists[way] = tmp_path / f"{way.value}.json"
        lists[way].write_text(json.dumps(export(data, way, captions)[:: 1 if way is Direction.EXO_EGO else 3]))
    again = tmp_path / "again"
    prepare_records([lists[Direction.EGO_EXO]], again, "val", images=data)
    first = dict(Captions.read(again / "captions-val.jsonl").items())
    summary = prepare_records([lists[Direction.EXO_EGO]], again, "val", images=data)
    both = dict(Captions.read(again / "captions-val.jsonl").items())
    assert first.items() < both.items()
    assert [note for note in summary.notes if "it is there already, without" in note]
    assert prepare_records([lists[Direction.EGO_EXO]], again, "val", images=data).notes == []


def test_pictures_that_are_missing_are_noted(data, tmp_path):
    export(data)
    path = data / "take-b" / "cam01" / "30.jpg"
    path.unlink()
    summary = prepare_records([tmp_path / "ego2exo.json"], tmp_path / "again", "val", images=data)
    assert summary.notes == [f"{tmp_path / 'ego2exo.json'}, record 4: no picture {path}"]
    assert (summary.prepared, summary.records, summary.pictures) == (2, 5, 10)
    with pytest.raises(AnnotationError) as fault:
        prepare_records([tmp_path / "ego2exo.json"], tmp_path / "nothing", "val")
    assert str(fault.value) == f"{tmp_path / 'ego2exo.json'}: none of the records has its pictures. Give --images"
    assert not (tmp_path / "nothing").exists()


def test_what_is_there_is_not_overwritten(data, tmp_path):
    export(data)
    lists = [tmp_path / "ego2exo.json"]
    with pytest.raises(AnnotationError, match="the records' pictures lie here. Choose another folder as DATA"):
        prepare_records(lists, data, "val", images=data)
    (tmp_path / "again" / "take-b").mkdir(parents=True)
    with pytest.raises(AnnotationError) as fault:
        prepare_records(lists, tmp_path / "again", "val", images=data)
    where = tmp_path / "again" / "take-b"
    assert str(fault.value) == f"{where}: something else is in the way. Choose another folder as DATA"
    assert os.listdir(tmp_path / "again") == ["take-b"]


def edited(change):
    """The second record changed in one place, by its path of keys."""

    def edit(rows):
        *path, last = change[0]
        value = rows[1]
        for key in path:
            value = value[key]
        value[last] = change[1]

    return edit


ANN = "anns", 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ((("image",), None), "a picture must be <take>/<camera>/<frame>.jpg, found None"),
        ((("image",), "../take-a/cam01/30.jpg"), "a picture must be <take>/<camera>/<frame>.jpg, found '../take-a/cam01/30.jpg'"),
        ((("image",), "/take-a/cam01/30.jpg"), "a picture must be <take>/<camera>/<frame>.jpg, found '/take-a/cam01/30.jpg'"),
        ((("image",), "take-a/cam01/030.jpg"), "a picture must be <take>/<camera>/<frame>.jpg, found 'take-a/cam01/030.jpg'"),
        ((("image",), "take-a/c\0/30.jpg"), "a picture must be <take>/<camera>/<frame>.jpg, found 'take-a/c\\x00/30.jpg'"),
        ((("image",), "take-a/cam01/60.jpg"), f"take-a/{EGO}/30.jpg and take-a/cam01/60.jpg are not of one moment of one take"),
        ((("image",), f"take-a/{EGO}/30.jpg"), f"{EGO} and {EGO} are not an ego and an exo camera"),
        ((("image",), "link/take-a/cam01/30.jpg"), "link/take-a/cam01/30.jpg leads out of ROOT"),
        ((("video_name",), "take-b"), f"take-a/{EGO}/30.jpg is not of take 'take-b'"),
        ((("anns",), {}), "anns must be a list"),
        (((*ANN, "category_id"), 1.5), "anns: category_id 1.5 is not a whole number, or is there twice"),
        (((*ANN, "category_id"), 3), "anns: category_id 3.0 is not a whole number, or is there twice"),
        (((*ANN, "category_id"), float("nan")), "anns: category_id must be within 1 and 10000, found nan"),
        (((*ANN, "segmentation", "counts"), "0"), "a mask's runs do not fill its 36x64 pixels"),
        (((*ANN, "segmentation", "size"), [1 << 20, 9]), "a mask's sides must be within 1 and 16384, found [1048576, 9]"),
        (((*ANN, "segmentation"), {"size": [1, 2], "counts": "02"}), "a mask of 1x2 in cam01, where others have 36x64"),
        (((*ANN, "category_id"), 9), "object 9, and ROOT/take-a/annotation.json has 3 of them"),
        ((("instruction",), [{"sent": "cup"}]), "instruction must be a list with a text of each of 2 query objects"),
        ((("instruction",), [{"sent": "cup"}, {"sent": "x" * 1001}]), "instruction: sent must be text of at most 1000 characters"),
    ],
)  # fmt: skip
def test_faults_name_their_record(data, tmp_path, change, problem):
    rows = export(data)
    edited(change)(rows)
    (data / "link").symlink_to("../elsewhere")
    shutil.copytree(data / "take-a", tmp_path / "elsewhere" / "take-a")
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(AnnotationError) as fault:
        prepare_records([path], tmp_path / "again", "val", images=data)
    assert str(fault.value) == f"{path}, record 1: {problem.replace('ROOT', str(data))}"
    assert not (tmp_path / "again").exists()


def test_one_object_has_one_mask(data, tmp_path):
    rows = export(data)
    rows[2]["image"], rows[2]["first_frame_image"] = rows[1]["image"], rows[1]["first_frame_image"]
    (tmp_path / "bad.json").write_text(json.dumps(rows))
    with pytest.raises(AnnotationError, match="bad.json, record 2: another mask of 'Bowl_1 ' in aria01_214-1"):
        prepare_records([tmp_path / "bad.json"], tmp_path / "again", "val", images=data)


@pytest.mark.parametrize(("text", "problem"), [("{", "not readable as JSON"), ("{}", "not a list of records"), ("[1]", "record 0: a record must be a JSON object")])  # fmt: skip
def test_files_that_are_no_records(tmp_path, text, problem):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(AnnotationError, match=problem):
        read_records(tmp_path / "bad.json", tmp_path)


def test_a_whole_street_without_videos(data, tmp_path, tiny_model, captions_file):
    """Records become takes, takes predictions, and those scores."""
    line = (
        "export",
        tmp_path / "list.json",
        "--data",
        data,
        "--split",
        "val",
        "--direction",
        "ego2exo",
        "--captions",
        captions_file,
    )
    result = run(*line)
    assert result.stdout == f"{tmp_path / 'list.json'}: 6 records of 2 takes, 12 objects in both views\n"
    again, pred = tmp_path / "again", tmp_path / "pred"
    prepare = ("prepare", tmp_path / "list.json", again)
    assert error(*prepare, "--images", data).startswith("RECORDS are files, and need --split")
    assert error("prepare", data, again, "--images", data).startswith("one RAW folder at a time, without --images.")
    result = run(*prepare, "--images", data, "--split", "val")
    assert result.exit_code == 0 and "captions 12" in " ".join(result.stdout.split())
    on = ("--data", again, "--split", "val")
    captions = ("--captions", again / "captions-val.jsonl")
    for step in (
        ("predict", "--direction", "ego2exo", "--model", tiny_model, "--device", "cpu", "--out", pred, *on, *captions),
        ("pack", tmp_path / "s.json", "--predictions", pred, "--partial", *on),
        ("evaluate", tmp_path / "s.json", "--annotations", again, "--split", "val", "--json", tmp_path / "scores.json"),
    ):
        result = run(*step)
        assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "scores.json").read_text())["ego2exo"]["samples"] == 12


def test_a_take_that_nobody_shares_is_named(data, tmp_path):
    path = data / "take-b" / "annotation.json"
    entry = json.loads(path.read_text())
    for cameras in entry["masks"].values():
        cameras[EGO] = {}
    path.write_text(json.dumps(entry))
    line = ("export", tmp_path / "list.json", "--data", data, "--split", "val", "--direction", "exo2ego")
    result = run(*line)
    assert result.exit_code == 0 and result.stderr == "1 takes have no records:\n  take-b\n"
    assert json.loads((tmp_path / "list.split.json").read_text()) == {"val": ["take-a"]}
    shutil.rmtree(data / "take-a")
    (data / "split.json").write_text('{"val": ["take-b"]}')
    (tmp_path / "list.json").unlink()
    assert error(*line) == f"{data}: no object that both views show"
    assert not (tmp_path / "list.json").exists()
