"""Write a synthetic data set in the layout of her2st; its counts follow from its pictures.

Spots are 200 um apart and a tile is 224 px, so that at ``MPP`` the tiles of neighboring spots touch
and neighborhoods share tiles.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.demo.composition import Composition, compose, tissue_share
from triplex_deploy.demo.counts import Counts, draw_counts, patient_factors
from triplex_deploy.demo.growth import grow_section
from triplex_deploy.demo.programs import GENES
from triplex_deploy.demo.slide import write_section
from triplex_deploy.demo.tissue import Section
from triplex_deploy.errors import OutputError

PITCH_UM: Final = 200.0
"""Distance between spots."""
MPP: Final = PITCH_UM / TILE_PX
"""Microns per pixel of the slides."""
MIN_TISSUE: Final = 0.5
"""Minimum fraction of tissue at an array position that is a spot."""
STAINING_SPREAD: Final = 0.08
"""Standard deviation of the logarithm of a patient's staining strength."""

README: Final = """# A synthetic data set

Pictures, spots and counts are all synthetic (triplex-deploy demo). The gene symbols are real, but
their expression is computed from the cells that are drawn under each spot. It tells nothing about
real tissue. The layout is that of her2st, which `triplex-deploy prepare --format st` reads.
"""


@dataclass(frozen=True)
class SectionPlan:
    """A section to make."""

    patient: str
    """Name of the patient."""
    number: int
    """Number of the section, among those of the patient."""
    array_wh: tuple[int, int]
    """Columns and rows of the array of spots."""

    @property
    def name(self) -> str:
        """Name of the section: patient and number."""
        return f"{self.patient}{self.number}"


@dataclass(frozen=True, eq=False)
class MadeSection:
    """A section that was made, with N spots."""

    plan: SectionPlan
    """What was to be made."""
    grid_rc: NDArray[np.int64]
    """(N, 2) rows and columns of the spots in the array."""
    level0_xy: NDArray[np.float64]
    """(N, 2) centers of the spots in level-0 pixels."""
    composition: Composition
    """What is under each spot."""
    counts: Counts
    """Counts of each spot."""


def write_dataset(root: Path, plans: Sequence[SectionPlan], seed: int) -> list[MadeSection]:
    """Write the pictures, counts and spots of sections; equal arguments give equal files.

    Args:
        root: Folder of the data set, with ST-imgs, ST-cnts and ST-spotfiles below.
        plans: The sections.
        seed: Seed of all sections.

    Returns:
        The sections, with what is known about their spots.

    Raises:
        OutputError: If the files cannot be written.
    """
    try:
        for folder in ("ST-cnts", "ST-spotfiles"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "README.md").write_text(README, encoding="utf-8")
        return [_write_section(root, plan, seed) for plan in plans]
    except OSError as error:
        raise OutputError(
            f"{root}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def image_path(root: Path, plan: SectionPlan) -> Path:
    """Return the picture of a section in the data set ``root``."""
    return root / "ST-imgs" / plan.patient / plan.name / f"{plan.name}.tif"


def spots_path(root: Path, plan: SectionPlan) -> Path:
    """Return the spots file of a section in the data set ``root``."""
    return root / "ST-spotfiles" / f"{plan.name}_selection.tsv"


def measure_section(section: Section, plan: SectionPlan, seed: int) -> MadeSection:
    """Find the spots on tissue, measure what is under them, and draw their counts."""
    columns, rows = plan.array_wh
    grid_rc = np.indices((rows, columns)).reshape(2, -1).T.astype(np.int64)
    level0_xy = np.asarray((grid_rc[:, ::-1] + 0.5) * TILE_PX, np.float64)
    on_tissue = tissue_share(section, MPP, level0_xy) >= MIN_TISSUE
    grid_rc, level0_xy = grid_rc[on_tissue], level0_xy[on_tissue]
    composition = compose(section, MPP, level0_xy)
    rng = np.random.default_rng([seed, *plan.name.encode()])
    counts = draw_counts(composition, patient_factors(seed, plan.patient), rng)
    return MadeSection(plan, grid_rc, level0_xy, composition, counts)


def _write_section(root: Path, plan: SectionPlan, seed: int) -> MadeSection:
    grown = _grow(plan, seed)
    image = image_path(root, plan)
    image.parent.mkdir(parents=True, exist_ok=True)
    write_section(grown, image, MPP)
    section = measure_section(grown, plan, seed)
    _write_counts(root / "ST-cnts" / f"{plan.name}.tsv.gz", section)
    _write_spots(spots_path(root, plan), section)
    return section


def _grow(plan: SectionPlan, seed: int) -> Section:
    columns, rows = plan.array_wh
    section_seed = int(np.random.SeedSequence([seed, *plan.name.encode()]).generate_state(1)[0])
    section = grow_section((columns * TILE_PX, rows * TILE_PX), MPP, section_seed)
    rng = np.random.default_rng([seed, 1, *plan.patient.encode()])
    blue, pink = np.exp(rng.normal(0, STAINING_SPREAD, 2)).tolist()
    return replace(section, staining=(blue, pink))


def _write_counts(path: Path, section: MadeSection) -> None:
    lines = ["\t".join(("", *GENES))]
    for (row, column), counts in zip(
        section.grid_rc.tolist(), section.counts.raw.tolist(), strict=True
    ):
        lines.append("\t".join((f"{column}x{row}", *map(str, counts))))
    path.write_bytes(gzip.compress("\n".join((*lines, "")).encode(), mtime=0))


def _write_spots(path: Path, section: MadeSection) -> None:
    lines = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    for (row, column), (x, y) in zip(
        section.grid_rc.tolist(), section.level0_xy.tolist(), strict=True
    ):
        lines.append(f"{column}\t{row}\t{column}\t{row}\t{x:.1f}\t{y:.1f}\t1")
    path.write_text("\n".join((*lines, "")), encoding="utf-8")
