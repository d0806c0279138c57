"""How long each of the documented commands takes as a whole process, on the recordings of `xseg demo`.

python benchmarks/street.py [FOLDER]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = Path(__file__).parents[1] / "weights" / "xseg-tiny"
PREDICT = f"predict --data DATA --split val --model {MODEL} --device cpu --out PRED --direction"
LINES = (
    "--help",
    "sample RAW --seed 7 --takes 2 --split val",
    "prepare RAW DATA --split val",
    f"{PREDICT} both",
    "pack submission.json --predictions PRED --data DATA --split val",
    "validate submission.json --annotations RAW/annotations/relations_val.json",
    "evaluate submission.json --annotations RAW/annotations/relations_val.json --json scores.json",
    "show PRED --data DATA --split val --out pictures",
    "report PRED --annotations DATA --split val --out report",
)


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each line, which it prints as well."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for line in LINES:
        before, began = processor_seconds(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "egoexo_xseg", *line.split()], cwd=folder, capture_output=True, check=True
        )
        seconds = found[f"xseg {line.split()[0]}, seconds"] = time.perf_counter() - began
        print(f"{seconds:7.2f} s {processor_seconds() - before:7.2f} s of processors   xseg {line}", flush=True)
    return found


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name))
