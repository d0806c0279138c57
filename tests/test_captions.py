"""Captions files: looked up by frame, then by camera; faulty lines named."""

from __future__ import annotations

import json

import pytest

from egoexo_xseg.data.captions import Captions
from egoexo_xseg.errors import AnnotationError

ROW = {"take_uid": "t", "object_id": "red cup _0", "camera": "cam01", "frame": None, "caption": "a  red\ncup "}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_frames_own_caption_comes_first(tmp_path):
    captions = Captions.read(write(tmp_path / "c.jsonl", ROW, ROW | {"frame": 30, "caption": "a cup, blurred"}))
    assert len(captions) == 2
    assert captions.of("t", "red cup _0", "cam01", 0) == "a red cup"
    assert captions.of("t", "red cup _0", "cam01", 30) == "a cup, blurred"
    assert captions.of("t", "red cup _0", "cam02", 0) is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([], "not a JSON object"),
        (ROW | {"camera": 3}, "a caption needs take_uid, object_id, camera and caption as text"),
        (ROW | {"frame": "30"}, "frame must be a whole number or null, found '30'"),
        (ROW | {"caption": " "}, "a caption must have 1 to 1000 characters, found 0"),
        (ROW | {"caption": "x" * 1001}, "a caption must have 1 to 1000 characters, found 1001"),
    ],
)
def test_faulty_lines(tmp_path, row, problem):
    path = write(tmp_path / "c.jsonl", ROW, row)
    with pytest.raises(AnnotationError) as caught:
        Captions.read(path)
    assert str(caught.value) == f"{path}, line 2: {problem}"


def test_a_line_that_is_no_json(tmp_path):
    (tmp_path / "c.jsonl").write_text("{\n")
    with pytest.raises(AnnotationError, match="line 1: not a JSON object"):
        Captions.read(tmp_path / "c.jsonl")


def test_whatever_json_can_spell_is_text(tmp_path):
    """Line separators within a caption do not end its line; halves of surrogate pairs are no characters."""
    line = json.dumps(ROW | {"caption": "a\u2028red\ud800 cup"}, ensure_ascii=False)
    (tmp_path / "c.jsonl").write_bytes(line.encode("utf-8", "surrogatepass").replace(b"\xed\xa0\x80", b"\\ud800"))
    assert Captions.read(tmp_path / "c.jsonl").of("t", "red cup _0", "cam01", 0) == "a red? cup"
