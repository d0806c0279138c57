"""Videos of the release: found in either size, decoded frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from egoexo_xseg.data.images import frame_path, import_cv2
from egoexo_xseg.errors import MediaError, XsegError
from egoexo_xseg.masks import MAX_SIDE
from egoexo_xseg.records import is_ego

STRIDE = 30
"""The videos have 30 frames a second, the annotations one."""

SHRINK = {True: 2, False: 4}
"""Full-size frames are kept at a half (ego) and a quarter (exo), as in the official baseline."""

SMALL = Path("downscaled", "448")
JPEG_QUALITY = 95


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


def save_frames(video: Video, folder: Path, wanted: Collection[int], limit: int | None) -> Saved:
    """Save one frame a second up to `limit`, and every `wanted` one, as `<folder>/<camera>/<frame>.jpg`."""
    cv2 = import_cv2()
    (folder / video.camera).mkdir(parents=True, exist_ok=True)
    index, saved, hw = 0, 0, (0, 0)
    for index, image in enumerate(iter_frames(video.path, lambda i: i in wanted or _regular(i, limit))):
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


def iter_frames(path: Path, wanted: Callable[[int], bool]) -> Iterator[UInt8[np.ndarray, "H W 3"] | None]:
    """Every frame of a video, as blue, green and red where it is wanted; memory stays bounded whatever its length.

    A cut file still holds its beginning; one that holds nothing is a MediaError.
    """
    import av

    index = -1
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if max(stream.width, stream.height) > MAX_SIDE:
                raise MediaError(f"frames of {stream.height}x{stream.width} are too large", where=path)
            for index, frame in enumerate(container.decode(stream)):
                yield frame.to_ndarray(format="bgr24") if wanted(index) else None
    except (av.FFmpegError, IndexError, ValueError, AttributeError):
        if index < 0:
            raise MediaError("not readable as a video", where=path) from None
    if index < 0:
        raise MediaError("a video without frames", where=path)
