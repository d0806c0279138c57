"""Captions files: looked up by frame, then by camera; faulty lines named; exchanged for control."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_xseg.data.captions import Caption, Captions
from egoexo_xseg.errors import AnnotationError, XsegError

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
        (ROW | {"source_frame": True}, "source_frame must be a whole number or null, found True"),
        (ROW | {"mask_hash": 7}, "mask_hash must be text or null, found 7"),
        (ROW | {"caption": "another cup"}, "another caption of the same object, camera and frame"),
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


def test_a_folder_holds_the_shards(tmp_path):
    write(tmp_path / "captions-1-of-2.jsonl", ROW)
    write(tmp_path / "captions-2-of-2.jsonl", ROW | {"take_uid": "u"})
    write(tmp_path / ".captions-2-of-2.jsonl", ROW | {"take_uid": "v"})
    (tmp_path / "captions-1-of-2.manifest.json").write_text("{}")
    captions = Captions.read(tmp_path)
    assert len(captions) == 2 and captions.of("u", "red cup _0", "cam01", 9) == "a red cup"
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match=r"no captions here \(\*\.jsonl\)\. Run xseg caption"):
        Captions.read(tmp_path / "empty")


names = st.text(st.characters(exclude_categories=()), max_size=8)  # half surrogate pairs and line separators included


@given(names, names, names, st.none() | st.integers(0, 99), names | st.none())
def test_lines_are_read_back(take_uid, object_id, camera, frame, answer):
    caption = Caption(take_uid, object_id, camera, frame, "a cup", answer, 3, "m", "r", "p")
    line = caption.to_line()
    assert "\n" not in line and Caption.from_line(line.encode().decode()) == caption


def test_separators_in_an_answer_do_not_part_lines(tmp_path):
    caption = Caption("t", "cup", "cam01", None, "cup", answer="a\u2028cup\x85\r")
    (tmp_path / "c.jsonl").write_text(caption.to_line() + "\n", "utf-8")
    assert len(Captions.read(tmp_path / "c.jsonl")) == 1


def test_the_hash_tells_what_is_answered(tmp_path):
    other = ROW | {"frame": 30}
    one, two = write(tmp_path / "1.jsonl", ROW, other), write(tmp_path / "2.jsonl", other | {"answer": "A cup."}, ROW)
    assert Captions.read(one).hash == Captions.read(two).hash
    assert Captions.read(write(tmp_path / "3.jsonl", ROW, other | {"caption": "cup"})).hash != Captions.read(one).hash


def of_take(take_uid, camera="cam01", frame=None, **texts):
    return {(take_uid, object_id, camera, frame): text for object_id, text in texts.items()}


def test_objects_of_a_view_exchange_their_captions():
    captions = of_take("t", a="cup", b="pan", c="cup", d="jar", e="lid")
    for seed in range(20):
        shuffled = dict(Captions(captions).shuffled(seed).items())
        assert sorted(shuffled.values()) == sorted(captions.values()) and list(shuffled) == list(captions)
        assert all(shuffled[key] != captions[key] for key in captions)
    assert len({Captions(captions).shuffled(seed).hash for seed in range(20)}) > 5
    assert Captions(captions).shuffled(3).hash == Captions(dict(reversed(captions.items()))).shuffled(3).hash


def test_what_a_view_cannot_give_comes_from_the_take_and_then_from_others():
    alone = of_take("t", a="cup") | of_take("t", "cam02", b="pan", c="pan")
    shuffled = dict(Captions(alone).shuffled(0).items())
    assert shuffled["t", "a", "cam01", None] == "pan"
    assert shuffled["t", "b", "cam02", None] == shuffled["t", "c", "cam02", None] == "cup"
    apart = of_take("t", a="cup") | of_take("t", "cam02", a="mug") | of_take("u", b="cup", c="jar")
    shuffled = dict(Captions(apart).shuffled(0).items())
    assert shuffled["t", "a", "cam01", None] == "jar"  # not "mug", which is its own
    assert shuffled["t", "a", "cam02", None] in ("cup", "jar")


def test_other_takes_change_nothing_for_a_take_that_suffices():
    own = of_take("t", a="cup", b="pan", c="jar")
    more = own | of_take("u", a="lid", b="cup")
    few, many = (dict(Captions(captions).shuffled(1).items()) for captions in (own, more))
    assert all(many[key] == text for key, text in few.items())


def test_nobody_else_to_take_a_caption_from():
    same = of_take("t", a="cup", b="cup")
    assert dict(Captions(same).shuffled(0).items()) == same
    with pytest.raises(XsegError, match="captions of a single object cannot be shuffled"):
        Captions(of_take("t", a="cup") | of_take("t", "cam02", a="mug")).shuffled(0)


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from("tu"), st.sampled_from("abcd"), st.sampled_from("xy"), st.sampled_from([None, 0, 30])
        ),
        st.sampled_from(["cup", "pan", "jar"]),
        max_size=20,
    ),
    st.integers(0, 5),
)
def test_every_object_gets_another_ones_caption(captions, seed):
    objects = {key[:2] for key in captions}
    if len(objects) == 1:
        return
    shuffled = dict(Captions(captions).shuffled(seed).items())
    for key, text in shuffled.items():
        others = {other for place, other in captions.items() if place[:2] != key[:2]}
        in_take = {other for place, other in captions.items() if place[0] == key[0] and place[:2] != key[:2]}
        assert text in others
        if in_take - {captions[key]}:
            assert text in in_take - {captions[key]}
        elif others - {captions[key]}:
            assert text != captions[key]


def test_whatever_json_can_spell_is_text(tmp_path):
    """Line separators within a caption do not end its line; halves of surrogate pairs are no characters."""
    line = json.dumps(ROW | {"caption": "a\u2028red\ud800 cup"}, ensure_ascii=False)
    (tmp_path / "c.jsonl").write_bytes(line.encode("utf-8", "surrogatepass").replace(b"\xed\xa0\x80", b"\\ud800"))
    assert Captions.read(tmp_path / "c.jsonl").of("t", "red cup _0", "cam01", 0) == "a red? cup"


def test_captions_of_other_takes_are_refused(tmp_path):
    path = write(tmp_path / "captions.jsonl", {"take_uid": "t", "object_id": "o", "camera": "c", "caption": "a cup"})
    assert len(Captions.read(path, ["s", "t"])) == 1
    with pytest.raises(AnnotationError) as fault:
        Captions.read(path, ["s", "u"])
    assert str(fault.value) == f"{path}: no captions of these takes. Were they made for another split?"
