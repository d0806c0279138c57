"""What reaches the model: pixels, masks and captions of a pair, and never the name of anything."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from egoexo_xseg.data import dataset, images
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.dataset import PairReader
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
