"""Feed files whose numbers once decided how much was allocated or read."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.field.attacks.common import COORDINATE, attack, prepare_visium, zip_bomb
from tests.field.child import (
    Outcome,
    Verdict,
    both,
    check,
    refused,
    well_ended,
)
from tests.field.kit import (
    Kit,
    patch_tag,
    write_tiff,
)


@attack("A6", "checkpoint whose tensors claim more values than their storage holds")
def _a6(kit: Kit) -> Verdict:
    import torch

    path = kit.copy("checkpoint.ckpt")
    content = torch.load(path, weights_only=True)
    state = content[next(k for k, v in content.items() if isinstance(v, dict) and _tensors(v))]
    for name, tensor in list(state.items()):
        if hasattr(tensor, "expand") and tensor.ndim == 1:
            state[name] = torch.zeros(1).expand(tensor.shape)
    torch.save(content, path)
    return refused(kit.run("export", path, "--out", kit.folder / "bundle"))


def _tensors(values: dict[Any, Any]) -> bool:
    return any(hasattr(value, "expand") for value in values.values())


@attack("A7", "checkpoint whose pickle inflates to gigabytes")
def _a7(kit: Kit) -> Verdict:
    path = kit.folder / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb/data.pkl", "w", force_zip64=True) as stream:
            stream.write(b"\x80\x02X" + (1_500_000_000).to_bytes(4, "little"))
            for _ in range(1500):
                stream.write(b"a" * 1_000_000)
            stream.write(b".")
        archive.writestr("bomb/version", "3\n")
    return refused(kit.run("export", path, "--out", kit.folder / "bundle"), peak_gb=1.2)


@attack("A9", "manifest of 20,000 genes")
def _a9(kit: Kit) -> Verdict:
    def change(content: dict[str, Any], root: Path) -> None:
        content["genes"] = [f"G{i}" for i in range(20000)]
        content["config"]["n_genes"] = 20000

    bundle = kit.altered_bundle(change)
    outcome = kit.predict(kit.small(), "--all-tiles", bundle=bundle)
    verdict = refused(outcome)
    return both(verdict, check(outcome.seconds < 8, f"{outcome.seconds:.0f} s; {outcome}"))


def _kernel(kit: Kit, size: int) -> Outcome:
    def change(content: dict[str, Any], root: Path) -> None:
        content["config"]["apeg_kernel"] = size
        for entry in content["graphs"]:
            for tensor in entry["inputs"]:
                if tensor["name"] == "apeg_index":
                    tensor["axes"] = ["n", size * size] if len(tensor["axes"]) == 2 else []
                    tensor["axes"][0] = "spots"

    try:
        bundle = kit.altered_bundle(change)
    except ValueError:  # refused already by the schema
        bundle = kit.bundle
    return kit.predict(kit.small(), "--all-tiles", bundle=bundle)


@attack("A10", "apeg_kernel 301 and 5 against a graph of another kernel")
def _a10(kit: Kit) -> Verdict:
    verdicts = []
    for size in (301, 5):
        shutil.rmtree(kit.folder / "bundle", ignore_errors=True)
        outcome = _kernel(kit, size)
        verdicts.append(refused(outcome))
        verdicts.append(check("batch-size" not in outcome.err, str(outcome)))
    return both(*verdicts)


@attack("A11", "apeg_kernel 3001")
def _a11(kit: Kit) -> Verdict:
    return refused(_kernel(kit, 3001))


@attack("A13", "manifest of 200,000 brackets; a number of 100,000 digits")
def _a13(kit: Kit) -> Verdict:
    bundle = kit.copy("bundle")
    verdicts = []
    for text in ("[" * 200_000, '{"schema_version": ' + "9" * 100_000 + "}"):
        (bundle / "manifest.json").write_text(text)
        verdicts.append(refused(kit.predict(kit.small(), bundle=bundle), "manifest.json"))
    return both(*verdicts)


@attack("H3", "h5ad whose shape is far beyond its data")
def _h3(kit: Kit) -> Verdict:
    import anndata
    import h5py

    path = kit.folder / "wide.h5ad"
    anndata.AnnData(np.zeros((3, 4), np.float32)).write_h5ad(path)
    verdicts = []
    for shape in ((1000, 10**9), (98, 10**8), (60000, 60000)):
        with h5py.File(path, "r+") as file:
            del file["X"]
            file.create_dataset("X", shape, "f4", chunks=(1, 1024))
            file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        verdicts.append(refused(kit.evaluate(path), path.name))
        verdicts.append(refused(kit.run("convert", path, "--to", "csv"), path.name))
    return both(*verdicts)


@attack("H4", "Space Ranger h5 with 4 * 10^9 values")
def _h4(kit: Kit) -> Verdict:
    import h5py

    outs = kit.space_ranger()
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "r+") as file:
        for name in ("data", "indices"):
            del file["matrix"][name]
            file["matrix"].create_dataset(name, (4 * 10**9,), "i4", chunks=(1024,))
    return refused(prepare_visium(kit), "filtered_feature_bc_matrix")


@attack("H5", "matrix.mtx that announces 2 * 10^9 entries; an array of 10^10")
def _h5(kit: Kit) -> Verdict:
    verdicts = []
    for text in (
        COORDINATE + b"12 20 2000000000\n1 1 1\n",
        b"%%MatrixMarket matrix array integer general\n100000 100000\n1\n",
    ):
        shutil.rmtree(kit.folder / "visium", ignore_errors=True)
        kit.mtx(text)
        verdicts.append(refused(prepare_visium(kit), "matrix.mtx"))
    return both(*verdicts)


@attack("H6", "matrix.mtx of 2 * 10^9 rows and columns")
def _h6(kit: Kit) -> Verdict:
    kit.mtx(COORDINATE + b"2000000000 2000000000 1\n1 1 1\n")
    outcome = prepare_visium(kit)
    return both(refused(outcome, peak_gb=2), check(outcome.seconds < 15, str(outcome)))


@attack("H7", "matrix.mtx of 10^20 rows")
def _h7(kit: Kit) -> Verdict:
    kit.mtx(COORDINATE + b"99999999999999999999 20 1\n1 1 1\n")
    return refused(prepare_visium(kit))


@attack("H9", "features.tsv.gz that inflates to 3 GB")
def _h9(kit: Kit) -> Verdict:
    outs = kit.mtx(COORDINATE + b"12 20 1\n1 1 1\n")
    folder = outs / "filtered_feature_bc_matrix"
    (folder / "features.tsv").unlink()
    zip_bomb(folder / "features.tsv.gz", b"E1\tG1\tGene Expression\n", 3000)
    outcome = prepare_visium(kit)
    return both(refused(outcome, peak_gb=2), check(outcome.seconds < 30, str(outcome)))


def _alias_bomb(depth: int) -> str:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join([*lines, f"embedding_dim: *a{depth - 1}"]) + "\n"


def _train_settings(kit: Kit, depth: int) -> Verdict:
    path = kit.folder / "settings.yaml"
    path.write_text(_alias_bomb(depth))
    outcome = kit.run("train", kit.demo / "prepared", "--config", path, "--out", kit.folder / "run")
    return both(
        refused(outcome, peak_gb=1.5),
        check(len(outcome.err) < 3000 and outcome.seconds < 20, f"{len(outcome.err)} characters"),
    )


@attack("Y2", "YAML aliases that expand to 10^7 elements")
def _y2(kit: Kit) -> Verdict:
    return _train_settings(kit, 7)


@attack("Y3", "YAML aliases that expand to 10^9 elements")
def _y3(kit: Kit) -> Verdict:
    return _train_settings(kit, 9)


@attack("B1", "spots.csv.gz that inflates to 2 GB")
def _b1(kit: Kit) -> Verdict:
    path = kit.folder / "spots.csv.gz"
    line = b"300,300\n"
    zip_bomb(path, line, 2000)
    outcome = kit.predict(kit.small(), "--spots", path)
    return both(refused(outcome, peak_gb=2.5), check(outcome.seconds < 45, str(outcome)))


def _ome(kit: Kit, planes: int) -> Verdict:
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="448" '
        f'SizeY="448" SizeC="3" SizeZ="{planes}" SizeT="1" PhysicalSizeX="0.89" '
        'PhysicalSizeY="0.89"><Channel ID="C:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image>'
        "</OME>"
    )
    path = kit.folder / "x.ome.tif"
    write_tiff(path, kit.pixels()[900:1348, 900:1348], description=xml)
    outcome = kit.predict(path, "--all-tiles", limit_s=40)
    return both(refused(outcome, peak_gb=2), check(outcome.seconds < 20, str(outcome)))


@attack("B2", "OME-TIFF of 10^9 planes")
def _b2(kit: Kit) -> Verdict:
    return _ome(kit, 10**9)


@attack("B3", "OME-TIFF of 10^12 planes")
def _b3(kit: Kit) -> Verdict:
    return _ome(kit, 10**12)


@attack("B5", "TIFF of one strip of 30,000 x 30,000")
def _b5(kit: Kit) -> Verdict:
    path = kit.folder / "strip.tif"
    image = np.broadcast_to(np.uint8(255), (30_000, 30_000, 3))
    write_tiff(path, image, tile=None, rowsperstrip=30_000, compression="zlib")
    return well_ended(kit.predict(path, limit_s=90), peak_gb=5)


@attack("B7", "sparse TIFF of 10^6 x 10^6")
def _b7(kit: Kit) -> Verdict:
    path = write_tiff(kit.folder / "sparse.tif", kit.pixels()[:512, :512], tile=(512, 512))
    for tag in (256, 257):
        patch_tag(path, tag, 10**6)
    return refused(kit.predict(path, "--all-tiles", limit_s=40), "sparse.tif")


@attack("B8", "PNG of 31,600 x 31,600")
def _b8(kit: Kit) -> Verdict:
    from PIL import Image

    Image.new("RGB", (31_600, 31_600), "white").save(kit.folder / "big.png")
    return well_ended(kit.predict(kit.folder / "big.png", "--mpp", 0.5, limit_s=150), peak_gb=8)


def _tiles(kit: Kit) -> Path:
    return write_tiff(kit.folder / "b.tif", kit.pixels()[900:1348, 900:1348])


@attack("F1", "TIFF whose tile size is gigabytes")
def _f1(kit: Kit) -> Verdict:
    verdicts = []
    for tag in (322, 323):
        path = _tiles(kit)
        patch_tag(path, tag, 1 << 30)
        verdicts.append(refused(kit.predict(path, "--all-tiles"), "b.tif"))
    return both(*verdicts)
