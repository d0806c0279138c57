"""An error is one line that says what, where and what to do, also across processes."""

from __future__ import annotations

import pickle

from egoexo_xseg.errors import MaskError, XsegError


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
