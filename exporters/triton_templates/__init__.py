"""Files that go into a Triton model repository as they are."""
