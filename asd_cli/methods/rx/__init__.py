"""RX: Mahalanobis distance of raw pixels from a global or a local background (Reed & Yu 1990)."""
