"""Training data: tiles and their labels, pieces of them, scaling and virtual anomalies. NumPy, no torch."""
