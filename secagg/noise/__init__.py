"""Noise of integers: Skellam and discrete Gaussian, exact within a stated distance."""
