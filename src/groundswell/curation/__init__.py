"""Which images to train on: vectors in, row ids out. Knows nothing of training."""
