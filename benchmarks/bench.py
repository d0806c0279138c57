"""All that a CPU can tell of speed, within ten minutes, into one file; and what changed against the last one.

python benchmarks/bench.py --out bench.json

A file that is there already becomes bench.last.json, with which the new figures are compared (compare.py).
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
from compare import compare

from egoexo_xseg.jobs.manifest import versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = street.measure(Path(name))
    figures |= submission.measure(takes=60, exos=4, predictions=50_000)
    figures |= {f"full size, {name}": value for name, value in frame.measure().items()}
    machine = {"processor": processor(), "processors": os.cpu_count(), "system": platform.platform()}
    found = {"machine": machine, "versions": versions(), "figures": figures}
    last = options.out.with_suffix(".last.json")
    if options.out.exists():
        os.replace(options.out, last)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{options.out}: written")
    if last.exists():
        print("\n".join(compare(json.loads(last.read_bytes()), found)))


def processor() -> str:
    """Its name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
