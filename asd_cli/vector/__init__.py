"""Vectors: polygons of anomalies, labels onto grids, vector files. geopandas, shapely and NumPy."""
