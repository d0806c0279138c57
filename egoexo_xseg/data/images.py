"""Frames as files: written small by prepare, read back with suspicion."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from egoexo_xseg.errors import MaskError, MediaError, XsegError

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


def image_hw(path: Path) -> tuple[int, int]:
    """Height and width of an image (JPEG or PNG) as it is stored, from its head alone."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except Exception:  # Pillow passes on whatever its parsers meet
        raise MediaError("not readable as an image", where=path) from None


def read_labels(path: Path) -> Int64[np.ndarray, "H W"]:
    """Numbers as they are; of a picture in colours, each colour as 0xRRGGBB."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MaskError(f"{image.height}x{image.width} pixels are too many", where=path)
            numbered = image.mode in ("1", "L", "P", "I", "I;16")
            pixels = np.asarray(image if numbered else image.convert("RGB")).astype(np.int64)
    except MaskError:
        raise
    except Exception:  # Pillow passes on whatever its parsers meet
        raise MaskError("not readable as a PNG picture", where=path) from None
    return pixels if numbered else pixels @ np.array([1 << 16, 1 << 8, 1])


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
