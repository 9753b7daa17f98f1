"""One function per command: options in, report out. The only place where rasters meet torch."""
