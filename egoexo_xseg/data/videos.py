"""Videos of the release: found in either size, decoded frame by frame."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from egoexo_xseg.data.images import frame_path, import_cv2
from egoexo_xseg.errors import MediaError, XsegError
from egoexo_xseg.masks import MAX_SIDE
from egoexo_xseg.records import is_ego

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Image = UInt8[np.ndarray, "H W 3"]

STRIDE = 30
"""The videos have 30 frames a second, the annotations one."""

SHRINK = {True: 2, False: 4}
"""Full-size frames are kept at a half (ego) and a quarter (exo), as in the official baseline."""

SMALL = Path("downscaled", "448")
JPEG_QUALITY = 95

CODECS = ("h264", "hevc")
"""In these every packet of a file is one frame, and key frames say where decoding can begin."""


@dataclass(frozen=True)
class Video:
    """One camera's recording; a small one is 448 pixels high and kept as it is."""

    path: Path
    camera: str
    small: bool

    @classmethod
    def find(cls, folder: Path, camera: str) -> Video | None:
        """The full-size video if it is there, else the 448p one."""
        for small, path in ((False, folder / f"{camera}.mp4"), (True, folder / SMALL / f"{camera}.mp4")):
            if path.is_file():
                return cls(path, camera, small)
        return None

    @property
    def shrink(self) -> int:
        return 1 if self.small else SHRINK[is_ego(self.camera)]


@dataclass(frozen=True)
class Saved:
    """What a video came to: frames decoded and saved, and its (height, width)."""

    count: int
    saved: int
    hw: tuple[int, int]


def save_frames(video: Video, folder: Path, wanted: Collection[int], limit: int | None, threads: int = 1) -> Saved:
    """Save one frame a second up to `limit`, and every `wanted` one, as `<folder>/<camera>/<frame>.jpg`."""
    cv2 = import_cv2()
    (folder / video.camera).mkdir(parents=True, exist_ok=True)
    index, saved, hw = 0, 0, (0, 0)
    for index, image in enumerate(iter_frames(video.path, lambda i: i in wanted or _regular(i, limit), threads)):
        if image is None:
            continue
        hw = image.shape[:2]
        if video.shrink > 1:
            size = (max(1, hw[1] // video.shrink), max(1, hw[0] // video.shrink))
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        path = frame_path(folder, video.camera, index)
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise XsegError("the frame could not be written", where=path, remedy="Is the disk full?")
        saved += 1
    return Saved(index + 1, saved, hw)


def _regular(index: int, limit: int | None) -> bool:
    return index % STRIDE == 0 and (limit is None or index < limit)


def iter_frames(path: Path, wanted: Callable[[int], bool], threads: int = 1) -> Iterator[Image | None]:
    """Every frame of a video, as blue, green and red where it is wanted; memory stays bounded whatever its length.

    Only what the wanted frames depend on is decoded, if the file is whole and its form a usual one, else everything. A
    cut file still holds its beginning; one that holds nothing is a MediaError.
    """
    import av

    index = 0
    try:
        with _opened(path, threads) as (container, stream):
            order = _read_order(container, stream)
            if order is not None:
                for image in _decode_needed(container, stream, order, wanted):
                    yield image
                    index += 1
                return
    except (av.FFmpegError, *_BROKEN):
        pass  # somewhere in the file something is wrong; decoding all of it shows where
    yield from islice(_decode_all(path, wanted, threads), index, None)


_BROKEN = (IndexError, ValueError, AttributeError)
"""What PyAV raises on files that are no videos, besides FFmpeg's errors."""


def _decode_all(path: Path, wanted: Callable[[int], bool], threads: int) -> Iterator[Image | None]:
    import av

    index = -1
    try:
        with _opened(path, threads) as (container, stream):
            for index, frame in enumerate(container.decode(stream)):
                yield frame.to_ndarray(format="bgr24") if wanted(index) else None
    except (av.FFmpegError, *_BROKEN):
        if index < 0:
            raise MediaError("not readable as a video", where=path) from None
    if index < 0:
        raise MediaError("a video without frames", where=path)


@contextmanager
def _opened(path: Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if max(stream.width, stream.height) > MAX_SIDE:
            raise MediaError(f"frames of {stream.height}x{stream.width} are too large", where=path)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        yield container, stream


@dataclass(frozen=True)
class _Order:
    """The frames of a file as they are stored: when each is shown, and whether decoding can begin with it."""

    times: Int64[np.ndarray, " F"]
    begins: Bool[np.ndarray, " F"]


def _read_order(container: InputContainer, stream: VideoStream) -> _Order | None:
    """Nothing for files that are cut, or whose frames stand for themselves less clearly than usual."""
    if stream.codec_context.name not in CODECS:
        return None
    times, keys = array("q"), bytearray()
    for packet in _iter_packets(container, stream):
        if packet.pts is None or packet.is_corrupt or packet.is_discard:
            return None
        times.append(packet.pts)
        keys.append(packet.is_keyframe)
    if len(times) != stream.frames:
        return None
    shown = np.array(times, np.int64)
    before = np.maximum.accumulate(shown)[:-1]
    after = np.minimum.accumulate(shown[::-1])[::-1][1:]
    # All that is stored before is shown before, and so on: nothing refers across.
    begins = np.array(keys, bool) & np.concatenate([[True], before < after])
    return _Order(shown, begins) if begins[:1].any() and np.unique(shown).size == shown.size else None


def _iter_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Without the last one, which only says that the file ends."""
    return (packet for packet in container.demux(stream) if packet.size)


def _decode_needed(
    container: InputContainer, stream: VideoStream, order: _Order, wanted: Callable[[int], bool]
) -> Iterator[Image | None]:
    """A ValueError if a wanted frame does not come out."""
    times = np.sort(order.times)
    wants = np.array([wanted(index) for index in range(times.size)])
    index = 0
    for frame in _decode_packets(container, stream, order, wants[times.searchsorted(order.times)]):
        if frame.pts is None:
            raise ValueError
        shown = int(times.searchsorted(frame.pts))
        if not wants[shown]:
            continue
        if wants[index:shown].any() or times[shown] != frame.pts:
            raise ValueError
        yield from repeat(None, shown - index)
        yield frame.to_ndarray(format="bgr24")
        index = shown + 1
    if wants[index:].any():
        raise ValueError
    yield from repeat(None, times.size - index)


def _decode_packets(
    container: InputContainer, stream: VideoStream, order: _Order, needed: Bool[np.ndarray, " F"]
) -> Iterator[VideoFrame]:
    """The needed frames, among others: from each place to begin at, what leads to the last needed one after it."""
    part = np.cumsum(order.begins) - 1
    last = np.full(part[-1] + 1, -1)
    np.maximum.at(last, part[needed], needed.nonzero()[0])
    context, idle = stream.codec_context, False
    container.seek(int(order.times.min()), stream=stream)
    for place, packet in enumerate(_iter_packets(container, stream)):
        if packet.pts != order.times[place]:
            raise ValueError
        if place > last[part[place]]:
            idle = True
            continue
        if idle:
            yield from context.decode(None)
            context.flush_buffers()
            idle = False
        # H.264 marks frames that no other refers to.
        context.skip_frame = "NONREF" if context.name == "h264" and not needed[place] else "DEFAULT"
        yield from context.decode(packet)
    yield from context.decode(None)
