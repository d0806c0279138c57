"""Takes shared out among processes and machines that do not talk to each other."""

from __future__ import annotations

import json
from pathlib import Path

from egoexo_xseg.data.annotations import Annotations


def shard_takes(annotations: Annotations, index: int, count: int) -> tuple[str, ...]:
    """The uids of one of `count` parts, `index` from 1, all of about the same weight.

    Every process finds the same parts by itself: the heaviest take goes to the part that is lightest so far.
    """
    weights = {uid: _weight(annotations, uid) for uid in annotations.take_uids}
    parts: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for uid in sorted(weights, key=lambda uid: (-weights[uid], uid)):
        lightest = loads.index(min(loads))
        parts[lightest].append(uid)
        loads[lightest] += weights[uid]
    return tuple(uid for uid in annotations.take_uids if uid in parts[index - 1])


def _weight(annotations: Annotations, uid: str) -> int:
    """Bytes of a take's annotations: masks are most of them, and there are as many questions."""
    source = annotations.unread(uid).source
    return (source / "annotation.json").stat().st_size if isinstance(source, Path) else len(json.dumps(source))
