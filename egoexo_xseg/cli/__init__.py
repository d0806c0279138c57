"""The street: one short function per command, and the only place that prints errors."""
