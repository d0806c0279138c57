"""The room around the table: walls, floor, window, pictures, furniture, and the light that falls into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from egoexo_xseg.world.camera import Camera
from egoexo_xseg.world.paint import COLOURS, Colour, Paint, grain
from egoexo_xseg.world.solids import Solid, ball, box, tube

Rays = tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]

_WALLS: tuple[Colour, ...] = (
    (0.66, 0.60, 0.50),
    (0.42, 0.52, 0.50),
    (0.50, 0.55, 0.62),
    (0.70, 0.66, 0.60),
    (0.58, 0.42, 0.34),
    (0.40, 0.46, 0.36),
)
_FLOORS: dict[str, tuple[Colour, Colour]] = {
    "planks": ((0.10, 0.05, 0.025), (0.62, 0.40, 0.22)),
    "tiles": ((0.14, 0.14, 0.14), (0.62, 0.60, 0.56)),
}
_TABLES: tuple[tuple[str, Colour, Colour], ...] = (
    ("wood", (0.16, 0.07, 0.03), (0.68, 0.42, 0.21)),
    ("wood", (0.05, 0.022, 0.012), (0.34, 0.17, 0.085)),
    ("wood", (0.38, 0.26, 0.15), (0.86, 0.70, 0.48)),
    ("stone", (0.20, 0.20, 0.22), (0.86, 0.85, 0.83)),
    ("linen", (0.18, 0.23, 0.27), (0.42, 0.49, 0.53)),
    ("linen", (0.45, 0.43, 0.38), (0.90, 0.88, 0.82)),
)


@dataclass(frozen=True, slots=True)
class Light:
    """One soft sun through the window, the sky above and what the room throws back from below."""

    direction: tuple[float, float, float]
    sun: Colour
    sky: Colour
    bounce: Colour


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle on a wall: `wall` counts -x, +x, -y, +y; `low` and `high` are (along, up) in metres."""

    wall: int
    low: tuple[float, float]
    high: tuple[float, float]
    colours: tuple[Colour, Colour]
    window: bool


@dataclass(frozen=True, slots=True)
class Room:
    """Walls at `low` and `high` (x, y), a table of half size `table` around the origin, its top at `top` metres."""

    low: tuple[float, float]
    high: tuple[float, float]
    height: float
    wall: Colour
    floor: str
    panels: tuple[Panel, ...]
    light: Light
    table: tuple[float, float]
    top: float
    cover: tuple[str, Colour, Colour]


def draw_room(rng: np.random.Generator) -> Room:
    low = (float(rng.uniform(-3.4, -2.8)), float(rng.uniform(-3.2, -2.7)))
    high = (float(rng.uniform(2.8, 3.4)), float(rng.uniform(2.7, 3.2)))
    wall = np.array(_WALLS[int(rng.integers(len(_WALLS)))]) * rng.uniform(0.85, 1.1)
    side = int(rng.integers(2))  # the window is to the left or to the right
    slope = np.array([-0.55 if side == 0 else 0.55, rng.uniform(-0.1, 0.45), 1.0])
    warm = rng.uniform(0, 1)
    light = Light(
        tuple((slope / np.linalg.norm(slope)).tolist()),
        (1.30, 1.22 - 0.10 * warm, 1.10 - 0.24 * warm),
        (0.50, 0.53, 0.58),
        (0.24, 0.20, 0.17),
    )
    return Room(
        low,
        high,
        float(rng.uniform(2.5, 2.9)),
        tuple(wall.tolist()),
        str(rng.choice(list(_FLOORS))),
        tuple(_draw_panels(side, low, high, rng)),
        light,
        (float(rng.uniform(0.72, 0.86)), float(rng.uniform(0.40, 0.47))),
        float(rng.uniform(0.72, 0.86)),
        _TABLES[int(rng.integers(len(_TABLES)))],
    )


def _draw_panels(
    side: int, low: tuple[float, float], high: tuple[float, float], rng: np.random.Generator
) -> list[Panel]:
    frame = (0.72, 0.71, 0.68)
    panels = [Panel(side, (-1.1, 0.95), (1.1, 2.15), (frame, (1.6, 1.75, 1.9)), True)]
    for wall in range(4):
        if wall == side:
            continue
        start, end = (low[1], high[1]) if wall < 2 else (low[0], high[0])
        places = np.linspace(start + 0.7, end - 0.7, 3) + rng.uniform(-0.2, 0.2, 3)
        for place in places[rng.random(3) < 0.75]:
            wide, tall = rng.uniform(0.18, 0.40), rng.uniform(0.18, 0.32)
            middle = rng.uniform(1.45, 1.65)
            names = rng.choice(list(COLOURS), 2, replace=False)
            panels.append(
                Panel(
                    wall,
                    (float(place - wide), float(middle - tall)),
                    (float(place + wide), float(middle + tall)),
                    (COLOURS[str(names[0])], COLOURS[str(names[1])]),
                    False,
                )
            )
    return panels


