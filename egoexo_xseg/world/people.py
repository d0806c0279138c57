"""The wearer of the ego camera: head, body, arms and hands, posed anew for every moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from egoexo_xseg.world.paint import COLOURS, Colour, Paint
from egoexo_xseg.world.solids import Solid, ball, box, frame_along, tube

Point = Float64[np.ndarray, "3"]

_SKINS: tuple[Colour, ...] = ((0.70, 0.42, 0.30), (0.56, 0.31, 0.20), (0.35, 0.17, 0.10), (0.17, 0.08, 0.05))
_HAIRS: tuple[Colour, ...] = ((0.02, 0.015, 0.012), (0.08, 0.04, 0.02), (0.35, 0.2, 0.08), (0.3, 0.29, 0.28))
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, slots=True)
class Dress:
    """What a wearer looks like; `bare` is the share of the forearm that no sleeve covers."""

    skin: Paint
    hair: Paint
    shirt: Paint
    trousers: Paint
    bare: float


def draw_dress(rng: np.random.Generator) -> Dress:
    shirt, trousers = str(rng.choice(list(COLOURS))), str(rng.choice(["blue", "black", "grey", "brown"]))
    pattern = str(rng.choice(["plain", "plain", "stripes", "checks"]))
    return Dress(
        Paint(_SKINS[int(rng.integers(len(_SKINS)))], gloss=0.12),
        Paint(_HAIRS[int(rng.integers(len(_HAIRS)))], gloss=0.06),
        Paint(COLOURS[shirt], COLOURS["grey" if shirt == "white" else "white"], pattern, 0.05, gloss=0.02),
        Paint(COLOURS[trousers], gloss=0.02),
        bare=float(rng.uniform(0.3, 0.95)),
    )


def wearer(dress: Dress, head: Point, gaze: Point, hands: tuple[Point, Point]) -> Iterator[Solid]:
    """All solids of a person whose eyes are at `head`, looking along `gaze`, palms (left, right) at `hands`.

    Head, trunk and legs are marked as worn: the wearer's own camera sees arms and hands only.
    """
    ahead = np.array([gaze[0], gaze[1], 0.0]) + np.array([0.0, 0.35, 0.0])
    ahead /= np.linalg.norm(ahead)
    aside = np.cross(ahead, _UP)
    neck = head - ahead * 0.13 - _UP * 0.20
    for solid in _body(dress, head, ahead, neck):
        yield replace(solid, worn=True)
    for side, palm in zip((-1.0, 1.0), hands, strict=True):
        shoulder = neck + aside * (0.19 * side) - _UP * 0.07
        yield from _arm(dress, shoulder, palm, side * aside)


def _body(dress: Dress, head: Point, ahead: Point, neck: Point) -> Iterator[Solid]:
    turn = np.stack([np.cross(ahead, _UP), ahead, _UP], axis=1)
    skull = head - ahead * 0.085
    face = Paint((0.02, 0.02, 0.022), gloss=0.6)
    parts = [
        (ball((0, 0, 0), (0.078, 0.098, 0.118), dress.skin), skull),
        (ball((0, -0.018, 0.03), (0.086, 0.1, 0.11), dress.hair), skull),
        (box((0, 0.088, 0.012), (0.068, 0.014, 0.017), face), skull),
        (box((0, 0.02, 0.016), (0.086, 0.075, 0.006), face), skull),
        (tube((0, 0, -0.02), (0, 0.02, 0.12), (0.055, 0.05), dress.skin), neck),
        (ball((0, 0, -0.09), (0.215, 0.11, 0.10), dress.shirt), neck),
    ]
    for solid, place in parts:
        yield solid.moved(turn, place)
    hip = np.array([neck[0], neck[1] - 0.10, max(neck[2] - 0.58, 0.5)])
    trunk = tube(hip, neck - _UP * 0.08, (0.165, 0.19), dress.shirt)
    yield replace(trunk, half=trunk.half * np.array([1.0, 0.62, 1.0]), rotation=_flat(trunk.rotation))
    for side in (-1.0, 1.0):
        joint = hip + np.array([0.085 * side, 0.0, 0.03])
        yield tube(joint * np.array([1.0, 1.0, 0.0]), joint, (0.062, 0.095), dress.trousers)


def _flat(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """The same axis, its second direction as much forward as can be (the first then runs from side to side)."""
    axis = rotation[:, 2]
    first = np.cross([0.0, 1.0, 0.0], axis)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis], axis=1)


def _arm(dress: Dress, shoulder: Point, palm: Point, outward: Point) -> Iterator[Solid]:
    reach = palm - shoulder
    distance = float(np.linalg.norm(reach))
    wrist = palm - reach / distance * 0.075
    bend = max(0.30**2 - (distance / 2) ** 2, 0.0) ** 0.5
    aim = outward * 0.8 - _UP * 0.6
    aim -= reach * (aim @ reach) / distance**2
    elbow = (shoulder + wrist) / 2 + aim / max(float(np.linalg.norm(aim)), 1e-6) * bend
    cuff = elbow + (wrist - elbow) * (1 - dress.bare)
    yield replace(ball(shoulder, (0.072, 0.072, 0.072), dress.shirt), worn=True)
    yield tube(shoulder, elbow, (0.066, 0.05), dress.shirt)
    yield ball(elbow, (0.05, 0.05, 0.05), dress.shirt)
    yield tube(elbow, cuff, (0.052, 0.047), dress.shirt)
    yield tube(cuff, wrist, (0.040, 0.029), dress.skin)
    yield from _hand(dress.skin, wrist, elbow, outward)


def _hand(skin: Paint, wrist: Point, elbow: Point, outward: Point) -> Iterator[Solid]:
    """A palm, four fingers that curl down, and a thumb on the inner side."""
    ahead = wrist - elbow
    ahead = ahead / np.linalg.norm(ahead)
    ahead = ahead * np.array([1.0, 1.0, 0.55])
    ahead /= np.linalg.norm(ahead)
    across = np.cross(ahead, _UP)
    across /= np.linalg.norm(across)
    turn = np.stack([across, ahead, np.cross(across, ahead)], axis=1)
    inner = -1.0 if across @ outward > 0 else 1.0
    yield ball((0, 0, 0), (0.03, 0.034, 0.026), skin).moved(turn, wrist)
    yield ball((0, 0.048, 0.0), (0.043, 0.052, 0.021), skin).moved(turn, wrist)
    for finger, length in enumerate((0.036, 0.042, 0.040, 0.032)):
        base = np.array([(finger - 1.5) * 0.0205 * -inner, 0.088, -0.002])
        tip = base + np.array([0.0, 0.9, -0.55]) * length * 1.5
        yield _finger(base, tip, 0.0115, skin).moved(turn, wrist)
    base = np.array([0.034 * inner, 0.025, -0.006])
    yield _finger(base, base + np.array([0.028 * inner, 0.050, -0.022]), 0.0135, skin).moved(turn, wrist)


def _finger(base: Point, tip: Point, thick: float, skin: Paint) -> Solid:
    """A long ellipsoid from knuckle to nail."""
    axis = tip - base
    length = float(np.linalg.norm(axis))
    shape = ball((base + tip) / 2, (thick, thick, length * 0.62), skin)
    return replace(shape, rotation=frame_along(axis / length))
