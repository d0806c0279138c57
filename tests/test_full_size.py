"""A checkpoint of the released size, from file to answer: minutes long, 20 GB of disk, 10 GB of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GB = 1e9


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    benchmark = Path(__file__).parents[1] / "benchmarks" / "load.py"
    command = [sys.executable, benchmark, "--folder", tmp_path / "full", "--json", tmp_path / "figures.json"]
    subprocess.run(command, check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["weights, GB"] == pytest.approx(5.934, abs=0.001)  # 1.48 billion live parameters in float32
    assert figures["load, peak memory over weights"] < 1.15
    assert figures["load_released, peak memory over weights"] < 1.15
    assert max(value for name, value in figures.items() if "peak memory, GB" in name) < 24
    assert not list((tmp_path / "full").iterdir())
