"""The sample world: geometry that is true, figures that are hard enough, the same pixels every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_xseg.masks import Rle, mask_to_rle, rle_to_mask, runs_to_rle
from egoexo_xseg.world.camera import Camera, look_at
from egoexo_xseg.world.draws import MIN_SHARE, ViewPair, draw_pairs, without_slivers, world_seed
from egoexo_xseg.world.motion import Track
from egoexo_xseg.world.paint import PATTERNS, Paint, blend, grain
from egoexo_xseg.world.recording import Cast, SampleFigures, cast_masks, crop_to_runs
from egoexo_xseg.world.render import Moment, find_places, object_masks, render, trace
from egoexo_xseg.world.room import draw_room, furniture
from egoexo_xseg.world.scene import make_scene
from egoexo_xseg.world.solids import ball, bowl, box, hit, tube
from egoexo_xseg.world.things import SHAPES, Look, count_look_alikes, draw_things, make_thing

PAINT = Paint((0.5, 0.5, 0.5))
INF = float("inf")


def ray(solid, origin, direction):
    """Distance to an object at the origin, along one ray in world axes."""
    inward = solid.rotation.T / solid.half[:, None]
    local = inward @ (np.array(origin, float) - solid.centre), inward @ np.array(direction, float)
    return float(hit(solid, *(tuple(np.float32([v]) for v in part) for part in local))[0])


@pytest.mark.parametrize(
    ("solid", "origin", "direction", "distance"),
    [
        (box((0, 0, 0), (1, 2, 3), PAINT), (5, 0.1, 0.1), (-1, 0.001, 0.001), 4),
        (box((0, 0, 0), (1, 2, 3), PAINT), (5, 2.1, 0.1), (-1, 0.001, 0.001), INF),
        (box((0, 0, 0), (1, 2, 3), PAINT), (5, 0.1, 0.1), (1, 0.001, 0.001), INF),
        (ball((1, 0, 0), (2, 1, 1), PAINT), (9, 0, 0), (-1, 0, 0), 6),
        (ball((1, 0, 0), (2, 1, 1), PAINT), (1, 5, 0), (0, -1, 0), 4),
        (tube((0, 0, 0), (0, 0, 2), (1, 1), PAINT), (5, 0, 1), (-1, 0, 0), 4),
        (tube((0, 0, 0), (0, 0, 2), (1, 1), PAINT), (0.2, 0, 5), (0, 0, -1), 3),
        (tube((0, 0, 0), (0, 0, 2), (1, 1), PAINT), (5, 0, 2.1), (-1, 0, 0), INF),
        (tube((0, 0, 0), (0, 0, 2), (2, 0), PAINT), (5, 0, 1), (-1, 0, 0), 4),
        (tube((0, 0, 0), (0, 0, 2), (1, 1), PAINT, closed=(True, False)), (0, 0, 5), (0, 0, -1), 5),
        (tube((0, 0, 0), (0, 0, 2), (1, 1), PAINT, closed=(False, False)), (0, 0, 5), (0, 0, -1), INF),
        (bowl((0, 0, 0), (1, 1, 1), PAINT), (0.5, 0, 5), (0, 0, -1), 5 + 0.75**0.5),
        (bowl((0, 0, 0), (1, 1, 1), PAINT), (5, 0, 0.2), (-1, 0, 0), INF),
    ],
)
def test_a_ray_meets_a_solid_where_it_should(solid, origin, direction, distance):
    assert ray(solid, origin, direction) == pytest.approx(distance, rel=1e-5)


def empty_moment(*things):
    """A table with solids on it, labelled from 1."""
    room = draw_room(np.random.default_rng(0))
    table = furniture(room, np.random.default_rng(0))
    return Moment(room, (*table, *(replace(solid, label=i) for i, solid in enumerate(things, 1))))


def exo(moment, place=(0.0, 2.0, 1.6), target=None):
    target = (0.0, 0.0, moment.room.top) if target is None else target
    return Camera(np.array(place), look_at(place, target), 0.5, 0.5625)


def label_at(instances, camera, point):
    height, width = instances.shape
    (u, v), *_ = camera.project(np.array([point]))
    return int(instances[int(v * height), int(u * width)])


def test_a_camera_sees_its_target_in_the_middle_and_up_above():
    camera = Camera(np.array([1.0, 2.0, 1.5]), look_at((1.0, 2.0, 1.5), (0.0, 0.0, 0.8)), 0.5, 0.5625)
    assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3))
    assert np.allclose(camera.project(np.array([[0.0, 0.0, 0.8]])), 0.5)
    assert camera.project(np.array([[0.0, 0.0, 0.9]]))[0, 1] < 0.5


def test_an_object_is_where_its_centre_projects():
    top = empty_moment().room.top
    places = [(-0.3, 0.1, top + 0.05), (0.2, -0.1, top + 0.05), (0.4, 0.2, top + 0.05)]
    moment = empty_moment(*(ball(place, (0.05, 0.05, 0.05), PAINT) for place in places))
    camera = exo(moment)
    instances = render(moment, camera, (90, 160), samples=1)[1]
    assert [label_at(instances, camera, place) for place in places] == [1, 2, 3]


def test_what_stands_in_front_hides_what_stands_behind():
    top = empty_moment().room.top
    behind = ball((0, -0.2, top + 0.06), (0.06, 0.06, 0.06), PAINT)
    front = box((0, 0.1, top + 0.1), (0.03, 0.03, 0.1), PAINT)
    alone, both = empty_moment(behind), empty_moment(behind, front)
    camera = exo(alone)
    free, hidden = (render(moment, camera, (180, 320), 1)[1] for moment in (alone, both))
    assert 0 < (hidden == 1).sum() < (free == 1).sum()
    assert ((free == 1) & (hidden == 2)).any()
    opposite = exo(both, (0.0, -2.0, 1.6))
    swapped = render(both, opposite, (180, 320), 1)[1]
    alone_swapped = render(alone, opposite, (180, 320), 1)[1]
    assert np.array_equal(swapped == 1, alone_swapped == 1)


def test_order_of_solids_does_not_matter():
    top = empty_moment().room.top
    one, other = ball((0, 0, top + 0.1), (0.1, 0.1, 0.1), PAINT), ball((0.05, 0.1, top + 0.1), (0.1, 0.1, 0.1), PAINT)
    forward, backward = empty_moment(one, other), empty_moment(other, one)
    first = render(forward, exo(forward), (90, 160), 1)[1]
    second = render(backward, exo(backward), (90, 160), 1)[1]
    assert np.array_equal(first, np.array([0, 2, 1])[second])


def test_the_worn_camera_does_not_see_its_wearer_from_within():
    scene = make_scene(3)
    moment, camera = scene.at(2.0), scene.ego(2.0)
    seen = {moment.solids[number].worn for number in find_places(moment, camera, (64, 64))}
    assert seen == {False}
    assert any(moment.solids[n].worn for n in find_places(moment, scene.exo[0], (64, 64)))


def test_pixel_boxes_hold_every_pixel_of_a_solid():
    scene = make_scene(5)
    moment, hw = scene.at(1.0), (45, 80)
    whole = (slice(0, 45), slice(0, 80))
    for camera in (scene.ego(1.0), *scene.exo):
        places = find_places(moment, camera, hw)
        tight = trace(moment, camera, hw, places, whole)
        loose = trace(moment, camera, hw, dict.fromkeys(places, whole), whole)
        assert np.array_equal(tight[1], loose[1])


def test_object_masks_are_crops_of_the_instance_map():
    scene = make_scene(7)
    moment, camera = scene.at(4.0), scene.exo[0]
    instances = render(moment, camera, (180, 320), samples=1)[1]
    found = np.zeros_like(instances)
    for label, (top, left), mask in object_masks(moment, camera, (180, 320)):
        found[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = label
    assert np.array_equal(found, instances)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_crop_becomes_the_runs_of_its_full_mask(data):
    h, w = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    above, below, left, right = (data.draw(st.integers(0, 2)) for _ in range(4))
    crop = np.array(data.draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))).reshape(h, w)
    full = np.pad(crop, ((above, below), (left, right)))
    assert runs_to_rle(crop_to_runs(crop, (above, left), full.shape), full.shape) == mask_to_rle(full)


def test_masks_of_the_releases_size_agree_with_the_picture():
    scene = make_scene(11)
    moment, camera = scene.at(3.0), scene.exo[0]
    small = without_slivers(render(moment, camera, (270, 480), samples=1)[1])
    masks = cast_masks(moment, camera, (1520, 2704))
    assert masks
    for label, cast in masks.items():
        mask = rle_to_mask(cast.rle)
        assert mask.shape == (1520, 2704)
        assert cast.share == pytest.approx(mask.mean())
        assert cast.share == pytest.approx(float((small == label).mean()), rel=0.1, abs=2e-4)


def test_slivers_count_as_absent():
    instances = np.zeros((100, 100), np.uint8)
    enough = int(np.ceil(MIN_SHARE * instances.size))
    instances[0, :enough] = 1
    instances[1, : enough - 1] = 2
    assert set(np.unique(without_slivers(instances)).tolist()) == {0, 1}


def sample_pair(seed: int, long_side: int = 256) -> ViewPair:
    """A moment of a scene that nobody else draws, seen by its ego camera and one exo camera."""
    scene = make_scene(world_seed("pair scene", seed), exo_cameras=1)
    second = float(np.random.default_rng(world_seed("pair", seed)).uniform(0, scene.duration))
    return draw_pairs(scene, second, long_side)[0]


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others():
    one, again, other = (sample_pair(seed, 96) for seed in (4, 4, 5))
    assert np.array_equal(one.ego_image, again.ego_image)
    assert np.array_equal(one.exo_instances, again.exo_instances)
    assert not np.array_equal(one.ego_image, other.ego_image)
    assert one.ego_image.shape == (96, 96, 3)
    assert one.exo_image.shape == (54, 96, 3)
    assert [thing.caption for thing in one.things] == [thing.caption for thing in again.things]


def test_names_of_seeds_do_not_run_together():
    names = [
        ("pair scene", 7),
        ("scene", 7, "val", 0),
        ("scene", 7, "val", 1),
        ("scene", 71, "val"),
        ("scene", 7, "1val"),
    ]
    assert len({world_seed(*name) for name in names}) == len(names)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_stands_on_its_foot(shape):
    thing = make_thing(shape, Look("red", "stripes", "white"), 1.0, np.random.default_rng(0))
    corners = np.concatenate([part.corners() for part in thing.parts])
    assert -0.015 < corners[:, 2].min() < 0.03
    assert 0.02 < thing.height < 0.4
    assert 0.03 < thing.radius < 0.4
    assert thing.caption == f"red striped {shape}"


def test_things_differ_and_many_look_alike():
    rng = np.random.default_rng(0)
    scenes = [draw_things(6, rng) for _ in range(60)]
    for things in scenes:
        assert len({(thing.shape, thing.look.colour, thing.look.pattern) for thing in things}) == 6
    assert 0.4 < sum(map(count_look_alikes, scenes)) / 360 < 0.8


def test_look_alikes_are_counted_by_hand():
    rng = np.random.default_rng(0)
    looks = [Look("red", "plain", "white"), Look("red", "dots", "white"), Look("blue", "plain", "white")]
    make = [("box", 0), ("box", 1), ("ball", 2), ("cup", 0), ("can", 1)]
    assert count_look_alikes([make_thing(shape, looks[i], 1.0, rng) for shape, i in make]) == 4


@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "plain"])
def test_patterns_repeat_and_use_both_colours(pattern):
    u, v = (axis.ravel().astype(np.float32) for axis in np.meshgrid(np.linspace(0, 1.99, 80), np.linspace(0, 1.99, 80)))
    share = blend(pattern, u, v)
    assert share.min() == 0
    assert share.max() == 1
    assert 0.2 < share.mean() < 0.8
    assert np.allclose(share, blend(pattern, u + 1, v + 2), atol=1e-3)


def test_grain_is_seamless_and_calmer_from_afar():
    wood = grain("wood")
    x = np.linspace(-1, 1, 500, dtype=np.float32)
    near, far = wood.look_up(x, x * 0.3, 0.001), wood.look_up(x, x * 0.3, 0.3)
    assert np.allclose(near, wood.look_up(x + np.float32(wood.metres), x * 0.3, 0.001), atol=0.05)
    assert far.std() < near.std()


def test_a_track_rests_outside_its_keys_and_eases_between():
    track = Track([(1.0, np.zeros(3)), (3.0, np.array([2.0, 0.0, 0.0]))])
    assert [float(track.at(second)[0]) for second in (0, 1, 2, 3, 9)] == [0, 0, 1, 2, 2]
    assert float(track.at(1.2)[0]) < 0.1
    track.add(2.0, np.ones(3))
    assert [time for time, _ in track.keys] == [1.0, 2.0]


def test_figures_count_queries_of_both_directions_by_hand():
    cast = Cast(Rle((2, 2), "4"), 0.01)
    track = {"aria01_214-1": {0: cast, 30: cast}, "cam01": {0: cast, 60: cast}, "cam02": {}}
    looked = {"aria01_214-1": [0, 30, 60], "cam01": [0, 30], "cam02": [0, 30, 60]}
    figures = SampleFigures()
    figures.count(track, looked)
    assert figures.queries == {"ego2exo": 4, "exo2ego": 1}
    assert figures.absent == {"ego2exo": 3, "exo2ego": 0}
    assert figures.masks == 3


def test_the_world_is_hard_enough():
    figures = SampleFigures()
    for seed in range(16):
        scene = make_scene(world_seed("hard", seed))
        assert 4 <= len(scene.things) <= 8
        assert 2 <= len(scene.exo) <= 4
        figures.add(SampleFigures(objects=len(scene.things), look_alikes=count_look_alikes(scene.things)))
        tracks = [{camera: {} for camera in ("aria", "cam01", "cam02")} for _ in scene.things]
        for second in (1.0, 4.0, 7.0, 10.0):
            moment = scene.at(second)
            for camera, view in zip(("aria", "cam01", "cam02"), (scene.ego(second), *scene.exo), strict=False):
                hw = (240, 240) if camera == "aria" else (216, 384)
                for label, cast in cast_masks(moment, view, hw).items():
                    tracks[label - 1][camera][int(second)] = cast
        for track in tracks:
            figures.count(track, {camera: [1, 4, 7, 10] for camera in track})
    assert 0.002 <= figures.median_area("exo") <= 0.01
    assert 0.15 <= figures.absent_share("ego2exo") <= 0.35
    assert 0.15 <= figures.absent_share("exo2ego") <= 0.40
    assert figures.look_alike_share >= 0.2
