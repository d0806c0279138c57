"""The street: one short function per command, and the only place that prints errors."""

# ruff: noqa: I001 - the order of these lines is the order of the commands in the help
from egoexo_xseg.cli.app import cli as cli
from egoexo_xseg.cli import data as data
from egoexo_xseg.cli import model as model
from egoexo_xseg.cli import scores as scores
from egoexo_xseg.cli import analysis as analysis
from egoexo_xseg.cli import weights as weights
from egoexo_xseg.cli import tour as tour
