"""Export a checkpoint as a bundle of ONNX graphs, which are compared with PyTorch."""
