"""Predict expression from a slide and an opened bundle; each tile is encoded once."""
