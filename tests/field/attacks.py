"""Feed what an attack on the whole product fed, one function for each row of its list.

The names of the functions' rows are those of the list that ``run_cases.py`` is given.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.field.child import (
    INTERRUPTED,
    Outcome,
    Verdict,
    both,
    check,
    done,
    refused,
    run_command,
    triplex,
    well_ended,
)
from tests.field.kit import (
    HANGUP,
    TERMINATE,
    Kit,
    largest_difference,
    patch_tag,
    set_csr,
    write_space_ranger,
    write_tiff,
)
from tests.field.protobuf import with_external_data, with_long_key

Attack = Callable[[Kit], Verdict]
ATTACKS: dict[str, tuple[str, Attack]] = {}
"""What is fed and the function that feeds it, by row."""
NOBODY = 65534


def attack(row: str, fed: str) -> Callable[[Attack], Attack]:
    """Register a function for a row of the list."""

    def register(function: Attack) -> Attack:
        ATTACKS[row] = (fed, function)
        return function

    return register


# --- bundles, checkpoints, encoders --------------------------------------------------------------


@attack("A2", "ONNX encoder with external data behind a long key")
def _a2(kit: Kit) -> Verdict:
    encoder = kit.folder / "encoder.onnx"
    weights = with_external_data(encoder, kit.folder / "inside.bin")
    encoder.write_bytes(with_long_key(weights))
    return refused(
        kit.prepare(kit.sections("A1", "B1"), "--format", "st", "--tile-encoder", encoder)
    )


@attack("A3", "sealed bundle whose fusion head has weights in a file that is not listed")
def _a3(kit: Kit) -> Verdict:
    def change(content: dict[str, Any], root: Path) -> None:
        import onnx

        model = onnx.load(root / "fusion_head.onnx")
        onnx.save_model(
            model,
            root / "fusion_head.onnx",
            save_as_external_data=True,
            location="w.bin",
            size_threshold=16,
        )

    return refused(kit.predict(kit.small(), "--all-tiles", bundle=kit.altered_bundle(change)))


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


@attack("A10", "apeg_kernel 301 against a graph of another kernel")
def _a10(kit: Kit) -> Verdict:
    outcome = _kernel(kit, 301)
    return both(refused(outcome), check("batch-size" not in outcome.err, str(outcome)))


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


@attack("A14", "gene name with NUL in a manifest")
def _a14(kit: Kit) -> Verdict:
    def change(content: dict[str, Any], root: Path) -> None:
        content["genes"][0] = "GN\0AS"

    return refused(kit.predict(kit.small(), "--all-tiles", bundle=kit.altered_bundle(change)))


# --- names ---------------------------------------------------------------------------------------


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


CONTROL = "\x1b]0;title\x07\x1b[2J\x1b[31m"


@attack("N4", "terminal escapes in a slide's name")
def _n4(kit: Kit) -> Verdict:
    path = kit.small(f"{CONTROL}.tif")
    outcome = kit.predict(path, "--all-tiles")
    raw = "\x1b" in outcome.err + outcome.out
    return both(well_ended(outcome), check(not raw, "escapes reach the terminal" if raw else "-"))


@attack("N5", "newline in a slide's name, with --log-file")
def _n5(kit: Kit) -> Verdict:
    name = "a\n2026-01-01T00:00:00+0000 INFO triplex_deploy: exit status 0 FORGED.tif"
    outcome = kit.predict(kit.small(name), "--all-tiles", "--log-file", kit.folder / "log.txt")
    log = (kit.folder / "log.txt").read_text()
    forged = any(line.startswith("2026-01-01T00:00") for line in log.splitlines())
    return both(well_ended(outcome), check(not forged, f"forged line in the log: {forged}"))


@attack("N6", "slide called manifest.tif, predicted twice")
def _n6(kit: Kit) -> Verdict:
    path = kit.small("manifest.tif")
    return both(done(kit.predict(path, "--all-tiles")), done(kit.predict(path, "--all-tiles")))


# --- tables and matrices -------------------------------------------------------------------------


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
    return refused(_visium(kit), "filtered_feature_bc_matrix")


def _visium(kit: Kit, **options: Any) -> Outcome:
    return kit.prepare(kit.folder / "visium", "--format", "visium", **options)


COORDINATE = b"%%MatrixMarket matrix coordinate integer general\n"


@attack("H5", "matrix.mtx that announces 2 * 10^9 entries; an array of 10^10")
def _h5(kit: Kit) -> Verdict:
    verdicts = []
    for text in (
        COORDINATE + b"12 20 2000000000\n1 1 1\n",
        b"%%MatrixMarket matrix array integer general\n100000 100000\n1\n",
    ):
        shutil.rmtree(kit.folder / "visium", ignore_errors=True)
        kit.mtx(text)
        verdicts.append(refused(_visium(kit), "matrix.mtx"))
    return both(*verdicts)


@attack("H6", "matrix.mtx of 2 * 10^9 rows and columns")
def _h6(kit: Kit) -> Verdict:
    kit.mtx(COORDINATE + b"2000000000 2000000000 1\n1 1 1\n")
    outcome = _visium(kit)
    return both(refused(outcome, peak_gb=2), check(outcome.seconds < 15, str(outcome)))


@attack("H7", "matrix.mtx of 10^20 rows")
def _h7(kit: Kit) -> Verdict:
    kit.mtx(COORDINATE + b"99999999999999999999 20 1\n1 1 1\n")
    return refused(_visium(kit))


@attack("H9", "features.tsv.gz that inflates to 3 GB")
def _h9(kit: Kit) -> Verdict:
    outs = kit.mtx(COORDINATE + b"12 20 1\n1 1 1\n")
    folder = outs / "filtered_feature_bc_matrix"
    (folder / "features.tsv").unlink()
    _zip_bomb(folder / "features.tsv.gz", b"E1\tG1\tGene Expression\n", 3000)
    outcome = _visium(kit)
    return both(refused(outcome, peak_gb=2), check(outcome.seconds < 30, str(outcome)))


def _zip_bomb(path: Path, line: bytes, megabytes: int) -> None:
    block = line * (1_000_000 // len(line))
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(megabytes):
            stream.write(block)


@attack("H10", "matrix.mtx with a damaged header")
def _h10(kit: Kit) -> Verdict:
    kit.mtx(b"%%LatrixMarket matrix coordinate integer general\n12 20 1\n1 1 1\n")
    return refused(_visium(kit), "matrix.mtx")


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


@attack("W3", "formulas as barcodes and genes, written as CSV")
def _w3(kit: Kit) -> Verdict:
    path = _renamed(kit, ["=cmd|'/C calc'!A0", "@SUM(1)"], '=HYPERLINK("x")')
    outcome = kit.run("convert", path, "--to", "csv", "--out", kit.folder / "t.csv")
    text = (kit.folder / "t.csv").read_text() if (kit.folder / "t.csv").is_file() else ""
    cells = [cell.strip('"') for line in text.splitlines() for cell in line.split(",")]
    formulas = [cell for cell in cells if cell[:1] in ("=", "@")]
    return both(well_ended(outcome), check(not formulas, f"{formulas[:2]}"))


def _renamed(kit: Kit, genes: list[str], spot: str) -> Path:
    """Return a prediction with other names of its first genes and its first spot."""
    import h5py

    path = kit.copy("prediction/slide.h5ad")
    with h5py.File(path, "r+") as file:
        for table, names in (("var", genes), ("obs", [spot])):
            key = file[table].attrs["_index"]
            values = file[table][key].asstr()[:]
            for place, name in enumerate(names):
                values[place] = name
            del file[table][key]
            file[table].create_dataset(key, data=[v.encode() for v in values])
            file[table][key].attrs.update(
                {"encoding-type": "string-array", "encoding-version": "0.2.0"}
            )
    return path


@attack("W4", "control characters in gene names, written as OME-TIFF")
def _w4(kit: Kit) -> Verdict:
    code = (
        "import sys, dataclasses, xml.etree.ElementTree as E, tifffile\n"
        "import triplex_deploy as td\n"
        "p = td.read_prediction(sys.argv[1])\n"
        "names = list(p.genes); names[0] = 'A\\x01'; names[1] = 'B\\uffff'\n"
        "try:\n"
        "    td.write_ome_tiff(dataclasses.replace(p, genes=tuple(names)), 'x.ome.tif')\n"
        "    E.fromstring(tifffile.TiffFile('x.ome.tif').ome_metadata)\n"
        "except td.TriplexError as error: print('error:', error)\n"
    )
    return done(_python(kit, code, kit.prediction))


def _python(kit: Kit, code: str, *arguments: object, **options: Any) -> Outcome:
    return run_command(
        [sys.executable, "-c", code, *map(str, arguments)], kit.folder, kit.env, **options
    )


@attack("W5", "array coordinates beyond int32")
def _w5(kit: Kit) -> Verdict:
    path = kit.folder / "spots.csv"
    path.write_text(f"pixel_x,pixel_y,array_row,array_col\n300,300,1,1\n310,300,1,{2**40}\n")
    return refused(kit.predict(kit.demo / "slide.tif", "--spots", path), "spots.csv")


# --- signals and streams -------------------------------------------------------------------------


def _signalled(kit: Kit, number: int, times: tuple[float, ...], *command: object) -> Verdict:
    verdicts = []
    for after in times:
        outcome = kit.run(*command, kill_after=(after, number), limit_s=100)
        right = outcome.status in (0, 1, 2, 3, INTERRUPTED) and not outcome.misbehaves
        if outcome.status in (1, 2):
            right = False
        verdicts.append(check(right, f"at {after} s: {outcome}"))
    left = [p.name for p in kit.folder.glob(".*")] + [p.name for p in kit.folder.glob("out/.*/f*")]
    left = [name for name in left if "features" not in name]
    return both(*verdicts, check(not left, f"left: {left}" if left else verdicts[-1].seen))


@attack("S3", "SIGTERM while libraries are imported")
def _s3(kit: Kit) -> Verdict:
    command = ("predict", kit.small(), "--bundle", kit.bundle, "--out", kit.folder / "out")
    return _signalled(kit, TERMINATE, (0.5, 0.8, 1.1, 1.4, 1.7), *command, "--no-resume")


@attack("S4", "SIGHUP to predict")
def _s4(kit: Kit) -> Verdict:
    slide = kit.demo / "slide.tif"
    command = ("predict", slide, "--bundle", kit.bundle, "--out", kit.folder / "out")
    return _signalled(kit, HANGUP, (1.0, 2.5, 3.5), *command)


@attack("S11", "SIGHUP to train")
def _s11(kit: Kit) -> Verdict:
    command = ("train", kit.demo / "prepared", "--out", kit.folder / "run")
    return _signalled(kit, HANGUP, (5.0,), *command)


@attack("S13", "SIGHUP to export")
def _s13(kit: Kit) -> Verdict:
    command = ("export", kit.demo / "checkpoint.ckpt", "--out", kit.folder / "b")
    return _signalled(kit, HANGUP, (9.0,), *command)


def _shell(kit: Kit, script: str, *arguments: object, **options: Any) -> Outcome:
    """Run ``script`` in bash; ``triplex`` in it is the command line."""
    program = f'triplex() {{ "{sys.executable}" -m triplex_deploy.cli "$@"; }}\n{script}'
    command = ["bash", "-c", program, "bash", *map(str, arguments)]
    env = {**kit.env, **options.pop("env", {})}
    return run_command(command, kit.folder, env, **options)


PREDICT = 'triplex predict "$1" --bundle "$2" --out "$3" --all-tiles --no-report'


def _predict_in_shell(kit: Kit, redirect: str, **options: Any) -> Outcome:
    return _shell(
        kit, f"{PREDICT} {redirect}", kit.small(), kit.bundle, kit.folder / "out", **options
    )


@attack("V2", "stderr closed")
def _v2(kit: Kit) -> Verdict:
    outcome = _predict_in_shell(kit, "--json 2>&-")
    try:
        json.loads(outcome.out)
    except ValueError:
        return check(False, f"stdout is not JSON: {outcome.out[:80]!r}")
    return done(outcome)


@attack("V3", "stderr full")
def _v3(kit: Kit) -> Verdict:
    outcome = _predict_in_shell(kit, "2>/dev/full")
    written = (kit.folder / "out/small.h5ad").is_file()
    return both(done(outcome), check(written, f"exit {outcome.status}, result {written}"))


@attack("V4", "stdout full, plain and --json")
def _v4(kit: Kit) -> Verdict:
    return both(
        *(
            refused(_predict_in_shell(kit, f"{option} >/dev/full"), status=1)
            for option in ("", "--json")
        )
    )


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


@attack("V7", "--spots <(cat file)")
def _v7(kit: Kit) -> Verdict:
    spots = "pixel_x,pixel_y\\n200,200\\n424,200\\n200,424\\n"
    script = PREDICT.replace("--all-tiles", f"--spots <(printf '{spots}')")
    outcome = _shell(kit, script, kit.small(), kit.bundle, kit.folder / "out")
    if outcome.status == 0:
        return done(outcome)
    return both(refused(outcome), check("is empty" not in outcome.err, str(outcome)))


@attack("V8", "--out of 4,400 characters")
def _v8(kit: Kit) -> Verdict:
    return refused(kit.predict(kit.small(), "--all-tiles", out="/".join(["x" * 200] * 22)))


@attack("V10", "a name beyond ASCII where the locale is C")
def _v10(kit: Kit) -> Verdict:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return done(kit.predict(kit.small("µ日.tif"), "--all-tiles", env=env))


@attack("V11", "a name that the terminal's encoding lacks")
def _v11(kit: Kit) -> Verdict:
    env = {"PYTHONIOENCODING": "latin-1"}
    return done(kit.predict(kit.small("µ日.tif"), "--all-tiles", env=env))


@attack("E6", "--log-file on a full disk")
def _e6(kit: Kit) -> Verdict:
    outcome = kit.predict(kit.small(), "--all-tiles", "--log-file", "/dev/full")
    said = "/dev/full" in outcome.err
    return both(well_ended(outcome), check(said, f"said so: {said}; {outcome}"))


@contextmanager
def _tiny_disk(kit: Kit, size: str) -> Iterator[Path | None]:
    """Yield a folder on a disk of this size; None if no disk can be made here."""
    folder = kit.folder / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


NO_DISK = Verdict(None, "no small disk can be mounted here")


@attack("E8", "evaluate on a full disk")
def _e8(kit: Kit) -> Verdict:
    with _tiny_disk(kit, "16k") as disk:
        if disk is None:
            return NO_DISK
        (disk / "filled").write_bytes(bytes(4096))
        outcome = kit.run(
            "evaluate",
            kit.prediction,
            "--truth",
            kit.demo / "truth.h5ad",
            "--out",
            disk / "m.json",
        )
        left = sorted(path.name for path in disk.iterdir() if path.name != "filled")
        return both(refused(outcome), check(not left, f"{outcome}; left: {left}"))


@attack("E9", "train on a disk of 0.05 MB")
def _e9(kit: Kit) -> Verdict:
    with _tiny_disk(kit, "56k") as disk:
        if disk is None:
            return NO_DISK
        outcome = kit.run("train", kit.demo / "prepared", "--out", disk / "run", limit_s=150)
        left = sorted(path.name for path in disk.rglob("*.ckpt*"))
        return both(refused(outcome), check(not left, f"{outcome}; left: {left}"))


@attack("prepare-full", "prepare on a disk that is too small for the features")
def _prepare_full(kit: Kit) -> Verdict:
    with _tiny_disk(kit, "100k") as disk:
        if disk is None:
            return NO_DISK
        return refused(kit.prepare(kit.sections("A1", "B1"), "--format", "st", out=disk / "p"))


@attack("E14", "bench --json on a full disk")
def _e14(kit: Kit) -> Verdict:
    with _tiny_disk(kit, "4k") as disk:
        if disk is None:
            return NO_DISK
        (disk / "filled").write_bytes(bytes(4096))
        outcome = kit.run("bench", kit.bundle, "--json", disk / "b.json", limit_s=45)
        return refused(outcome)


# --- caches and resumed work ---------------------------------------------------------------------


def _cached(kit: Kit) -> tuple[Path, Path]:
    """Predict with a cache; return the result and a file of the cache."""
    kit.predict(kit.small(), "--all-tiles", "--cache", kit.folder / "cache")
    files = sorted(path for path in (kit.folder / "cache").rglob("*.npz"))
    result = kit.folder / "out/small.h5ad"
    result.rename(kit.folder / "first.h5ad")
    return kit.folder / "first.h5ad", files[0]


def _again(kit: Kit, first: Path) -> Verdict:
    outcome = kit.predict(kit.folder / "small.tif", "--all-tiles", "--cache", kit.folder / "cache")
    if outcome.status:
        return well_ended(outcome)
    differs = largest_difference(first, kit.folder / "out/small.h5ad")
    return both(well_ended(outcome), check(differs < 1e-4, f"exit 0, differs by {differs:.3g}"))


@attack("K2", "altered values in a valid cached file")
def _k2(kit: Kit) -> Verdict:
    first, path = _cached(kit)
    with np.load(path) as file:
        arrays = dict(file)
    for name, values in arrays.items():
        if values.dtype.kind == "f":
            arrays[name] = np.full_like(values, 7)
    np.savez(path, **arrays)
    return _again(kit, first)


@attack("K3", "a folder in place of a cached file")
def _k3(kit: Kit) -> Verdict:
    first, path = _cached(kit)
    path.unlink()
    path.mkdir()
    return _again(kit, first)


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


def _half_prepared(kit: Kit) -> tuple[Path, Path]:
    """Interrupt prepare after some tiles; return data set and folder."""
    dataset, out = kit.sections("A1", "B1"), kit.folder / "prepared"
    process = subprocess.Popen(
        triplex(
            "prepare",
            dataset,
            "--format",
            "st",
            "--genes",
            5,
            "--out",
            out,
            "--batch-size",
            4,
        ),
        cwd=kit.folder,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if list(out.rglob("done.npy")):
            time.sleep(0.4)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    process.wait()
    return dataset, out


def _prepared_like_a_clean_one(kit: Kit, dataset: Path, out: Path) -> Verdict:
    outcome = kit.prepare(dataset, "--format", "st", out=out)
    if outcome.status:
        return well_ended(outcome)
    kit.prepare(dataset, "--format", "st", out=kit.folder / "clean")
    differs = 0.0
    for path in sorted((kit.folder / "clean").rglob("features.npy")):
        other = np.load(out / path.relative_to(kit.folder / "clean"))
        clean = np.load(path)
        same = other.shape == clean.shape
        differs = max(differs, float(np.abs(other - clean).max()) if same else float("inf"))
    return both(well_ended(outcome), check(differs < 1e-4, f"features differ by {differs:.3g}"))


@attack("K11", "prepare killed, features.npy cut short, resumed")
def _k11(kit: Kit) -> Verdict:
    dataset, out = _half_prepared(kit)
    for path in out.rglob("features.npy"):
        os.truncate(path, 20_000)
    return _prepared_like_a_clean_one(kit, dataset, out)


@attack("K12", "prepare killed, done.npy removed, resumed")
def _k12(kit: Kit) -> Verdict:
    dataset, out = _half_prepared(kit)
    for path in out.rglob("done.npy"):
        path.unlink()
    verdict = _prepared_like_a_clean_one(kit, dataset, out)
    return both(verdict, check("choose another" not in verdict.seen, verdict.seen))


@attack("K13", "finished prepare whose features are all zero, run again")
def _k13(kit: Kit) -> Verdict:
    dataset, out = kit.sections("A1", "B1"), kit.folder / "prepared"
    kit.prepare(dataset, "--format", "st", out=out)
    for path in out.rglob("features.npy"):
        np.save(path, np.zeros_like(np.load(path)))
    return _prepared_like_a_clean_one(kit, dataset, out)


@attack("K19", "finished run with one flipped bit in a checkpoint, resumed")
def _k19(kit: Kit) -> Verdict:
    kit.copy("prepared")
    run = kit.copy("run")
    for path in [*run.rglob("*.ckpt"), *run.rglob("*.pt")]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    outcome = kit.run("train", kit.folder / "prepared", "--out", run, "--resume", limit_s=120)
    nan = "nan" in outcome.out.lower()
    return both(well_ended(outcome), check(not nan, f"NaN in the scores: {nan}; {outcome}"))


@attack("R2", "lock held by a process that never ends")
def _r2(kit: Kit) -> Verdict:
    kit.small()
    (kit.folder / "out").mkdir()
    with _held_lock(kit, b"process 99 on nowhere"):
        outcome = kit.predict(kit.folder / "small.tif", "--all-tiles", limit_s=14)
    said = outcome.err.count("process 99 on nowhere")
    right = said >= 1 and (outcome.hung or outcome.status in (0, 1, 3))
    return check(right, f"names the holder {said} times; waits")


@contextmanager
def _held_lock(kit: Kit, text: bytes) -> Iterator[None]:
    import fcntl

    path = kit.folder / "out" / ".small.lock"
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(text)
        stream.flush()
        yield


@attack("R3", "lock file with terminal escapes and a forged line")
def _r3(kit: Kit) -> Verdict:
    kit.small()
    (kit.folder / "out").mkdir()
    with _held_lock(kit, b"\x1b[31mEVIL\nerror: forged line"):
        outcome = kit.predict(kit.folder / "small.tif", "--all-tiles", limit_s=14)
    raw = "\x1b" in outcome.err or "error: forged line" in outcome.err.splitlines()
    return check(not raw, f"shown raw: {raw}")


def _replaced(kit: Kit, after: float, *options: object) -> Verdict:
    """Replace the slide while it is read, then predict the new one."""
    path = kit.folder / "s.tif"
    shutil.copy(kit.demo / "slide.tif", path)
    write_tiff(kit.folder / "new.tif", kit.pixels()[::-1, ::-1])
    shutil.copy(kit.folder / "new.tif", kit.folder / "kept.tif")
    timer = threading.Timer(after, lambda: (kit.folder / "new.tif").replace(path))
    timer.start()
    first = kit.predict(path, "--batch-size", 8, *options, kill_after=(after + 5, TERMINATE))
    timer.join()
    second = kit.predict(path, "--batch-size", 8, *options, out=kit.folder / "out")
    kit.predict(kit.folder / "kept.tif", "--batch-size", 8, out=kit.folder / "truth")
    results = kit.folder / "out/s.h5ad", kit.folder / "truth/kept.h5ad"
    differs = largest_difference(*results) if results[0].is_file() else float("inf")
    return both(
        check(not first.misbehaves, f"first run: {first}"),
        done(second),
        check(differs < 1e-4, f"replaced at {after} s: differs by {differs:.3g}"),
    )


@attack("R8", "slide replaced while it is read, with a shared cache")
def _r8(kit: Kit) -> Verdict:
    return _replaced(kit, 2.2, "--cache", kit.folder / "cache")


@attack("R8b", "slide replaced while it is read, earlier and later")
def _r8b(kit: Kit) -> Verdict:
    verdicts = []
    for after in (1.4, 3.0):
        shutil.rmtree(kit.folder / "out", ignore_errors=True)
        shutil.rmtree(kit.folder / "cache", ignore_errors=True)
        verdicts.append(_replaced(kit, after, "--cache", kit.folder / "cache"))
    return both(*verdicts)


@attack("R10", "slide replaced while it is read, interrupted, resumed")
def _r10(kit: Kit) -> Verdict:
    return _replaced(kit, 2.2)


@attack("R7", "slide removed while it is read")
def _r7(kit: Kit) -> Verdict:
    path = kit.folder / "s.tif"
    shutil.copy(kit.demo / "slide.tif", path)
    timer = threading.Timer(2.4, path.unlink)
    timer.start()
    outcome = kit.predict(path, "--batch-size", 4)
    timer.join()
    return well_ended(outcome)


# --- bombs ---------------------------------------------------------------------------------------


@attack("B1", "spots.csv.gz that inflates to 2 GB")
def _b1(kit: Kit) -> Verdict:
    path = kit.folder / "spots.csv.gz"
    line = b"300,300\n"
    _zip_bomb(path, line, 2000)
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


# --- users, permissions, limits ------------------------------------------------------------------


def _as_nobody(kit: Kit, *arguments: object, limits: str = "", **options: Any) -> Outcome:
    kit.folder.chmod(0o777)
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*(limits.split() if limits else []), *become, *triplex(*arguments)]
    env = {**kit.env, "HOME": str(kit.folder), **options.pop("env", {})}
    return run_command(command, kit.folder, env, **options)


def _root_only() -> Verdict | None:
    return None if os.geteuid() == 0 else Verdict(None, "only root can become another user")


@attack("U2", "as nobody: a folder and a slide that root keeps to itself")
def _u2(kit: Kit) -> Verdict:
    if verdict := _root_only():
        return verdict
    secret = kit.folder / "secret"
    secret.mkdir(mode=0o700)
    shutil.copy(kit.small(), secret / "s.tif")
    common = ("--bundle", kit.bundle, "--all-tiles", "--out")
    return both(
        refused(_as_nobody(kit, "predict", kit.folder / "small.tif", *common, secret / "x")),
        refused(_as_nobody(kit, "predict", secret / "s.tif", *common, kit.folder / "out")),
    )


@attack("U3", "as nobody: settings folder without permission to enter")
def _u3(kit: Kit) -> Verdict:
    if verdict := _root_only():
        return verdict
    (kit.folder / ".config/triplex-deploy").mkdir(parents=True, mode=0o700)
    common = ("--bundle", kit.bundle, "--all-tiles", "--out", kit.folder / "out")
    return well_ended(_as_nobody(kit, "predict", kit.small(), *common))


@attack("U6", "triplex-deploy.toml is a FIFO")
def _u6(kit: Kit) -> Verdict:
    os.mkfifo(kit.folder / "triplex-deploy.toml")
    return well_ended(kit.predict(kit.small(), "--all-tiles", limit_s=25))


@attack("U7", "as nobody: spots that root keeps to itself")
def _u7(kit: Kit) -> Verdict:
    if verdict := _root_only():
        return verdict
    secret = kit.folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "s.csv").write_text("pixel_x,pixel_y\n200,200\n")
    common = ("--bundle", kit.bundle, "--spots", secret / "s.csv", "--out", kit.folder / "out")
    return refused(_as_nobody(kit, "predict", kit.small(), *common), "s.csv")


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


@attack("U10", "few processes allowed")
def _u10(kit: Kit) -> Verdict:
    if verdict := _root_only():
        return verdict
    common = ("--bundle", kit.bundle, "--all-tiles", "--out", kit.folder / "out")
    verdicts = [
        well_ended(_as_nobody(kit, "predict", kit.small(), *common, limits=f"prlimit --nproc={n}"))
        for n in (3, 5, 10)
    ]
    return both(*verdicts)


@attack("U11", "seven processes allowed")
def _u11(kit: Kit) -> Verdict:
    if verdict := _root_only():
        return verdict
    common = ("--bundle", kit.bundle, "--all-tiles", "--out", kit.folder / "out")
    return well_ended(_as_nobody(kit, "predict", kit.small(), *common, limits="prlimit --nproc=7"))


@attack("U12", "--threads 100000")
def _u12(kit: Kit) -> Verdict:
    return well_ended(kit.predict(kit.small(), "--all-tiles", "--threads", 100_000, limit_s=40))


@attack("U14", "300 and 600 MB of address space")
def _u14(kit: Kit) -> Verdict:
    path = kit.small()
    return both(
        *(well_ended(kit.predict(path, "--all-tiles", memory_gb=size)) for size in (0.3, 0.6, 0.9))
    )


# --- what is not ours ----------------------------------------------------------------------------


@attack("L7", "evaluate --out over the user's own files")
def _l7(kit: Kit) -> Verdict:
    own = {name: f"my {name}".encode() for name in ("m.json", "m.png")}
    for name, content in own.items():
        (kit.folder / name).write_bytes(content)
    outcome = kit.run(
        "evaluate",
        kit.prediction,
        "--truth",
        kit.demo / "truth.h5ad",
        "--out",
        kit.folder / "m.json",
    )
    kept = all((kit.folder / name).read_bytes() == content for name, content in own.items())
    return both(check(kept, f"kept: {kept}"), refused(outcome))


@attack("L8", "prepare --out where prepared.json is another program's")
def _l8(kit: Kit) -> Verdict:
    out = kit.folder / "prepared"
    out.mkdir()
    (out / "prepared.json").write_text('{"mine": 1}')
    outcome = kit.prepare(kit.sections("A1", "B1"), "--format", "st", out=out)
    kept = (out / "prepared.json").is_file()
    kept = kept and (out / "prepared.json").read_text() == '{"mine": 1}'
    return both(check(kept, f"kept: {kept}"), refused(outcome))


@attack("L10", "bench --json over the user's own file")
def _l10(kit: Kit) -> Verdict:
    path = kit.folder / "b.json"
    path.write_text('{"mine": 1}')
    outcome = kit.run("bench", kit.bundle, "--json", path, limit_s=30)
    kept = path.read_text() == '{"mine": 1}'
    return both(check(kept, f"kept: {kept}"), refused(outcome))


@attack("L11", "export --force over a folder with another program's manifest.json")
def _l11(kit: Kit) -> Verdict:
    web = kit.folder / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "my web app"}')
    (web / "thesis.txt").write_text("years of work")
    outcome = kit.run("export", kit.demo / "checkpoint.ckpt", "--out", web, "--force", limit_s=120)
    kept = (web / "thesis.txt").is_file()
    return both(check(kept, f"thesis.txt kept: {kept}"), refused(outcome))


# --- damaged files -------------------------------------------------------------------------------


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
        verdicts.append(well_ended(_visium(kit)))
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
