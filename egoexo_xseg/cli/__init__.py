"""The street: one short function per command, and the only place that prints errors."""

from egoexo_xseg.cli.app import cli as cli  # isort: skip  (the group comes before the commands that join it)
from egoexo_xseg.cli import data as data, model as model, scores as scores
