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
    f"{PREDICT} ego2exo",
    f"{PREDICT} exo2ego",
    "pack submission.json --predictions PRED --data DATA --split val",
    "validate submission.json --annotations RAW/annotations/relations_val.json",
    "evaluate submission.json --annotations RAW/annotations/relations_val.json --json scores.json",
    "show PRED --data DATA --split val --out pictures",
    "report PRED --annotations DATA --split val --out report",
)


def main(folder: Path) -> None:
    for line in LINES:
        before, began = processor_seconds(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "egoexo_xseg", *line.split()], cwd=folder, capture_output=True, check=True
        )
        seconds = time.perf_counter() - began
        print(f"{seconds:7.2f} s {processor_seconds() - before:7.2f} s of processors   xseg {line}", flush=True)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
