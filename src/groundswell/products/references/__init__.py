"""What is known from elsewhere: level-2 OCN labels, and tables of buoys, altimeters and models, joined to imagettes."""
