"""Damage files at random and read them: the long form of ``test_readers.py``.

    python -m tests.fuzz.fuzz --minutes 20 --json fuzz.json

Every mutation has a reader and a seed, so that it can be made again:

    python -m tests.fuzz.fuzz --reader 'slide: svs jpeg' --seed 4711
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tests.fuzz.children import (  # noqa: E402
    Ended,
    call_in_child,
    fork_first_looks,
    start_first_looks,
)
from tests.fuzz.material import shared_material  # noqa: E402
from tests.fuzz.mutations import mutate  # noqa: E402
from tests.fuzz.readers import READERS, Reader, targets_of  # noqa: E402

AS_FOR_USERS = 100
"""A multiple of this is a seed for which programs that look at files first are started anew."""
FAILURES = ("unexpected", "signal", "hang", "memory", "silent")
"""Ends of a mutation that are failures; ``same``, ``other`` and ``refused`` are not."""


@dataclass(frozen=True)
class Tried:
    """One mutation and how reading ended."""

    reader: str
    """Name of the reader."""
    seed: int
    """Seed of the mutation."""
    file: str
    """File that was damaged."""
    damage: str
    """Kind of damage."""
    end: str
    """``same``, ``other``, ``refused`` or one of ``FAILURES``."""
    detail: str
    """Message of the error."""


class Sample:
    """A valid sample of one reader, which is damaged and restored again and again."""

    def __init__(self, reader: Reader, folder: Path, shared: Path) -> None:
        self.reader = reader
        self._folder, self._kept = folder / "sample", folder / "kept"
        self._folder.mkdir(parents=True)
        given = reader.make(self._folder, shared)
        shutil.copytree(self._folder, self._kept)
        self.path = given
        self._files = targets_of(reader, self._folder)
        with _in_folder(self._folder):
            self._read()  # so that children need not import anything
        whole = call_in_child(self._read)
        if whole.kind != "read":
            raise RuntimeError(f"{reader.name}: the valid sample is {whole.kind}: {whole.detail}")
        self._digest = whole.detail

    def _read(self) -> str:
        return self.reader.read(self.path)

    def try_seed(self, seed: int) -> Tried:
        """Damage one file by this seed, read the sample in a child, and restore the file.

        One seed of many starts what looks at a file first as users' commands do.
        """
        (start_first_looks if seed % AS_FOR_USERS == 0 else fork_first_looks)()
        file = self._files[seed % len(self._files)]
        try:
            damage = mutate(file, seed)
            ended = call_in_child(self._read)
        finally:
            shutil.copy(self._kept / file.relative_to(self._folder), file)
        relative = str(file.relative_to(self._folder))
        end = self.judge(damage, ended)
        detail = "" if end in ("same", "other") else ended.detail
        return Tried(self.reader.name, seed, relative, damage, end, detail)

    def judge(self, damage: str, ended: Ended) -> str:
        """Return the end of a mutation, given how reading ended in the child."""
        if ended.kind != "read":
            return ended.kind
        if ended.detail == self._digest:
            return "same"
        must_notice = self.reader.is_sealed and damage != "inside"
        must_notice |= damage == "cut" and self.reader.notices_cuts
        return "silent" if must_notice else "other"


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Return to the working folder of before, whatever a reader does to it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def try_mutations(
    names: Sequence[str],
    first_seed: int,
    shared: Path,
    seconds: float | None = None,
    rounds: int | None = None,
) -> list[Tried]:
    """Try seeds from ``first_seed`` on, each on every reader in turn, until a time or number.

    Args:
        names: Names of the readers.
        first_seed: The first seed.
        shared: Folder of the material.
        seconds: Wall time, in which samples are made, too; None for no limit.
        rounds: Number of seeds; None for no limit.
    """
    tried: list[Tried] = []
    until = None if seconds is None else time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        samples = [
            Sample(READERS[name], Path(folder) / f"r{index}", shared)
            for index, name in enumerate(names)
        ]
        done = 0
        while done == 0 or (
            (rounds is None or done < rounds) and (until is None or time.monotonic() < until)
        ):
            for sample in samples:
                tried.append(sample.try_seed(first_seed + done))
            done += 1
    return tried


def _part(given: tuple[Sequence[str], int, Path, float]) -> list[Tried]:
    return try_mutations(*given)


def main(arguments: list[str] | None = None) -> int:
    """Try mutations, print counts by reader, and return 1 if one fails."""
    given = _parser().parse_args(arguments)
    names = [name for name in READERS if given.reader in name]
    if given.seed is not None:
        tried = try_mutations(names, given.seed, shared_material(), rounds=1)
    elif given.rounds:
        tried = try_mutations(names, given.first_seed, shared_material(), rounds=given.rounds)
    else:
        shared, seconds = shared_material(), 60 * given.minutes
        # A process for each reader imports only what that reader needs, so that it forks fast.
        share = min(seconds, seconds * given.jobs / len(names))
        parts = [((name,), given.first_seed, shared, share) for name in names]
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(given.jobs, maxtasksperchild=1) as pool:
            tried = [one for part in pool.imap(_part, parts) for one in part]
    failures = [one for one in tried if one.end in FAILURES]
    sys.stdout.write(table(tried))
    for one in failures[:200]:
        sys.stdout.write(
            f"{one.end}: {one.reader} --seed {one.seed} ({one.file}, {one.damage}): "
            f"{one.detail[:200]!r}\n"
        )
    if given.json:
        counts = {name: dict(Counter(t.end for t in tried if t.reader == name)) for name in names}
        content = {
            "mutations": len(tried),
            "minutes": given.minutes,
            "counts": counts,
            "failures": [asdict(one) for one in failures],
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(bool(failures))


def table(tried: Sequence[Tried]) -> str:
    """Return the counts by reader as a table."""
    ends = ("same", "other", "refused", *FAILURES)
    lines = [f"{'reader':24}" + "".join(f"{end:>11}" for end in ("tried", *ends))]
    for name in dict.fromkeys(one.reader for one in tried):
        counts = Counter(one.end for one in tried if one.reader == name)
        numbers = (counts.total(), *(counts[end] for end in ends))
        lines.append(f"{name:24}" + "".join(f"{number:11d}" for number in numbers))
    total = Counter(one.end for one in tried)
    numbers = (total.total(), *(total[end] for end in ends))
    lines.append(f"{'all':24}" + "".join(f"{number:11d}" for number in numbers))
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Read damaged files.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--reader", default="", help="only readers with this in their names")
    parser.add_argument("--seed", type=int, help="try this seed alone")
    parser.add_argument("--rounds", type=int, help="mutations of each reader, in place of a time")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write counts and failures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
