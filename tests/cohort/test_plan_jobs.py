"""Every slide gets an output of its own, and its own spots and scale."""

from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.cohort.inputs import SlideEntry
from triplex_deploy.cohort.job import plan_jobs
from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.options import PredictOptions


def _entry(name: str, **values: Any) -> SlideEntry:
    return SlideEntry(Path(f"{name}.svs"), **{"output": name, "origin": f"{name}.svs", **values})


def test_jobs_have_absolute_paths_and_the_slides_own_values() -> None:
    plain, special = plan_jobs(
        [_entry("a"), _entry("b", output="sub/x", spots=Path("s.csv"), mpp=0.25)],
        PredictOptions(mpp=0.5, genes=("GNAS",)),
        Path("out"),
    )
    assert plain.slide == Path.cwd() / "a.svs"
    assert plain.h5ad_path == Path.cwd() / "out" / "a.h5ad"
    assert (plain.options.mpp, plain.options.spots) == (0.5, None)
    assert special.h5ad_path == Path.cwd() / "out" / "sub" / "x.h5ad"
    assert (special.options.mpp, special.options.spots) == (0.25, Path.cwd() / "s.csv")
    assert special.options.genes == ("GNAS",)


def test_two_slides_of_one_output_are_refused_with_both_places() -> None:
    entries = [_entry("a", origin="m.csv line 2"), _entry("a", origin="m.csv line 7")]
    with pytest.raises(ConfigError, match=r"m.csv line 7: .* a.h5ad of m.csv line 2"):
        plan_jobs(entries, PredictOptions(), Path("out"))


def test_options_that_contradict_a_row_name_it() -> None:
    entries = [_entry("a"), _entry("b", origin="m.csv line 3", spots=Path("s.csv"))]
    with pytest.raises(ConfigError, match=r"m.csv line 3: layout"):
        plan_jobs(entries, PredictOptions(layout="visium"), Path("out"))


def test_hidden_names_of_a_very_long_name_still_fit() -> None:
    (job,) = plan_jobs([_entry("x" * 248)], PredictOptions(), Path("out"))
    assert max(len(path.name) for path in (job.lock_path, job.work_dir)) <= 255
    assert job.lock_path != job.work_dir
