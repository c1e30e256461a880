"""Export a model of whole slides with a dynamic number of spots, and run it in ONNX Runtime."""

import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

OPSET = 20  # that of exporters/to_onnx.py
Inputs = dict[str, Tensor]


def assert_exports(
    model: nn.Module, slide_of: Callable[[int], Inputs], sizes: tuple[int, ...]
) -> onnx.ModelProto:
    """Assert that a graph traced with 3 spots equals PyTorch within 1e-5 at each of ``sizes``."""
    proto = _export(model, slide_of(3))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for size in sizes:
        slide = slide_of(size)
        with torch.inference_mode():
            expected = model(**slide).numpy()
        (output,) = session.run(None, {name: tensor.numpy() for name, tensor in slide.items()})
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    return proto


def _export(model: nn.Module, slide: Inputs) -> onnx.ModelProto:
    spots = torch.export.Dim("spots")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # what the exporter says of its own internals
        program = torch.onnx.export(
            model,
            kwargs=slide,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={name: {0: spots} for name in slide},
            input_names=list(slide),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto
