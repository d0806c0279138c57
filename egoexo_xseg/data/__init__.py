"""Formats and records: annotations, pairs, predictions, submissions, scores. No torch here, but in `dataset`."""
