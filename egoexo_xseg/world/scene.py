"""Whole scenes from a seed: what stands where, who moves it, and the cameras that watch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from egoexo_xseg.world.camera import Camera, look_at
from egoexo_xseg.world.motion import Sway, Track, carry, draw_sway
from egoexo_xseg.world.paint import COLOURS, Colour, Paint
from egoexo_xseg.world.people import Dress, draw_dress, wearer
from egoexo_xseg.world.render import Moment
from egoexo_xseg.world.room import Room, draw_room, furniture
from egoexo_xseg.world.solids import Solid, ball, box, tube
from egoexo_xseg.world.things import Thing, draw_things

Point = Float64[np.ndarray, "3"]

EXO_ASPECT = 2160 / 3840

REACH = 0.3
"""How far over the table the wearer's arms go, on the scale from its near edge (-1) to the far one (1)."""


@dataclass(frozen=True)
class Scene:
    """A take of `duration` seconds: everything is a function of the time alone."""

    duration: float
    room: Room
    things: tuple[Thing, ...]
    places: tuple[Track, ...]
    turns: tuple[Float64[np.ndarray, "3 3"], ...]
    props: tuple[Solid, ...]
    dress: Dress
    hands: tuple[Track, Track]
    head: Point
    gaze: Track
    sway: tuple[Sway, Sway]
    ego_lens: tuple[float, Colour]
    exo: tuple[Camera, ...]

    def ego(self, second: float | int) -> Camera:
        """The camera on the wearer's head, which sways and jitters with the gaze."""
        position = self.head + self.sway[0].at(second)
        target = self.gaze.at(second) + self.sway[1].at(second)
        roll = 0.25 * float(self.sway[1].at(second + 0.3)[0])
        width, gain = self.ego_lens
        return Camera(position, look_at(position, target, roll), width, 1.0, gain, worn=True)

    def at(self, second: float | int) -> Moment:
        """Everything solid at one time; labels count the things from 1."""
        solids = [*self.props]
        for label, (thing, place, turn) in enumerate(zip(self.things, self.places, self.turns, strict=True), start=1):
            position = place.at(second)
            solids += [replace(part.moved(turn, position), label=label) for part in thing.parts]
        ego = self.ego(second)
        palms = (self.hands[0].at(second), self.hands[1].at(second))
        solids += wearer(self.dress, ego.position, ego.rotation[2], palms)
        return Moment(self.room, tuple(solids))


def make_scene(seed: int, duration: float = 12.0, exo_cameras: int | None = None) -> Scene:
    """Draw a scene; `seed` may have any size, and the same seed gives the same scene."""
    rng = np.random.default_rng(seed)
    room = draw_room(rng)
    things = draw_things(int(rng.integers(4, 9)), rng)
    props = furniture(room, rng)
    spots = _Spots(room, rng)
    starts, turns, fixed = _arrange(things, props, spots, rng)
    places = tuple(Track([(0.0, start)]) for start in starts)
    shoulders = -room.table[1] - rng.uniform(0.12, 0.22)
    head = np.array([rng.uniform(-0.12, 0.12), shoulders + 0.12, room.top + rng.uniform(0.56, 0.68)])
    hands = _rests(room, duration, rng)
    _act(things, places, fixed, hands, (spots, duration, rng))
    return Scene(
        duration,
        room,
        tuple(things),
        places,
        turns,
        tuple(props),
        draw_dress(rng),
        hands,
        head,
        _wander(room, places, duration, rng),
        (draw_sway((0.07, 0.05, 0.04), (0.1, 0.5), rng), draw_sway((0.20, 0.15, 0.06), (0.2, 1.1), rng)),
        (float(rng.uniform(0.8, 0.98)), _draw_gain(rng)),
        tuple(_draw_exo(room, exo_cameras or int(rng.integers(2, 5)), rng)),
    )


class _Spots:
    """Free places on the table's top."""

    def __init__(self, room: Room, rng: np.random.Generator) -> None:
        self.room, self.rng, self.taken = room, rng, []

    def find(self, radius: float, depth: tuple[float, float] = (-1.0, 1.0)) -> Point:
        """A place away from what is there, as far as a few dozen tries give one.

        `depth` bounds it from the wearer's edge of the table (-1) to the far one (1).
        """
        reach = np.array(self.room.table) - min(radius, 0.2) - 0.02
        best, widest = None, -np.inf
        for _ in range(40):
            x, y = self.rng.uniform((-1.0, depth[0]), (1.0, depth[1])) * reach
            gap = min((np.hypot(x - px, y - py) - radius - r for px, py, r in self.taken), default=1.0)
            if gap > widest:
                best, widest = (float(x), float(y)), gap
            if gap > 0.015:
                break
        self.taken.append((*best, radius))
        return np.array([*best, self.room.top + 0.002])  # a hair above, or undersides would shine through the table


