"""What reaches the model: pixels, masks and captions of a pair, and never the name of anything."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data import dataset, images
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.dataset import WHOLE, PairReader, SampleMaker, Window
from egoexo_xseg.data.moments import Moment
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.errors import MediaError
from egoexo_xseg.masks import rle_to_mask
from egoexo_xseg.model.inputs import collate, fit_image, fit_mask
from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer
from egoexo_xseg.records import Direction

SIDE = 64


@pytest.fixture
def take(data):
    return open_annotations(data).load("take-a")


@pytest.fixture
def reader():
    return PairReader(PromptBuilder(byte_tokenizer()), SIDE, 128)


def test_sample_holds_the_pairs_pixels_and_masks(take, reader):
    pair = next(iter_pairs(take, Direction.EGO_EXO))
    sample = reader.read(pair, take.folder)
    image = images.read_image(take.folder / pair.target_camera / "0.jpg")
    assert np.array_equal(sample.target.image, fit_image(image, SIDE, 128))
    assert np.array_equal(sample.query_masks[1], fit_mask(rle_to_mask(pair.objects[1].query_mask), SIDE))
    assert sample.target_masks is None


def test_a_frame_of_several_pairs_is_read_once(take, reader, monkeypatch):
    read = []
    monkeypatch.setattr(dataset, "read_image", lambda path: read.append(path) or images.read_image(path))
    samples = [reader.read(pair, take.folder) for pair in iter_pairs(take, Direction.EGO_EXO)]
    assert len(samples) == 6 and len(read) == len(set(read)) == 9
    assert len(collate(samples[:2]).images) == 3  # one ego frame, two exo ones


def test_objects_names_never_reach_the_model(take, reader):
    """The benchmark's rule: all that tells objects apart is their pixels (and captions made from pixels)."""
    for pair in iter_pairs(take, Direction.EGO_EXO):
        objects = tuple(replace(entry, object_id=f"stainless bowl {entry.object_id[::-1]}") for entry in pair.objects)
        before, after = (collate([reader.read(p, take.folder)]) for p in (pair, replace(pair, objects=objects)))
        assert before.prompts == after.prompts
        assert torch.equal(before.images, after.images) and torch.equal(before.query_masks, after.query_masks)
        text = bytes(i for i in (*before.prompts[0].ids, *before.prompts[0].caption_ids) if 0 <= i < 256).decode()
        assert not any(entry.object_id.strip() in text for entry in pair.objects)


def test_captions_reach_the_prompt(take, reader):
    pair = next(iter_pairs(take, Direction.EGO_EXO))
    objects = tuple(replace(entry, caption=f"thing {index}") for index, entry in enumerate(pair.objects))
    prompt = reader.read(replace(pair, objects=objects), take.folder).prompt
    assert bytes(prompt.caption_ids[:-1]).decode() == " thing 0. thing 1."


def test_a_missing_frame_is_named(take, reader):
    pair = next(iter_pairs(take, Direction.EGO_EXO))
    path = take.folder / pair.target_camera / "0.jpg"
    path.unlink()
    with pytest.raises(MediaError) as caught:
        reader.read(pair, take.folder)
    where = "take take-a, aria01_214-1 to cam01, frame 0"
    assert str(caught.value) == f"{where}: {path}: the frame is missing. Run xseg prepare"


def test_a_huge_image_is_refused_before_it_is_decoded(take, reader, monkeypatch):
    pair = next(iter_pairs(take, Direction.EGO_EXO))
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(MediaError, match="an image of 48x48 pixels is too large"):
        reader.read(pair, take.folder)


def test_hidden_targets_make_the_same_samples(data, take, reader):
    """The challenge's test split: query masks, camera lists and sizes are enough."""
    path = data / "take-b" / "annotation.json"
    value = json.loads(path.read_text())
    full = [str(pair) for pair in iter_pairs(open_annotations(data).load("take-b"), Direction.EGO_EXO)]
    for cameras in value["masks"].values():
        for camera in ("cam01", "cam02"):
            del cameras[camera]
    path.write_text(json.dumps(value))
    hidden = open_annotations(data).load("take-b")
    assert [str(pair) for pair in iter_pairs(hidden, Direction.EGO_EXO)] == full
    assert all(reader.read(pair, hidden.folder) for pair in iter_pairs(hidden, Direction.EGO_EXO))


CAPTIONS = ("red", "green")


def make_moment(hidden: tuple[int, ...] = ()) -> Moment:
    """Two views of two objects: the first one's pixels are red, the second one's green, and all others black."""
    images, masks = np.zeros((2, SIDE, SIDE, 3), np.uint8), np.zeros((2, 2, SIDE, SIDE), bool)
    for view, number, rows, columns in ((0, 0, 3, 5), (0, 1, 20, 40), (1, 0, 44, 30), (1, 1, 9, 11)):
        if view == 0 or number not in hidden:
            masks[view, number, rows : rows + 8, columns : columns + 12] = True
            images[view, masks[view, number], number] = 190
    return Moment("take t", "take t, frame 0", ("ego", "exo"), *images, *masks, CAPTIONS)


def make_sample(seed: int, salt: int = 0, hidden: tuple[int, ...] = (), most: int = 9, **settings):
    maker = SampleMaker(TrainConfig(**settings), PromptBuilder(byte_tokenizer()), SIDE, 128, most)
    return maker.make(make_moment(hidden), np.random.default_rng(seed), salt)


