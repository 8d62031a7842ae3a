"""Folders of images: PNG, JPEG, TIFF and GeoTIFF, NumPy, NetCDF, with their labels, masks and boxes."""
