"""Find the test files that need PyTorch or ONNX: read their imports, import nothing."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = frozenset(("torch", "torchvision", "lightning_fabric", "onnx", "onnxscript", "onnx_ir"))
"""What an installation for ``make quick`` lacks."""
EXPORTED = frozenset(("demo_export", "tiny_checkpoint"))
"""The fixtures of ``conftest.py`` on which all checkpoints and bundles depend."""


@functools.cache
def needs_torch(path: Path) -> bool:
    """Return whether a test file, or a folder's ``conftest.py``, imports these libraries.

    Imports inside its functions count. Those inside the functions of other files do not, because
    the test may not call them: mark such a test with ``pytest.mark.torch``.
    """
    if path.is_dir():
        return (path / "conftest.py").is_file() and needs_torch(path / "conftest.py")
    tree = ast.parse(path.read_bytes())
    return any(_reaches(name) for name in _imported(ast.walk(tree)))


def _reaches(module: str) -> bool:
    """Return whether importing ``module`` imports these libraries."""
    return module.partition(".")[0] in LIBRARIES or bool(_closure(module) & LIBRARIES)


@functools.cache
def _closure(module: str) -> frozenset[str]:
    """Return the libraries among ``LIBRARIES`` that the import of ``module`` imports."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for part in _with_parents(name):
            if part not in seen:
                seen.add(part)
                waiting += _imports_of(part)
    return frozenset(name.partition(".")[0] for name in seen) & LIBRARIES


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])


@functools.cache
def _imports_of(module: str) -> tuple[str, ...]:
    """Return what a module of this project imports when it is imported; nothing of others."""
    base = ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return tuple(_imported(_outside_functions(ast.parse(path.read_bytes()))))
    return ()


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run on import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _outside_functions(node)


def _imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the modules that these nodes import, and the names in them, which may be modules."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