def _arrange(
    things: list[Thing], props: list[Solid], spots: _Spots, rng: np.random.Generator
) -> tuple[list[Point], tuple[Float64[np.ndarray, "3 3"], ...], set[int]]:
    """Put the things down: most on the table, one perhaps on a stool aside, one perhaps in a crate.

    Returns their places and turns, and the numbers of those that stay where they are.
    """
    room, fixed = spots.room, set()
    starts: list[Point | None] = [None] * len(things)
    small = [i for i, thing in enumerate(things) if thing.radius < 0.12 and thing.height < 0.17]
    if small and rng.random() < 0.65:
        chosen = int(rng.choice(small))
        starts[chosen] = spots.find(things[chosen].radius + 0.05)
        props += _crate(starts[chosen], things[chosen], rng)
        fixed.add(chosen)
    if rng.random() < 0.5:
        chosen = int(rng.choice([i for i in range(len(things)) if i not in fixed]))
        side = float(rng.choice([-1.0, 1.0]))
        seat = np.array([side * (room.table[0] + 0.38), rng.uniform(-0.9, 0.0), rng.uniform(0.42, 0.62)])
        props += _stool(seat)
        starts[chosen] = seat + np.array([0.0, 0.0, 0.002])
        fixed.add(chosen)
    for _ in range(int(rng.integers(1, 4))):
        props += _screen(spots, rng)
    for i, thing in enumerate(things):
        if starts[i] is None:
            starts[i] = spots.find(thing.radius)
    angles = rng.uniform(0, 2 * np.pi, len(things))
    turns = tuple(np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]]) for a in angles)
    return starts, turns, fixed


def _crate(place: Point, thing: Thing, rng: np.random.Generator) -> list[Solid]:
    """An open box that only a look from above gets into."""
    half = thing.radius + 0.025
    tall = thing.height + rng.uniform(0.02, 0.06)
    wood = Paint((0.42, 0.27, 0.13), (0.33, 0.2, 0.09), "stripes", 0.06, gloss=0.03)
    x, y, z = place.tolist()
    sides = ((half, 0, 0.007, half), (-half, 0, 0.007, half), (0, half, half, 0.007), (0, -half, half, 0.007))
    return [box((x + dx, y + dy, z + tall / 2), (hx, hy, tall / 2), wood) for dx, dy, hx, hy in sides]


def _stool(seat: Point) -> list[Solid]:
    x, y, z = seat.tolist()
    wood = Paint((0.30, 0.17, 0.08), gloss=0.2)
    legs = [
        tube((x + i * 0.15, y + j * 0.15, 0), (x + i * 0.1, y + j * 0.1, z), (0.016, 0.016), wood)
        for i in (-1, 1)
        for j in (-1, 1)
    ]
    return [tube((x, y, z - 0.035), (x, y, z), (0.19, 0.19), wood), *legs]


def _screen(spots: _Spots, rng: np.random.Generator) -> list[Solid]:
    """Something big that nobody asks for and that hides what stands behind: a carton, a laptop, a plant."""
    kind = rng.integers(3)
    if kind == 0:
        half = rng.uniform((0.09, 0.05, 0.12), (0.14, 0.08, 0.17))
        x, y, z = spots.find(float(half[0]) + 0.02, depth=(0.0, 1.0)).tolist()
        tone = COLOURS[str(rng.choice(list(COLOURS)))]
        card = Paint((0.45, 0.31, 0.18), gloss=0.02)
        return [
            box((x, y, z + half[2]), half, card),
            box((x, y, z + half[2]), half * [1.004, 1.004, 0.16], Paint(tone)),
        ]
    if kind == 1:
        x, y, z = spots.find(0.17, depth=(0.0, 1.0)).tolist()
        shell, keys = Paint((0.38, 0.39, 0.41), gloss=0.4, metal=0.3), Paint((0.02, 0.02, 0.025), gloss=0.3)
        glow = Paint((0.10, 0.28, 0.50), (0.5, 0.6, 0.7), "stripes", 0.035)
        return [
            box((x, y - 0.02, z + 0.009), (0.165, 0.115, 0.009), shell),
            box((x, y - 0.01, z + 0.0185), (0.14, 0.06, 0.001), keys),
            box((x, y + 0.10, z + 0.13), (0.165, 0.005, 0.112), shell),
            box((x, y + 0.094, z + 0.13), (0.15, 0.002, 0.098), glow),
        ]
    x, y, z = spots.find(0.11, depth=(0.0, 1.0)).tolist()
    pot, soil = Paint(tuple(rng.uniform(0.15, 0.7, 3).tolist()), gloss=0.3), Paint((0.03, 0.02, 0.015))
    leaf = Paint((0.05, 0.24, 0.06), (0.09, 0.34, 0.08), "stripes", 0.03, upright=True, gloss=0.2)
    leaves = []
    for turn in rng.uniform(0, 0.5) + np.arange(5) * 2 * np.pi / 5:
        long = rng.uniform(0.055, 0.08)
        leaves.append(
            ball((x + 0.052 * np.cos(turn), y + 0.052 * np.sin(turn), z + 0.15 + long), (0.042, 0.042, long), leaf)
        )
    return [
        tube((x, y, z), (x, y, z + 0.12), (0.06, 0.08), pot),
        tube((x, y, z + 0.1), (x, y, z + 0.121), (0.07, 0.07), soil),
        *leaves,
    ]


