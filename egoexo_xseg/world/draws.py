"""Image pairs drawn from the sample world as training goes on: no file is written or read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from egoexo_xseg.world.camera import Camera
from egoexo_xseg.world.render import render
from egoexo_xseg.world.scene import Scene
from egoexo_xseg.world.things import Thing

SMALL_SIDE = 448
"""Of the small videos, the shorter one: what is drawn sharper than they are looks like no recording."""

MIN_SHARE = 0.0004
"""Of the image: whatever shows less of itself counts as absent."""


@dataclass(frozen=True, slots=True)
class ViewPair:
    """One moment from both sides.

    Instance maps hold 0 for nothing and i + 1 where `things[i]` is; a thing is absent from a view whose map lacks it.
    """

    ego_image: UInt8[np.ndarray, "H W 3"]
    ego_instances: UInt8[np.ndarray, "H W"]
    exo_image: UInt8[np.ndarray, "h w 3"]
    exo_instances: UInt8[np.ndarray, "h w"]
    things: tuple[Thing, ...]


def world_seed(*names: object) -> int:
    """A number for whatever tells scenes apart; different names never meet, so training cannot see test scenes."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()[:16], "big")


def view_hw(camera: Camera, long_side: int) -> tuple[int, int]:
    """The size of a camera's image whose longer side is given, or that of its small video where that is smaller."""
    long_side = min(long_side, int(SMALL_SIDE / camera.aspect))
    return round(long_side * camera.aspect), long_side


def without_slivers(instances: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """The same map without the things of which too little is seen."""
    counts = np.bincount(instances.ravel(), minlength=256)
    keep = np.arange(256) * (counts >= MIN_SHARE * instances.size)
    return keep.astype(np.uint8)[instances]


def draw_pairs(scene: Scene, second: float | int, long_side: int) -> list[ViewPair]:
    """What the ego camera of a scene sees at one time, beside each of its exo cameras in turn."""
    moment = scene.at(second)
    views = []
    for camera in (scene.ego(second), *scene.exo):
        image, instances = render(moment, camera, view_hw(camera, long_side))
        views.append((image, without_slivers(instances)))
    return [ViewPair(*views[0], *exo, things=scene.things) for exo in views[1:]]
