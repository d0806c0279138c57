"""An error is one line that says what, where and what to do, also across processes."""

from __future__ import annotations

import pickle

import pytest

from egoexo_xseg.errors import MaskError, XsegError, is_out_of_memory, printable


def test_line_joins_where_problem_and_remedy():
    fault = XsegError("frame 30 is missing", where="take a, camera cam01", remedy="Run xseg prepare again.")
    assert str(fault) == "take a, camera cam01: frame 30 is missing. Run xseg prepare again."


def test_line_of_a_bare_problem():
    assert str(XsegError("no takes")) == "no takes"


def test_line_breaks_in_the_parts_do_not_break_the_line():
    assert str(XsegError("bad\nname", where="object 'a\n\tb'")) == "object 'a b': bad name"


def test_crosses_process_boundaries_whole():
    fault = pickle.loads(pickle.dumps(MaskError("short", where="x", remedy="y")))
    assert type(fault) is MaskError and str(fault) == "x: short. y"


def test_strangers_words_never_steer_a_terminal():
    assert printable("cup\x1b[2J\u202e\udcff é“”") == "cup?[2J?? é“”"
    assert str(XsegError("bad \x1b[31mname", where="a\x07")) == "a?: bad ?[31mname"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_want_of_memory_is_told_by_its_words(fault, told):
    assert is_out_of_memory(fault) is told
