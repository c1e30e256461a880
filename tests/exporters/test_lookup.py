"""Graphs that look up training spots are compared without ties and without order."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.variants import BASELINES, model_of
from triplex_deploy.contract import graph_specs
from triplex_deploy.exporters.lookup import without_ties
from triplex_deploy.models.bleep import Bleep, RetrievedMean
from triplex_deploy.runtime.gates import in_one_order

BLEEP = BASELINES["bleep"]
HEAD = graph_specs(BLEEP)["fusion_head"]


def bleep_with(bank: np.ndarray, places: int) -> Bleep:
    model = model_of(BLEEP, seed=0)
    assert isinstance(model, Bleep)
    rows = torch.from_numpy(bank.astype(np.float32))
    model.config = replace(model.config, n_retrieved=places, bank_size=len(bank))
    model.retrieval = RetrievedMean(rows, torch.rand(len(bank), 5), places)
    return model


def test_spot_whose_last_place_is_a_tie_is_not_without_ties() -> None:
    """The bank holds unit vectors, so the scores are the numbers of the query."""
    model = bleep_with(np.eye(32)[:4], places=2)
    queries = np.zeros((3, 1, 32), np.float32)
    queries[:, 0, :4] = [(3, 2, 1, 0), (3, 2, 2 - 1e-6, 0), (2, 2, 1, 0)]
    np.testing.assert_array_equal(
        without_ties(model, HEAD, {"target_tokens": queries}), [True, False, True]
    )


def test_bank_that_is_taken_whole_leaves_nothing_to_rounding() -> None:
    model = bleep_with(np.eye(32)[:4], places=4)
    queries = np.ones((2, 1, 32), np.float32)
    assert without_ties(model, HEAD, {"target_tokens": queries}).all()


@pytest.mark.parametrize(
    ("variant", "graph"), [("bleep", "target_encoder"), ("egn", "fusion_head")]
)
def test_graph_that_looks_nothing_up_has_no_ties(variant: str, graph: str) -> None:
    model = model_of(BASELINES[variant], seed=0)
    spec = graph_specs(BASELINES[variant])[graph]
    inputs = {tensor.name: np.zeros((3, 1), np.float32) for tensor in spec.inputs}
    np.testing.assert_array_equal(without_ties(model, spec, inputs), [True, True, True])


def test_exemplars_are_compared_as_sets() -> None:
    values = np.arange(12.0).reshape(1, 3, 4)
    other = values[:, [2, 0, 1]]
    np.testing.assert_array_equal(
        in_one_order("exemplars", values), in_one_order("exemplars", other)
    )
    np.testing.assert_array_equal(in_one_order("target_tokens", other), other)
    another = values.copy()
    another[0, 0] += 0.5
    assert (in_one_order("exemplars", another) != in_one_order("exemplars", values)).any()
