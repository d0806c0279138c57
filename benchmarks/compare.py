"""What changed between two files of bench.py.

python benchmarks/compare.py older.json newer.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NOTABLE = 0.1
"""Smaller changes are noise on a machine that does other things too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path)
    parser.add_argument("newer", type=Path)
    options = parser.parse_args()
    print("\n".join(compare(*(json.loads(path.read_bytes()) for path in (options.older, options.newer)))))


def compare(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Iterator[str]:
    """A line for each figure; what differs in machine and versions first, and figures that are gone last."""
    for part in ("machine", "versions"):
        for name, value in newer[part].items():
            if older[part].get(name) != value:
                yield f"{name}: {older[part].get(name)} before, {value} now"
    before = dict(older["figures"])
    for name, value in newer["figures"].items():
        old = before.pop(name, None)
        if old is None:
            yield f"{name}: {value:.4g}, new"
            continue
        change = value / old - 1 if old else 0.0 if value == old else float("inf")
        yield f"{name}: {old:.4g} before, {value:.4g} now" + (f", {change:+.0%}" if abs(change) >= NOTABLE else "")
    for name, old in before.items():
        yield f"{name}: {old:.4g} before, gone"


if __name__ == "__main__":
    main()
