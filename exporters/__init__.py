"""Turn a checkpoint into a bundle of ONNX graphs that provably predict what PyTorch predicts."""
