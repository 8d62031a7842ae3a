"""Probes of embedding tables: neighbours and linear heads, splits, scores, intervals, controls."""
