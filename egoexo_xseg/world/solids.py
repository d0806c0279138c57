"""Solids that rays can hit in closed form: boxes, and quadrics of revolution between two planes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64

from egoexo_xseg.world.camera import NEAR, Camera, Place
from egoexo_xseg.world.paint import Paint

Axes = tuple[Float[np.ndarray, "..."] | float, Float[np.ndarray, "..."] | float, Float[np.ndarray, "..."] | float]
"""x, y and z of many vectors; a part that all share may be one number."""

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1])


@dataclass(frozen=True, slots=True)
class Solid:
    """One convex body, or the open shell of one.

    Local points p satisfy world = centre + rotation @ (half * p). A box is |p| <= 1. A quadric is
    x^2 + y^2 + k z^2 + m z + n = 0 with `profile` = (k, m, n), between the planes z = `span`; `closed` tells whether
    it has a bottom and a lid. `label` is the query object's number (0: not asked for); `worn` marks the body of the
    camera's wearer, which the worn camera does not see.
    """

    rotation: Float64[np.ndarray, "3 3"]
    centre: Float64[np.ndarray, "3"]
    half: Float64[np.ndarray, "3"]
    paint: Paint
    profile: tuple[float, float, float] | None = None
    span: tuple[float, float] = (-1.0, 1.0)
    closed: tuple[bool, bool] = (True, True)
    label: int = 0
    worn: bool = False

    def moved(self, rotation: Float64[np.ndarray, "3 3"], position: Float64[np.ndarray, "3"]) -> Solid:
        """The same solid after its object was turned and then put to `position`."""
        return replace(self, rotation=rotation @ self.rotation, centre=position + rotation @ self.centre)

    @property
    def girth(self) -> float:
        """Largest local radius."""
        if self.profile is None:
            return 1.0
        k, m, n = self.profile
        heights = [*self.span, *([-m / (2 * k)] if k > 0 and self.span[0] < -m / (2 * k) < self.span[1] else [])]
        return max(0.0, *(-(k * z * z + m * z + n) for z in heights)) ** 0.5

    def corners(self) -> Float64[np.ndarray, "8 3"]:
        """Corners of the bounding box that is aligned with the solid."""
        low, high = self.span
        reach = np.array([self.girth, self.girth, (high - low) / 2])
        local = _CORNERS * reach + np.array([0.0, 0.0, (high + low) / 2])
        return self.centre + (local * self.half) @ self.rotation.T


def box(centre: Place, half: Place, paint: Paint) -> Solid:
    """A box aligned with its object's axes."""
    return Solid(np.eye(3), np.array(centre, np.float64), np.array(half, np.float64), paint)


def ball(centre: Place, radii: Place, paint: Paint) -> Solid:
    """An ellipsoid aligned with its object's axes."""
    return replace(box(centre, radii, paint), profile=(1.0, 0.0, -1.0))


def bowl(centre: Place, radii: Place, paint: Paint) -> Solid:
    """The lower half of an ellipsoid's skin, open above."""
    return replace(ball(centre, radii, paint), span=(-0.96, 0.0), closed=(True, False))


def tube(
    start: Place,
    end: Place,
    radii: tuple[float | int, float | int],
    paint: Paint,
    closed: tuple[bool, bool] = (True, True),
) -> Solid:
    """A cylinder or a truncated cone between two points, with its radius at each."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = end - start
    length = float(np.linalg.norm(axis))
    mean, grow = (radii[0] + radii[1]) / 2, (radii[1] - radii[0]) / 2
    return Solid(
        frame_along(axis / length),
        (start + end) / 2,
        np.array([1.0, 1.0, length / 2]),
        paint,
        profile=(-grow * grow, -2 * mean * grow, -mean * mean),
        closed=closed,
    )


def frame_along(axis: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """A rotation whose third column is the unit vector `axis`."""
    aside = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.8 else np.array([0.0, 1.0, 0.0])
    first = aside - axis * (aside @ axis)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis], axis=1)


def hit(solid: Solid, origin: Axes, direction: Axes) -> Float[np.ndarray, "..."]:
    """How far along local rays the solid is first met, in lengths of `direction`; infinite where it is not."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _hit_box(origin, direction) if solid.profile is None else _hit_quadric(solid, origin, direction)


def _hit_box(origin: Axes, direction: Axes) -> Float[np.ndarray, "..."]:
    enter, leave = None, None
    for o, d in zip(origin, direction, strict=True):
        inverse = np.float32(1) / d
        middle, reach = -o * inverse, np.abs(inverse)
        low, high = middle - reach, middle + reach
        enter = low if enter is None else np.maximum(enter, low)
        leave = high if leave is None else np.minimum(leave, high)
    return np.where((enter <= leave) & (enter > 0), enter, np.float32(np.inf))


