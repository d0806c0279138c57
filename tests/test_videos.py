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

from egoexo_xseg.data import videos
from egoexo_xseg.data.videos import Saved, Video, iter_frames, save_frames
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


def moving(path: Path, codec: str, options: dict[str, str], frames: int = 61) -> None:
    """Noise that moves: every frame differs from every other."""
    noise = np.random.default_rng(0).integers(0, 255, (16, 80), np.uint8).repeat(4, 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(frames):
            image = np.roll(noise, -index, 1)[:, :64, None].repeat(3, 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


KINDS = {
    "references both ways": ("libx264", {"preset": "medium"}),
    "groups": ("libx264", {"g": "7", "bf": "2"}),
    "open groups": ("libx264", {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3"}),
    "no references ahead": ("libx264", {"g": "10", "bf": "0"}),
    "every frame": ("libx264", {"g": "1"}),
    "hevc": ("libx265", {"x265-params": "keyint=12:bframes=3:log-level=none"}),
    "open hevc": ("libx265", {"x265-params": "open-gop=1:keyint=12:bframes=3:log-level=none"}),
    "another codec": ("mpeg4", {"g": "12"}),
}


def whole(path: Path) -> list[np.ndarray]:
    return list(videos._decode_all(path, lambda _: True, threads=1))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_skipped_changes_no_frame(tmp_path, kind):
    if KINDS[kind][0] not in av.codecs_available:
        pytest.skip("this FFmpeg has no such encoder")
    moving(tmp_path / "a.mp4", *KINDS[kind])
    frames = whole(tmp_path / "a.mp4")
    assert len(frames) == 61
    for wanted in ({0, 30, 60}, {11, 12, 13, 25, 59}, {60}, set(range(61)), set()):
        for threads in (1, 2):
            found = list(iter_frames(tmp_path / "a.mp4", wanted.__contains__, threads))
            assert [index for index, image in enumerate(found) if image is not None] == sorted(wanted)
            assert len(found) == 61 and all(np.array_equal(found[index], frames[index]) for index in wanted)


@pytest.fixture
def grouped(tmp_path):
    if "libx264" not in av.codecs_available:
        pytest.skip("this FFmpeg has no such encoder")
    moving(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "0"})
    return tmp_path / "a.mp4"


def test_groups_without_a_wanted_frame_are_not_decoded(grouped):
    frames, data = whole(grouped), bytearray(grouped.read_bytes())
    with av.open(str(grouped)) as container:
        for index, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            if 20 <= index < 50 and index != 40:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    grouped.write_bytes(data)
    for index, image in enumerate(iter_frames(grouped, {0, 15, 40, 55}.__contains__)):
        assert image is None or np.array_equal(image, frames[index])
    assert index == 60
    broken = iter_frames(grouped, {25}.__contains__)
    assert len(list(broken)) == len(list(videos._decode_all(grouped, lambda _: False, threads=1)))


def test_a_frame_that_does_not_come_out_is_looked_for_once_more(grouped, monkeypatch):
    frames, decode = whole(grouped), videos._decode_packets
    monkeypatch.setattr(videos, "_decode_packets", lambda *rest: list(decode(*rest))[:-1])
    found = list(iter_frames(grouped, {5, 60}.__contains__))
    assert len(found) == 61 and np.array_equal(found[60], frames[60]) and np.array_equal(found[5], frames[5])
