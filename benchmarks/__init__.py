"""Measurements against peers. Ratios from one interleaved run; never tests."""
