"""The examples for clusters and containers: their syntax, and the commands in them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_command_lines import parse

EXAMPLES = ROOT / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file())
SHELL_OF = {
    "Dockerfile": r"^RUN (?:--mount=\S+\s*)*(.*)$",
    "def": r"^%post\n(.*?)^%runscript",
    "nf": r'"""\n(.*?)"""',
    "sbatch": r"(.*)",
}
"""The shell commands of a file, by its suffix."""
PLACES = (r"\$\{?[\w.]+\}?", r"\{[\w.]+(?::q)?\}")
"""What a file fills in: ``$out``, ``${task.cpus}``, ``{input.slide:q}``."""


def named(pattern: str) -> list[Path]:
    found = [path for path in FILES if path.match(pattern)]
    assert found, f"no example {pattern}"
    return found


def shell_of(path: Path) -> str:
    """Return the shell commands of a file, with its own places filled in."""
    text = path.read_text(encoding="utf-8")
    joined = re.sub(r"\\\n", " ", text)
    suffix = path.name.rpartition(".")[2]
    found = re.findall(
        SHELL_OF[suffix],
        joined,
        re.MULTILINE | re.DOTALL if suffix != "Dockerfile" else re.MULTILINE,
    )
    return "\n".join(found)


@pytest.mark.parametrize(
    "path",
    [
        path
        for pattern in ("*.sbatch", "*.def", "triplex.nf", "*.Dockerfile")
        for path in named(pattern)
    ],
    ids=lambda path: path.name,
)
def test_the_shell_of_an_example_is_valid(path: Path) -> None:
    done = subprocess.run(["bash", "-n"], input=shell_of(path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def commands() -> list[tuple[str, str]]:
    """Return each file with its ``triplex-deploy predict`` lines."""
    found = []
    for path in FILES:
        text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
        found += [(path.name, line) for line in re.findall(r"triplex-deploy predict [^\n]*", text)]
    return found


@pytest.mark.parametrize(("name", "line"), commands())
def test_the_command_of_an_example_parses(name: str, line: str) -> None:
    for place in PLACES:
        line = re.sub(place, "1", line)
    quoted_whole = line.count('"') % 2  # by the file that the command stands in
    words = shlex.split(line.rstrip('"') if quoted_whole else line)
    parse(words[1:])


def test_every_kind_of_cluster_runs_predict() -> None:
    assert {name for name, _ in commands()} >= {"predict.sbatch", "triplex.nf", "Snakefile"}


@pytest.mark.parametrize("path", named("*.Dockerfile"), ids=lambda path: path.name)
def test_a_dockerfile_has_known_instructions(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} <= {"FROM", "RUN", "ENTRYPOINT", "COPY"}
    assert lines[0].startswith("FROM ")
    assert lines[-1].startswith("ENTRYPOINT [")


@pytest.mark.lengthy
def test_snakemake_plans_the_rule(tmp_path: Path) -> None:
    if shutil.which("snakemake") is None:
        pytest.skip("snakemake is not installed")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").touch()
    (tmp_path / "bundle").mkdir()
    command = ["snakemake", "-n", "-s", EXAMPLES / "snakemake" / "Snakefile", "--cores", "2"]
    done = subprocess.run(
        [*map(str, command), "--config", "bundle=bundle"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "predictions/a.h5ad" in done.stdout + done.stderr


@pytest.mark.lengthy
def test_nextflow_reads_the_module(tmp_path: Path) -> None:
    if shutil.which("nextflow") is None:
        pytest.skip("nextflow is not installed")
    slide = tmp_path / "a.svs"
    slide.touch()
    command = ["nextflow", "run", EXAMPLES / "nextflow" / "main.nf", "-preview"]
    done = subprocess.run(
        [*map(str, command), "--slides", str(slide), "--bundle", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
