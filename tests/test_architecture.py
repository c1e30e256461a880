"""Check which part may import which: the table of docs/architecture.md, enforced on the source."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GROUND = {"errors", "version", "system", "progress", "install", "files"}
"""The ground floor: every part above may import it."""

# part -> the parts above the ground floor that it may import; a part may always import itself
MAY_IMPORT: dict[str, set[str]] = {
    "contract": set(),
    "familiarity": set(),
    "calibration": set(),
    "reliability": set(),
    "bundle": {"contract"},
    "slides": set(),
    "spots": {"slides", "contract"},
    "tiles": {"slides", "spots", "contract"},
    "runtime": {"contract", "bundle"},
    "outputs": {"contract", "reliability"},
    "pipeline": {
        "contract",
        "familiarity",
        "reliability",
        "bundle",
        "slides",
        "spots",
        "tiles",
        "runtime",
        "outputs",
    },
    "models": {"contract", "familiarity", "calibration", "reliability"},
    "expression": set(),
    "data": {"expression", "slides", "spots"},
    "exporters": {
        "models",
        "contract",
        "familiarity",
        "reliability",
        "bundle",
        "tiles",
        "runtime",
    },
}
MAY_IMPORT["cohort"] = MAY_IMPORT["pipeline"] | {"pipeline"}
MAY_IMPORT["bench"] = MAY_IMPORT["cohort"]
MAY_IMPORT["training"] = MAY_IMPORT["pipeline"] - {"bundle"} | {
    "pipeline",
    "models",
    "calibration",
    "exporters",  # prepare runs the frozen encoder as the graph that a bundle would hold
    "data",
    "expression",
}
MAY_IMPORT["study"] = MAY_IMPORT["training"] | {"bundle", "cohort", "exporters", "training"}
MAY_IMPORT["demo"] = MAY_IMPORT["training"] - {"slides", "spots", "tiles"} | {
    "cohort",
    "exporters",
    "training",
}
# the top: the public names, loaded lazily, and the command line (tests/cli/test_help.py)
MAY_IMPORT["api"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["integrations"] = set(MAY_IMPORT) - {"api", "cli"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT)
# within the ground floor: files writes with errors, and signs with a key in a folder of the user;
# the rest stands alone
WITHIN_GROUND: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "system": set(),
    "progress": set(),
    "install": set(),
    "files": {"errors", "system"},
}

# third-party package -> the files and folders that may import it
ONLY_IN = {
    "torch": (
        "triplex_deploy/models",
        "triplex_deploy/training",
        "triplex_deploy/study/parameters.py",
        "triplex_deploy/study/run_cells.py",
        "exporters",
        "triplex_deploy/demo/checkpoint.py",
    ),
    "onnx": ("exporters",),
    "onnxruntime": ("triplex_deploy/runtime/ort_load.py", "exporters/int8.py"),
    "timm": ("exporters/encoder_model.py",),
    "safetensors": ("exporters/encoder_weights.py",),
    "openvino": ("triplex_deploy/runtime/openvino.py",),
    "tensorrt": ("triplex_deploy/runtime/tensorrt/session.py",),
    "pycuda": ("triplex_deploy/runtime/tensorrt/cuda.py",),
    "ray": ("triplex_deploy/cohort/ray_workers.py",),
    "fsspec": ("triplex_deploy/cohort/remote.py",),
    "numcodecs": ("triplex_deploy/slides/zarr_blosc.py",),
    "zarr": ("triplex_deploy/slides/zarr_reader.py", "triplex_deploy/slides/zarr_blosc.py"),
    "openslide": ("triplex_deploy/slides",),
    "tifffile": (
        "triplex_deploy/slides",
        "triplex_deploy/demo/slide.py",
        "triplex_deploy/outputs/ome_tiff.py",
    ),
    "spatialdata": (
        "triplex_deploy/outputs/spatial_data.py",
        "triplex_deploy/outputs/prediction.py",
        "triplex_deploy/spots/spatial_store.py",
        "triplex_deploy/integrations/lazyslide.py",
    ),
    "anndata": (
        "triplex_deploy/files/hdf5.py",
        "triplex_deploy/outputs",
        "triplex_deploy/spots",
        "triplex_deploy/data",
        "triplex_deploy/demo/truth.py",
    ),
    "matplotlib": (
        "triplex_deploy/bench/plots.py",
        "triplex_deploy/outputs/plot.py",
        "triplex_deploy/outputs/prediction.py",
        "triplex_deploy/study/figures.py",
        "triplex_deploy/training",
    ),
    "yaml": ("triplex_deploy/training/options.py",),
    "rich": ("triplex_deploy/cli",),
    "click": ("triplex_deploy/cli",),
}
# within exporters, what must work where torch is absent
TORCH_FREE = (
    "exporters/cost.py",
    "triplex_deploy/runtime/gates.py",
    "exporters/inputs.py",
    "triplex_deploy/runtime/replay.py",
)

COMPILED = {"_kernels", "_pixels"}
"""Native modules, built from ext/ into the part that uses them; they import nothing of ours."""


def _sources() -> dict[str, Path]:
    """Return the source files of the package by dotted module name."""
    package = ROOT / "triplex_deploy"
    files = [p for p in package.glob("**/*.py") if "exporters" not in p.relative_to(package).parts]
    # what goes into a Triton repository runs there, not here
    exporters = [
        path for path in ROOT.glob("exporters/**/*.py") if path.parent.name != "triton_templates"
    ]
    return {
        **{_dotted(path.relative_to(ROOT)): path for path in sorted(files)},
        **{f"triplex_deploy.{_dotted(path.relative_to(ROOT))}": path for path in sorted(exporters)},
    }


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each imported module with the name taken from it, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)


def part_of(module: str) -> str | None:
    """Return the part a dotted module belongs to, None if it is not ours."""
    package, _, rest = module.partition(".")
    if package != "triplex_deploy":
        return None
    return rest.split(".")[0] if rest else "__init__"


def imported_modules(path: Path, known: Collection[str]) -> set[str]:
    """Return the modules of ours that a file imports; a name that is a module counts as one."""
    found = set()
    for module, name in _imports(path):
        if part_of(module) is None:
            continue
        if name in COMPILED:
            continue
        inner = f"{module}.{name}"
        found.add(inner if inner in known else module)
    return found


def circles(imports: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    with_module = {module: set(targets) for module, targets in imports.items()}
    reached = {module: _reachable(module, with_module) for module in with_module}
    groups = {
        tuple(sorted(other for other in reached[module] if module in reached.get(other, ())))
        for module in with_module
        if module in reached[module]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(start: str, imports: Mapping[str, Collection[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(imports.get(start, ()))
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(imports.get(module, ()))
    return seen


def upward_imports(module: str, imported: Collection[str]) -> list[str]:
    """Return the imports of a module that the table does not allow."""
    part = part_of(module)
    assert part is not None
    if part in GROUND:
        allowed = WITHIN_GROUND[part]
    else:
        assert part in MAY_IMPORT, f"{part} is not in the table"
        allowed = GROUND | MAY_IMPORT[part]
    return [name for name in imported if part_of(name) not in {part, *allowed}]


def private_imports(module: str, path: Path) -> list[str]:
    """Return the private names and modules that a file takes from another part."""
    found = []
    for other, name in _imports(path):
        if part_of(other) is None or part_of(other) == part_of(module):
            continue
        names = [*other.split(".")[1:], *([name] if name else [])]
        if any(n.startswith("_") and not n.startswith("__") for n in names):
            found.append(f"{other}.{name}")
    return found


SOURCES = _sources()


@pytest.mark.parametrize("module", SOURCES)
def test_part_imports_only_what_the_table_allows(module: str) -> None:
    imported = imported_modules(SOURCES[module], SOURCES)
    assert upward_imports(module, imported) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({m: imported_modules(path, SOURCES) for m, path in SOURCES.items()}) == []


@pytest.mark.parametrize("module", SOURCES)
def test_no_private_name_crosses_into_another_part(module: str) -> None:
    assert private_imports(module, SOURCES[module]) == []


def test_a_circle_within_functions_is_found(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("def f():\n    from triplex_deploy.spots.b import g\n")
    second.write_text("import triplex_deploy.spots.a\n")
    known = {"triplex_deploy.spots.a": first, "triplex_deploy.spots.b": second}
    imports = {module: imported_modules(path, known) for module, path in known.items()}
    assert circles(imports) == [["triplex_deploy.spots.a", "triplex_deploy.spots.b"]]


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "spots.py"
    path.write_text("def f():\n    from triplex_deploy.pipeline import predict\n")
    imported = imported_modules(path, SOURCES)
    assert upward_imports("triplex_deploy.spots.x", imported) == ["triplex_deploy.pipeline.predict"]
    assert upward_imports("triplex_deploy.system", {"triplex_deploy.errors"}) == [
        "triplex_deploy.errors"
    ]


def test_the_package_root_is_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "tuning.py"
    path.write_text("from triplex_deploy import __version__\n")
    imported = imported_modules(path, SOURCES)
    assert upward_imports("triplex_deploy.pipeline.tuning", imported) == ["triplex_deploy"]


def test_a_private_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("from triplex_deploy.slides.mpp import _check\n")
    assert private_imports("triplex_deploy.pipeline.a", path) == [
        "triplex_deploy.slides.mpp._check"
    ]
    assert private_imports("triplex_deploy.slides.a", path) == []


@pytest.mark.parametrize("path", SOURCES.values(), ids=lambda path: str(path.relative_to(ROOT)))
def test_third_party_package_stays_in_its_place(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    for module, _ in _imports(path):
        allowed = ONLY_IN.get(module.split(".")[0])
        if allowed is not None:
            assert relative.startswith(allowed), f"{relative} imports {module}"
        if relative in TORCH_FREE:
            assert module.split(".")[0] != "torch"


def test_the_places_of_third_party_packages_exist() -> None:
    for places in [*ONLY_IN.values(), TORCH_FREE]:
        for place in places:
            assert (ROOT / place).exists(), place


def test_every_part_is_on_the_page() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1].rstrip("/") for line in page.splitlines() if line.startswith("| `")}
    parts = {part_of(module) for module in SOURCES} - {"__init__"}
    assert parts <= rows


def test_importing_the_public_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, triplex_deploy; "
        "assert triplex_deploy.TriplexError; "
        "print([m for m in ('torch', 'onnxruntime', 'anndata', 'skimage', 'openslide') "
        "if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    import triplex_deploy

    for name in triplex_deploy.__all__:
        assert getattr(triplex_deploy, name) is not None
    with pytest.raises(AttributeError):
        _ = triplex_deploy.no_such_name
