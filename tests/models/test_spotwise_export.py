"""The models of single spots give the same numbers as ONNX graphs."""

import pytest
import torch

from tests.models import networks
from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.exporters.to_onnx import write_onnx

onnxruntime = pytest.importorskip("onnxruntime")
GENES, PX, WIDTH = 6, 32, 16


class Encode(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.encode_targets(images)


class Predict(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, target_tokens):
        return self.model.predict_from_tokens(target_tokens)


def st_net():
    return networks.st_net(GENES, symmetries=8, growth=4, blocks=(2, 2), stem_channels=8)


def bleep():
    model = networks.bleep(GENES, n_neighbors=4, projection_dim=WIDTH).eval()
    model.set_reference_bank(torch.empty(0), torch.randn(30, GENES))
    return model


def graph(name, read, written, axes_in, axes_out):
    tensors = (TensorSpec(read, "float32", axes_in), TensorSpec(written, "float32", axes_out))
    return GraphSpec(name, tensors[:1], tensors[1:], "batch")


@pytest.mark.parametrize("build", [st_net, bleep], ids=lambda build: build.__name__)
@pytest.mark.parametrize("piece", [Encode, Predict], ids=lambda piece: piece.__name__)
def test_graph_reproduces_the_model_at_any_batch(build, piece, tmp_path):
    torch.manual_seed(1)
    module = piece(build()).eval()
    token = ("batch", 1, WIDTH)
    if piece is Encode:
        spec = graph("target_encoder", "images", "target_tokens", ("batch", 3, PX, PX), token)
    else:
        spec = graph("fusion_head", "target_tokens", "expression", token, ("batch", GENES))
    write_onnx(module, spec, "onnxruntime", {}, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "graph.onnx", providers=["CPUExecutionProvider"]
    )
    for size in (1, 5):
        inputs = graph_inputs(spec, size)
        with torch.inference_mode():
            expected = module(*map(torch.from_numpy, inputs.values()))
        (output,) = session.run(None, inputs)
        torch.testing.assert_close(torch.from_numpy(output), expected, atol=1e-5, rtol=0)
