"""Videos are decoded as far as they go, or refused in one line."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from test_images import mutated

from egoexo_xseg.data.videos import Saved, Video, save_frames
from egoexo_xseg.errors import MediaError, XsegError


def coded(codec: str, frames: int = 35) -> bytes:
    """Grey frames, each a little brighter than the one before."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(frames):
            image = np.full((32, 48, 3), 3 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


VIDEOS = [coded("mpeg4")] + ([coded("libx264")] if "libx264" in av.codecs_available else [])


def test_one_frame_a_second_and_the_wanted_ones(tmp_path):
    (tmp_path / "a.mp4").write_bytes(VIDEOS[0])
    video = Video(tmp_path / "a.mp4", "cam01", small=True)
    assert save_frames(video, tmp_path, {7, 99}, None) == Saved(35, 3, (32, 48))
    assert {path.name for path in (tmp_path / "cam01").iterdir()} == {"0.jpg", "7.jpg", "30.jpg"}
    assert save_frames(video, tmp_path / "short", {34}, limit=20) == Saved(35, 2, (32, 48))


def test_the_full_size_is_looked_for_first(tmp_path):
    assert Video.find(tmp_path, "cam01") is None
    (tmp_path / "downscaled" / "448").mkdir(parents=True)
    for small, path in ((True, tmp_path / "downscaled/448/cam01.mp4"), (False, tmp_path / "cam01.mp4")):
        path.touch()
        assert Video.find(tmp_path, "cam01") == Video(path, "cam01", small)


def test_a_full_disk_is_not_taken_for_a_broken_video(tmp_path, monkeypatch):
    import cv2

    (tmp_path / "a.mp4").write_bytes(VIDEOS[0])
    monkeypatch.setattr(cv2, "imwrite", lambda *_args: False)
    with pytest.raises(XsegError, match=r"0.jpg: the frame could not be written. Is the disk full\?") as caught:
        save_frames(Video(tmp_path / "a.mp4", "cam01", small=True), tmp_path, set(), None)
    assert not isinstance(caught.value, MediaError)


@settings(max_examples=60, deadline=None)
@given(mutated(VIDEOS))
def test_any_bytes_are_a_video_or_an_error(data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.mp4").write_bytes(data)
        try:
            found = save_frames(Video(folder / "a.mp4", "cam01", small=True), folder, {3}, None)
        except MediaError:
            return
        assert found.count > 0 and len(list((folder / "cam01").iterdir())) == found.saved
