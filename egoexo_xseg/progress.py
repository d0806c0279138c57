"""Progress for people: bars on a terminal's standard error, silence everywhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from egoexo_xseg.errors import printable

Item = TypeVar("Item")

_log = logging.getLogger("egoexo_xseg")
_drawn = False
"""Whether a bar is on the terminal."""


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` with a bar, the count and the time left, if somebody is watching.

    Within another such iteration there is none: two bars would be drawn over each other.
    """
    global _drawn
    if _drawn or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    _drawn = True
    try:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            yield from progress.track(items, total=total, description=label)
    finally:
        _drawn = False


def detail(message: str) -> None:
    """One line on standard error, shown under `-v`."""
    _log.info(printable(message))


def show_details(*_: object) -> None:
    """What `-v` does, in this process; whatever a starter of processes says is ignored."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    _log.setLevel(logging.INFO)


def details_are_shown() -> bool:
    return _log.isEnabledFor(logging.INFO)
