"""Read, verify and describe a bundle: the directory of ONNX graphs that predicts a slide.

Reading is strict. An unknown schema, a missing or altered file, and a path that leaves the bundle
are refused with a ``BundleError`` that names the file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from triplex_deploy.contract import (
    IMAGE_MEAN,
    IMAGE_STD,
    NEIGHBORHOOD,
    TILE_PX,
    Config,
    GraphSpec,
    config_from_dict,
    graph_specs,
)
from triplex_deploy.contract.precision import Runtime
from triplex_deploy.errors import BundleError, ConfigError
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.escape import control_in, short_repr
from triplex_deploy.files.onnx_external import reaches_outside
from triplex_deploy.files.ours import exists, has_keys, is_ours
from triplex_deploy.files.regular import require_regular_file

SCHEMA_VERSION: Final = 1
MIN_MPP: Final = 0.05
"""Smallest plausible scale of a model, in microns per pixel."""
MAX_MPP: Final = 5.0
"""Largest plausible scale of a model, in microns per pixel."""
MANIFEST: Final = "manifest.json"
ENGINES: Final = "engines"
"""Folder of a bundle in which TensorRT keeps what it built."""
PARITY: Final = "parity.json"
PARITY_INPUTS: Final = "parity_inputs.npz"
MODEL_CARD: Final = "README.md"

Target = Runtime
"""The runtime that a graph file is written for; another runtime may take the file as well."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TensorEntry(_Strict):
    """An input or output of a graph, as the manifest records it."""

    name: str
    """Name of the tensor."""
    dtype: str
    """NumPy's name of the element type."""
    axes: tuple[int | str, ...]
    """Fixed lengths, and names of dynamic axes."""


