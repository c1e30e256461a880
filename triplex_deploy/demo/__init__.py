"""Make everything the demo needs instead of real data: slides, counts and a small model."""
