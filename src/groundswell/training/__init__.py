"""Pretraining: the recipe, the loop, and what keeps a long run safe."""
