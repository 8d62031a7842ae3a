"""Ablations: what each change of a recipe does, over seeds, beside controls."""
