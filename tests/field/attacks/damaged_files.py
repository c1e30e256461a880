"""Feed files that are damaged, no files at all, or named as no file should be."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.field.attacks.common import COORDINATE, attack, prepare_visium
from tests.field.child import (
    Verdict,
    both,
    check,
    done,
    refused,
    well_ended,
)
from tests.field.kit import (
    Kit,
    set_csr,
    write_space_ranger,
    write_tiff,
)


@attack("A14", "gene name with NUL in a manifest")
def _a14(kit: Kit) -> Verdict:
    def change(content: dict[str, Any], root: Path) -> None:
        content["genes"][0] = "GN\0AS"

    return refused(kit.predict(kit.small(), "--all-tiles", bundle=kit.altered_bundle(change)))


def _latin1(kit: Kit, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    target = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.tif"))
    shutil.move(kit.small(), target)
    return target


@attack("N1", "slide whose name is not UTF-8")
def _n1(kit: Kit) -> Verdict:
    return well_ended(kit.predict(_latin1(kit, kit.folder / "in"), "--all-tiles"))


@attack("N2", "folder with such a name among three")
def _n2(kit: Kit) -> Verdict:
    folder = kit.folder / "in"
    _latin1(kit, folder)
    for name in "az":
        shutil.move(kit.small(), folder / f"{name}.tif")
    outcome = kit.run(
        "predict", folder, "--bundle", kit.bundle, "--out", kit.folder / "out", "--all-tiles"
    )
    good = all((kit.folder / f"out/{name}").is_file() for name in ("a.h5ad", "z.h5ad"))
    index = (kit.folder / "out/index.html").is_file()
    right = not outcome.misbehaves and outcome.status in (0, 3) and good and index
    return check(right, f"{outcome}; index {index}")


@attack("H10", "matrix.mtx with a damaged header")
def _h10(kit: Kit) -> Verdict:
    kit.mtx(b"%%LatrixMarket matrix coordinate integer general\n12 20 1\n1 1 1\n")
    return refused(prepare_visium(kit), "matrix.mtx")


@attack("K5", "a result whose metadata are 100,000 brackets, or lack a key")
def _k5(kit: Kit) -> Verdict:
    kit.predict(kit.small(), "--all-tiles")
    path = kit.folder / "out/small.json"
    good = json.loads(path.read_text())
    verdicts = []
    for text in ("[" * 100_000, json.dumps({k: v for k, v in good.items() if "tiles" not in k})):
        path.write_text(text)
        verdicts.append(done(kit.predict(kit.folder / "small.tif", "--all-tiles")))
    return both(*verdicts)


@attack("R7", "slide removed while it is read")
def _r7(kit: Kit) -> Verdict:
    path = kit.folder / "s.tif"
    shutil.copy(kit.demo / "slide.tif", path)
    timer = threading.Timer(2.4, path.unlink)
    timer.start()
    outcome = kit.predict(path, "--batch-size", 4)
    timer.join()
    return well_ended(outcome)


@attack("U6", "triplex-deploy.toml is a FIFO")
def _u6(kit: Kit) -> Verdict:
    os.mkfifo(kit.folder / "triplex-deploy.toml")
    return well_ended(kit.predict(kit.small(), "--all-tiles", limit_s=25))


@attack("U8", "FIFO and device as slides, alone and in a folder")
def _u8(kit: Kit) -> Verdict:
    folder = kit.folder / "in"
    folder.mkdir()
    os.mkfifo(folder / "a.tif")
    (folder / "b.tif").symlink_to("/dev/zero")
    shutil.copy(kit.small(), folder / "c.tif")
    alone = [
        refused(kit.predict(folder / name, "--all-tiles", limit_s=25), name)
        for name in ("a.tif", "b.tif")
    ]
    many = kit.predict(folder, "--all-tiles", limit_s=40)
    good = (kit.folder / "out/c.h5ad").is_file()
    right = good and many.status in (0, 3) and not many.misbehaves
    return both(*alone, check(right, f"folder: {many}; good slide done: {good}"))


@attack("V6", "/dev/zero and a FIFO as --spots and --mask")
def _v6(kit: Kit) -> Verdict:
    os.mkfifo(kit.folder / "fifo")
    return both(
        *(
            refused(kit.predict(kit.small(), option, path, limit_s=25), str(path))
            for option in ("--spots", "--mask")
            for path in ("/dev/zero", kit.folder / "fifo")
        )
    )


def _tiles(kit: Kit) -> Path:
    return write_tiff(kit.folder / "b.tif", kit.pixels()[900:1348, 900:1348])


@attack("F2", "TIFF tags of a wrong type")
def _f2(kit: Kit) -> Verdict:
    import tifffile

    verdicts = []
    for tag, kind in ((256, 2), (258, 5), (277, 2), (282, 3), (322, 2), (339, 12)):
        path = _tiles(kit)
        with tifffile.TiffFile(path) as tiff:
            if tag not in tiff.pages.first.tags:
                continue
            offset = tiff.pages.first.tags[tag].offset
        with path.open("r+b") as stream:
            stream.seek(offset + 2)
            stream.write(kind.to_bytes(2, "little") + (3).to_bytes(4, "little"))
        verdicts.append(well_ended(kit.predict(path, "--all-tiles")))
    return both(*verdicts)


@attack("F3", "DICOM cut behind the pixel tag")
def _f3(kit: Kit) -> Verdict:
    folder = kit.data / "slides/dicom_cmu1_small" if kit.data else None
    if folder is None or not folder.is_dir():
        return Verdict(None, "needs a DICOM slide: pass --data")
    source = sorted(folder.glob("*.dcm"))[0].read_bytes()
    at = source.find(b"\xe0\x7f\x10\x00")
    verdicts = []
    for length in (0, 4, 8, 11):
        shutil.rmtree(kit.folder / "d", ignore_errors=True)
        (kit.folder / "d").mkdir()
        (kit.folder / "d/a.dcm").write_bytes(source[: at + length])
        verdicts.append(refused(kit.predict(kit.folder / "d/a.dcm"), "a.dcm"))
    return both(*verdicts)


@attack("F4", "damaged counts .tsv.gz")
def _f4(kit: Kit) -> Verdict:
    root = kit.sections("A1", "B1")
    path = root / "ST-cnts/A1.tsv.gz"
    good = path.read_bytes()
    verdicts = []
    for place in (0.3, 0.6, 0.9):
        content = bytearray(good)
        start = int(len(content) * place)
        content[start : start + 40] = b"\xff" * 40
        path.write_bytes(content)
        verdicts.append(refused(kit.prepare(root, "--format", "st"), "A1.tsv.gz"))
    path.write_bytes(good[: len(good) // 2])
    return both(*verdicts, refused(kit.evaluate(path), "A1.tsv.gz"))


@attack("F5", "damaged h5ad as spots, truth and prediction")
def _f5(kit: Kit) -> Verdict:
    rng = np.random.default_rng(5)
    good = (kit.demo / "truth.h5ad").read_bytes()
    path = kit.folder / "bad.h5ad"
    verdicts = []
    for _ in range(4):
        content = bytearray(good)
        for start in rng.integers(0, min(len(content), 8000), 40).tolist():
            content[start] ^= 0xFF
        path.write_bytes(content)
        verdicts.append(well_ended(kit.evaluate(path, limit_s=40)))
        verdicts.append(well_ended(kit.predict(kit.demo / "slide.tif", "--spots", path)))
    return both(*verdicts)


@attack("F6", "damaged matrix.mtx")
def _f6(kit: Kit) -> Verdict:
    rng = np.random.default_rng(6)
    body = b"".join(b"%d %d 3\n" % (i % 12 + 1, i % 20 + 1) for i in range(60))
    good = COORDINATE + b"12 20 60\n" + body
    verdicts = []
    for _ in range(6):
        content = bytearray(good)
        for start in rng.integers(0, len(content), 3).tolist():
            content[start] = int(rng.integers(0, 256))
        if rng.random() < 0.5:
            content = content[: int(rng.integers(50, len(content)))]
        shutil.rmtree(kit.folder / "visium", ignore_errors=True)
        kit.mtx(bytes(content))
        verdicts.append(well_ended(prepare_visium(kit)))
    return both(*verdicts)


@attack("F7", "damaged metrics.json of a run")
def _f7(kit: Kit) -> Verdict:
    run = kit.copy("run")
    (path,) = run.rglob("metrics.json")
    good = json.loads(path.read_text())
    verdicts = []
    for text in (
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps(good | {"model": 3}),
        json.dumps({k: v for k, v in good.items() if k != "genes"}),
    ):
        path.write_text(text)
        verdicts.append(refused(kit.run("evaluate", run), "metrics.json"))
    path.write_bytes(b"\xff\xfe{}")
    return both(*verdicts, refused(kit.run("evaluate", run), "metrics.json"))


@attack("F8", "damaged prepared data")
def _f8(kit: Kit) -> Verdict:
    prepared = kit.copy("prepared")
    section = prepared / "sections/A1"
    verdicts = []
    for path in (
        *(section / name for name in ("plan.npz", "measured.npz", "features.npy")),
        prepared / "prepared.json",
    ):
        good = path.read_bytes()
        for content in (good[: len(good) // 2], b"\0" * 64 + good[64:]):
            path.write_bytes(content)
            outcome = kit.run("train", prepared, "--out", kit.folder / "run", "--set", "epochs=1")
            verdicts.append(refused(outcome, path.name))
        path.write_bytes(good)
    return both(*verdicts)


@attack("F9", "damaged parity inputs in a sealed bundle, verified")
def _f9(kit: Kit) -> Verdict:
    def change(content: dict[str, Any], root: Path) -> None:
        path = root / "parity_inputs.npz"
        path.write_bytes(path.read_bytes()[:-300])

    return refused(kit.run("verify", kit.altered_bundle(change)), "parity_inputs.npz")


@attack("F10", "metadata without spots_per_s, device and tiles_encoded")
def _f10(kit: Kit) -> Verdict:
    kit.predict(kit.small(), "--all-tiles")
    path = kit.folder / "out/small.json"
    good = json.loads(path.read_text())
    for key in ("spots_per_s", "device", "tiles_encoded"):
        good.pop(key, None)
    path.write_text(json.dumps(good))
    return done(kit.predict(kit.folder / "small.tif", "--all-tiles"))


@attack("F11", "slide list and manifest with names of 300 characters")
def _f11(kit: Kit) -> Verdict:
    (kit.folder / "list.csv").write_text(f"slide\n{'x' * 300}.tif\n")

    def change(content: dict[str, Any], root: Path) -> None:
        content["files"]["y" * 300] = "0" * 64

    from triplex_deploy.bundle import Manifest

    bundle = kit.copy("bundle")
    content = json.loads((bundle / "manifest.json").read_text())
    change(content, bundle)
    sealed = Manifest.model_validate_json(json.dumps(content)).sealed()
    (bundle / "manifest.json").write_text(sealed.to_json())
    return both(
        refused(kit.predict(kit.folder / "list.csv")),
        refused(kit.predict(kit.small(), bundle=bundle)),
    )


@attack("F12", "damaged pickle of a checkpoint")
def _f12(kit: Kit) -> Verdict:
    path = kit.folder / "bad.ckpt"
    source = zipfile.ZipFile(kit.demo / "checkpoint.ckpt")
    rng = np.random.default_rng(12)
    verdicts = []
    for _ in range(4):
        with zipfile.ZipFile(path, "w") as archive:
            for name in source.namelist():
                content = bytearray(source.read(name))
                if name.endswith("data.pkl"):
                    for place in rng.integers(0, len(content), 6).tolist():
                        content[place] = int(rng.integers(0, 256))
                archive.writestr(name, bytes(content))
        verdicts.append(refused(kit.run("export", path, "--out", kit.folder / "b")))
    return both(*verdicts)


def truth_with(kit: Kit, key: str, index: int, value: int) -> Path:
    """Write the demo's truth with one number of its sparse matrix replaced."""
    path = kit.folder / f"truth-{key}-{value}.h5ad"
    kit.truth_csr().write_h5ad(path)
    set_csr(path, key, index, value)
    return path


def visium_with(folder: Path, slide: Path, key: str, index: int, value: int) -> Path:
    """Write Space Ranger outputs with one number of their sparse matrix replaced."""
    import h5py

    outs = write_space_ranger(folder / "s1", slide, {})
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "r+") as file:
        file["matrix"][key][index] = value
    return folder