def _hit_quadric(solid: Solid, origin: Axes, direction: Axes) -> Float[np.ndarray, "..."]:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    k, m, n = solid.profile
    low, high = solid.span
    a = dx * dx + dy * dy + k * (dz * dz)
    b = ox * dx + oy * dy + (k * oz + m / 2) * dz
    c = ox * ox + oy * oy + (k * oz + m) * oz + n
    spread = b * b - a * c
    root = np.sqrt(spread)  # not a number where the ray passes by: every comparison below is then false
    inverse = np.float32(1) / a
    one, other = (-b - root) * inverse, (root - b) * inverse
    near = np.minimum(one, other)
    whole = k > 0 and solid.span == (-1.0, 1.0)
    nothing = np.float32(np.inf)
    if whole:
        return np.where(near > 0, near, nothing)
    z = oz + near * dz
    first = np.where((z >= low) & (z <= high) & (near > 0), near, nothing)
    if not all(solid.closed):  # through the opening, the inside of the far wall is seen
        far = np.maximum(one, other)
        z = oz + far * dz
        first = np.minimum(first, np.where((z >= low) & (z <= high) & (far > 0), far, nothing))
    for height, closed in zip(solid.span, solid.closed, strict=True):
        if closed:
            t = (height - oz) / dz
            x, y = ox + t * dx, oy + t * dy
            within = x * x + y * y <= -(k * height * height + m * height + n)
            first = np.minimum(first, np.where(within & (t > 0), t, nothing))
    return first


def rays_into(solid: Solid, camera: Camera) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3 3"]]:
    """The camera's position and its axes (as columns) in the solid's own space."""
    inward = solid.rotation.T / solid.half[:, None]
    return inward @ (camera.position - solid.centre), inward @ camera.rotation.T


def pixel_boxes(
    corners: Float64[np.ndarray, "S 8 3"], camera: Camera, hw: tuple[int, int]
) -> list[tuple[slice, slice] | None]:
    """Rows and columns that each bounding box can touch; None when it is behind the camera or beside the image."""
    seen = camera.see(corners.reshape(-1, 3)).reshape(corners.shape)
    depth = seen[..., 2]
    reach = np.array([camera.half_width, camera.half_width * camera.aspect])
    slopes = seen[..., :2] / np.maximum(depth, NEAR)[..., None]
    low, high = slopes.min(1), slopes.max(1)
    for crossed in np.flatnonzero((depth.min(1) < NEAR) & (depth.max(1) > NEAR)).tolist():
        cut = _cut_near(seen[crossed])
        low[crossed], high[crossed] = cut.min(0), cut.max(0)
    size = np.array([hw[1], hw[0]])
    first = np.maximum(np.floor((0.5 + 0.5 * low / reach) * size - 0.5), 0).astype(int)
    last = np.minimum(np.ceil((0.5 + 0.5 * high / reach) * size + 0.5), size).astype(int)
    shown = (depth.max(1) > NEAR) & (first < last).all(1)
    return [
        (slice(top, bottom), slice(left, right)) if visible else None
        for visible, (left, top), (right, bottom) in zip(shown, first.tolist(), last.tolist(), strict=True)
    ]


def _cut_near(seen: Float64[np.ndarray, "8 3"]) -> Float64[np.ndarray, "P 2"]:
    """Slopes of what is left of a box's corners and edges in front of the near plane."""
    a, b = seen[_EDGES[:, 0]], seen[_EDGES[:, 1]]
    crossing = (a[:, 2] < NEAR) != (b[:, 2] < NEAR)
    a, b = a[crossing], b[crossing]
    cut = a + (b - a) * ((NEAR - a[:, 2]) / (b[:, 2] - a[:, 2]))[:, None]
    left = np.concatenate([seen[seen[:, 2] >= NEAR], cut])
    return left[:, :2] / left[:, 2:]


def spread_rays(
    axes: Float64[np.ndarray, "3 3"], x: Float32[np.ndarray, "..."], y: Float32[np.ndarray, "..."]
) -> tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, "..."], Float32[np.ndarray, "..."]]:
    """Local directions of the rays with slopes x and y (broadcast against each other)."""
    dx, dy, dz = ((right * x) + (down * y + forward) for right, down, forward in axes.tolist())
    return dx, dy, dz
