"""Predictors of energy, latency and power, and the honest ways to judge them."""
