"""Slides at URLs: found, copied while they are needed, and removed."""

import builtins
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cohort.stub_model import StubOpener, stub_bundle
from triplex_deploy.cohort import remote
from triplex_deploy.cohort.executor import run_jobs
from triplex_deploy.cohort.inputs import find_slides
from triplex_deploy.cohort.job import Job, Outcome, plan_jobs
from triplex_deploy.cohort.pool import SerialExecutor
from triplex_deploy.cohort.remote import Prefetch, RemoteSlide, discard, fetch, local_copy
from triplex_deploy.cohort.slide_worker import SlideProgram
from triplex_deploy.errors import ConfigError, OutputError, SlideError
from triplex_deploy.files.url import is_url, shown_url, url_file_name
from triplex_deploy.pipeline.options import PredictOptions

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(slides: list[Path]) -> Iterator[str]:
    """A store in memory with the slides s0.png to s3.png."""
    store = fsspec.filesystem("memory")
    for number, slide in enumerate(slides):
        store.pipe(f"/bucket/s{number}.png", slide.read_bytes())
    store.pipe("/bucket/notes.txt", b"no slide")
    yield "memory://bucket/"
    store.rm("/bucket", recursive=True)


def _jobs(arguments: list[str | Path], out: Path, stage: Path) -> list[Job]:
    options = PredictOptions(all_tiles=True, mpp=0.5)
    return plan_jobs(find_slides(arguments), options, out, report=False, stage_dir=stage)


def _run(jobs: list[Job], opening: StubOpener) -> list[Outcome]:
    return list(run_jobs(jobs, stub_bundle(), lambda _: SerialExecutor(SlideProgram(opening))))


def test_slides_of_a_bucket_are_predicted_and_their_copies_removed(
    bucket: str, out: Path, tmp_path: Path, opening: StubOpener
) -> None:
    stage = tmp_path / "scratch"
    jobs = _jobs([bucket], out, stage)
    outcomes = _run(jobs, opening)
    assert [(o.status, o.error) for o in outcomes] == [("done", None)] * 4
    assert sorted(path.name for path in out.glob("*.h5ad")) == [f"s{i}.h5ad" for i in range(4)]
    metadata = outcomes[0].metadata
    assert metadata is not None
    assert metadata["slide_url"].endswith("bucket/s0.png")
    assert "copy slide" in metadata["wall_s"]
    assert not list(stage.rglob("*"))
    again = _run(_jobs([bucket], out, stage), opening)
    assert [outcome.status for outcome in again] == ["skipped"] * 4


def test_a_slide_that_was_replaced_is_predicted_again(
    bucket: str, out: Path, tmp_path: Path, opening: StubOpener
) -> None:
    _run(_jobs([bucket + "s0.png"], out, tmp_path), opening)
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/s0.png", store.cat("/bucket/s1.png") + b" ")
    (outcome,) = _run(_jobs([bucket + "s0.png"], out, tmp_path), opening)
    assert outcome.status == "done"


def test_the_next_slide_is_copied_while_one_is_predicted(
    bucket: str, out: Path, tmp_path: Path, opening: StubOpener
) -> None:
    """Read the copies at hand while each slide runs."""
    jobs = _jobs([bucket], out, tmp_path / "scratch")
    seen: list[list[bool]] = []

    class Watching(SerialExecutor[Job, Outcome]):
        def run(self, jobs_: Any) -> Iterator[Outcome]:
            for outcome in super().run(jobs_):
                following = jobs.index(outcome.job) + 1
                if following < len(jobs):
                    copied = jobs[following].source
                    assert copied is not None
                    _wait(copied.local)
                seen.append([job.slide.exists() for job in jobs])
                yield outcome

    program = SlideProgram(opening)
    assert len(list(run_jobs(jobs, stub_bundle(), lambda _: Watching(program)))) == 4
    assert seen == [[i == n + 1 for i in range(4)] for n in range(4)]


def _wait(path: Path) -> None:
    for _ in range(500):
        if path.exists():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{path} was not copied")


def test_a_slide_that_is_gone_fails_alone(
    bucket: str, out: Path, tmp_path: Path, opening: StubOpener
) -> None:
    jobs = _jobs([bucket + "gone.png", bucket + "s1.png"], out, tmp_path / "scratch")
    gone, there = _run(jobs, opening)
    assert gone.status == "failed"
    assert "gone.png: no such file; check the URL" in (gone.error or "")
    assert there.status == "done"
    assert not list((tmp_path / "scratch").rglob("*"))


def test_warnings_name_the_url_and_not_the_copy(
    bucket: str, out: Path, tmp_path: Path, opening: StubOpener, caplog: pytest.LogCaptureFixture
) -> None:
    (job,) = _jobs([bucket + "s1.png"], out, tmp_path / "scratch")
    spots = tmp_path / "spots.csv"
    spots.write_text("pixel_x,pixel_y\n120,120\n320,120\n120,320\n320,320\n")
    _run([replace(job, options=PredictOptions(spots=spots, mpp=0.5))], opening)
    inferred = [text for text in caplog.messages if "were inferred" in text]
    assert inferred
    assert all(text.startswith("memory://bucket/s1.png: ") for text in inferred)


