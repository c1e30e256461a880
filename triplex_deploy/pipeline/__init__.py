"""From a slide and an opened bundle to a ``Prediction``; each tile is encoded once."""
