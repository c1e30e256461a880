"""Valid small slides, spots, masks, truth and data sets, and digests of what is read of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.field.kit import write_space_ranger
from tests.vendor_outputs import write_slide as write_picture
from tests.vendor_outputs import write_visium_hd, write_xenium
from triplex_deploy.demo.slide import synthesize_slide

SIDE_PX = 500
MPP = 0.5


def digest(*values: Any) -> str:
    """Return a digest of arrays and plain values."""
    result = hashlib.sha256()
    for value in values:
        if hasattr(value, "toarray"):
            value = value.toarray()
        if isinstance(value, np.ndarray):
            result.update(repr((value.shape, value.dtype.str)).encode())
            result.update(np.ascontiguousarray(value).tobytes() if value.dtype != object else b"")
        else:
            result.update(repr(value).encode(errors="surrogateescape"))
    return result.hexdigest()[:16]


# --- slides ----------------------------------------------------------------------------------


def slide(kind: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, _shared: Path) -> Path:
        from tests.slides.test_slide_contract import write
        from tests.slides.tiled_tiff import write_slide

        if kind == "pyramid":
            synthesize_slide(folder / "slide.tif", SIDE_PX, SIDE_PX, MPP, seed=3)
        elif kind.startswith("svs") or kind.startswith("jpeg 4"):
            write_slide(folder / "slide.tif", kind, sizes=((300, 260), (150, 130)))
        else:
            return write(kind, folder)
        return folder / "slide.tif"

    return make


def read_slide(path: Path) -> str:
    from triplex_deploy import open_slide

    pixels = []
    with open_slide(path) as slide:
        facts = (slide.level_sizes, slide.level_downsamples, slide.mpp)
        for level, (width, height) in enumerate(slide.level_sizes):
            shown = min(width, 600), min(height, 600)
            pixels.append(slide.read(level, 0, 0, *shown))
            pixels.append(slide.read(level, width - 20, height - 20, 40, 40))
    return digest(facts, *pixels)


# --- spots, truth, data sets ----------------------------------------------------------------


def spots(suffix: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, _shared: Path) -> Path:
        path = folder / f"spots{suffix}"
        rows = [(100 + 40.5 * c, 90 + 40.5 * r, c, r) for r in range(4) for c in range(5)]
        if suffix == ".h5ad":
            write_h5ad(path, np.array(rows))
            return path
        separator = "," if ".csv" in suffix else "\t"
        header = separator.join(("pixel_x", "pixel_y", "x", "y", "selected"))
        lines = [header, *(separator.join(map(str, (*row, 1))) for row in rows)]
        text = "\n".join(lines).encode() + b"\n"
        path.write_bytes(gzip.compress(text, mtime=0) if suffix.endswith(".gz") else text)
        return path

    return make


def write_h5ad(path: Path, rows: NDArray[np.float64]) -> None:
    import anndata
    import pandas as pd
    import scipy.sparse

    rng = np.random.default_rng(2)
    names = [f"{int(c)}x{int(r)}" for c, r in rows[:, 2:]]
    obs = {"array_row": rows[:, 3].astype(int), "array_col": rows[:, 2].astype(int), "in_tissue": 1}
    anndata.AnnData(
        X=scipy.sparse.csr_matrix(rng.poisson(2, (len(rows), 6)).astype(np.float32)),
        obs=pd.DataFrame(obs, index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(index=pd.Index([f"G{i}" for i in range(6)], dtype=object)),
        obsm={"spatial": rows[:, :2]},
    ).write_h5ad(path)


def read_spots(path: Path) -> str:
    from triplex_deploy.spots import read_spots

    spots = read_spots(path)
    assert np.isfinite(spots.level0_xy).all()
    return digest(spots.level0_xy, spots.grid_rc)


def truth_tsv(folder: Path, _shared: Path) -> Path:
    path = folder / "truth.tsv.gz"
    rng = np.random.default_rng(4)
    lines = ["\tGNAS\tFASN\tMUC1"]
    for row in range(4):
        for column in range(5):
            counts = rng.poisson(3, 3).tolist()
            lines.append("\t".join((f"{column}x{row}", *map(str, counts))))
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", mtime=0))
    return path


def read_truth(path: Path) -> str:
    from triplex_deploy.data.measured import read_measured

    measured = read_measured(path)
    return digest(measured.genes, measured.grid_rc, measured.values)


def parquet(folder: Path, _shared: Path) -> Path:
    import pandas as pd

    rows, columns = (axis.ravel() for axis in np.mgrid[:4, :5])
    table = {"barcode": [f"AAAC{i}-1" for i in range(20)], "in_tissue": 1}
    table |= {"array_row": rows, "array_col": columns}
    table |= {"pxl_row_in_fullres": 90 + 40.5 * rows, "pxl_col_in_fullres": 100 + 40.5 * columns}
    pd.DataFrame(table).to_parquet(folder / "tissue_positions.parquet")
    return folder / "tissue_positions.parquet"


def mask(folder: Path, _shared: Path) -> Path:
    from PIL import Image

    pixels = np.zeros((60, 70), np.uint8)
    pixels[10:40, 20:60] = 255
    Image.fromarray(pixels).save(folder / "mask.png")
    return folder / "mask.png"


def regions(folder: Path, _shared: Path) -> Path:
    outer, hole = ([[x, y], [600, y], [600, 400], [x, y]] for x, y in ((100, 50), (400, 200)))
    geometry = {"type": "Polygon", "coordinates": [outer, hole]}
    properties = {"objectType": "annotation", "classification": {"name": "Tumor"}}
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    content = {"type": "FeatureCollection", "features": [feature, feature]}
    (folder / "roi.geojson").write_text(json.dumps(content))
    return folder / "roi.geojson"


def read_mask(path: Path) -> str:
    from types import SimpleNamespace

    from triplex_deploy.spots import read_mask

    slide: Any = SimpleNamespace(level_sizes=((700, 600),), scanned_xy=(0, 0))
    return digest(read_mask(path, slide).mask)


def visium_hd(folder: Path, _shared: Path) -> Path:
    write_visium_hd(folder / "hd", side_um=160)
    write_picture(folder / "hd" / "he.tif")
    return folder / "hd"


def xenium(folder: Path, _shared: Path) -> Path:
    write_xenium(folder / "xenium")
    write_picture(folder / "xenium" / "he.tif")
    return folder / "xenium"


def read_pooled(layout: str) -> Callable[[Path], str]:
    def read(path: Path) -> str:
        from triplex_deploy.data import read_dataset
        from triplex_deploy.spots import Pooling

        (section,) = read_dataset(path, layout, pooling=Pooling(50, bin_um=16))
        return digest(section.genes, section.counts, section.grid_rc, section.level0_xy)

    return read


def store(folder: Path, _shared: Path) -> Path:
    from tests.data.test_spatialdata_sections import write_store

    write_store(folder / "stores" / "s.zarr")
    return folder / "stores"


def read_store(path: Path) -> str:
    import dask

    from triplex_deploy.data import SectionEntry, read_dataset
    from triplex_deploy.spots import Pooling

    listed = {"s.zarr": SectionEntry("p", None, 0.5)}
    with dask.config.set(scheduler="synchronous"):  # its threads would not survive a fork
        (section,) = read_dataset(path, "spatialdata", listed, Pooling(50))
    return digest(section.genes, section.counts, section.grid_rc, section.level0_xy)


def space_ranger(mtx: bool) -> Callable[[Path, Path], Path]:
    def make(folder: Path, shared: Path) -> Path:
        outs = write_space_ranger(folder / "s1", shared / "slide.tif", {})
        if mtx:
            (outs / "filtered_feature_bc_matrix.h5").unlink()
            inner = outs / "filtered_feature_bc_matrix"
            inner.mkdir()
            entries = [(g, s, (g * s) % 7 + 1) for g in range(1, 13) for s in range(1, 21, 2)]
            head = f"%%MatrixMarket matrix coordinate integer general\n12 20 {len(entries)}\n"
            body = "".join(f"{g} {s} {n}\n" for g, s, n in entries)
            (inner / "matrix.mtx").write_text(head + body)
            (inner / "barcodes.tsv").write_text("".join(f"AAAC{i}-1\n" for i in range(20)))
            genes = "".join(f"E{i}\tG{i}\tGene Expression\n" for i in range(12))
            (inner / "features.tsv").write_text(genes)
        return folder / "s1"

    return make


def cell_ranger_2(folder: Path, shared: Path) -> Path:
    """Write the matrix in the folder of a genome, packed, with symbols in genes.tsv."""
    given = space_ranger(mtx=True)(folder, shared)
    inner = given / "filtered_feature_bc_matrix"
    genome = given / "filtered_gene_bc_matrices" / "GRCh38"
    genome.mkdir(parents=True)
    for path in sorted(inner.iterdir()):
        name = path.name.replace("features", "genes")
        (genome / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    shutil.rmtree(inner)
    return given


def st(folder: Path, _shared: Path) -> Path:
    from tests.data.conftest import write_st_section

    for name in ("A1", "B1"):
        write_st_section(folder, name[0], name)
    return folder


def hest(folder: Path, shared: Path) -> Path:
    for name in ("st", "wsis", "metadata"):
        (folder / name).mkdir()
    rows = [(100 + 100.0 * c, 90 + 100.0 * r, c, r) for r in range(4) for c in range(4)]
    write_h5ad(folder / "st/T1.h5ad", np.array(rows))
    shutil.copy(shared / "slide.tif", folder / "wsis/T1.tif")
    facts = {"patient": "P1", "pixel_size_um_estimated": 1.0, "pixel_size_um_embedded": 1.0}
    facts |= {"inter_spot_dist": 100.0, "spot_diameter": 55.0, "st_technology": "Visium"}
    (folder / "metadata/T1.json").write_text(json.dumps(facts))
    return folder


def read_dataset(layout: str) -> Callable[[Path], str]:
    def read(path: Path) -> str:
        from triplex_deploy.data.dataset import read_dataset

        values: list[Any] = []
        for section in read_dataset(path, layout):
            values += [section.name, section.patient, section.genes, section.counts]
            values += [section.grid_rc, section.level0_xy, section.slide_mpp]
        return digest(*values)

    return read


def section_list(folder: Path, _shared: Path) -> Path:
    (folder / "patients.csv").write_text("section,patient,mpp\nA1,P1,0.5\nB1,P2,0.5\n")
    return folder / "patients.csv"


def read_section_list(path: Path) -> str:
    from triplex_deploy.data.section_list import read_section_list

    return digest(sorted(read_section_list(path).items()))


def slide_list(folder: Path, _shared: Path) -> Path:
    for name in ("a.tif", "b.tif"):
        (folder / name).touch()
    (folder / "slides.csv").write_text("slide,mpp,output\na.tif,0.5,x\nb.tif,,y\n")
    return folder / "slides.csv"


def read_slide_list(path: Path) -> str:
    from triplex_deploy.cohort.inputs import read_slide_list

    return digest([(str(e.slide), e.output) for e in read_slide_list(path)])
