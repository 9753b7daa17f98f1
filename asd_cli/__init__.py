"""Anomaly maps for geospatial rasters: learn what is normal, score whole scenes, draw polygons."""

__version__ = "0.1.0"

__all__ = ["__version__"]