def numbers(sample) -> list[int]:
    """Which object each row is, by the colour under its query mask."""
    return [int(sample.query.image[mask].sum(0).argmax()) for mask in sample.query_masks]


def told(sample, row: int) -> str:
    pairs = zip(sample.prompt.caption_ids, sample.prompt.owners, strict=True)
    return bytes(token for token, owner in pairs if owner == row and 0 <= token < 256).decode().strip(" .")


def test_masks_and_captions_stay_with_their_objects_however_a_moment_is_varied():
    orders, sides = set(), set()
    for salt in range(12):
        sample = make_sample(salt, salt, caption_share=1.0)
        orders.add(tuple(numbers(sample)))
        sides.add(bool(sample.query_masks[numbers(sample).index(0), :, :20].any()))
        for row, number in enumerate(numbers(sample)):
            for view, masks in ((sample.query, sample.query_masks), (sample.target, sample.target_masks)):
                assert np.array_equal(view.image[..., number] > 0, masks[row])
            assert told(sample, row) == CAPTIONS[number]
    assert orders == {(0, 1), (1, 0)} and sides == {False, True}  # both orders, and mirrored or not


def test_records_of_a_batch_share_a_views_tint_and_others_have_another():
    one, two, other = make_sample(0, 5), make_sample(1, 5), make_sample(0, 6)
    assert np.array_equal(one.query.image, two.query.image) and np.array_equal(one.target.image, two.target.image)
    assert one.query.image.max() != one.target.image.max() and one.query.image.max() != other.query.image.max()
    plain = make_sample(0, 5, augment=False)
    assert np.array_equal(plain.query.image, make_moment().query_image)


def test_captions_are_held_back_taken_away_and_exchanged_as_often_as_asked():
    texts = {
        (share, noise): {told(make_sample(seed, caption_share=share, caption_noise=noise), 0) for seed in range(12)}
        for share, noise in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5))
    }
    assert texts == {(0.0, 0.0): {""}, (1.0, 0.0): {*CAPTIONS}, (1.0, 0.5): {"", *CAPTIONS}}
    pairs = [
        (told(sample, 0), numbers(sample)[0])
        for sample in (make_sample(seed, caption_share=1.0, caption_noise=0.5) for seed in range(40))
    ]
    assert all(text != CAPTIONS[number] for text, number in pairs)  # half are taken away, half are another object's


def test_hidden_targets_take_part_unless_they_must_not():
    sample = make_sample(0, hidden=(1,))
    assert [bool(mask.any()) for mask in sample.target_masks] == [number == 0 for number in numbers(sample)]
    assert numbers(make_sample(0, hidden=(1,), negatives=False)) == [0]
    assert make_sample(0, hidden=(0, 1), negatives=False) is None
    assert len(numbers(make_sample(0, most=1))) == 1


def test_views_are_cut_with_their_masks_and_objects_outside_are_not_asked_for():
    counts, shapes = set(), set()
    for salt in range(40):
        sample = make_sample(salt, salt, crop=0.5, augment=False)
        counts.add(len(sample.query_masks))
        shapes.add(sample.target.fit.hw)
        for row, number in enumerate(numbers(sample)):
            for view, masks in ((sample.query, sample.query_masks), (sample.target, sample.target_masks)):
                sharp = view.image[..., number]
                assert not masks[row][sharp == 0].any() and (masks[row].any() or not (sharp == 190).any())
    assert counts == {1, 2} and (SIDE, SIDE) in shapes
    sides = np.array(sorted(shapes))
    assert sides.min() < 40 and sides.min() >= SIDE // 2 and (sides[:, 0] != sides[:, 1]).any()


def test_records_of_a_batch_share_a_views_cut():
    one, two = make_sample(0, 7, crop=0.5), make_sample(1, 7, crop=0.5)
    assert np.array_equal(one.query.image, two.query.image) and np.array_equal(one.target.image, two.target.image)
    assert one.query.fit.hw != (SIDE, SIDE) or one.target.fit.hw != (SIDE, SIDE)


def test_what_is_left_of_an_object_must_be_a_tenth():
    """Of the first object's 8 x 12 pixels (rows 3 to 10, columns 5 to 16), a window leaves ten, and then nine."""
    moment = make_moment()
    for left, asked in ((7, [0, 1]), (8, [1])):
        window = Window(10 / SIDE, left / SIDE, 1 - 10 / SIDE, 1 - left / SIDE)
        cut = dataset._crop(moment, window, WHOLE)
        assert [CAPTIONS.index(caption) for caption in cut.captions] == asked
    hidden = dataset._crop(moment, WHOLE, Window(0.5, 0.0, 0.5, 1.0))
    assert hidden.target_masks.any((1, 2)).tolist() == [True, False] and len(hidden) == 2


def test_a_window_cuts_the_same_part_out_of_any_size():
    image = np.arange(40).reshape(4, 10)
    window = Window(0.25, 0.3, 0.5, 0.4)
    assert window.cut(image).tolist() == [[13, 14, 15, 16], [23, 24, 25, 26]]
    assert window.cut(np.zeros((400, 100, 3))).shape == (200, 40, 3)
    assert Window(0.999, 0.4, 0.001, 0.01).cut(image).tolist() == [[34]]  # never nothing
