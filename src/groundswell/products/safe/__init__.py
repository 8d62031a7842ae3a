"""Sentinel-1 products in SAFE format: container, metadata, calibration, noise, scenes, and the source of imagettes."""
