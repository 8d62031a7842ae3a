"""Where imagettes come from: image folders, Sentinel-1 products, composites; and tables to join to them."""