class GraphEntry(_Strict):
    """One ONNX file of a bundle."""

    name: str
    """Name of the graph."""
    file: str
    """Path of the file in the bundle."""
    sha256: str
    """SHA-256 of the file."""
    precision: str
    """Precision of the graph."""
    opset: int
    """Version of ONNX's operator set."""
    target: Target
    """Runtime that the file is written for."""
    inputs: tuple[TensorEntry, ...]
    """Inputs of the graph."""
    outputs: tuple[TensorEntry, ...]
    """Outputs of the graph."""
    graph_sha256: str | None = None
    """SHA-256 of the file without its properties, so that files of equal graphs and weights have
    equal values; None in bundles of version 0.1."""

    @property
    def content_sha256(self) -> str:
        """SHA-256 that differs for files that compute something else."""
        return self.graph_sha256 or self.sha256

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``graph_sha256`` out if it is None, so that the digest of an old bundle matches."""
        content: dict[str, Any] = serialize(self)
        if self.graph_sha256 is None:
            content.pop("graph_sha256", None)
        return content


class Manifest(_Strict):
    """The content of ``manifest.json``: what a runtime must know of a bundle beside the graphs."""

    schema_version: int
    """Version of this format."""
    config: dict[str, Any]
    """Configuration of the model, see ``contract.config_from_dict``."""
    genes: tuple[str, ...]
    """Names of the predicted genes, in the order of the outputs."""
    tile_px: int
    """Side of a tile in pixels."""
    tile_mpp: float
    """Scale of the tiles in microns per pixel."""
    neighborhood: int
    """Number of tiles along each side of a neighborhood."""
    mean: tuple[float, float, float]
    """Mean that the graphs subtract from RGB in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation that the graphs then divide by."""
    label_transform: dict[str, Any]
    """How counts became the labels that the model predicts."""
    precision: str
    """Precision whose gate the graphs for ONNX Runtime were compared with, end to end."""
    graphs: tuple[GraphEntry, ...]
    """The ONNX files."""
    files: dict[str, str]
    """SHA-256 of each other file, by its path in the bundle."""
    parity_passed: bool
    """Whether every graph passed its parity gate."""
    provenance: dict[str, Any]
    """Where the model comes from, and which software exported it."""
    calibrated: bool | None = None
    """Whether the graphs return calibrated expression; None in bundles of version 0.1, which do
    not."""
    digest: str = ""
    """SHA-256 of the manifest without this field."""

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``calibrated`` out if it is None, so that the digest of an old bundle matches."""
        content: dict[str, Any] = serialize(self)
        if self.calibrated is None:
            content.pop("calibrated", None)
        return content

    def sealed(self) -> Manifest:
        """Return the manifest with its ``digest``, as it is written."""
        return self.model_copy(update={"digest": self.content_digest()})

    def content_digest(self) -> str:
        """Return the SHA-256 of the manifest without its ``digest``."""
        content = self.model_dump(mode="json", exclude={"digest"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the content of ``manifest.json``."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True, repr=False)
class Bundle:
    """A verified bundle."""

    path: Path
    """Its folder."""
    manifest: Manifest
    """Its manifest."""
    config: Config
    """Configuration of its model."""

    def __repr__(self) -> str:
        manifest = self.manifest
        return (
            f"<Bundle {self.path}: {self.config.display_name}, {len(manifest.genes)} genes, "
            f"{manifest.tile_mpp:g} um/px, {manifest.precision}>"
        )

    @cached_property
    def id(self) -> str:
        """Return twelve hexadecimal digits that are equal for equal graphs, genes and scale."""
        manifest = self.manifest
        # A new setting at its default is left out: models that earlier versions exported keep
        # their id if they are exported again.
        unset = self.config.to_dict().keys() - self.config.digest_values().keys()
        content = {
            "config": {key: value for key, value in manifest.config.items() if key not in unset},
            "genes": manifest.genes,
            "tile_mpp": manifest.tile_mpp,
            "graphs": sorted(entry.sha256 for entry in manifest.graphs),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def specs(self) -> dict[str, GraphSpec]:
        """Return the contract of each graph by its name."""
        return graph_specs(self.config)

    def entry(self, graph: str, target: Target) -> GraphEntry:
        """Return the entry of the file of ``graph`` for ``target``.

        Raises:
            BundleError: If there is none; the message names those that there are.
        """
        for entry in self.manifest.graphs:
            if (entry.name, entry.target) == (graph, target):
                return entry
        have = ", ".join(f"{entry.name} for {entry.target}" for entry in self.manifest.graphs)
        raise BundleError(
            f"{self.path}: no {graph} graph for {target}, only {have}; export the checkpoint again"
        )


def read_bundle(path: str | Path) -> Bundle:
    """Read a bundle, and compare the SHA-256 of every file with the manifest.

    Args:
        path: The bundle's folder.

    Returns:
        The verified bundle.

    Raises:
        BundleError: If something is missing, altered or unknown; the message names the file.
    """
    root = Path(path)
    manifest = _read_manifest(root)
    try:
        config = config_from_dict(manifest.config)
    except ConfigError as error:
        raise BundleError(f"{root / MANIFEST}: {error}") from error
    _check_contract(root, manifest, config)
    for entry in manifest.graphs:
        _check_file(root, entry.file, entry.sha256)
        _check_graph_is_whole(root / entry.file)
    for name, digest in manifest.files.items():
        _check_file(root, name, digest)
    return Bundle(root, manifest, config)


def is_bundle(path: Path) -> bool:
    """Return True if a folder holds a bundle, whole or damaged, and not only a ``manifest.json``.

    Raises:
        OutputError: If the folder cannot be entered, or its name is too long.
    """
    return exists(path / MANIFEST) and is_ours(path / MANIFEST, _IS_MANIFEST)


def first_other_file(path: Path) -> str | None:
    """Return a file in a bundle's folder that its manifest does not list, None if there is none.

    A manifest that is damaged lists nothing. Engines that TensorRT built there belong to it.
    """
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        listed = {entry["file"] for entry in content["graphs"]} | set(content["files"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        listed = set()
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    others = (name for name in sorted(found) if name not in listed | {MANIFEST})
    return next((name for name in others if not name.startswith(f"{ENGINES}/")), None)


_IS_MANIFEST: Final = has_keys("schema_version", "config", "tile_px")


def parity_file(target: Target) -> str:
    """Return the name of the parity report of the graphs for ``target``."""
    return PARITY if target == "onnxruntime" else f"{target}_{PARITY}"


def tensor_entries(spec: GraphSpec) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
    """Return a graph's inputs and outputs in the form of the manifest."""
    inputs = tuple(TensorEntry(**asdict(tensor)) for tensor in spec.inputs)
    outputs = tuple(TensorEntry(**asdict(tensor)) for tensor in spec.outputs)
    return inputs, outputs


def _why_no_bundle(root: Path) -> str:
    if not root.exists():
        return "no such folder; check the path of the bundle"
    inside = sorted(root.glob(f"*/{MANIFEST}"))
    remedy = f"pass {inside[0].parent}" if inside else "make one with `triplex-deploy export`"
    return f"not a bundle, because it is not a folder with a {MANIFEST}; {remedy}"


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        if path.exists():
            require_regular_file(path, BundleError, remedy="export the bundle again")
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{root}: {_why_no_bundle(root)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from error
    _check_schema(path, text)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{path}: {where}: {first['msg']}; the manifest was altered, export the bundle again"
        ) from error


def _check_schema(path: Path, text: str) -> None:
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, RecursionError, AttributeError) as error:
        raise BundleError(f"{path}: not a JSON object; export the bundle again") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema version {short_repr(version)}, this release reads {SCHEMA_VERSION}; "
            "export the checkpoint again with this release"
        )


def _check_contract(root: Path, manifest: Manifest, config: Config) -> None:
    path = root / MANIFEST
    _check_constants(path, manifest)
    if len(manifest.genes) != config.n_genes:
        raise BundleError(
            f"{path}: {len(manifest.genes)} genes listed for a model of {config.n_genes}; "
            "export the bundle again"
        )
    specs = graph_specs(config)
    for name in specs.keys() - {entry.name for entry in manifest.graphs}:
        raise BundleError(f"{path}: the {name} graph is missing; export the bundle again")
    for entry in manifest.graphs:
        if entry.name not in specs:
            raise BundleError(f"{path}: unknown graph {entry.name!r}; export the bundle again")
        if (entry.inputs, entry.outputs) != tensor_entries(specs[entry.name]):
            raise BundleError(
                f"{path}: the tensors of {entry.name} differ from the contract of this release; "
                "export the checkpoint again"
            )


def _check_constants(path: Path, manifest: Manifest) -> None:
    """Refuse values that differ from those of this release, which would run with its own."""
    if manifest.digest != manifest.content_digest():
        raise BundleError(f"{path}: altered (it does not match its digest); export it again")
    compiled_in = {
        "tile_px": TILE_PX,
        "neighborhood": NEIGHBORHOOD,
        "mean": IMAGE_MEAN,
        "std": IMAGE_STD,
    }
    for key, value in compiled_in.items():
        if getattr(manifest, key) != value:
            raise BundleError(
                f"{path}: {key} is {getattr(manifest, key)}, this release runs {value}; "
                "export the checkpoint again with this release"
            )
    if not MIN_MPP <= manifest.tile_mpp <= MAX_MPP:
        raise BundleError(
            f"{path}: tile_mpp {manifest.tile_mpp} is not between {MIN_MPP} and {MAX_MPP}; "
            "correct the checkpoint and export it again"
        )
    for what, names in (
        ("gene", list(manifest.genes)),
        ("graph", [f"{entry.name} for {entry.target}" for entry in manifest.graphs]),
    ):
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise BundleError(f"{path}: {what} {repeated[0]} is listed twice; export it again")
    for gene in manifest.genes:
        if not gene or control_in(gene):
            raise BundleError(
                f"{path}: gene {short_repr(gene)} is empty or holds control characters; "
                "correct the checkpoint's genes and export it again"
            )


def _check_file(root: Path, name: str, digest: str) -> None:
    """Refuse a path that leaves the bundle, a missing file and an altered file."""
    relative = PurePosixPath(name)
    path = root / relative
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise BundleError(f"{root / MANIFEST}: {name!r} points outside the bundle; do not use it")
    try:
        if not path.is_file():
            raise BundleError(f"{path}: missing from the bundle; export the bundle again")
        if not path.resolve().is_relative_to(root.resolve()):
            raise BundleError(f"{path}: links outside the bundle; do not use it")
        found = sha256_of(path)
    except ValueError as error:  # a zero byte in the name
        raise BundleError(
            f"{root / MANIFEST}: {short_repr(name)} is not the name of a file; do not use it"
        ) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check it") from error
    if found != digest:
        raise BundleError(
            f"{path}: altered (sha256 {found[:12]}, the manifest says {digest[:12]}); "
            "export the bundle again"
        )


def _check_graph_is_whole(path: Path) -> None:
    """Refuse a graph that reads other files, which neither the manifest nor the id covers."""
    if path.suffix != ".onnx":  # runtimes choose the reader by the name
        raise BundleError(f"{path}: is not named *.onnx; export the bundle again")
    if reaches_outside(path):
        raise BundleError(
            f"{path}: takes values from another file, which the bundle's digests do not cover; "
            "export the bundle again"
        )
