"""What changed between two measurements, by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("compare").compare
    sys.modules.pop("compare", None)


def test_changes_are_told_and_nothing_is_lost(compare):
    older = {"machine": {"processors": 2}, "versions": {"torch": "2.1"}, "figures": {"a": 2.0, "b": 1.0, "c": 0.0}}
    newer = {"machine": {"processors": 2}, "versions": {"torch": "2.2"}, "figures": {"a": 1.0, "c": 0.0, "d": 3.0}}
    assert list(compare(older, newer)) == [
        "torch: 2.1 before, 2.2 now",
        "a: 2 before, 1 now, -50%",
        "c: 0 before, 0 now",
        "d: 3, new",
        "b: 1 before, gone",
    ]
