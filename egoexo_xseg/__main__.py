from egoexo_xseg.cli import cli

cli(prog_name="xseg")
