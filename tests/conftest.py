"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of ground truths: the reduced one beside the tests, or a full one named by XSEG_GOLDEN."""
    return Path(os.environ.get("XSEG_GOLDEN") or HERE / "golden")
