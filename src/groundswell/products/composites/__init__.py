"""Many acquisitions over one grid, composed to seasonal tiles."""
