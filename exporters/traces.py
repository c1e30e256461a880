"""Keep traced graphs without their weights, so that a known structure is traced only once.

Tracing takes most of the time of an export and does not depend on the values of the weights, and
neither does what the optimizer does with most graphs (``structure.py``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import ModelProto
from torch import Tensor, nn

from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.regular import open_regular
from triplex_deploy.files.signed import sign_bytes, signed_content
from triplex_deploy.system import cache_folder, installed_versions

logger = logging.getLogger(__name__)

MOST_KEPT: Final = 256
"""Most traces in the folder; older traces are removed."""
_PACKAGES: Final = ("torch", "onnx", "onnxscript", "onnx-ir")
_SOURCES: Final = ("contract", "exporters", "models")
"""Parts of the package that decide how a graph is written."""
_OWN_OF_MODULES: Final = frozenset(vars(nn.Module()))


def trace_folder() -> Path:
    """Return the folder of the traces in the user's cache."""
    return cache_folder() / "traces"


def trace_key(module: nn.Module, spec: GraphSpec) -> str | None:
    """Return 64 hexadecimal digits that are equal for modules of equal structure.

    The digest covers the classes and plain attributes of every part, the names, shapes and types
    of the weights, the tensors of the graph, the source files of this package and the versions of
    the libraries. It is None for a module that holds a tensor outside its parameters and buffers,
    because the trace would contain its values as constants.
    """
    parts = []
    for name, part in module.named_modules(remove_duplicate=False):
        settings = {key: value for key, value in vars(part).items() if key not in _OWN_OF_MODULES}
        if any(isinstance(value, Tensor) for value in settings.values()):
            return None
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        plain = {key: text for key, value in settings.items() if (text := _plain(value))}
        parts.append((name, kind, part.training, plain))
    first_name: dict[int, str] = {}
    weights = [
        (name, str(tensor.dtype), list(tensor.shape), first_name.setdefault(id(tensor), name))
        for name, tensor in tensors_of(module)
    ]
    decisive = {
        "parts": parts,
        "weights": weights,
        "graph": repr(spec),
        "sources": _source_digest(),
        "versions": installed_versions(_PACKAGES),
        "python": platform.python_version(),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read_trace(key: str) -> ModelProto | None:
    """Return the trace of ``key`` without weights, or None if it is missing or damaged."""
    path = _path(key)
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError:
        return None
    trace = signed_content(key, content)
    if trace is None:
        logger.warning("%s: damaged, or not of this installation; the graph is traced again", path)
        path.unlink(missing_ok=True)
        return None
    return onnx.load_model_from_string(trace)


def write_trace(key: str, trace: ModelProto) -> None:
    """Keep ``trace`` under ``key``. A folder that cannot be written is logged and no error."""
    content = trace.SerializeToString()
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(sign_bytes(key, content))
        _remove_oldest(path.parent)
    except (OSError, OutputError) as error:
        logger.info("the trace is not kept: %s", error)


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers with their names, shared ones under each name."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _plain(value: Any) -> str:
    """Return the text of a setting, or only its type if the text holds an address in memory."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


@functools.cache
def _source_digest() -> str:
    """Return the SHA-256 of the source files that decide how a graph is written."""
    root = Path(__file__).parent.parent / "triplex_deploy"
    if not root.is_dir():  # installed: this folder lies in the package
        root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for part in _SOURCES:
        for path in sorted((root / part).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _path(key: str) -> Path:
    return trace_folder() / f"{key}.trace"


def _remove_oldest(folder: Path) -> None:
    """Remove the oldest traces until ``MOST_KEPT`` are left."""
    traces = sorted(folder.glob("*.trace"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in traces[MOST_KEPT:]:
        path.unlink(missing_ok=True)
