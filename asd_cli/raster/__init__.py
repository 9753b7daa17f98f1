"""Rasters: grids, windows, scenes and the writer of maps. rasterio and NumPy only."""
