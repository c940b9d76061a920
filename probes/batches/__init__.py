"""Batches: barcoded ones, and those of the data paths."""
