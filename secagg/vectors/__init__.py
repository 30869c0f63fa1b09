"""Vectors of numbers: the signed grid, rings and their packing, lanes, masks, and tags that add up."""
