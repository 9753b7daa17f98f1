"""ASD: anomaly segmentation with pixel descriptors (Li et al., AAAI 2023)."""