def test_a_folder_needs_its_slash(bucket: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/below/a.png", b"")
    with pytest.raises(ConfigError, match="below: is a folder; end its URL with /"):
        find_slides([bucket + "below"])


def test_a_slide_list_may_name_urls(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"slide,mpp,output\n{bucket}s2.png,0.25,p/two\n")
    (entry,) = find_slides([tmp_path / "list.csv"])
    assert (entry.output, entry.mpp, entry.url) == ("p/two", 0.25, f"{bucket}s2.png")
    (tmp_path / "list.csv").write_text(f"slide\n{bucket}\n")
    with pytest.raises(ConfigError, match=r"line 2.*4 slides; name one per row"):
        find_slides([tmp_path / "list.csv"])


def test_patterns_choose_slides(bucket: str) -> None:
    assert [entry.output for entry in find_slides([bucket + "s[12].png", bucket + "s*"])] == [
        "s1",
        "s2",
        "s0",
        "s3",
    ]
    with pytest.raises(ConfigError, match="no slides there"):
        find_slides([bucket + "*.svs"])


def test_slides_of_a_web_server_are_predicted(
    slides: list[Path], out: Path, tmp_path: Path, opening: StubOpener
) -> None:
    pytest.importorskip("aiohttp")
    web = tmp_path / "web"
    web.mkdir()
    (web / "a.png").write_bytes(slides[0].read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(web)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/a.png?token=secret"
        (job,) = _jobs([url], out, tmp_path / "scratch")
        (outcome,) = _run([job], opening)
    finally:
        server.shutdown()
        server.server_close()
    assert (outcome.status, outcome.error) == ("done", None)
    assert outcome.metadata is not None
    assert "secret" not in str(outcome.metadata)
    assert "secret" not in job.key
    assert job.h5ad_path.name == "a.h5ad"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nothing://host/a.svs", "cannot be used"),
        ("memory://bucket/a.mrxs", "several files"),
        ("memory://bucket/a.dcm", "several files"),
    ],
)
def test_urls_that_cannot_be_used_are_one_error(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        find_slides([url])


def test_without_fsspec_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("fsspec"):
            raise ModuleNotFoundError("No module named 'fsspec'", name="fsspec")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"fsspec; run .*\[remote\]"):
        find_slides(["s3://bucket/a.svs"])


def test_a_copy_that_is_cut_short_is_not_used(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = local_copy(bucket + "s0.png", "", tmp_path / "copies", 0)
    monkeypatch.setattr(remote, "_pieces", lambda *_: iter([b"half"]))
    with pytest.raises(SlideError, match=r"4 of .* bytes arrived"):
        fetch(source)
    assert not source.local.exists()
    discard(source)
    assert not (tmp_path / "copies").exists()


def test_a_folder_that_others_may_write_to_is_refused(bucket: str, tmp_path: Path) -> None:
    source = local_copy(bucket + "s0.png", "", tmp_path / "copies", 0)
    source.local.parent.mkdir(parents=True)
    source.local.parent.chmod(0o777)
    with pytest.raises(OutputError, match="choose another --stage-dir"):
        fetch(source)


def test_copying_ahead_stops_when_the_run_does(bucket: str, tmp_path: Path) -> None:
    sources = [local_copy(f"{bucket}s{i}.png", "", tmp_path / "copies", i) for i in range(3)]
    with Prefetch(sources) as prefetch:
        prefetch.started(None)
        prefetch.started(sources[0])
    assert not (tmp_path / "copies").exists()


def test_a_stopped_copy_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    source = local_copy(bucket + "s0.png", "", tmp_path / "copies", 0)
    stop = threading.Event()
    stop.set()
    with pytest.raises(SlideError, match="stopped"):
        fetch(source, stop)
    assert not list(source.local.parent.glob("*"))


def test_urls_are_known_and_secrets_not_shown() -> None:
    assert is_url("s3://bucket/a.svs")
    assert is_url("HTTPS://host/a.svs")
    assert not any(map(is_url, ("C:/a.svs", "a.svs", "/data/s3:/a.svs", "s3:/a.svs")))
    assert shown_url("https://me:pw@host:1/d/a.svs?sig=1#x") == "https://host:1/d/a.svs"
    assert url_file_name("https://host/d/a%20b.svs?x=/c.svs") == "a b.svs"
    assert url_file_name("https://host/d/..%2f..") == ""
    assert url_file_name("s3://bucket/odd name #1?%20.svs") == "odd name #1?%20.svs"
    assert url_file_name("s3://bucket/a.svs?versionId=7") == "a.svs"
    assert shown_url("s3://key:secret@bucket/a#b.svs") == "s3://bucket/a#b.svs"
    assert RemoteSlide("s3://k:s@b/a.svs", "", Path("a")).name == "s3://b/a.svs"
