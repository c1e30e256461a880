"""Open graphs in several backends and precisions, and know the peak rates of the device."""
