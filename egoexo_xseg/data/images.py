"""Frames as files: written small by prepare, read back with suspicion."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from egoexo_xseg.errors import MediaError, XsegError

MAX_PIXELS = 1 << 26
"""Eight thousand squared; a larger claim is refused before it is decoded."""

FORMATS = ("JPEG", "PNG")
"""Whatever a file calls itself: Pillow reads forty others, some by starting programs."""


def frame_path(folder: Path, camera: str, frame: int) -> Path:
    return folder / camera / f"{frame}.jpg"


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An RGB image (JPEG or PNG), turned upright as its EXIF says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on metadata that nobody reads
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise MediaError(f"an image of {image.height}x{image.width} pixels is too large", where=path)
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise MediaError("the frame is missing", where=path, remedy="Run xseg prepare") from None
    except MediaError:
        raise
    except Exception:  # Pillow passes on whatever its parsers meet, down to struct.error
        raise MediaError("not readable as an image", where=path) from None


def import_cv2() -> ModuleType:
    """OpenCV, whose default build needs libGL, which containers often lack."""
    try:
        import cv2
    except ImportError as fault:
        raise XsegError(
            f"OpenCV cannot be imported ({fault})",
            remedy="Without libGL: pip uninstall opencv-python && pip install opencv-python-headless",
        ) from None
    return cv2
