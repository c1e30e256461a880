"""Small outputs of Space Ranger 3 (Visium HD) and of Xenium Onboard Analysis, as published."""

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_array

GENES = ("GNAS", "FASN", "MUC1")


def write_slide(path: Path, size_wh: tuple[int, int] = (900, 800)) -> None:
    Image.fromarray(np.full((size_wh[1], size_wh[0], 3), 200, np.uint8)).save(path)


def write_visium_hd(
    root: Path, side_um: int = 400, mpp: float = 0.5, in_tissue: np.ndarray | None = None
) -> csr_array:
    """Write bins of 8 and 16 um over a square of the slide; return the counts of the small ones.

    Args:
        root: Folder of the section.
        side_um: Side of the square, a multiple of 16. It begins at (16, 32) um of the slide.
        mpp: Microns per pixel of the slide.
        in_tissue: Flag of each bin of 8 um, by rows; all are in tissue without it.
    """
    fine = np.random.default_rng(1).poisson(1, (side_um // 8, side_um // 8, len(GENES)))
    coarse = fine.reshape(side_um // 16, 2, side_um // 16, 2, -1).sum(axis=(1, 3))
    for size, counts in ((8, fine), (16, coarse)):
        n = side_um // size
        row, col = (v.ravel() for v in np.mgrid[:n, :n])
        flags = np.ones(n * n, int) if in_tissue is None or size == 16 else in_tissue.astype(int)
        folder = root / f"outs/binned_outputs/square_{size:03d}um"
        (folder / "spatial").mkdir(parents=True)
        codes = [f"s_{size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)]
        pd.DataFrame(
            {
                "barcode": codes,
                "in_tissue": flags,
                "array_row": row,
                "array_col": col,
                "pxl_row_in_fullres": (32 + (row + 0.5) * size) / mpp,
                "pxl_col_in_fullres": (16 + (col + 0.5) * size) / mpp,
            }
        ).to_parquet(folder / "spatial/tissue_positions.parquet")
        scale = {"microns_per_pixel": mpp, "bin_size_um": float(size)}
        (folder / "spatial/scalefactors_json.json").write_text(json.dumps(scale))
        matrix = csr_array(counts.reshape(n * n, -1)[flags == 1])
        names = [code for code, flag in zip(codes, flags, strict=True) if flag]
        _write_matrix(folder / "filtered_feature_bc_matrix.h5", matrix, names)
    return csr_array(fine.reshape(-1, len(GENES)))


def _write_matrix(path: Path, matrix: csr_array, barcodes: list[str]) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, "S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = [len(GENES), len(barcodes)]
        group["features/name"] = group["features/id"] = np.array(GENES, "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * len(GENES), "S")


ALIGNMENT = np.array([[0.0, 2.0, 40.0], [-2.0, 0.0, 2000.0], [0.0, 0.0, 1.0]])
"""The H&E lies turned by 90 degrees, and a pixel of it is 2 pixels of the morphology image."""
PIXEL_UM = 0.25
"""So the H&E has 0.5 um per pixel."""


def write_xenium(root: Path, packed: bool = True, newer: bool = True) -> pd.DataFrame:
    """Write a Xenium output of a region of the H&E; return its transcripts.

    Args:
        root: Folder of the section.
        packed: Write Parquet, else gzipped CSV.
        newer: With ``is_gene``; older outputs tell controls by their names only.
    """
    root.mkdir(parents=True)
    version = {"major_version": 5, "minor_version": 0, "patch_version": 0}
    experiment = {**version, "pixel_size": PIXEL_UM, "analysis_sw_version": "xenium-3.1.0.4"}
    (root / "experiment.xenium").write_text(json.dumps(experiment))
    np.savetxt(root / "he_imagealignment.csv", ALIGNMENT, delimiter=",", fmt="%.6f")
    write_slide(root / "morphology_focus_0000.ome.tif")
    random = np.random.default_rng(2)
    he_px = random.uniform((100, 200), (700, 600), (4000, 2))
    morphology_px = he_px @ ALIGNMENT[:2, :2].T + ALIGNMENT[:2, 2]
    x, y = (morphology_px * PIXEL_UM).T
    names = random.choice([*GENES, "NegControlProbe_00042", "BLANK_0069"], len(x))
    transcripts = pd.DataFrame(
        {
            "transcript_id": np.arange(len(x), dtype=np.uint64),
            "cell_id": "UNASSIGNED",
            "feature_name": names,
            "x_location": x.astype(np.float32),
            "y_location": y.astype(np.float32),
            "z_location": np.float32(12.5),
            "qv": random.choice([12.0, 20.0, 40.0], len(x)).astype(np.float32),
        }
    )
    if newer:
        transcripts["is_gene"] = np.isin(names, GENES)
    cells = pd.DataFrame(
        {"cell_id": [f"c{i}" for i in range(1000)], "x_centroid": x[:1000], "y_centroid": y[:1000]}
    )
    if packed:
        transcripts.to_parquet(root / "transcripts.parquet")
        cells.to_parquet(root / "cells.parquet")
    else:
        for name, table in (("transcripts", transcripts), ("cells", cells)):
            text = table.to_csv(index=False).encode()
            (root / f"{name}.csv.gz").write_bytes(gzip.compress(text))
    return transcripts
