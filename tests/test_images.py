"""Images come from anywhere: they are read, or refused in one line."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from egoexo_xseg.data.images import read_image
from egoexo_xseg.errors import MediaError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))


def coded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    NOISE.save(file, kind, **options)
    return file.getvalue()


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    return exif


IMAGES = [coded("JPEG", exif=sideways()), coded("JPEG", progressive=True), coded("PNG")]


def test_images_are_turned_upright(tmp_path):
    (tmp_path / "a.jpg").write_bytes(IMAGES[0])
    assert read_image(tmp_path / "a.jpg").shape == (40, 24, 3)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the frame is missing. Run xseg prepare"),
        (b"", "not readable as an image"),
        (IMAGES[1][:200], "not readable as an image"),
        (coded("GIF"), "not readable as an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not readable as an image"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, problem):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: {problem}"


def test_claims_are_checked_before_anything_is_decoded(tmp_path):
    path = tmp_path / "a.png"
    data = bytearray(IMAGES[2])
    data[16:24] = (9000).to_bytes(4, "big") * 2  # width and height in the header; the checksum is no longer right
    path.write_bytes(data)
    with pytest.raises(MediaError, match="not readable as an image"):
        read_image(path)
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(MediaError, match="an image of 9000x9000 pixels is too large"):
        read_image(path)


@st.composite
def mutated(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A file cut somewhere, or with some bytes changed, most of them in its head."""
    data = bytearray(draw(st.sampled_from(files)))
    if draw(st.booleans()):
        return bytes(data[: draw(st.integers(0, len(data)))])
    reach = draw(st.sampled_from([64, 256, len(data)]))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, reach - 1), st.integers(0, 255)), max_size=12)):
        data[place % len(data)] = byte
    return bytes(data)


@settings(max_examples=200, deadline=None)
@given(mutated(IMAGES))
def test_any_bytes_are_an_image_or_an_error(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jpg")
        path.write_bytes(data)
        try:
            assert read_image(path).shape[2] == 3
        except MediaError:
            pass
