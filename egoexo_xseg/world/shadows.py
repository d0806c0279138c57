"""Soft shadows on the table, cast once a moment and seen by all cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from egoexo_xseg.world.room import Room
from egoexo_xseg.world.solids import Solid, hit

_TEXELS = 128
"""Along the table's length."""


@dataclass(frozen=True, slots=True)
class Shadows:
    """Shares of sun and sky that reach the table's top, on a grid from `low` with square texels of `step` metres."""

    sun: Float32[np.ndarray, "R C"]
    sky: Float32[np.ndarray, "R C"]
    low: tuple[float, float]
    step: float

    def look_up(
        self, x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"]
    ) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """Both shares at places of the table, interpolated."""
        rows, columns = self.sun.shape
        u = np.clip((x - self.low[0]) / np.float32(self.step) - np.float32(0.5), 0, columns - 1.001)
        v = np.clip((y - self.low[1]) / np.float32(self.step) - np.float32(0.5), 0, rows - 1.001)
        column, row = u.astype(np.int32), v.astype(np.int32)
        fu, fv = (u - column).astype(np.float32), (v - row).astype(np.float32)
        index = row * columns + column
        both = []
        for grid in (self.sun.ravel(), self.sky.ravel()):
            top = grid[index] * (1 - fu) + grid[index + 1] * fu
            bottom = grid[index + columns] * (1 - fu) + grid[index + columns + 1] * fu
            both.append(top * (1 - fv) + bottom * fv)
        return both[0], both[1]


def cast_shadows(room: Room, solids: tuple[Solid, ...], corners: Float64[np.ndarray, "S 8 3"]) -> Shadows:
    """Rays from the table towards the sun, and straight up for what stands close above."""
    half_x, half_y = room.table
    step = 2 * half_x / _TEXELS
    x = (-half_x + (np.arange(_TEXELS) + 0.5) * step).astype(np.float32)
    y = np.arange(-half_y + step / 2, half_y + step, step).astype(np.float32)
    boxed = list(zip(solids, corners, strict=True))
    high = [(solid, box) for solid, box in boxed if box[:, 2].max() > room.top + 0.004]
    low = [(solid, box) for solid, box in high if box[:, 2].min() < room.top + 0.1]
    sun = ~_covered(room.top, (x, y), high, np.array(room.light.direction))
    sky = ~_covered(room.top, (x, y), low, np.array([0.0, 0.0, 1.0]))
    return Shadows(
        _blur(_blur(sun.astype(np.float32), 2), 1) * np.float32(0.88) + np.float32(0.12),
        _blur(_blur(sky.astype(np.float32), 4), 4) * np.float32(0.6) + np.float32(0.4),
        (-half_x, -half_y),
        step,
    )


def _covered(
    top: float,
    grid: tuple[Float32[np.ndarray, " C"], Float32[np.ndarray, " R"]],
    solids: list[tuple[Solid, np.ndarray]],
    light: Float[np.ndarray, "3"],
) -> Bool[np.ndarray, "R C"]:
    x, y = grid
    covered = np.zeros((y.size, x.size), bool)
    for solid, corners in solids:
        fallen = corners[:, :2] - light[:2] * ((corners[:, 2:] - top) / light[2])
        left, right = np.searchsorted(x, [fallen[:, 0].min(), fallen[:, 0].max()])
        bottom, far = np.searchsorted(y, [fallen[:, 1].min(), fallen[:, 1].max()])
        if left == right or bottom == far:
            continue
        inward = solid.rotation.T / solid.half[:, None]
        start = inward @ (np.array([0.0, 0.0, top]) - solid.centre)
        way = (inward @ light).tolist()
        origin = tuple(
            np.float32(a) * x[None, left:right] + (np.float32(b) * y[bottom:far, None] + np.float32(c))
            for a, b, c in zip(inward[:, 0], inward[:, 1], start, strict=True)
        )
        covered[bottom:far, left:right] |= hit(solid, origin, tuple(way)) < np.inf
    return covered


def _blur(grid: Float32[np.ndarray, "R C"], radius: int) -> Float32[np.ndarray, "R C"]:
    """Mean over a square window; the rim is repeated."""
    width = 2 * radius + 1
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(grid, pad, mode="edge"), axis=axis, dtype=np.float32)
        size = grid.shape[axis]
        grid = (np.take(total, np.arange(width, width + size), axis) - np.take(total, np.arange(size), axis)) / width
    return grid.astype(np.float32)
