"""Pictures and instance maps: z-buffered ray casting, one solid at a time inside the pixels that it can touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int16, UInt8

from egoexo_xseg.world.camera import Camera
from egoexo_xseg.world.paint import blend, grain
from egoexo_xseg.world.room import Light, Room, backdrop
from egoexo_xseg.world.shadows import Shadows, cast_shadows
from egoexo_xseg.world.solids import Solid, hit, pixel_boxes, rays_into, spread_rays

NOBODY = -1
TABLE_TOP = 0


@dataclass(frozen=True)
class Moment:
    """All solids where they are at one time; the table's top is the first."""

    room: Room
    solids: tuple[Solid, ...]

    @cached_property
    def shadows(self) -> Shadows:
        return cast_shadows(self.room, self.solids[1:], self.corners[1:])

    @cached_property
    def corners(self) -> Float64[np.ndarray, "S 8 3"]:
        """Corners of the solids' bounding boxes."""
        return np.stack([solid.corners() for solid in self.solids])

    @cached_property
    def labels(self) -> UInt8[np.ndarray, " S"]:
        """The query object of each solid, and a last 0 for `NOBODY`."""
        return np.array([*(solid.label for solid in self.solids), 0], np.uint8)


Box = tuple[slice, slice]
"""Rows and columns."""


def find_places(moment: Moment, camera: Camera, hw: tuple[int, int]) -> dict[int, Box]:
    """The pixels that each solid in view can touch."""
    return {
        number: place
        for number, place in enumerate(pixel_boxes(moment.corners, camera, hw))
        if place is not None and not (camera.worn and moment.solids[number].worn)
    }


def trace(
    moment: Moment, camera: Camera, hw: tuple[int, int], places: dict[int, Box], window: Box
) -> tuple[Float32[np.ndarray, "H W"], Int16[np.ndarray, "H W"]]:
    """Depth of the nearest solid and its number at every pixel of a window of the image."""
    x, y = camera.tangents(hw)
    top, left = window[0].start, window[1].start
    shape = (window[0].stop - top, window[1].stop - left)
    depth = np.full(shape, np.inf, np.float32)
    owner = np.full(shape, NOBODY, np.int16)
    for number, place in places.items():
        rows, columns = (_common(side, other) for side, other in zip(place, window, strict=True))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        solid = moment.solids[number]
        origin, axes = rays_into(solid, camera)
        distance = hit(solid, tuple(origin.tolist()), spread_rays(axes, x[None, columns], y[rows, None]))
        within = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        closer = distance < depth[within]
        np.copyto(depth[within], distance, where=closer)
        np.copyto(owner[within], np.int16(number), where=closer)
    return depth, owner


def _common(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))


def object_masks(
    moment: Moment, camera: Camera, hw: tuple[int, int]
) -> Iterator[tuple[int, tuple[int, int], Bool[np.ndarray, "h w"]]]:
    """Label, upper left corner and cropped mask of every query object that may be in view.

    Only pixels around the objects are cast, so that masks of the release's size cost little.
    """
    places = find_places(moment, camera, hw)
    for label in range(1, int(moment.labels.max()) + 1):
        boxes = [places[number] for number in np.flatnonzero(moment.labels == label).tolist() if number in places]
        if not boxes:
            continue
        window = tuple(slice(min(b[i].start for b in boxes), max(b[i].stop for b in boxes)) for i in (0, 1))
        owner = trace(moment, camera, hw, places, window)[1]
        yield label, (window[0].start, window[1].start), moment.labels[owner] == label


