"""Write and read the JSON file beside a prediction: the metadata of its run, and its summary.

The summary lets an index be written without opening an h5ad. It counts only with an h5ad of the
recorded digest.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from triplex_deploy.errors import OutputError
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.regular import open_regular
from triplex_deploy.files.strict_json import to_strict_json
from triplex_deploy.outputs.cautions import in_short
from triplex_deploy.outputs.slide_summary import GENES_KEPT, GeneSummary, SlideSummary

H5AD_DIGEST: Final = "h5ad_sha256"
"""Key of the SHA-256 of the h5ad."""
SUMMARY: Final = "summary"
"""Key of the slide's summary; it is not part of the metadata of the run."""
MAX_BYTES: Final = 1 << 24
"""Largest JSON file that is read."""
_MAX_PICTURE: Final = 1 << 18
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def sidecar_path(h5ad_path: Path) -> Path:
    """Return the path of the JSON file beside an h5ad."""
    return h5ad_path.with_name(f"{h5ad_path.stem}.json")


def sidecar_text(metadata: Mapping[str, Any], summary: SlideSummary | None) -> str:
    """Return the content of the JSON file; the summary is one line at its end.

    Args:
        metadata: Metadata of the run, with ``h5ad_sha256``.
        summary: The summary of the prediction, None to leave it out.

    Raises:
        ContractError: If a value has no JSON form.
    """
    plain = {key: value for key, value in metadata.items() if key != SUMMARY}
    text = to_strict_json(plain, indent=2)
    if summary is not None and plain:
        text = f'{text.removesuffix("}").rstrip()},\n  "{SUMMARY}": {_record_text(summary)}\n}}'
    return text + "\n"


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        OutputError: If it is not a JSON object, or too large.
        OSError: If it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ValueError("too large")
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path.name} is not JSON; predict again") from error
    if not isinstance(found, dict):
        raise OutputError(f"{path.name} holds no metadata; predict again")
    return found


def names_prediction(h5ad_path: Path) -> bool:
    """Return True if the JSON file beside an h5ad records the digest of a prediction."""
    try:
        digest = read_sidecar(sidecar_path(h5ad_path)).get(H5AD_DIGEST)
    except (OutputError, OSError):
        return False
    return isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None


def recorded_summary(h5ad_path: Path, is_checked: bool = False) -> SlideSummary | None:
    """Return the summary in the JSON file beside an h5ad, or None if it cannot be used.

    Args:
        h5ad_path: The prediction.
        is_checked: The caller knows that the h5ad has the recorded digest. Otherwise the file is
            read and its digest compared.

    Returns:
        The summary, or None if there is none, if a value is damaged, or if the h5ad is another.
    """
    try:
        content = read_sidecar(sidecar_path(h5ad_path))
        if SUMMARY not in content:
            return None
        if not is_checked and content.get(H5AD_DIGEST) != sha256_of(h5ad_path):
            return None
        return replace(_from_record(h5ad_path.stem, content[SUMMARY]), caution=in_short(content))
    except (OutputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _record_text(summary: SlideSummary) -> str:
    record = {
        "spots": summary.n_spots,
        "spots_per_s": summary.spots_per_s,
        "seconds": summary.seconds,
        "size_mm": list(summary.size_mm),
        "genes": {gene.name: [gene.mean, gene.moran] for gene in summary.genes},
        "tissue_jpeg": summary.tissue_jpeg,
        "map_jpeg": summary.map_jpeg,
    }
    return to_strict_json(record)


def _from_record(name: str, record: dict[str, Any]) -> SlideSummary:
    """Return the summary; raises ``ValueError`` and the like for a value of another kind."""
    width, height = record["size_mm"]
    genes = record["genes"]
    if len(genes) > GENES_KEPT:
        raise ValueError("too many genes")
    return SlideSummary(
        slide_name=name,
        n_spots=_count(record["spots"]),
        spots_per_s=_number(record["spots_per_s"]),
        seconds=_number(record["seconds"]),
        size_mm=(_length(width), _length(height)),
        genes=tuple(
            GeneSummary(gene, _number(mean), _number(moran))
            for gene, (mean, moran) in genes.items()
        ),
        tissue_jpeg=_picture(record["tissue_jpeg"]),
        map_jpeg=_picture(record["map_jpeg"]),
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a number of spots")
    return value


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def _length(value: object) -> float:
    found = _number(value)
    if found is None or found < 0:
        raise ValueError("not a length")
    return found


def _picture(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_PICTURE or not _BASE64.fullmatch(value):
        raise ValueError("not a picture")
    return value
