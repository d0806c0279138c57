"""What training learns from: every record of prepared takes once an epoch, and scenes that nobody else sees."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import CAMERAS

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.moments import DrawnMoments, PreparedMoments
from egoexo_xseg.errors import AnnotationError
from egoexo_xseg.masks import mask_to_rle
from egoexo_xseg.world.draws import draw_pairs, world_seed
from egoexo_xseg.world.scene import make_scene


def prepared(data, tmp_path, **settings) -> PreparedMoments:
    return PreparedMoments(open_annotations(data), TrainConfig(**settings), tmp_path / "records.jsonl", None)


def test_an_epoch_holds_every_record_once(data, tmp_path):
    moments = prepared(data, tmp_path)
    # Two takes; three frames for two exo cameras, and back, less the one in which an exo camera sees nothing.
    assert moments.length == 2 * (6 + 5)
    epochs = [[str(moments.read(position + start)) for position in range(22)] for start in (0, 22)]
    assert len(set(epochs[0])) == 22 and sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


def test_hidden_targets_take_part_unless_they_are_left_out(data, tmp_path):
    everything = prepared(data, tmp_path, direction="ego2exo")
    hidden = [not mask.any() for position in range(12) for mask in everything.read(position).target_masks]
    assert 0 < sum(hidden) < len(hidden)
    visible = prepared(data, tmp_path, direction="ego2exo", negatives=False)
    assert visible.length < everything.length
    assert all(mask.any() for position in range(visible.length) for mask in visible.read(position).target_masks)


def test_stage_1_takes_a_twentieth(data, tmp_path):
    assert prepared(data, tmp_path, stage="1").length == 1
    assert prepared(data, tmp_path, share=0.5).length == 11


def test_masks_have_the_annotations_size(data, tmp_path):
    """Annotations are made at the video's original size: shrunk to the frame's, small objects would be hidden ones."""
    path = data / "take-a" / "annotation.json"
    annotation = json.loads(path.read_text())
    for cameras in annotation["masks"].values():
        for camera, (height, width) in CAMERAS.items():
            for frame in cameras[camera]:
                mask = np.zeros((4 * height, 4 * width), bool)
                mask[61:63, 41:43] = True
                cameras[camera][frame] = mask_to_rle(mask).to_json()
    annotation["camera_size"] = {camera: [4 * side for side in hw] for camera, hw in CAMERAS.items()}
    path.write_text(json.dumps(annotation))
    moments = prepared(data, tmp_path, direction="exo2ego")
    found = [moment for moment in map(moments.read, range(moments.length)) if moment.place.startswith("take take-a")]
    assert len(found) == 5
    for moment in found:
        assert moment.query_image.shape[:2] == (36, 64) and moment.query_masks.shape[1:] == (144, 256)
        assert moment.target_masks.shape[1:] == (192, 192)
        assert {int(mask.sum()) for mask in moment.query_masks} == {4}


def test_the_index_holds_no_names_of_objects(data, tmp_path):
    prepared(data, tmp_path)
    text = (tmp_path / "records.jsonl").read_text()
    assert not any(name in text for name in ("red cup", "Bowl_1", "knife_2"))


def test_a_split_without_objects_is_refused(tmp_path):
    (tmp_path / "data" / "take-a").mkdir(parents=True)
    (tmp_path / "data" / "take-a" / "annotation.json").write_text(
        '{"masks": {}, "subsample_idx": [], "annotated_frames": {}, "camera_size": {}}'
    )
    with pytest.raises(AnnotationError, match="no objects to learn from"):
        prepared(tmp_path / "data", tmp_path)


def test_an_index_that_could_not_be_written_leaves_nothing(data, tmp_path):
    (data / "take-b" / "annotation.json").write_text("{")
    with pytest.raises(AnnotationError, match="not readable as JSON"):
        prepared(data, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@pytest.fixture
def few(monkeypatch):
    """Two scenes at two times."""
    monkeypatch.setattr(DrawnMoments, "TURN", 2)
    monkeypatch.setattr(DrawnMoments, "PER_SCENE", 2)


def test_drawn_moments_come_twice_in_both_directions(few):
    moments = DrawnMoments(TrainConfig(), 32, 1, showings=2)
    names = [str(moments.read(position)) for position in range(40)]
    assert names[:5] == [
        "drawn scene 0, 0, ego to exo0", "drawn scene 0, 0, exo0 to ego",
        "drawn scene 0, 0, ego to exo1", "drawn scene 0, 0, exo1 to ego",
        "drawn scene 1, 0, ego to exo0",
    ]  # fmt: skip
    assert names[:16] == names[16:32] and len(set(names)) == 24
    one, other, beside = (moments.read(position) for position in range(3))
    assert np.array_equal(one.query_image, other.target_image) and one.query_image is beside.query_image
    assert not np.array_equal(one.target_image, beside.target_image)


def test_processes_draw_scenes_of_their_own(few):
    moments = DrawnMoments(TrainConfig(direction="ego2exo"), 32, 2)
    own, others = ({str(moments.read(2 * step + rank)) for step in range(16)} for rank in (0, 1))
    assert len(own) == len(others) == 16 and not own & others
    assert all("ego to" in name for name in own)


def test_drawn_moments_are_a_function_of_position_and_seed(few):
    first = DrawnMoments(TrainConfig(), 32, 1).read(5)
    again = DrawnMoments(TrainConfig(), 32, 1).read(5)
    other = DrawnMoments(TrainConfig(seed=1), 32, 1).read(5)
    assert np.array_equal(first.query_image, again.query_image)
    assert not np.array_equal(first.query_image, other.query_image)


def test_drawn_moments_are_kept_without_masks_which_are_those_of_the_scene(few):
    moments = DrawnMoments(TrainConfig(), 32, 1, showings=2)
    moment = moments.read(3)
    kept = sum(
        array.nbytes for own in moments._drawn.values() for each in own for array in (*each.images, *each.labels)
    )
    assert kept == sum(4 * image.nbytes // 3 * 4 for image in (moment.query_image, moment.target_image))
    rng = np.random.default_rng(world_seed("train", 0, 0, 0))
    scene = make_scene(world_seed("train scene", 0, 0), exo_cameras=2)
    pair = draw_pairs(scene, float(rng.uniform(0, scene.duration)), 32)[1]
    seen = [label for label in np.unique(pair.exo_instances) if label]
    assert len(moment) == len(seen) > 0
    assert moment.captions == tuple(pair.things[label - 1].caption for label in seen)
    for label, query, target in zip(seen, moment.query_masks, moment.target_masks, strict=True):
        assert np.array_equal(query, pair.exo_instances == label)
        assert np.array_equal(target, pair.ego_instances == label)


def test_nothing_is_drawn_sharper_than_small_videos_are():
    scene = make_scene(3, exo_cameras=1)
    (pair,) = draw_pairs(scene, 0, 1024)
    assert pair.ego_image.shape == (448, 448, 3) and pair.exo_image.shape == (448, 796, 3)
    (pair,) = draw_pairs(scene, 0, 64)
    assert pair.ego_image.shape == (64, 64, 3) and pair.exo_image.shape == (36, 64, 3)
