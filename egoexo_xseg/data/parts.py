"""The connected parts of coded masks, found from their runs: whole takes at once, and nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from egoexo_xseg.masks import Rle, rle_to_runs

Places = Int64[np.ndarray, " P"]


class Pieces(NamedTuple):
    """Stretches of one column each, in order of mask, column and row; `first` and `last` are rows."""

    mask: Places
    column: Places
    first: Places
    last: Places


class Parts(NamedTuple):
    """For each mask its foreground pixels, and whether its box would be smaller without its smallest parts."""

    areas: Int64[np.ndarray, " M"]
    widened: Bool[np.ndarray, " M"]


def cut_into_columns(rles: Sequence[Rle]) -> Pieces:
    """Every foreground run of some masks, cut where it goes on in the next column."""
    runs = [rle_to_runs(rle) for rle in rles]
    ends = [np.cumsum(own) for own in runs]
    starts = np.concatenate([own[0:-1:2] for own in ends])
    stops = np.concatenate([own[1::2] for own in ends])
    mask = np.repeat(np.arange(len(rles)), [own.size // 2 for own in ends])
    height = np.array([rle.hw[0] for rle in rles])[mask]
    kept = stops > starts
    starts, ends, mask, height = starts[kept], stops[kept] - 1, mask[kept], height[kept]  # both ends inclusive now
    first_column, last_column = starts // height, ends // height
    counts = last_column - first_column + 1
    run = np.repeat(np.arange(starts.size), counts)
    place = np.arange(run.size) - np.repeat(counts.cumsum() - counts, counts)
    column = first_column[run] + place
    first = np.where(place == 0, starts[run] % height[run], 0)
    last = np.where(column == last_column[run], ends[run] % height[run], height[run] - 1)
    return Pieces(mask[run], column, first, last)


def connect(pieces: Pieces) -> tuple[Places, Places]:
    """Pairs of pieces that touch, also at a corner."""
    mask, column, first, last = pieces
    # One number for each place, so that whatever touches a piece from the next column is a range of pieces.
    rows, columns = int(last.max(initial=0)) + 3, int(column.max(initial=0)) + 2
    line = (mask * columns + column) * rows
    begin = np.searchsorted(line + last, line + rows + first - 1)
    end = np.searchsorted(line + first, line + rows + last + 1, side="right")
    counts = np.maximum(end - begin, 0)
    left = np.repeat(np.arange(mask.size), counts)
    right = np.arange(left.size) - np.repeat(counts.cumsum() - counts, counts) + np.repeat(begin, counts)
    # An empty run may lie between two pieces of one column that are really one.
    split = ((line[1:] == line[:-1]) & (first[1:] == last[:-1] + 1)).nonzero()[0]
    return np.concatenate([left, split]), np.concatenate([right, split + 1])


def find_parts(rles: Sequence[Rle], stray_share: float) -> Parts:
    """Areas, and which masks have parts of less than `stray_share` of their pixels that alone widen their box.

    Parts touch at sides or corners (8-connectivity).
    """
    # Slow to import, and few commands need it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(rles)
    widened = np.zeros(count, bool)
    pieces = cut_into_columns(rles)
    sizes = pieces.last - pieces.first + 1
    areas = np.bincount(pieces.mask, sizes, count).astype(np.int64)
    if not sizes.size:
        return Parts(areas, widened)
    left, right = connect(pieces)
    graph = coo_array((np.ones(left.size, np.int8), (left, right)), shape=(sizes.size, sizes.size))
    _, part = connected_components(graph, directed=False)
    large = (np.bincount(part, sizes)[part] >= stray_share * areas[pieces.mask]).astype(bool)
    some = np.bincount(pieces.mask, large, count) > 0
    start = np.flatnonzero(np.diff(pieces.mask, prepend=-1))  # each mask's first piece
    mask = pieces.mask[start]
    for low, values in ((True, pieces.column), (False, pieces.column), (True, pieces.first), (False, pieces.last)):
        reduce, beyond = (np.minimum, values.max() + 1) if low else (np.maximum, -1)
        whole = reduce.reduceat(values, start)
        without = reduce.reduceat(np.where(large, values, beyond), start)
        widened[mask] |= whole != without
    return Parts(areas, widened & some)
