"""How normal descriptors are distributed: moments, Gaussian, calibration and pixel samples. NumPy only."""
