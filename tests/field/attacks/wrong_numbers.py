"""Feed what once gave wrong numbers without a warning: caches, resumed work, replaced slides."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.field.attacks.common import attack, was_interrupted
from tests.field.child import (
    Verdict,
    both,
    check,
    done,
    refused,
    registered,
    triplex,
    well_ended,
)
from tests.field.kit import (
    TERMINATE,
    Kit,
    largest_difference,
    write_tiff,
)
from tests.field.protobuf import with_external_data, with_long_key


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


@attack("W5", "array coordinates beyond int32")
def _w5(kit: Kit) -> Verdict:
    path = kit.folder / "spots.csv"
    path.write_text(f"pixel_x,pixel_y,array_row,array_col\n300,300,1,1\n310,300,1,{2**40}\n")
    return refused(kit.predict(kit.demo / "slide.tif", "--spots", path), "spots.csv")


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
        start_new_session=True,
    )
    until = time.monotonic() + 60
    with registered(process.pid):
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


def _finished_run(kit: Kit) -> tuple[Path, tuple[object, ...]]:
    """Copy the demo's run; return its folder and the command that resumes it, to no effect."""
    import torch

    (fold,) = kit.copy("run").iterdir()
    state = torch.load(fold / "state.pt", weights_only=True)
    settings = kit.folder / "settings.json"
    settings.write_text(json.dumps({**state["config"], **state["options"]}))
    number = fold.name.partition("-")[2]
    given = ("train", kit.copy("prepared"), "--out", fold.parent, "--fold", number)
    return fold, (*given, "--config", settings, "--resume")


@attack("K19", "finished run with one flipped bit in its checkpoint or state, resumed")
def _k19(kit: Kit) -> Verdict:
    fold, command = _finished_run(kit)
    verdicts = [done(kit.run(*command, limit_s=120))]
    for name in ("checkpoint.ckpt", "state.pt"):
        good = (fold / name).read_bytes()
        content = bytearray(good)
        content[len(content) // 2] ^= 0x40
        (fold / name).write_bytes(content)
        verdicts.append(refused(kit.run(*command, limit_s=120), name))
        (fold / name).write_bytes(good[: len(good) // 2])
        verdicts.append(refused(kit.run(*command, limit_s=120), name))
        (fold / name).write_bytes(good)
    return both(*verdicts)


AGAIN = ("--no-resume", "--json")


@attack("signature", "features, tuning and verdicts that another installation wrote")
def _signature(kit: Kit) -> Verdict:
    given = ("--all-tiles", "--cache", kit.folder / "cache")
    kit.predict(kit.small(), *given, env={"XDG_STATE_HOME": str(kit.folder / "other")})
    outcome = kit.predict(kit.folder / "small.tif", *given, "--no-resume", "-v")
    shared = kit.predict(
        kit.folder / "small.tif", *given, "--no-resume", "--shared-cache", "--json"
    )
    reported = "not written by this installation" in outcome.err
    return both(
        done(outcome),
        check(reported, f"reported: {reported}"),
        done(shared),
        check('"tiles_from_cache": 0' not in shared.out, f"shared: {shared.out[-300:]}"),
    )


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
        check(was_interrupted(first) or not first.misbehaves, f"first run: {first}"),
        done(second),
        check(differs < 1e-4, f"replaced at {after} s: differs by {differs:.3g}"),
    )


@attack("R8", "slide replaced while it is read, with a shared cache")
def _r8(kit: Kit) -> Verdict:
    return _replaced(kit, 2.2, "--cache", kit.folder / "cache")


@attack("R8b", "slide replaced while it is read, earlier and later")
def _r8b(kit: Kit) -> Verdict:
    verdicts = []
    for after in (0.2, 0.5, 1.4, 3.0):
        shutil.rmtree(kit.folder / "out", ignore_errors=True)
        shutil.rmtree(kit.folder / "cache", ignore_errors=True)
        verdicts.append(_replaced(kit, after, "--cache", kit.folder / "cache"))
    return both(*verdicts)


@attack("R10", "slide replaced while it is read, interrupted, resumed")
def _r10(kit: Kit) -> Verdict:
    return _replaced(kit, 2.2)
