"""Takes shared out among processes."""

from __future__ import annotations

import json

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.shards import shard_takes


def test_shards_are_balanced_and_every_process_finds_the_same(tmp_path):
    masks = {"cup": {"cam01": {str(frame): {"size": [4, 4], "counts": "0`0"} for frame in range(0, 300, 30)}}}
    takes = {
        f"take-{size:02}": {"masks": {f"object {n}": masks["cup"] for n in range(size)}} for size in (9, 1, 8, 2, 5)
    }
    (tmp_path / "gt.json").write_text(json.dumps({"annotations": takes}))
    parts = [shard_takes(open_annotations(tmp_path / "gt.json"), index, 3) for index in (1, 2, 3)]
    assert parts == [("take-09",), ("take-08",), ("take-01", "take-02", "take-05")]
    assert shard_takes(open_annotations(tmp_path / "gt.json"), 1, 1) == tuple(takes)
