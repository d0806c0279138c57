"""Results come in order whatever the number of processes, and faults come whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egoexo_xseg.errors import MediaError, XsegError
from egoexo_xseg.parallel import map_ahead, map_processes


def double(value: int) -> int:
    if value == 7:
        raise MediaError("seven", where="take 7", remedy="count on")
    if value == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * value


@pytest.mark.parametrize("workers", [1, 2])
def test_order(workers):
    assert list(map_processes(double, iter(range(7)), workers)) == [0, 2, 4, 6, 8, 10, 12]


def test_nothing():
    assert list(map_processes(double, [])) == []


def test_faults_cross_processes():
    with pytest.raises(MediaError) as caught:
        list(map_processes(double, [7, 8], workers=2))
    assert str(caught.value) == "take 7: seven. count on"


def test_items_are_drawn_as_they_are_needed():
    drawn = []
    results = map_processes(double, (drawn.append(i) or i for i in range(6)), workers=1)
    assert next(results) == 0 and drawn == [0, 1]


def test_a_process_that_is_killed_is_told_in_one_line():
    with pytest.raises(XsegError) as caught:
        list(map_processes(double, [13, 1], workers=2))
    assert str(caught.value) == "a process of the pool was killed. Out of memory? Try --workers 1"


def report_and_wait(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def is_alive(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes")
def test_nothing_goes_on_after_the_program_was_killed(tmp_path):
    code = (
        "from test_parallel import map_processes, report_and_wait\n"
        f"if __name__ == '__main__': list(map_processes(report_and_wait, [{str(tmp_path)!r}] * 2, 2))"
    )
    (tmp_path / "main.py").write_text(code)
    search = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    program = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], env=search)
    workers: list[int] = []
    while len(workers) < 2:
        assert program.poll() is None
        workers = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
        time.sleep(0.01)
    assert all(map(is_alive, workers))
    program.kill()
    program.wait()
    deadline = time.monotonic() + 20
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_threads_are_a_few_items_ahead_and_keep_the_order():
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    results = map_ahead(work, range(100), threads=3)
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    time.sleep(0.05)
    assert len(begun) <= 4 + 3 + 1
    results.close()
    time.sleep(0.05)
    assert len(begun) <= 4 + 3 + 1


def test_a_fault_in_a_thread_reaches_the_reader():
    def work(item: int) -> int:
        return 1 // item

    results = map_ahead(work, [1, 0, 1], threads=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