def furniture(room: Room, rng: np.random.Generator) -> list[Solid]:
    """Table (its top first: the renderer gives that its grain), a cabinet, a lamp, a plant in a corner."""
    (x, y), top = room.table, room.top
    _, dark, light = room.cover
    edge = Paint(tuple((0.6 * a + 0.25 * b) for a, b in zip(dark, light, strict=True)), gloss=0.1)
    leg = Paint((0.12, 0.08, 0.05), gloss=0.15)
    solids = [
        box((0, 0, top - 0.0015), (x, y, 0.0015), Paint(light, gloss=0.15)),
        box((0, 0, top - 0.0215), (x, y, 0.0185), edge),
        box((0, 0, top - 0.075), (x - 0.07, y - 0.06, 0.035), leg),
    ]
    for i in (-1, 1):
        for j in (-1, 1):
            foot = (i * (x - 0.09), j * (y - 0.08))
            solids.append(tube((*foot, 0.0), (*foot, top - 0.04), (0.022, 0.034), leg))
    back = room.high[1]
    place, wide, tall = rng.uniform(-0.9, 0.9), rng.uniform(0.5, 0.9), rng.uniform(0.38, 0.5)
    tone = COLOURS[str(rng.choice(["white", "brown", "grey", "teal"]))]
    solids.append(box((place, back - 0.22, tall), (wide, 0.21, tall), Paint(tone, gloss=0.15)))
    solids.append(box((place, back - 0.435, tall * 1.02), (0.006, 0.006, tall * 0.9), leg))
    solids.append(box((place, back - 0.22, 2 * tall + 0.015), (wide + 0.03, 0.235, 0.015), leg))
    shade = (place + wide * 0.6, back - 0.22)
    solids.append(
        tube((*shade, 2 * tall), (*shade, 2 * tall + 0.25), (0.05, 0.012), Paint((0.5, 0.5, 0.48), gloss=0.5))
    )
    solids.append(tube((*shade, 2 * tall + 0.22), (*shade, 2 * tall + 0.45), (0.15, 0.09), Paint((0.95, 0.82, 0.6))))
    corner = (room.low[0] + 0.45, back - 0.45)
    solids.append(tube((*corner, 0), (*corner, 0.42), (0.15, 0.2), Paint((0.55, 0.22, 0.12))))
    leaf = Paint((0.05, 0.22, 0.05), (0.10, 0.32, 0.08), "stripes", 0.09, upright=True)
    for turn, size in zip(rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.16, 0.26, 4), strict=True):
        middle = (corner[0] + 0.16 * np.cos(turn), corner[1] + 0.16 * np.sin(turn), 0.62 + size)
        solids.append(ball(middle, (size * 0.75, size * 0.75, size * 1.2), leaf))
    return solids


def backdrop(room: Room, camera: Camera, rays: Rays) -> Float32[np.ndarray, "3 N"]:
    """What rays with the given slopes see of floor, walls and ceiling."""
    x, y = rays
    right, down, forward = camera.rotation.tolist()
    origin = camera.position.tolist()
    way = [right[i] * x + (down[i] * y + forward[i]) for i in range(3)]
    ends = ((room.low[0], room.high[0]), (room.low[1], room.high[1]), (0.0, room.height))
    with np.errstate(divide="ignore"):
        reach = [
            np.where(d > 0, np.float32(high - o), np.float32(o - low)) / np.abs(d)  # along a wall: never
            for d, o, (low, high) in zip(way, origin, ends, strict=True)
        ]
    near = np.minimum(np.minimum(reach[0], reach[1]), reach[2])
    place = [o + near * d for o, d in zip(origin, way, strict=True)]
    surface = np.where(near == reach[2], 4 + (way[2] > 0), np.where(near == reach[0], way[0] > 0, 2 + (way[1] > 0)))
    colour = np.empty((3, x.size), np.float32)
    for which in range(6):
        chosen = np.flatnonzero(surface == which)
        if not chosen.size:
            continue
        px, py, pz = (axis[chosen] for axis in place)
        if which == 4:
            footprint = float(np.median(near[chosen])) * camera.half_width / 250
            colour[:, chosen] = _floor(room, px, py, footprint)
        elif which == 5:
            edge = np.minimum(_corner(px, ends[0]), _corner(py, ends[1]))
            colour[:, chosen] = np.outer(np.float32([0.74, 0.73, 0.70]), edge)
        else:
            along, limits = (py, ends[1]) if which < 2 else (px, ends[0])
            colour[:, chosen] = _wall(room, which, along, pz, limits)
    return colour


