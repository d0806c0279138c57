"""Coded and dense masks: COCO run lengths, and the grid on which the benchmark scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco

from egoexo_xseg.errors import MaskError

LONG_SIDE = 480
"""The scorer shrinks every ground-truth mask so that its longest side has this many pixels."""

TOGETHER = 1 << 20
"""Characters of run lengths that are parsed in one go, in some hundred bytes each."""

MAX_SIDE = 1 << 14
"""No camera of the benchmark comes near; a larger claim is refused before anything is allocated."""


@dataclass(frozen=True, slots=True)
class Rle:
    """A binary mask of `hw` = (height, width) as COCO compressed run lengths (column-major, ascii)."""

    hw: tuple[int, int]
    counts: str
    _runs: Int64[np.ndarray, " R"] | None = field(default=None, init=False, repr=False, compare=False)
    """Kept by `rle_to_runs`: most masks are read, checked and then used several times."""

    def __reduce__(self):
        return Rle, (self.hw, self.counts)

    def to_json(self) -> dict[str, object]:
        return {"size": list(self.hw), "counts": self.counts}

    @classmethod
    def from_json(cls, value: object) -> Rle:
        """Read `{"size": [height, width], "counts": "..."}`; the run lengths are checked by `rle_to_runs`."""
        if not isinstance(value, dict):
            raise MaskError(f"a mask must be an object with size and counts, found {_shown(value)}")
        size, counts = value.get("size"), value.get("counts")
        if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(type(side) is int for side in size)):
            raise MaskError(f"a mask's size must be [height, width], found {_shown(size)}")
        if not all(1 <= side <= MAX_SIDE for side in size):
            raise MaskError(f"a mask's sides must be within 1 and {MAX_SIDE}, found {_shown(size)}")
        if not isinstance(counts, str):
            raise MaskError(f"a mask's counts must be a compressed run-length string, found {_shown(counts)}")
        return cls((size[0], size[1]), counts)


def rle_to_runs(rle: Rle) -> Int64[np.ndarray, " R"]:
    """Lengths of the runs in column-major order, beginning with background; checked to fill the image exactly.

    pycocotools trusts its input (a short string yields uninitialised memory), so nothing is decoded unchecked.
    """
    if rle._runs is None:
        runs = _parse_runs(rle)
        runs.flags.writeable = False
        object.__setattr__(rle, "_runs", runs)
    return rle._runs


def _parse_runs(rle: Rle) -> Int64[np.ndarray, " R"]:
    height, width = rle.hw
    try:
        codes = np.frombuffer(rle.counts.encode("ascii"), np.uint8) - np.uint8(48)
    except UnicodeEncodeError:
        raise MaskError("a mask's counts must be ascii") from None
    if not codes.size or codes.max() > 63 or codes[-1] & 0x20:  # what is below "0" has wrapped around
        raise MaskError("a mask's counts are not a compressed run-length string")
    # Each number is a little-endian chain of five-bit digits; 0x20 says that more follow, 0x10 in the last is the sign.
    ends = (codes < 0x20).nonzero()[0]
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise MaskError("a mask's counts hold a number that no image can have")
    places = np.arange(codes.size) - starts.repeat(lengths)
    values = np.add.reduceat((codes & 0x1F).astype(np.int64) << (5 * places), starts)
    values -= (codes[ends] & 0x10).astype(np.int64) << (5 * lengths - 4)
    # From the fourth run on, each is stored as the difference to the one two before.
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    if values.min() < 0 or values.max() > height * width or values.sum() != height * width:
        raise MaskError(f"a mask's runs do not fill its {height}x{width} pixels")
    return values


def parse_together(rles: Sequence[Rle]) -> None:
    """Do the work of `rle_to_runs` for many masks at a fraction of the cost, by its steps on their joined text.

    Faulty masks are left for `rle_to_runs` to name; where the text itself is broken, so are those around it.
    """
    part: list[Rle] = []
    length = 0
    for rle in rles:
        if rle._runs is not None or not rle.counts or not rle.counts.isascii():
            continue
        if part and length + len(rle.counts) > TOGETHER:
            _parse_joined(part)
            part, length = [], 0
        part.append(rle)
        length += len(rle.counts)
    if part:
        _parse_joined(part)


def _parse_joined(rles: Sequence[Rle]) -> None:
    """The text of some masks, none of them empty, as if it were one."""
    codes = np.frombuffer("".join(rle.counts for rle in rles).encode("ascii"), np.uint8) - np.uint8(48)
    stops = np.cumsum([len(rle.counts) for rle in rles])
    ends = (codes < 0x20).nonzero()[0]
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    if codes.max() > 63 or (codes[stops - 1] & 0x20).any() or lengths.max() > 7:
        return
    values = (codes[starts] & 0x1F).astype(np.int64)
    for digit in range(1, lengths.max()):  # most numbers have one or two
        longer = (lengths > digit).nonzero()[0]
        values[longer] += (codes[starts[longer] + digit] & 0x1F).astype(np.int64) << (5 * digit)
    negative = (codes[ends] & 0x10).nonzero()[0]
    values[negative] -= 1 << (5 * lengths[negative])
    last = ends.searchsorted(stops)  # one past each mask's last number
    counts = np.diff(last, prepend=0)
    first = last - counts
    # From the fourth run on, each is stored as the difference to the one two before.
    odd = (np.arange(values.size) - first.repeat(counts)) & 1
    even = 1 - odd
    even[first] = 0
    for chosen, own in ((odd.nonzero()[0], counts // 2), (even.nonzero()[0], (counts - 1) // 2)):
        sums = np.concatenate([[0], values[chosen].cumsum()])
        values[chosen] = sums[1:] - sums[own.cumsum() - own].repeat(own)
    pixels = np.array([rle.hw[0] * rle.hw[1] for rle in rles])
    whole = (np.minimum.reduceat(values, first) >= 0) & (np.maximum.reduceat(values, first) <= pixels)
    whole &= np.add.reduceat(values, first) == pixels
    values.flags.writeable = False
    for rle, good, start, stop in zip(rles, whole.tolist(), first.tolist(), last.tolist(), strict=True):
        if good:
            object.__setattr__(rle, "_runs", values[start:stop])


def runs_to_rle(runs: Int64[np.ndarray, " R"], hw: tuple[int, int]) -> Rle:
    """The inverse of `rle_to_runs`."""
    coded = coco.frPyObjects({"size": list(hw), "counts": np.asarray(runs).tolist()}, *hw)
    return Rle(hw, coded["counts"].decode("ascii"))


def rle_to_mask(rle: Rle) -> Bool[np.ndarray, "H W"]:
    """The dense mask, after its run lengths were checked."""
    runs = rle_to_runs(rle)
    height, width = rle.hw
    foreground = np.arange(runs.size) % 2 == 1
    return np.repeat(foreground, runs).reshape(width, height).T  # column-major, like the runs


def mask_to_rle(mask: Bool[np.ndarray, "H W"]) -> Rle:
    coded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle((mask.shape[0], mask.shape[1]), coded["counts"].decode("ascii"))


def rle_area(rle: Rle) -> int:
    """Foreground pixels."""
    return int(rle_to_runs(rle)[1::2].sum())


def scored_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """The size that the scorer demands of a prediction, given the target's original (height, width).

    Written with the official evaluator's own float expression: 1520x2704 gives 269x480, and 1404x2496 gives 270x479.
    Images so narrow that nothing would be left are a MaskError.
    """
    ratio = 1.0 / max(hw) * LONG_SIDE
    scored = int(hw[0] * ratio), int(hw[1] * ratio)
    if not all(scored):
        raise MaskError(f"an image of {hw[0]}x{hw[1]} is too narrow to be scored")
    return scored


def nearest_indices(source: int, size: int) -> Int64[np.ndarray, " size"]:
    """The source pixel of each of `size` pixels: OpenCV's INTER_NEAREST, by its own float steps.

    The scale is inverted twice; exact arithmetic, or one division, takes other pixels for some sizes.
    """
    step = 1.0 / (size / source)
    return np.minimum(np.floor(np.arange(size) * step).astype(np.int64), source - 1)


def resize_nearest(mask: Bool[np.ndarray, "H W"], hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The scorer's resize of ground truth."""
    rows, columns = nearest_indices(mask.shape[0], hw[0]), nearest_indices(mask.shape[1], hw[1])
    return mask[rows[:, None], columns]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
