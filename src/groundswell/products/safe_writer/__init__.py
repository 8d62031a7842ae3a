"""Writes small SAFE products whose calibrated result is known in closed form: for tests, and for the demo."""
