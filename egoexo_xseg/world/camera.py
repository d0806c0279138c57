"""Pinhole cameras of the sample world; depth is measured along the optical axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

NEAR = 0.04
"""Metres; nothing closer is drawn."""


Place = Sequence[float | int] | Float[np.ndarray, "3"]
"""x, y and z in metres."""


@dataclass(frozen=True, slots=True)
class Camera:
    """Where a camera stands and looks.

    The rows of `rotation` are its right, down and forward axes. `half_width` is the tangent of half the horizontal
    field of view and `aspect` is height by width: pixels may come at any size, the frustum stays the same.
    `gain` is the camera's own white balance; a `worn` camera does not see its wearer's head and body.
    """

    position: Float64[np.ndarray, "3"]
    rotation: Float64[np.ndarray, "3 3"]
    half_width: float
    aspect: float
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    worn: bool = False

    def tangents(self, hw: tuple[int, int]) -> tuple[Float32[np.ndarray, " W"], Float32[np.ndarray, " H"]]:
        """Horizontal and vertical slopes of the rays through the pixels' centres."""
        height, width = hw
        x = ((np.arange(width) + 0.5) / width * 2 - 1) * self.half_width
        y = ((np.arange(height) + 0.5) / height * 2 - 1) * self.half_width * self.aspect
        return x.astype(np.float32), y.astype(np.float32)

    def see(self, points: Float[np.ndarray, "P 3"]) -> Float64[np.ndarray, "P 3"]:
        """Points in the camera's own axes: right, down, depth."""
        return (points - self.position) @ self.rotation.T

    def project(self, points: Float[np.ndarray, "P 3"]) -> Float64[np.ndarray, "P 2"]:
        """Places in the image as shares of its width and height, for points in front of the camera."""
        seen = self.see(points)
        reach = np.array([self.half_width, self.half_width * self.aspect])
        return 0.5 + 0.5 * seen[:, :2] / seen[:, 2:] / reach


def look_at(position: Place, target: Place, roll: float = 0.0) -> Float64[np.ndarray, "3 3"]:
    """Axes of a camera at `position` that looks at `target`, rolled by an angle in radians."""
    forward = np.asarray(target, np.float64) - np.asarray(position, np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    turn, tilt = math.cos(roll), math.sin(roll)
    return np.stack([turn * right + tilt * down, turn * down - tilt * right, forward])
