"""NaN and infinity of encoders and models end prepare, train and evaluate; nothing is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.training.test_evaluate import RC, prediction
from tests.variants import VARIANTS, model_of
from triplex_deploy.errors import BackendError, OutputError
from triplex_deploy.training.evaluate import evaluate_prediction
from triplex_deploy.training.match import Matched
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import PREPARED_FILE


@pytest.fixture
def nan_encoder(tmp_path: Path) -> Path:
    """An ONNX encoder of uint8 tiles whose features are the roots of negative numbers."""
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    less = numpy_helper.from_array(np.array(300, np.float32), "less")
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "less"], ["negative"]),
        helper.make_node("Sqrt", ["negative"], ["features"]),
    ]
    tiles = helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["batch", 224, 224, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "roots", [tiles], [features], [axes, less])
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "roots.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_encoder_that_gives_nan_ends_prepare(
    backend: str, st_root: Path, nan_encoder: Path, tmp_path: Path
) -> None:
    options = PrepareOptions("st", n_genes=2, tile_encoder=nan_encoder, backend=backend)
    out = tmp_path / "prepared"
    with pytest.raises(BackendError, match=r"features has \d+ values that are NaN .*fp32 on cpu"):
        prepare_dataset(st_root, out, options)
    assert not (out / PREPARED_FILE).exists()
    assert not list(out.rglob("section.json"))


def test_model_that_predicts_nan_is_named_with_the_spot(
    st_root: Path, mean_encoder: Path, tmp_path: Path
) -> None:
    options = PrepareOptions("st", n_genes=2, tile_encoder=mean_encoder)
    prepared = prepare_dataset(st_root, tmp_path / "prepared", options)
    config = replace(VARIANTS["gem"], feature_dim=3, n_genes=2)
    model = model_of(config, 0).eval()
    section = prepared.sections["A1"]
    assert np.isfinite(predict_section(model, section)).all()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(BackendError, match=r"expression has 12 values .* the first is spot 0,"):
        predict_section(model, section)


def test_prediction_with_nan_is_not_scored() -> None:
    expression = np.ones((len(RC), 3), np.float32)
    expression[4, 1] = np.nan
    found = prediction(np.ones((len(RC), 3)))
    matched = Matched(
        labels=np.ones((3, 3)),
        predicted=expression[3:6],
        genes=found.genes,
        level0_xy=np.zeros((3, 2)),
        spot_index=np.array([3, 4, 5]),
        gene_index=np.arange(3),
        transform=None,
        transform_is=None,
    )
    gene = found.genes[1]
    with pytest.raises(OutputError, match=rf"s1: 1 predicted values .* of {gene} at spot 4,"):
        evaluate_prediction(matched, "s1")
