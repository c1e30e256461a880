"""What a bundle says of the engines to be built from it: ``tensorrt.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import BundleError, ConfigError
from triplex_deploy.runtime.extents import Extent, Extents

SETTINGS: Final = "tensorrt.json"
Compatibility = Literal["none", "same_compute_capability", "ampere_plus"]


class EngineSettings(BaseModel):
    """How every engine of a bundle is built; the graphs themselves hold the precision.

    ``precision`` names the engines, and TF32 in matrix products is allowed for ``tf32`` alone.
    ``version_compatible`` engines run on later TensorRT of the same major version, those of
    ``hardware`` compatibility on other GPUs too, both more slowly. ``refit`` keeps weights
    replaceable. ``workspace_gb`` bounds scratch memory while building; None leaves it to TensorRT.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    precision: str
    profiles: dict[str, tuple[int, int, int]]
    version_compatible: bool = False
    hardware: Compatibility = "none"
    refit: bool = False
    workspace_gb: float | None = None

    @property
    def extents(self) -> Extents:
        return {name: Extent(*lengths) for name, lengths in self.profiles.items()}

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_settings(bundle: Bundle) -> EngineSettings:
    """The engine settings of a verified bundle.

    Raises ``BundleError`` if it was exported without TensorRT graphs or they do not fit them.
    """
    path = bundle.path / SETTINGS
    if SETTINGS not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: has no graphs for TensorRT; "
            "export the checkpoint with --format tensorrt, or use --backend onnxruntime"
        )
    try:
        settings = EngineSettings.model_validate_json(path.read_text(encoding="utf-8"))
        missing = bundle.specs.keys() ^ settings.extents.keys()
    except (OSError, ValidationError, ConfigError) as error:
        first = " ".join(str(error).split())
        raise BundleError(f"{path}: cannot be used ({first}); export the bundle again") from error
    if missing:
        raise BundleError(f"{path}: no profile fits {min(missing)}; export the bundle again")
    return settings


def write_settings(folder: Path, settings: EngineSettings) -> Path:
    path = folder / SETTINGS
    path.write_text(settings.to_json(), encoding="utf-8")
    return path
