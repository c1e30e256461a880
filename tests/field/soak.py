"""Predict many small slides with faults mixed in, in one process, and measure what stays.

    python -m tests.field.soak --slides 500

The model is a fake one of a few lines of NumPy: what is measured is the reading of slides, locks,
results and errors. Every fifth slide is damaged in one of several ways. Memory, open files, threads
and child processes after the last slide are compared with those after the first slides.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.pipeline.fake_model import TILE_MPP, fake_config, fake_model  # noqa: E402
from triplex_deploy.cohort.job import Job  # noqa: E402
from triplex_deploy.cohort.run_job import run_job  # noqa: E402
from triplex_deploy.demo.slide import synthesize_slide  # noqa: E402
from triplex_deploy.pipeline.options import PredictOptions  # noqa: E402
from triplex_deploy.progress import Silent  # noqa: E402

SIDE_PX = 480
WARM_UP = 20
"""Slides before the first measurement: imports, pools and caches are then as large as they get."""
FAULT_EVERY = 5
MAX_GROWTH_MB = 40.0
"""Growth of memory that counts as none: the allocator keeps pages."""


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def _wrong_tag(path: Path) -> None:
    from tests.field.kit import patch_tag

    patch_tag(path, 322, 1 << 30)


def _remove(path: Path) -> None:
    path.unlink()


def _as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _noise(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:400] = os.urandom(300)
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


FAULTS: tuple[Callable[[Path], None], ...] = (_cut, _wrong_tag, _remove, _as_fifo, _noise, _empty)


@dataclass(frozen=True)
class State:
    """What a process holds."""

    memory_mb: float
    """Resident memory."""
    files: int
    """Open file descriptors."""
    threads: int
    """Threads of Python and of libraries."""
    children: int
    """Child processes, zombies included."""


@dataclass(frozen=True)
class Soaked:
    """What a soak found."""

    slides: int
    """Slides in all."""
    done: int
    """Slides that were predicted."""
    failed: int
    """Slides that failed, with one line each."""
    wrong: list[str]
    """What went wrong."""
    before: State
    """After the first slides."""
    after: State
    """After the last slide."""


def state() -> State:
    """Return what this process holds now."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    tasks = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    children = tasks.read_text().split() if tasks.exists() else []
    return State(
        int(facts["VmRSS"].split()[0]) / 1024,
        len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - names only
        int(facts["Threads"]),
        len(children),
    )


def soak(n_slides: int, folder: Path) -> Soaked:
    """Predict ``n_slides`` slides, of which every fifth is damaged, in this process."""
    original = folder / "original.tif"
    synthesize_slide(original, SIDE_PX, SIDE_PX, TILE_MPP, seed=7)
    content = original.read_bytes()
    model = fake_model(fake_config())
    out = folder / "out"
    out.mkdir()
    done = failed = 0
    wrong: list[str] = []
    before = state()
    for number in range(n_slides):
        path = folder / f"s{number}.tif"
        path.write_bytes(content)
        is_damaged = number % FAULT_EVERY == FAULT_EVERY - 1
        if is_damaged:
            FAULTS[number // FAULT_EVERY % len(FAULTS)](path)
        job = Job(path, out / f"s{number}.h5ad", PredictOptions(all_tiles=True), report=False)
        outcome = run_job(job, model, Silent())
        done += outcome.status == "done"
        failed += outcome.status == "failed"
        if outcome.status == "failed" and not is_damaged:
            wrong.append(f"slide {number}: {outcome.error}")
        if outcome.error and "unexpected " in outcome.error:
            wrong.append(f"slide {number}: {outcome.error}")
        for left in (path, *out.iterdir()):
            if left.is_file() or left.is_fifo():
                left.unlink()
        if number + 1 == min(WARM_UP, max(1, n_slides // 2)):
            before = state()
    after = state()
    return Soaked(n_slides, done, failed, wrong + _growth(before, after), before, after)


def _growth(before: State, after: State) -> list[str]:
    grown = []
    if after.memory_mb > before.memory_mb + MAX_GROWTH_MB:
        grown.append(f"memory grew from {before.memory_mb:.0f} to {after.memory_mb:.0f} MB")
    for name in ("files", "threads", "children"):
        if getattr(after, name) > getattr(before, name):
            grown.append(f"{name} grew from {getattr(before, name)} to {getattr(after, name)}")
    return grown


def main(arguments: list[str] | None = None) -> int:
    """Soak, print what was found, and return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Predict many slides in one process.")
    parser.add_argument("--slides", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = soak(given.slides, Path(folder))
    text = json.dumps(asdict(found), indent=1) + "\n"
    sys.stdout.write(text)
    if given.json:
        given.json.write_text(text)
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main())
