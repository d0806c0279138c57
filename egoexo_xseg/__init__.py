"""xseg: find the objects of one camera's view in another's (Ego-Exo4D object correspondence)."""

__version__ = "0.1.0"
