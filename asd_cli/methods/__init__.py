"""Methods: what turns pixels into distances. One package or file each, one line in the registry."""
