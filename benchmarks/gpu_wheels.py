"""List the packages that a GPU machine without a network needs, or download them.

    python benchmarks/gpu_wheels.py                 # the list, with versions
    python benchmarks/gpu_wheels.py --out wheels    # the files, one folder for each Python

A file larger than ``--piece-mb`` is cut into pieces, for places with a limit on size; ``join.sh``
joins them. pycuda and TensorRT's libraries have no wheels: they are listed as sources, which are
built on the machine, with a compiler and CUDA's headers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PYTHONS: Final = ("3.11", "3.12")
REQUIREMENTS: Final = (
    "onnxruntime-gpu[cuda,cudnn]>=1.22",
    "torch>=2.9",
    "onnx>=1.18",
    "onnxscript>=0.5",
    "pytest>=8",
)
"""What the cases of the first run need beside the requirements of triplex-deploy."""
PROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
SOURCES: Final = ("tensorrt>=11", "pycuda>=2025.1")
NEWEST_GLIBC: Final = 34
"""Newest minor version of glibc that a wheel may ask for: that of Ubuntu 22.04 is 2.35."""
JOIN: Final = """#!/bin/sh
# Join the pieces of large wheels beside this file, and remove them.
for first in *.piece000; do
    [ -e "$first" ] || continue
    whole="${first%.piece000}"
    cat "$whole".piece* > "$whole" && rm "$whole".piece*
done
"""


@dataclass(frozen=True)
class Package:
    """A package that pip would install."""

    name: str
    """Its name."""
    version: str
    """Its version."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, help="download into this folder")
    parser.add_argument("--python", action="append", help="3.11 and 3.12 if it is not given")
    parser.add_argument("--piece-mb", type=int, default=1000, help="largest file, in MB")
    arguments = parser.parse_args()
    for python in arguments.python or PYTHONS:
        if arguments.out is None:
            for package in needed(python):
                print(f"{python}\t{package.name}\t{package.version}\twheel")
        else:
            folder = arguments.out / f"cp{python.replace('.', '')}"
            download(python, folder)
            for path in sorted(folder.glob("*.whl")):
                cut(path, arguments.piece_mb * 1_000_000)
            (folder / "join.sh").write_text(JOIN)
    for source in SOURCES:
        print(f"all\t{source}\t\tsource: build it on the machine")


def needed(python: str) -> list[Package]:
    """Return what pip would install from wheels for a version of Python."""
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    said = _pip([*command, *_for(python), "--target", "unused"])
    items = (item["metadata"] for item in json.loads(said)["install"])
    return sorted((Package(item["name"], item["version"]) for item in items), key=lambda p: p.name)


def download(python: str, folder: Path) -> None:
    """Download the wheels for a version of Python."""
    folder.mkdir(parents=True, exist_ok=True)
    _pip(["download", "--quiet", "--dest", str(folder), *_for(python)])


def cut(path: Path, most: int) -> list[Path]:
    """Cut a file of more than ``most`` bytes into pieces; return the files that take its place."""
    if path.stat().st_size <= most:
        return [path]
    pieces: list[Path] = []
    with path.open("rb") as file:
        while chunk := file.read(most):
            piece = path.with_name(f"{path.name}.piece{len(pieces):03}")
            piece.write_bytes(chunk)
            pieces.append(piece)
    path.unlink()
    return pieces


def _for(python: str) -> list[str]:
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, NEWEST_GLIBC + 1))]
    platforms = [f"--platform={tag}_x86_64" for tag in tags]  # a tag does not imply older ones
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*REQUIREMENTS, *project["dependencies"]]
    return ["--python-version", python, "--only-binary=:all:", *platforms, *wanted]


def _pip(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise SystemExit(f"error: pip: {last}; check the network and pip's index")
    return ended.stdout


if __name__ == "__main__":
    main()
