"""Which part may import which: the table of docs/architecture.md, enforced on the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# part -> the parts of ours it may import; a part may always import itself
MAY_IMPORT = {
    "errors": set(),
    "contract": {"errors"},
    "bundle": {"contract", "errors"},
    "slides": {"errors"},
    "spots": {"slides", "contract", "errors"},
    "tiles": {"slides", "spots", "contract", "errors"},
    "runtime": {"contract", "bundle", "errors"},
    "outputs": {"contract", "errors"},
    "pipeline": {
        "contract",
        "bundle",
        "slides",
        "spots",
        "tiles",
        "runtime",
        "outputs",
        "errors",
        "triplex_deploy",
    },
    "bench": {
        "contract",
        "bundle",
        "slides",
        "spots",
        "tiles",
        "runtime",
        "outputs",
        "pipeline",
        "errors",
    },
    "models": {"contract", "errors"},
    "expression": {"errors"},
    "data": {"expression", "slides", "spots", "errors"},
    "training": {
        "contract",
        "models",
        "data",
        "slides",
        "spots",
        "tiles",
        "runtime",
        "pipeline",
        "expression",
        "outputs",
        "errors",
    },
    "exporters": {"models", "contract", "bundle", "tiles", "runtime", "errors", "triplex_deploy"},
    "study": {
        "bundle",
        "contract",
        "data",
        "exporters",
        "expression",
        "models",
        "outputs",
        "pipeline",
        "runtime",
        "slides",
        "spots",
        "training",
        "errors",
    },
    "demo": {
        "contract",
        "data",
        "exporters",
        "expression",
        "models",
        "outputs",
        "pipeline",
        "runtime",
        "training",
        "errors",
    },
    "triplex_deploy": set(),  # the package's own __init__ loads its names by string, lazily
}
# cli is not in the table: it may import every part, lazily (tests/cli/test_help.py)

# third-party package -> the files and folders that may import it
ONLY_IN = {
    "torch": (
        "triplex_deploy/models",
        "triplex_deploy/training",
        "triplex_deploy/study/engines.py",
        "triplex_deploy/study/parameters.py",
        "triplex_deploy/study/ray_tasks.py",
        "exporters",
        "triplex_deploy/demo/checkpoint.py",
    ),
    "onnx": ("exporters",),
    "onnxruntime": ("triplex_deploy/runtime/ort.py", "exporters/int8.py"),
    "tensorrt": ("triplex_deploy/runtime/trt.py",),
    "pycuda": ("triplex_deploy/runtime/cuda.py",),
    "ray": ("triplex_deploy/pipeline/many/ray_actors.py", "triplex_deploy/study/ray_tasks.py"),
    "openslide": ("triplex_deploy/slides",),
    "tifffile": (
        "triplex_deploy/slides",
        "triplex_deploy/demo/slide.py",
        "triplex_deploy/outputs/ome_tiff.py",
    ),
    "spatialdata": ("triplex_deploy/outputs/spatial_data.py",),
    "anndata": (
        "triplex_deploy/outputs",
        "triplex_deploy/spots",
        "triplex_deploy/data",
        "triplex_deploy/demo/truth.py",
    ),
    "matplotlib": (
        "triplex_deploy/bench/plots.py",
        "triplex_deploy/study/figures.py",
        "triplex_deploy/training",
    ),
    "yaml": ("triplex_deploy/training/settings.py",),
    "rich": ("triplex_deploy/cli",),
    "click": ("triplex_deploy/cli",),
}
# within exporters, what must work where torch is absent
TORCH_FREE = (
    "exporters/cost.py",
    "exporters/gates.py",
    "exporters/inputs.py",
    "exporters/verify.py",
)


def _sources() -> list[Path]:
    found = [*ROOT.glob("triplex_deploy/**/*.py"), *ROOT.glob("exporters/**/*.py")]
    # what goes into a Triton repository runs there, not here
    return sorted(path for path in found if path.parent.name != "triton_templates")


def _part(module: str) -> str | None:
    """The part a dotted module belongs to, None if it is not ours."""
    names = module.split(".")
    if names[0] == "exporters":
        return "exporters"
    if names[0] != "triplex_deploy":
        return None
    return names[1] if len(names) > 1 else "triplex_deploy"


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module of a file with its nesting: 0 at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nested = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        depth = int(id(node) in nested)
        if isinstance(node, ast.Import):
            yield from ((alias.name, depth) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "triplex_deploy":
                yield from ((f"triplex_deploy.{alias.name}", depth) for alias in node.names)
            else:
                assert node.module is not None
                yield node.module, depth


# the command line may import every part, and the package's face names them for type checkers
LAYERED = [p for p in _sources() if _part(_module(p)) not in ("cli", "triplex_deploy")]


@pytest.mark.parametrize("path", LAYERED, ids=lambda path: str(path.relative_to(ROOT)))
def test_part_imports_only_what_the_table_allows(path: Path) -> None:
    part = _part(_module(path))
    assert part in MAY_IMPORT, f"{part} is not in the table"
    for module, _ in _imports(path):
        other = _part("triplex_deploy" if module.endswith(".__version__") else module)
        if other is not None and other != part:
            assert other in MAY_IMPORT[part], f"{path.name} imports {module}"


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_third_party_package_stays_in_its_place(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    for module, _ in _imports(path):
        allowed = ONLY_IN.get(module.split(".")[0])
        if allowed is not None:
            assert relative.startswith(allowed), f"{relative} imports {module}"
        if relative in TORCH_FREE:
            assert module.split(".")[0] != "torch"


def test_every_part_is_on_the_page() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1].rstrip("/") for line in page.splitlines() if line.startswith("| `")}
    assert set(MAY_IMPORT) - {"triplex_deploy"} <= rows


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
