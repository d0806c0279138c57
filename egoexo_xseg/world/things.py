"""The query objects: shapes built of solids, standing on z = 0 around their own vertical axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from egoexo_xseg.world.paint import COLOURS, PATTERNS, STEEL, Paint
from egoexo_xseg.world.solids import Solid, ball, bowl, box, tube

_STEEL = Paint(STEEL, gloss=0.7, metal=0.8)
_WOOD = Paint((0.45, 0.25, 0.11), gloss=0.1)
_PAPER = Paint((0.78, 0.75, 0.66), gloss=0.02)
_DARK = Paint((0.03, 0.03, 0.035), gloss=0.35)


@dataclass(frozen=True, slots=True)
class Look:
    """What makes two objects look alike besides their shape."""

    colour: str
    pattern: str
    second: str


@dataclass(frozen=True, slots=True)
class Thing:
    """An object with what somebody would say of it; `radius` and `height` bound it in metres."""

    shape: str
    look: Look
    parts: tuple[Solid, ...]
    radius: float
    height: float

    @property
    def caption(self) -> str:
        """For example "red striped box"; a plain object's pattern is left out."""
        words = (self.look.colour, "" if self.look.pattern == "plain" else PATTERNS[self.look.pattern], self.shape)
        return " ".join(word for word in words if word)


