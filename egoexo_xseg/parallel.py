"""Work spread over processes: results in order, and never more of it in flight than the processes can chew."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from egoexo_xseg.errors import XsegError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """`map` over processes (default: one per processor); a single item or worker stays in this one."""
    workers = workers or os.cpu_count() or 1
    items = iter(items)
    head = list(islice(items, 2))
    if workers == 1 or len(head) < 2:
        yield from map(function, chain(head, items))
        return
    # Spawned, not forked: this process may hold threads of torch or of a progress bar.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_settle_in)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(head, items):
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise XsegError("a process of the pool was killed", remedy="Out of memory? Try --workers 1") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _settle_in() -> None:
    """An interrupt ends the whole process group, and one report of it is enough; nothing outlives this program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A killed program's processes would go on with their work, beside those of the next attempt."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
