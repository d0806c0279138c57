"""All that a CPU can tell of speed, within ten minutes, into one file; and what changed against another.

python benchmarks/bench.py --out bench.json [--against older.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import frame
import street
import submission

from egoexo_xseg.jobs.manifest import versions

NOTABLE = 0.1
"""Smaller changes are noise on a machine that does other things too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="an earlier file")
    options = parser.parse_args()
    before = json.loads(options.against.read_bytes()) if options.against else None
    with tempfile.TemporaryDirectory() as name:
        figures = street.measure(Path(name))
    figures |= submission.measure(takes=60, exos=4, predictions=50_000)
    figures |= {f"full size, {name}": value for name, value in frame.measure().items()}
    machine = {"processor": processor(), "processors": os.cpu_count(), "system": platform.platform()}
    found = {"machine": machine, "versions": versions(), "figures": figures}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{options.out}: written")
    if before:
        compare(before, found)


def processor() -> str:
    """Its name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def compare(before: dict, now: dict) -> None:
    """Each figure before and now; another machine or version is said first."""
    for part in ("machine", "versions"):
        for name, value in now[part].items():
            if before[part].get(name) != value:
                print(f"{name}: {before[part].get(name)} before, {value} now")
    for name, value in now["figures"].items():
        old = before["figures"].get(name)
        if old is None:
            print(f"{name}: {value:.4g}, new")
        else:
            change = value / old - 1
            print(f"{name}: {old:.4g} before, {value:.4g} now{f', {change:+.0%}' if abs(change) >= NOTABLE else ''}")


if __name__ == "__main__":
    main()
