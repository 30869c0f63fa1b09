"""Exact integer sums under CKKS: `scheme`, why its `parameters` are as they are, the `encoding` of slots."""
