"""Networks and devices: torch only, no knowledge of rasters or tasks."""
