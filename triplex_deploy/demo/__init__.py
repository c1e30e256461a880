"""Everything the demo needs that is not real data: a synthetic slide and a tiny model."""
