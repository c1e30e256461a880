"""A slide that is replaced just before it is opened leaves a result that is not trusted later."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cohort.stub_model import StubOpener, job_of, write_slide
from triplex_deploy.cohort import run_job as run_job_module
from triplex_deploy.cohort.run_job import run_job
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.progress import Silent


def test_a_result_of_a_replaced_slide_is_predicted_again_for_the_first_slide(
    opening: StubOpener,
    slides: list[Path],
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, stub = job_of(slides[0], out), opening.open()
    first = shutil.copy2(slides[0], tmp_path / "first.png")
    other = write_slide(tmp_path / "other.png", 200)

    def replaced_first(path: Path, *arguments: Any) -> Any:
        other.replace(path)
        return predict_slide(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_job_module, "predict_slide", replaced_first)
        assert run_job(job, stub, Silent()).status == "done"
    assert json.loads(job.metadata_path.read_text(encoding="utf-8"))["resume_key"] is None
    Path(first).replace(job.slide)
    assert run_job(job, stub, Silent()).status == "done"
    assert run_job(job, stub, Silent()).status == "skipped"
