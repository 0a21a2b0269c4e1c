"""Runs of the method on real data: the only place that reads flags or prints."""