def render(
    moment: Moment, camera: Camera, hw: tuple[int, int], samples: int = 2
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """An sRGB picture and its instance map; solids are cast with `samples` rays per pixel and direction.

    Room and table top are smooth, so one ray a pixel gives their colour, weighted by the share of it that they fill.
    """
    fine = (hw[0] * samples, hw[1] * samples)
    places = find_places(moment, camera, fine)
    depth, owner = trace(moment, camera, fine, places, (slice(0, fine[0]), slice(0, fine[1])))
    picture = np.zeros((3, *hw), np.float32)
    for share, paint_in in (
        (_share(owner == NOBODY, samples), lambda rays: backdrop(moment.room, camera, rays)),
        (_share(owner == TABLE_TOP, samples), lambda rays: _table_top(moment, camera, rays)),
    ):
        x, y = camera.tangents(hw)
        rows, columns = np.nonzero(share)
        picture[:, rows, columns] += paint_in((x[columns], y[rows])) * share[rows, columns]
    colours = np.zeros((3, *fine), np.float32)
    _paint_solids(moment, camera, (depth, owner, places), colours)
    for i in range(samples):
        for j in range(samples):
            picture += colours[:, i::samples, j::samples] * np.float32(1 / samples**2)
    middle = samples // 2
    return _develop(picture, camera), moment.labels[owner[middle::samples, middle::samples]]


def _share(mask: Bool[np.ndarray, "H W"], samples: int) -> Float32[np.ndarray, "h w"]:
    """The share of each pixel's samples that are set."""
    total = sum(mask[i::samples, j::samples].astype(np.float32) for i in range(samples) for j in range(samples))
    return total / np.float32(samples**2)


def _paint_solids(
    moment: Moment,
    camera: Camera,
    traced: tuple[Float32[np.ndarray, "H W"], Int16[np.ndarray, "H W"], dict[int, Box]],
    colours: Float32[np.ndarray, "3 H W"],
) -> None:
    depth, owner, places = traced
    x, y = camera.tangents(owner.shape)
    for number, place in places.items():
        if number == TABLE_TOP:
            continue
        rows, columns = np.nonzero(owner[place] == number)
        if rows.size:
            rows += place[0].start
            columns += place[1].start
            rays = x[columns], y[rows], depth[rows, columns]
            colours[:, rows, columns] = _shade(moment, moment.solids[number], camera, rays)


def _shade(
    moment: Moment,
    solid: Solid,
    camera: Camera,
    rays: tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]],
) -> Float32[np.ndarray, "3 N"]:
    """Light that comes from a solid's visible places: pattern, sun, sky, bounce and gloss."""
    x, y, t = rays
    origin, axes = rays_into(solid, camera)
    point = np.stack([o + t * d for o, d in zip(origin.tolist(), spread_rays(axes, x, y), strict=True)])
    normal, u, v, on_side = _surface(solid, point)
    world = _turn(solid.rotation / solid.half, normal)
    world /= np.sqrt((world * world).sum(0))
    right, down, forward = (axis[:, None] for axis in camera.rotation.astype(np.float32))
    view = -(right * x + (down * y + forward))
    view /= np.sqrt((view * view).sum(0))
    facing = (world * view).sum(0)
    inside = facing < 0
    world = np.where(inside, -world, world)
    height = np.float32(solid.centre[2]) + _turn((solid.rotation * solid.half)[2:], point)[0]
    open_sky = _open_sky(moment.room, solid, point, height, inside)
    paint = solid.paint
    albedo = np.array(paint.colour, np.float32)[:, None]
    if paint.pattern != "plain":
        first, second = (v, u) if paint.upright else (u, v)
        share = blend(paint.pattern, first / np.float32(paint.period), second / np.float32(paint.period))
        share = share * on_side
        albedo = albedo + (np.array(paint.second, np.float32)[:, None] - albedo) * share
    return _lit(moment.room.light, paint.gloss, paint.metal, (albedo, world, view, open_sky))


def _turn(matrix: Float[np.ndarray, "A 3"], vectors: Float32[np.ndarray, "3 N"]) -> Float32[np.ndarray, "A N"]:
    """`matrix @ vectors`, but with sums in a fixed order: BLAS orders them by how many threads it finds."""
    x, y, z = vectors
    rows = np.empty((matrix.shape[0], x.size), np.float32)
    for row, (a, b, c) in zip(rows, matrix.tolist(), strict=True):
        row[:] = a * x + b * y + c * z
    return rows


