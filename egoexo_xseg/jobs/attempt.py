"""One pair of pictures from the shell: read, ask, draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from egoexo_xseg.api import CrossViewSegmenter
from egoexo_xseg.data.images import read_image, read_labels
from egoexo_xseg.errors import MaskError, XsegError, is_out_of_memory
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.pictures import Sketch, draw_sketches
from egoexo_xseg.masks import mask_to_rle

MOST_OBJECTS = 100
"""More values than that are no objects, but the soft edges of a drawing."""


@dataclass(frozen=True, slots=True)
class Found:
    """One object's answer; `number` is its value in the mask's picture, `share` what its mask covers of the target."""

    number: int
    caption: str | None
    visibility: float
    share: float


def attempt(
    segmenter: CrossViewSegmenter, pictures: tuple[Path, Path, Path], captions: Sequence[str], out: Path
) -> list[Found]:
    """Find the objects of a query picture, its mask's picture, in a target picture; draws the answer into `out`.

    `captions` are written NUMBER=WORDS. Raises MediaError, MaskError or XsegError for what cannot be used.
    """
    query, target = read_image(pictures[0]), read_image(pictures[2])
    numbers, masks = read_objects(pictures[1], query.shape[:2])
    words = _read_captions(captions, numbers, pictures[1])
    try:
        answer = segmenter.segment(query, masks, target, [words.get(number) for number in numbers])
    except (RuntimeError, MemoryError) as fault:
        if not is_out_of_memory(fault):
            raise
        raise XsegError("out of memory", where=pictures[2], remedy="Give smaller pictures") from None
    found = [
        Found(number, words.get(number), sure, float(mask.mean()))
        for number, mask, sure in zip(numbers, answer.masks, answer.visibility.tolist(), strict=True)
    ]
    sketches = [
        Sketch(f"object {each.number}", each.caption, mask_to_rle(own), mask_to_rle(mask), each.visibility)
        for each, own, mask in zip(found, masks, answer.masks, strict=True)
    ]
    picture = draw_sketches(f"{pictures[0].name} to {pictures[2].name}", query, target, sketches)
    with written_whole(out, "wb") as file:
        picture.save(file, "png")
    return found


def read_objects(path: Path, hw: tuple[int, int]) -> tuple[list[int], Bool[np.ndarray, "K H W"]]:
    """The values in a picture of masks, ascending, and where each is; 0, or black, belongs to no object."""
    labels = read_labels(path)
    if labels.shape != tuple(hw):
        found = f"{labels.shape[0]}x{labels.shape[1]} pixels, the query image has {hw[0]}x{hw[1]}"
        raise MaskError(found, where=path, remedy="Both must have the same size")
    numbers = [int(value) for value in np.unique(labels) if value]
    if not numbers:
        raise MaskError("no object: all pixels are 0", where=path)
    if len(numbers) > MOST_OBJECTS:
        problem = f"{len(numbers)} different values: every object's pixels must have one value of their own"
        raise MaskError(f"{problem}, without soft edges", where=path)
    return numbers, np.stack([labels == number for number in numbers])


def _read_captions(captions: Sequence[str], numbers: Sequence[int], path: Path) -> dict[int, str]:
    words = {}
    for given in captions:
        number, _, text = given.partition("=")
        if not number.isdecimal() or int(number) not in numbers or not text.strip():
            known = ", ".join(map(str, numbers))
            raise XsegError(f"{given!r} is not NUMBER=WORDS of an object", remedy=f"{path} holds {known}")
        words[int(number)] = text.strip()
    return words
