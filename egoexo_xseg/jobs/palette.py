"""The colours of everything that is drawn: pictures, charts, pages; told apart by everybody (after Okabe and Ito)."""

from __future__ import annotations

PAPER, INK, FAINT, RULE = "#ffffff", "#1f2328", "#6e7781", "#d0d7de"

TRUTH = "#ffffff"
"""The line of the ground truth on a picture."""

BLUE, ORANGE = "#0072b2", "#d55e00"
"""The two things that a chart compares; different in grey, too."""

OBJECTS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4", "#00a5a5", "#d4a600", "#f032e6", "#7a4b1e", "#5b6ee1")
"""For things that have no order; on light and dark ground."""

PAGE = {
    "paper": ("#f7f7f5", "#121417"),
    "card": (PAPER, "#1a1d21"),
    "rule": ("#e3e5e8", "#2d3238"),
    "ink": (INK, "#e9ecef"),
    "faint": ("#626b75", "#98a2ad"),
    "ego2exo": (BLUE, "#56b4e9"),
    "exo2ego": ("#c2570c", "#f0954f"),
    "good": ("#1b8a5a", "#4cc38a"),
    "bad": ("#9b4f96", "#d18bd0"),
}
"""Of a page's names, the colour on light ground and on dark."""


def page_colours() -> str:
    """CSS variables, each of which follows the colour scheme."""
    return " ".join(f"--{name}: light-dark({light}, {dark});" for name, (light, dark) in PAGE.items())
