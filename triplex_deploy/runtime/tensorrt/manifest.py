"""Record what an engine was built for, and refuse an engine that does not fit.

A plan is machine code for one type of GPU and one version of TensorRT. It is read only from the
folders of the engine store, only if this installation has signed its manifest, and only after its
checksum and its manifest have been compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from triplex_deploy.bundle import GraphEntry
from triplex_deploy.errors import BackendError
from triplex_deploy.files.regular import open_regular
from triplex_deploy.files.signed import is_signed, signature
from triplex_deploy.runtime.tensorrt.build import Compatibility, EngineSettings

ENGINE_SCHEMA: Final = 1
_SIGNED_AS: Final = "engine"
"""Purpose of the signatures."""


@dataclass(frozen=True)
class Platform:
    """The GPU and the library that an engine depends on."""

    gpu: str
    """The GPU's name."""
    compute_capability: tuple[int, int]
    """Major and minor number: (9, 0) for sm90."""
    tensorrt: str
    """TensorRT's version."""

    def folder(self, precision: str) -> str:
        """Return the folder name ``<gpu>-sm<cc>-trt<version>-<precision>``."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        major, minor = self.compute_capability
        return f"{gpu}-sm{major}{minor}-trt{self.tensorrt}-{precision}"


class EngineManifest(BaseModel):
    """The content of ``<graph>.json`` beside each plan; the field names are its keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    schema_version: int
    graph: str
    gpu: str
    compute_capability: tuple[int, int]
    tensorrt: str
    onnx_sha256: str
    precision: str
    profile: tuple[int, int, int]
    version_compatible: bool
    hardware: Compatibility
    refit: bool
    plan_sha256: str
    build_s: float = 0.0
    built_at: str = ""
    signature: str = ""

    @property
    def platform(self) -> Platform:
        """Return the platform on which the engine was built."""
        return Platform(self.gpu, self.compute_capability, self.tensorrt)

    def to_json(self) -> str:
        """Return the content of ``<graph>.json``."""
        return self.model_dump_json(indent=2) + "\n"

    def signed(self) -> EngineManifest:
        """Return the manifest with the signature of this installation."""
        return self.model_copy(update={"signature": signature(_SIGNED_AS, self._unsigned())})

    @property
    def is_signed(self) -> bool:
        """Return True if this installation has signed it as it is."""
        return is_signed(self.signature, _SIGNED_AS, self._unsigned())

    def _unsigned(self) -> str:
        return self.model_copy(update={"signature": ""}).to_json()


def describe_engine(
    entry: GraphEntry, settings: EngineSettings, platform: Platform, plan_sha256: str
) -> EngineManifest:
    """Return the manifest that an engine of this graph must have on ``platform``."""
    return EngineManifest(
        schema_version=ENGINE_SCHEMA,
        graph=entry.name,
        gpu=platform.gpu,
        compute_capability=platform.compute_capability,
        tensorrt=platform.tensorrt,
        onnx_sha256=entry.sha256,
        precision=entry.precision,
        profile=settings.profiles[entry.name],
        version_compatible=settings.version_compatible,
        hardware=settings.hardware,
        refit=settings.refit,
        plan_sha256=plan_sha256,
    )


def is_own_plan(folder: Path, graph: str) -> bool:
    """Return True if this installation has built the plan of ``graph`` that lies in ``folder``."""
    try:
        return _read_manifest(folder / f"{graph}.json", folder).is_signed
    except BackendError:
        return False


def read_plan(folder: Path, wanted: EngineManifest) -> bytes:
    """Read the plan of ``wanted.graph`` in ``folder``.

    The manifest in the folder must equal ``wanted`` in everything but ``plan_sha256``, which is
    compared with the plan. Raises ``BackendError`` that names the difference: GPU, TensorRT, ONNX
    file, precision, profile, or a plan that is truncated or altered.
    """
    found = _read_manifest(folder / f"{wanted.graph}.json", folder)
    plan = folder / f"{wanted.graph}.plan"
    for difference in _differences(found, wanted):
        raise BackendError(f"{plan}: {difference}; delete {folder} to have it built here")
    try:
        with open_regular(plan) as file:
            content = file.read()
    except OSError as error:
        raise BackendError(
            f"{plan}: cannot be read ({error.strerror}); delete {folder} to have it built again"
        ) from error
    digest = sha256(content).hexdigest()
    if digest != found.plan_sha256:
        raise BackendError(
            f"{plan}: truncated or altered (sha256 {digest[:12]}, its manifest says "
            f"{found.plan_sha256[:12]}); delete {folder} to have it built again"
        )
    return content


def _read_manifest(path: Path, folder: Path) -> EngineManifest:
    try:
        with open_regular(path) as file:
            return EngineManifest.model_validate_json(file.read())
    except (OSError, ValidationError) as error:
        first = " ".join(str(error).split())[:200]
        raise BackendError(
            f"{path}: cannot be read ({first}); delete {folder} to have it built again"
        ) from error


def _differences(found: EngineManifest, wanted: EngineManifest) -> Iterator[str]:
    """Yield a phrase for each difference between ``found`` and ``wanted``."""
    if not _runs_on(found, wanted.platform):
        yield (
            f"built for {found.gpu} (compute capability {_dotted(found)}), "
            f"this is {wanted.gpu} ({_dotted(wanted)})"
        )
    if not _runs_with(found, wanted.tensorrt):
        yield f"built by TensorRT {found.tensorrt}, this is {wanted.tensorrt}"
    if found.onnx_sha256 != wanted.onnx_sha256:
        yield (
            f"built from another ONNX file ({found.onnx_sha256[:12]}, "
            f"the bundle has {wanted.onnx_sha256[:12]})"
        )
    for key in ("schema_version", "graph", "precision", "profile", "refit"):
        if getattr(found, key) != getattr(wanted, key):
            yield f"{key} is {getattr(found, key)}, the bundle asks {getattr(wanted, key)}"


def _runs_on(engine: EngineManifest, here: Platform) -> bool:
    if engine.hardware == "ampere_plus":
        return here.compute_capability >= (8, 0)
    same = engine.compute_capability == here.compute_capability
    if engine.hardware == "same_compute_capability":
        return same
    return same and engine.gpu == here.gpu


def _runs_with(engine: EngineManifest, version: str) -> bool:
    built, here = _version(engine.tensorrt), _version(version)
    if engine.version_compatible:
        return built[:1] == here[:1] and built <= here
    return built == here


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _dotted(engine: EngineManifest) -> str:
    major, minor = engine.compute_capability
    return f"{major}.{minor}"
