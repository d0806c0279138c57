"""LZString against the release's own strings, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_xseg.data.lzstring import compress, decompress
from egoexo_xseg.errors import MaskError
from egoexo_xseg.masks import Rle, rle_to_mask


def test_real_strings(real_relations):
    relations = json.loads((real_relations / "relations_sample.json").read_text())["annotations"]
    for key, expected in json.loads((real_relations / "expected.json").read_text()).items():
        take, object_id, camera, frame = key.split("/")
        coded = relations[take]["object_masks"][object_id][camera]["annotation"][frame]
        counts = decompress(coded["encodedMask"])
        assert len(counts) == expected["counts_len"] and counts.startswith(expected["counts_head"])
        mask = rle_to_mask(Rle((coded["height"], coded["width"]), counts))
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert mask.sum() == expected["area"] and box == expected["bbox_xywh"]
        assert compress(counts) == coded["encodedMask"]


def test_empty_text():
    assert decompress(compress("")) == ""


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=300))
def test_round_trip(text):
    assert decompress(compress(text)) == text


@given(st.text("ab", max_size=3000))
def test_round_trip_of_long_phrases(text):
    assert decompress(compress(text)) == text


@given(st.text(max_size=60) | st.text("ABCDEFGHabcdefgh0123456789+-$ ", max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        decompress(text)
    except MaskError as fault:
        assert str(fault) == "a mask's text is not LZString"


def test_a_bomb_is_refused():
    bomb = compress("a" * 100_000)
    assert len(bomb) < 1000
    with pytest.raises(MaskError, match="not LZString"):
        decompress(bomb, max_length=10_000)


def test_a_long_text_is_refused_unread():
    with pytest.raises(MaskError, match="a compressed mask has more than 10 characters"):
        decompress("A" * 11, max_length=10)
