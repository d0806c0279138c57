"""Everything that a direction asks for: each query frame of each object, in each camera of the other side."""

from __future__ import annotations

from collections.abc import Iterator

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.records import Direction, Pair, PairObject, is_ego

Required = dict[str, dict[tuple[str, str], tuple[int, ...]]]
"""object_id -> (query camera, target camera) -> frames."""


def required_keys(take: Take, direction: Direction) -> Required:
    """What the server's validator demands of a take, invisible and unscored targets included.

    For each object with an ego camera: every exo camera listed under it, with every frame that has a query mask, be it
    one that cannot be used. Objects without an ego camera are there, and empty.
    """
    required: Required = {}
    for object_id, cameras in take.masks.items():
        targets = _target_cameras(take, object_id, direction)
        queries = [camera for camera in cameras if is_ego(camera) == direction.query_is_ego]
        lost = take.lost_frames.get(object_id, {})
        required[object_id] = {
            (query, target): tuple(sorted({*cameras[query], *lost.get(query, ())}))
            for query in sorted(queries)
            for target in targets
        }
    return required


def iter_pairs(take: Take, direction: Direction, captions: Captions | None = None) -> Iterator[Pair]:
    """All objects with a query mask in one query camera, target camera and frame together, frame by frame.

    Objects stand in the annotations' order. A mask in a frame that nobody annotated is not scored, and not a target.
    """
    objects: dict[tuple[int, str, str], list[str]] = {}
    for object_id, cameras in required_keys(take, direction).items():
        for query, target in cameras:
            for frame in take.masks[object_id][query]:
                objects.setdefault((frame, query, target), []).append(object_id)
    for (frame, query, target), object_ids in sorted(objects.items()):
        yield Pair(
            take_uid=take.take_uid,
            query_camera=query,
            target_camera=target,
            frame=frame,
            target_hw=take.camera_hw[target],
            objects=tuple(_pair_object(take, captions, object_id, query, target, frame) for object_id in object_ids),
        )


def _pair_object(
    take: Take, captions: Captions | None, object_id: str, query: str, target: str, frame: int
) -> PairObject:
    annotated = frame in take.annotated_frames[object_id].get(target, ())
    return PairObject(
        object_id=object_id,
        query_mask=take.masks[object_id][query][frame],
        target_mask=take.masks[object_id].get(target, {}).get(frame) if annotated else None,
        annotated=annotated,
        caption=captions.of(take.take_uid, object_id, query, frame) if captions else None,
    )


def _target_cameras(take: Take, object_id: str, direction: Direction) -> list[str]:
    """The cameras listed under the object; where targets are hidden (no object lists any), all the take's."""
    sides = {camera: is_ego(camera) != direction.query_is_ego for camera in take.cameras}
    hidden = not any(sides[camera] for cameras in take.masks.values() for camera in cameras)
    listed = take.cameras if hidden else take.masks[object_id]
    return sorted(camera for camera in listed if sides[camera])
