"""What can go wrong, said in one line: the problem, where it is, what to do."""

from __future__ import annotations


class XsegError(Exception):
    """A fault that the user can mend: the library raises it, the command line prints it and exits with 1."""

    def __init__(self, problem: str, *, where: object = "", remedy: str = "") -> None:
        self.problem, self.where, self.remedy = problem, str(where), remedy
        super().__init__(problem)

    def __str__(self) -> str:
        """`where: problem. remedy.` on one line, whatever the parts contain."""
        line = f"{self.where}: {self.problem}" if self.where else self.problem
        if self.remedy:
            line = f"{line}{'' if line.endswith('.') else '.'} {self.remedy}"
        return printable(" ".join(line.split()))

    def __reduce__(self):
        # Exceptions cross process pools; the default would lose the keyword arguments.
        return _rebuild, (type(self), self.problem, self.where, self.remedy)


def _rebuild(kind: type[XsegError], problem: str, where: str, remedy: str) -> XsegError:
    return kind(problem, where=where, remedy=remedy)


class MaskError(XsegError):
    """A coded mask that is not what it claims to be."""


class AnnotationError(XsegError):
    """Annotations that cannot be read at all; single faulty masks are counted and skipped instead."""


class MediaError(XsegError):
    """An image or a video that cannot be read."""


class PredictionError(XsegError):
    """Predictions that cannot be read, or that do not belong together."""


class SubmissionError(XsegError):
    """A submission that the challenge server would refuse."""


class CheckpointError(XsegError):
    """A model that cannot be found, read or matched with its configuration."""


def printable(text: str) -> str:
    """Strangers' words as they may reach a terminal: no sequence in them moves its cursor or changes its title."""
    return "".join(character if character.isprintable() else "?" for character in text)


def is_out_of_memory(fault: BaseException) -> bool:
    """Torch has a type for it, but on a CPU and in CUDA's libraries only words."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(fault, MemoryError) or any(own in str(fault) for own in words)