def _corner(place: Float[np.ndarray, " N"], ends: tuple[float, float]) -> Float[np.ndarray, " N"]:
    """Light that reaches a place between two walls: less in the corners."""
    gap = np.minimum(place - ends[0], ends[1] - place)
    return 1 - np.float32(0.32) * np.exp(-np.maximum(gap, 0) * np.float32(3.2))


def _ramp(value: Float[np.ndarray, " N"], low: float, high: float) -> Float[np.ndarray, " N"]:
    share = np.clip((value - low) * np.float32(1 / (high - low)), 0, 1)
    return share * share * (3 - 2 * share)


def _floor(
    room: Room, x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"], footprint: float
) -> Float32[np.ndarray, "3 N"]:
    texture = grain(room.floor)
    value = texture.look_up(x, y, footprint)
    shade = np.minimum(_corner(x, (room.low[0], room.high[0])), _corner(y, (room.low[1], room.high[1])))
    sunward = room.light.direction
    slip = room.top * 0.8
    for dx, dy, soft, depth in ((0.0, 0.0, 0.55, 0.5), (-sunward[0] * slip, -sunward[1] * slip, 0.28, 0.34)):
        inside_x = 1 - _ramp(np.abs(x - dx), room.table[0] - soft, room.table[0] + soft)
        inside_y = 1 - _ramp(np.abs(y - dy), room.table[1] - soft, room.table[1] + soft)
        shade = shade * (1 - depth * inside_x * inside_y)
    feet = np.exp(-((x * x) + (y + np.float32(room.table[1] + 0.3)) ** 2) * np.float32(9))
    shade = shade * (1 - np.float32(0.45) * feet) * np.float32(0.95)
    dark, light = _FLOORS[room.floor]
    return np.stack([(d + (b - d) * value) * shade for d, b in zip(dark, light, strict=True)]).astype(np.float32)


def _wall(
    room: Room,
    which: int,
    along: Float32[np.ndarray, " N"],
    up: Float32[np.ndarray, " N"],
    limits: tuple[float, float],
) -> Float32[np.ndarray, "3 N"]:
    sun = room.light.direction
    facing = (sun[0], -sun[0], sun[1], -sun[1])[which]
    shade = _corner(along, limits) * _corner(up, (0.0, room.height)) * np.float32(0.9 + 0.22 * facing)
    skirting = 1 - _ramp(up, 0.105, 0.115)
    colour = np.stack([(c + (0.72 - c) * skirting) * shade for c in room.wall])
    for panel in room.panels:
        if panel.wall == which:
            _hang(panel, along, up, colour)
    return colour.astype(np.float32)


def _hang(
    panel: Panel, along: Float32[np.ndarray, " N"], up: Float32[np.ndarray, " N"], colour: Float[np.ndarray, "3 N"]
) -> None:
    """Draw a window or a picture over the wall's colour."""
    (left, bottom), (right, top) = panel.low, panel.high
    gap = np.minimum(np.minimum(along - left, right - along), np.minimum(up - bottom, top - up))
    halo = np.exp(np.minimum(gap, 0) * np.float32(16 if not panel.window else 4))
    colour *= 1 + np.float32(0.35) * halo if panel.window else 1 - np.float32(0.3) * halo
    within = np.flatnonzero(gap > 0)
    u, v = (along[within] - left) / (right - left), (up[within] - bottom) / (top - bottom)
    border = np.float32(0.045 if panel.window else 0.025)
    framed = gap[within] < border
    if panel.window:
        framed |= (np.abs(u - 0.5) < 0.016) | (np.abs(v - 0.55) < 0.02)
        trees = 0.2 + 0.07 * np.sin(9 * u) + 0.05 * np.sin(23 * u + 1) + 0.03 * np.sin(51 * u)
        green = 1 - _ramp(v - trees, -0.03, 0.03)
        inside = np.stack([s + (g - s) * green for s, g in zip(panel.colours[1], (0.35, 0.6, 0.28), strict=True)])
        edge = panel.colours[0]
    else:
        hills = 0.35 + 0.16 * np.sin(3.1 * u * (2 + panel.wall) + left * 7) + 0.1 * np.sin(11 * u + bottom * 40)
        lower = (v < hills).astype(np.float32)
        moon = ((u - 0.66) ** 2 + (v - 0.74) ** 2 < 0.018).astype(np.float32)
        first, second = panel.colours
        inside = np.stack([b * 0.9 + (a * 0.9 - b * 0.9) * lower for a, b in zip(first, second, strict=True)])
        inside += (np.float32([[0.9], [0.82], [0.62]]) - inside) * moon * (1 - lower)
        mat = gap[within] < 0.075
        inside[:, mat] = np.float32([[0.74], [0.73], [0.70]])
        edge = (0.07, 0.05, 0.04)
    inside[:, framed] = np.array(edge)[:, None]
    colour[:, within] = inside
