"""Noise of integers: Skellam and discrete Gaussian, exact within a stated distance."""

from secagg.noise.gaussian import DiscreteGaussian
from secagg.noise.skellam import Skellam

__all__ = ["DiscreteGaussian", "Skellam"]
