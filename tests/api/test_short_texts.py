"""Objects show themselves in a line, and options that do not exist are told."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.fake_model import fake_config, fake_model
from triplex_deploy.api.options import checked_options
from triplex_deploy.api.train import TrainedFold
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.spots import Spots

JOB = Job(Path("/scans/slide.svs"), Path("/out/slide.h5ad"), PredictOptions())


def test_options_show_what_differs_from_the_defaults() -> None:
    assert repr(PredictOptions()) == "PredictOptions()"
    options = PredictOptions(genes=("GNAS",), mpp=0.5)
    assert repr(options) == "PredictOptions(mpp=0.5, genes=('GNAS',))"
    spots = Spots(np.zeros((1, 2)), np.zeros((1, 2), np.int64), "file", 100.0)
    assert "spots=" in repr(PredictOptions(spots=spots))


def test_jobs_and_outcomes_are_a_line() -> None:
    assert repr(JOB) == "<Job: /scans/slide.svs into /out/slide.h5ad>"
    done = Outcome(JOB, "done", 1.26, {"spots": 30})
    assert repr(done) == "<slide.svs: done, 30 spots, 1.3 s>"
    failed = Outcome(JOB, "failed", 0.1, error="slide.svs: not a slide")
    assert repr(failed) == "<slide.svs: failed, slide.svs: not a slide, 0.1 s>"


def test_a_failed_slide_has_no_prediction_to_read() -> None:
    with pytest.raises(OutputError, match=r"slide\.svs: has no prediction: not a slide"):
        Outcome(JOB, "failed", 0.1, error="not a slide").read()


def test_models_and_bundles_are_a_line() -> None:
    model = fake_model(fake_config())
    assert repr(model) == "<Model fake-bundle in fp32 on cpu, fake>"
    assert repr(model.bundle) == "<Bundle fake-bundle: TRIPLEX, 6 genes, 0.5 um/px, fp32>"


def test_a_trained_fold_is_a_line() -> None:
    metrics = {"model": {"pcc_m": 0.1234, "mse": 0.5}, "tested_on": ["A1"]}
    fold = TrainedFold(Path("run/fold-0"), metrics)
    assert repr(fold) == "<TrainedFold in run/fold-0: PCC 0.123, MSE 0.5000 on A1>"
    assert fold.checkpoint == Path("run/fold-0/checkpoint.ckpt")


def test_a_fold_without_a_correlation_is_a_line_too() -> None:
    metrics = {"model": {"pcc_m": None, "mse": 0.5}, "tested_on": ["A1", "A2"]}
    assert "PCC undefined, MSE 0.5000 on A1, A2" in repr(TrainedFold(Path("run"), metrics))


@dataclass(frozen=True)
class Some:
    weights: Path | None = None
    n_genes: int = 250


def test_options_are_checked_and_paths_may_be_text() -> None:
    assert checked_options(Some, {"weights": "a.ckpt"}) == Some(Path("a.ckpt"))
    with pytest.raises(ConfigError, match="option n_gene: not known; did you mean n_genes"):
        checked_options(Some, {"n_gene": 3})
    with pytest.raises(ConfigError, match="option zzz: not known; use n_genes, weights"):
        checked_options(Some, {"zzz": 3})