def _box(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    half = s * rng.uniform((0.055, 0.035, 0.05), (0.10, 0.065, 0.11))
    return [box((0, 0, half[2]), half, paint)]


def _book(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    x, y, thick = s * 0.115, s * 0.08, s * rng.uniform(0.012, 0.024)
    return [
        box((0, 0, 0.003), (x, y, 0.003), paint),
        box((0, 0, 2 * thick + 0.006), (x, y, 0.003), paint),
        box((0.003, 0, thick + 0.004), (x - 0.006, y - 0.006, thick), _PAPER),
        box((-x + 0.003, 0, thick + 0.004), (0.003, y, thick + 0.003), paint),
    ]


def _can(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r, h = s * rng.uniform(0.038, 0.052), s * rng.uniform(0.10, 0.15)
    return [
        tube((0, 0, 0.006), (0, 0, h), (r, r), paint),
        tube((0, 0, 0), (0, 0, 0.006), (r * 0.94, r), _STEEL),
        tube((0, 0, h), (0, 0, h + 0.007), (r, r * 0.9), _STEEL),
    ]


def _jar(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r, h = s * rng.uniform(0.045, 0.06), s * rng.uniform(0.08, 0.12)
    lid = replace(paint, colour=paint.second, second=paint.second, pattern="plain", gloss=0.3)
    return [
        tube((0, 0, 0), (0, 0, h), (r, r), paint),
        tube((0, 0, h), (0, 0, h + 0.012), (r, r * 0.82), paint),
        tube((0, 0, h + 0.012), (0, 0, h + 0.036), (r * 0.88, r * 0.88), lid),
    ]


def _ball(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r = s * rng.uniform(0.05, 0.075)
    return [ball((0, 0, r), (r, r, r), paint)]


def _egg(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    x, y = s * rng.uniform(0.075, 0.10), s * rng.uniform(0.045, 0.055)
    return [ball((0, 0, y), (x, y, y), paint)]


def _bowl(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r = s * rng.uniform(0.085, 0.12)
    h = r * rng.uniform(0.55, 0.8)
    foot = tube((0, 0, 0), (0, 0, 0.01 + 0.09 * h), (r * 0.42, r * 0.42), paint, closed=(True, False))
    return [bowl((0, 0, h + 0.01), (r, r, h), paint), foot]


def _plate(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r = s * rng.uniform(0.10, 0.135)
    return [tube((0, 0, 0), (0, 0, 0.024), (r * 0.66, r), paint, closed=(True, False))]


def _cup(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r, h = s * rng.uniform(0.042, 0.052), s * rng.uniform(0.09, 0.115)
    plain = replace(paint, pattern="plain")
    grip, thick = r + s * 0.034, s * 0.008
    top, low = (grip, 0, h * 0.76), (grip, 0, h * 0.36)
    return [
        tube((0, 0, 0), (0, 0, h), (r * 0.86, r), paint, closed=(True, False)),
        tube((r * 0.9, 0, h * 0.84), top, (thick, thick), plain),
        tube(top, low, (thick, thick), plain),
        tube(low, (r * 0.86, 0, h * 0.26), (thick, thick), plain),
    ]


def _cone(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r, h = s * rng.uniform(0.055, 0.075), s * rng.uniform(0.16, 0.23)
    return [
        box((0, 0, 0.006), (r * 1.15, r * 1.15, 0.006), replace(paint, pattern="plain")),
        tube((0, 0, 0.012), (0, 0, h), (r, s * 0.010), paint),
    ]


def _bottle(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r, h = s * rng.uniform(0.034, 0.042), s * rng.uniform(0.13, 0.17)
    plain = replace(paint, pattern="plain")
    cap = replace(plain, colour=paint.second)
    return [
        tube((0, 0, 0), (0, 0, h), (r, r), paint),
        tube((0, 0, h), (0, 0, h * 1.32), (r, r * 0.36), plain),
        tube((0, 0, h * 1.32), (0, 0, h * 1.5), (r * 0.36, r * 0.36), plain),
        tube((0, 0, h * 1.5), (0, 0, h * 1.6), (r * 0.44, r * 0.44), cap),
    ]


def _pan(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    r, h = s * rng.uniform(0.095, 0.12), s * 0.045
    return [
        tube((0, 0, 0), (0, 0, h), (r * 0.9, r), paint, closed=(True, False)),
        tube((r * 0.96, 0, h * 0.8), (r + s * 0.15, 0, h * 1.2), (0.011 * s, 0.014 * s), _DARK),
        ball((r + s * 0.15, 0, h * 1.2), (0.014 * s, 0.014 * s, 0.014 * s), _DARK),
    ]


def _hammer(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    long, r = s * rng.uniform(0.13, 0.16), s * 0.017
    return [
        tube((-long, 0, r * 1.3), (long * 0.9, 0, r * 1.3), (r * 1.25, r * 0.9), paint),
        ball((-long, 0, r * 1.3), (r, r * 1.25, r * 1.25), paint),
        box((long, 0, r * 1.4), (r * 1.3, s * 0.06, r * 1.3), _STEEL),
    ]


def _spatula(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    long, r = s * rng.uniform(0.11, 0.14), s * 0.012
    return [
        tube((-long, 0, r), (long * 0.35, 0, r * 1.3), (r * 1.25, r * 0.8), _WOOD),
        box((long * 0.35 + 0.075 * s, 0, 0.007), (0.078 * s, 0.05 * s, 0.006), paint),
    ]


def _brush(s: float, paint: Paint, rng: np.random.Generator) -> list[Solid]:
    long = s * rng.uniform(0.10, 0.13)
    return [
        ball((-long * 0.45, 0, 0.038 * s), (long * 0.75, 0.017 * s, 0.014 * s), paint),
        box((long * 0.55, 0, 0.046 * s), (0.062 * s, 0.036 * s, 0.013 * s), replace(paint, pattern="plain")),
        box((long * 0.55, 0, 0.017 * s), (0.056 * s, 0.03 * s, 0.017 * s), _PAPER),
    ]


SHAPES: dict[str, Callable[[float, Paint, np.random.Generator], list[Solid]]] = {
    "box": _box,
    "book": _book,
    "can": _can,
    "jar": _jar,
    "ball": _ball,
    "egg": _egg,
    "bowl": _bowl,
    "plate": _plate,
    "cup": _cup,
    "cone": _cone,
    "bottle": _bottle,
    "pan": _pan,
    "hammer": _hammer,
    "spatula": _spatula,
    "brush": _brush,
}


def make_thing(shape: str, look: Look, size: float, rng: np.random.Generator) -> Thing:
    """Build one object; `size` scales it (1: as large as in a kitchen)."""
    paint = Paint(
        COLOURS[look.colour],
        COLOURS[look.second],
        look.pattern,
        period=size * rng.uniform(0.028, 0.045),
        upright=bool(rng.random() < 0.5),
        gloss=float(rng.uniform(0.05, 0.5)),
        metal=0.35 if shape == "pan" else 0.0,
    )
    parts = tuple(SHAPES[shape](size, paint, rng))
    corners = np.concatenate([part.corners() for part in parts])
    return Thing(shape, look, parts, float(np.hypot(*corners.T[:2]).max()), float(corners[:, 2].max()))


def draw_look(rng: np.random.Generator) -> Look:
    """A colour with a pattern whose second colour stands out against it."""
    colour = str(rng.choice(list(COLOURS)))
    pattern = "plain" if rng.random() < 0.3 else str(rng.choice([name for name in PATTERNS if name != "plain"]))
    bright = {"white", "yellow", "pink", "orange"}
    return Look(
        colour, pattern, str(rng.choice(["black", "blue", "brown", "red"] if colour in bright else ["white", "yellow"]))
    )


def draw_things(count: int, rng: np.random.Generator) -> list[Thing]:
    """Several objects, of which many share their shape or their colour and pattern with an earlier one.

    No two are alike in both: they could be told apart only by where they are.
    """
    kinds: list[tuple[str, Look]] = []
    shapes = list(SHAPES)
    while len(kinds) < count:
        shape, look = str(rng.choice(shapes)), draw_look(rng)
        fate = rng.random()
        if kinds and fate < 0.45:
            other_shape, other_look = kinds[int(rng.integers(len(kinds)))]
            if fate < 0.15:
                shape = other_shape
            elif fate < 0.30:
                look = other_look
            else:  # the same colour in another pattern, on the same shape half of the time
                pattern = str(rng.choice([name for name in PATTERNS if name != other_look.pattern]))
                look = replace(other_look, pattern=pattern)
                shape = other_shape if fate < 0.38 else shape
        if not any(shape == s and (look.colour, look.pattern) == (k.colour, k.pattern) for s, k in kinds):
            kinds.append((shape, look))
    return [make_thing(shape, look, float(rng.uniform(0.85, 1.35)), rng) for shape, look in kinds]


def count_look_alikes(things: list[Thing] | tuple[Thing, ...]) -> int:
    """How many share their shape, or their colour and pattern, with another one."""
    shapes = [thing.shape for thing in things]
    looks = [(thing.look.colour, thing.look.pattern) for thing in things]
    return sum(shapes.count(s) > 1 or looks.count(k) > 1 for s, k in zip(shapes, looks, strict=True))
