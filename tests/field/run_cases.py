"""Run every case of a folder of recipes and every scripted row of a list of attacks.

    python -m tests.field.run_cases RECIPES --demo demo-out --data DATA

Each case runs in a folder of its own, each command in a process of its own with limits of time and
memory. The table has a row for each case: what was fed, what was seen, right or wrong. The exit
status is 1 if a case is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.field.attacks import ATTACKS  # noqa: E402
from tests.field.child import INTERRUPTED, Verdict, stop_all  # noqa: E402
from tests.field.kit import Kit  # noqa: E402
from tests.field.recipes import JUDGES, run_recipe  # noqa: E402

NOT_SCRIPTED = {
    "W2": "needs a browser: tests/outputs/test_report_in_browser.py",
    "X1": "needs a reader that is broken on purpose: tests/cohort/test_run_job.py",
}
"""Rows of the list that no function feeds, and why."""


@dataclass(frozen=True)
class Case:
    """A case to run."""

    name: str
    """Name of the recipe or of the row."""
    fed: str
    """What is fed."""
    run: Callable[[Kit], Verdict]
    """Feeds it and judges what comes out."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    """Name of the case."""
    fed: str
    """What was fed."""
    seen: str
    """What was seen."""
    right: bool | None
    """None if the case could not be run here."""
    seconds: float
    """Wall time of the case."""


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print the table, and return the exit status."""
    given = _parser().parse_args(arguments)
    cases = [
        case
        for case in _cases(given.folder)
        if not given.only or any(re.fullmatch(name, case.name) for name in given.only)
    ]
    try:
        with _interrupted_by_signals():
            rows = list(_rows(cases, given))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    n_wrong = sum(row.right is False for row in rows)
    n_right = sum(row.right is True for row in rows)
    sys.stdout.write(f"{n_right} right, {n_wrong} wrong, {len(rows) - n_right - n_wrong} not run\n")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return int(n_wrong > 0)


def _rows(cases: list[Case], given: argparse.Namespace) -> Iterator[Row]:
    """Run the cases, and yield the row of each in order; it is printed at once.

    An interrupt ends the commands of all cases with their children before it is raised.
    """
    pool = ThreadPoolExecutor(given.jobs)
    try:
        for row in pool.map(lambda case: _run(case, given.demo, given.data), cases):
            sys.stdout.write(_line(row))
            sys.stdout.flush()
            yield row
    except BaseException:
        stop_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # waits until the running cases have cleaned up


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on SIGINT, SIGTERM and SIGHUP, even if they were ignored."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run cases from the field.")
    parser.add_argument("folder", type=Path, help="folder of recipes and ATTACKS.md")
    parser.add_argument("--demo", type=Path, required=True, help="a finished demo-out")
    parser.add_argument("--data", type=Path, help="folder with her2st/ and slides/")
    parser.add_argument("--only", nargs="*", help="names of cases, as regular expressions")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at once")
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    return parser


def _cases(folder: Path) -> list[Case]:
    cases = [
        Case(
            path.stem,
            JUDGES[path.stem][0] if path.stem in JUDGES else path.name,
            lambda kit, path=path: run_recipe(path.resolve(), kit),  # type: ignore[misc]
        )
        for path in sorted([*folder.glob("*.sh"), *folder.glob("*.py")])
    ]
    listed = _rows_of(folder / "ATTACKS.md")
    for name in [*listed, *(name for name in ATTACKS if name not in listed)]:
        if name in ATTACKS:
            cases.append(Case(name, *ATTACKS[name]))
        else:
            why = NOT_SCRIPTED.get(name, "no function feeds it yet")
            cases.append(
                Case(name, listed[name][:60], lambda _kit, why=why: Verdict(None, why))  # type: ignore[misc]
            )
    return cases


def _rows_of(path: Path) -> dict[str, str]:
    """Return what each row of the list fed, by the name of the row."""
    if not path.is_file():
        return {}
    found = re.findall(r"^\| ([A-Z]\d+b?) \| (.*?) \|", path.read_text(encoding="utf-8"), re.M)
    return dict(found)


def _run(case: Case, demo: Path, data: Path | None) -> Row:
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"case-{case.name}-"))
    home = folder / "home"
    home.mkdir()
    work = folder / "work"
    work.mkdir()
    folder.chmod(0o755)
    env = {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        kit = Kit(demo.resolve(), work, data.resolve() if data else None, env)
        verdict = case.run(kit)
    except Exception as error:  # noqa: BLE001 - a case that cannot be fed is a row, too
        where = traceback.extract_tb(error.__traceback__)[-1]
        verdict = Verdict(
            False, f"cannot be fed: {type(error).__name__}: {error} ({where.name}:{where.lineno})"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Row(case.name, case.fed, verdict.seen, verdict.right, time.monotonic() - start)


def _line(row: Row) -> str:
    word = {True: "right", False: "WRONG", None: "-"}[row.right]
    seen = " ".join(row.seen.split())
    seen = "".join(c if c.isprintable() else "?" for c in seen)
    return f"{row.name:18} {word:6} {row.seconds:5.0f} s  {row.fed[:70]:70}  {seen[:200]}\n"


if __name__ == "__main__":
    sys.exit(main())