def _surface(
    solid: Solid, point: Float[np.ndarray, "3 N"]
) -> tuple[Float[np.ndarray, "3 N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Local normals, places on the surface in metres, and which of them are on the curved side (or any box face)."""
    px, py, pz = point
    sx, sy, sz = solid.half.tolist()
    if solid.profile is None:
        ax, ay, az = np.abs(point)
        across, upwards = (ax >= ay) & (ax >= az), (az > ax) & (az > ay)
        normal = np.stack([across * np.sign(px), (~across & ~upwards) * np.sign(py), upwards * np.sign(pz)])
        u = np.where(across, py * sy, px * sx)
        v = np.where(upwards, py * sy, pz * sz)
        return normal.astype(np.float32), u, v, np.ones(px.shape, bool)
    k, m, _ = solid.profile
    low, high = solid.span
    slack = np.float32(2e-4)
    lid, bottom = pz > high - slack, pz < low + slack
    flat = (lid & solid.closed[1]) | (bottom & solid.closed[0])
    if k > 0 and solid.span == (-1.0, 1.0):
        flat = np.zeros(px.shape, bool)
    normal = np.where(flat, np.stack([0 * px, 0 * py, np.where(lid, 1, -1)]), np.stack([px, py, k * pz + m / 2]))
    radius = solid.girth * (sx + sy) / 2
    turns = max(round(2 * np.pi * radius / solid.paint.period), 1) * solid.paint.period  # closes without a seam
    u = np.arctan2(py, px) * np.float32(turns / (2 * np.pi))
    return normal.astype(np.float32), u, pz * np.float32(sz), ~flat


def _open_sky(
    room: Room,
    solid: Solid,
    point: Float[np.ndarray, "3 N"],
    height: Float[np.ndarray, " N"],
    inside: Bool[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Share of the surrounding light that reaches a place: less near the table and deep inside vessels."""
    above = height - np.float32(room.top)
    near_table = np.clip(np.abs(above) * np.float32(14), 0, 1)
    sky = np.where(above > -0.01, 0.62 + 0.38 * near_table, np.clip(0.5 + 0.25 * height / room.top, 0.4, 0.8))
    if not solid.closed[1]:
        low, high = solid.span
        deep = (point[2] - low) / np.float32(high - low)
        sky = np.where(inside, sky * (0.42 + 0.5 * deep), sky)
    return sky.astype(np.float32)


def _lit(
    light: Light,
    gloss: float,
    metal: float,
    surface: tuple[
        Float32[np.ndarray, "3 ..."], Float32[np.ndarray, "3 N"], Float32[np.ndarray, "3 N"], Float32[np.ndarray, " N"]
    ],
) -> Float32[np.ndarray, "3 N"]:
    """Diffuse light, a highlight, and for metal a blurred reflection of ceiling and floor."""
    albedo, normal, view, sky_share = surface
    sun = np.array(light.direction, np.float32)
    lambert = np.clip(_turn(sun[None], normal)[0] * np.float32(0.92) + np.float32(0.08), 0, 1) * sky_share
    upward = np.float32(0.5) * normal[2] + np.float32(0.5)
    facing = np.clip((normal * view).sum(0), 0, 1)
    half_way = view + sun[:, None]
    half_way /= np.sqrt((half_way * half_way).sum(0))
    shine = np.clip((normal * half_way).sum(0), 0, 1) ** 40 * np.float32(gloss * 1.1)
    rim = (1 - facing) ** 4 * np.float32(0.35 * gloss)
    mirrored = 2 * facing * normal[2] - view[2]
    mirror = np.clip(np.float32(0.55) + np.float32(0.75) * mirrored, 0.12, 1.2)
    channels = []
    for channel in range(3):
        ambient = light.bounce[channel] + (light.sky[channel] - light.bounce[channel]) * upward
        shade = light.sun[channel] * lambert * np.float32(0.62) + ambient * sky_share
        if metal:
            shade = shade * np.float32(1 - metal) + mirror * np.float32(metal)
        base = albedo[channel] * shade
        channels.append(base + light.sun[channel] * shine + light.sky[channel] * rim * sky_share)
    return np.stack(channels).astype(np.float32)


def _table_top(
    moment: Moment, camera: Camera, rays: tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]
) -> Float32[np.ndarray, "3 N"]:
    """The table's grain under the shadows of all that stands on it and reaches over it."""
    x, y = rays
    right, down, forward = camera.rotation.tolist()
    way = [right[i] * x + (down[i] * y + forward[i]) for i in range(3)]
    origin = camera.position.tolist()
    # Pixels whose centre misses the top have samples that meet it: the nearest sensible place will do.
    distance = np.clip((moment.room.top - origin[2]) / np.minimum(way[2], np.float32(-1e-3)), 0, 8)
    px = np.clip(origin[0] + distance * way[0], -moment.room.table[0], moment.room.table[0]).astype(np.float32)
    py = np.clip(origin[1] + distance * way[1], -moment.room.table[1], moment.room.table[1]).astype(np.float32)
    kind, dark, bright = moment.room.cover
    footprint = float(np.median(distance)) * camera.half_width / 200 if x.size else 1.0
    value = grain(kind).look_up(px, py, footprint)
    sun_share, sky_share = moment.shadows.look_up(px, py)
    light = moment.room.light
    half_way = [d / np.sqrt(way[0] ** 2 + way[1] ** 2 + way[2] ** 2) for d in way]
    tilt = np.sqrt(sum((s - h) ** 2 for s, h in zip(light.direction, half_way, strict=True)))
    glare = np.clip((light.direction[2] - half_way[2]) / tilt, 0, 1) ** 60 * np.float32(0.16) * sun_share
    rows = []
    for channel in range(3):
        albedo = dark[channel] + (bright[channel] - dark[channel]) * value
        shade = light.sun[channel] * np.float32(0.72 * light.direction[2]) * sun_share + light.sky[
            channel
        ] * sky_share * np.float32(0.8)
        rows.append(albedo * shade + light.sun[channel] * glare)
    return np.stack(rows).astype(np.float32)


_CURVE_STEPS = 4096
_CURVE_TOP = 3.0


def _tone_curve() -> UInt8[np.ndarray, " T"]:
    """Linear light to sRGB bytes, with a shoulder instead of a hard white."""
    light = np.linspace(0, _CURVE_TOP, _CURVE_STEPS) * 1.12
    shoulder = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(light - 0.6) / 0.4)))
    return np.round(255 * np.clip(1.055 * shoulder ** (1 / 2.4) - 0.055, 0, 1)).astype(np.uint8)


_CURVE = _tone_curve()


def _develop(picture: Float32[np.ndarray, "3 H W"], camera: Camera) -> UInt8[np.ndarray, "H W 3"]:
    """White balance, vignette and tone curve."""
    x, y = camera.tangents(picture.shape[1:])
    fall = 1 - np.float32(0.16 if camera.worn else 0.08) * ((x * x)[None] + (y * y)[:, None]) / camera.half_width**2
    fall = (fall * np.float32((_CURVE_STEPS - 1) / _CURVE_TOP)).astype(np.float32)
    steps = [np.minimum(picture[c] * (fall * np.float32(camera.gain[c])), _CURVE_STEPS - 1) for c in range(3)]
    return _CURVE[np.stack(steps, axis=-1).astype(np.int16)]