def _rests(room: Room, duration: float, rng: np.random.Generator) -> tuple[Track, Track]:
    """Hands that fidget near the table's front edge."""
    tracks = []
    for side in (-1, 1):
        track, time = Track(), 0.0
        while time < duration + 1:
            spread = rng.uniform((0.13, 0.04, 0.03), (0.30, 0.20, 0.12))
            track.add(time, np.array([side * spread[0], -room.table[1] + spread[1], room.top + spread[2]]))
            time += rng.uniform(0.8, 2.2)
        tracks.append(track)
    return tracks[0], tracks[1]


def _act(
    things: list[Thing],
    places: tuple[Track, ...],
    fixed: set[int],
    hands: tuple[Track, Track],
    stage: tuple[_Spots, float, np.random.Generator],
) -> None:
    """Let the hands carry a few things to other places, some of them off the table."""
    spots, duration, rng = stage
    room, second = spots.room, float(rng.uniform(0.2, 1.0))
    movable = [i for i, place in enumerate(places) if i not in fixed and place.at(0)[1] < REACH * room.table[1]]
    while second < duration - 3.6 and movable:
        chosen = int(rng.choice(movable))
        here = places[chosen].at(duration)
        hand = hands[0 if here[0] < 0 else 1]
        later = [(time, point) for time, point in hand.keys if time > second + 3.6]
        if rng.random() < 0.3:
            there = np.array([here[0] * 0.5, -room.table[1] - 0.13, room.top - 0.22])
            movable.remove(chosen)
        else:
            there = spots.find(things[chosen].radius, depth=(-1.0, REACH))
        grip = np.array([0.0, -0.045, things[chosen].height + 0.012])
        free = carry(hand, places[chosen], second, (here, there), grip)
        for time, point in later:
            hand.add(max(time, free + 0.3), point)
        second = free + float(rng.uniform(-1.2, 1.0))


def _wander(room: Room, places: tuple[Track, ...], duration: float, rng: np.random.Generator) -> Track:
    """Where the wearer looks: at things mostly, sometimes at the table's ends or up into the room."""
    gaze, time = Track(), 0.0
    while time < duration + 2:
        fate = rng.random()
        if fate < 0.55:
            target = places[int(rng.integers(len(places)))].at(time) * np.array([0.9, 0.9, 1.0])
        elif fate < 0.82:
            end = float(rng.choice([-1.0, 1.0]))
            target = np.array([end * rng.uniform(0.45, 0.85), rng.uniform(-0.3, 0.3), room.top])
        else:
            target = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.4, 0.85), room.top + rng.uniform(0.0, 0.1)])
        gaze.add(time, target)
        gaze.add(time + rng.uniform(0.3, 1.2), target)
        time = gaze.keys[-1][0] + rng.uniform(0.4, 0.8)
    return gaze


def _draw_exo(room: Room, count: int, rng: np.random.Generator) -> Iterator[Camera]:
    """Standing cameras around the table, now and then behind the wearer, each with its own lens and framing."""
    start, sweep = rng.uniform(-0.35, 0.35), np.pi / count
    for number in range(count):
        angle = start + sweep * (number + 0.5) + rng.uniform(-0.3, 0.3) * sweep
        if rng.random() < 0.36:
            angle = -np.pi / 2 + rng.uniform(-0.75, 0.75)
        away = rng.uniform(1.4, 2.0)
        height = room.top + rng.uniform(0.45, 1.05)
        place = np.array([np.cos(angle) * (away + 0.25), np.sin(angle) * away, height])
        place[:2] = np.clip(place[:2], np.array(room.low) + 0.15, np.array(room.high) - 0.15)
        target = np.array([rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.15), room.top + rng.uniform(0.04, 0.2)])
        yield Camera(
            place,
            look_at(place, target, float(rng.uniform(-0.03, 0.03))),
            float(rng.uniform(0.44, 0.6)),
            EXO_ASPECT,
            _draw_gain(rng),
        )


def _draw_gain(rng: np.random.Generator) -> Colour:
    warm, bright = rng.uniform(-0.07, 0.07), rng.uniform(0.9, 1.12)
    return (float(bright * (1 + warm)), float(bright), float(bright * (1 - warm)))
