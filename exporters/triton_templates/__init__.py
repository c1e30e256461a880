"""Files that are copied unchanged into a Triton model repository."""
