"""Differential privacy inside the secure sum: units, accounting, budgets."""
