"""Run TensorRT engines: build, store, check and execute them."""
