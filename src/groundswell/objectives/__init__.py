"""Objectives of self-supervised learning: pure functions, formula and source in each docstring."""
