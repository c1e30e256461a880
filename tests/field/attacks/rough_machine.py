"""Run on a rough machine: signals, streams, disks, users, limits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.field.attacks.common import attack, held_lock, was_interrupted
from tests.field.child import (
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
)


def _signalled(kit: Kit, number: int, times: tuple[float, ...], *command: object) -> Verdict:
    verdicts = []
    for after in times:
        outcome = kit.run(*command, kill_after=(after, number), limit_s=100)
        right = was_interrupted(outcome) or (outcome.status in (0, 3) and not outcome.misbehaves)
        if outcome.status == -number and not (outcome.err or outcome.out or _any_output(kit)):
            right = True  # the signal came before the first line of the program
        verdicts.append(check(right, f"at {after} s: {outcome}"))
    left = [p.name for p in kit.folder.glob(".*")] + [p.name for p in kit.folder.glob("out/.*/f*")]
    left = [name for name in left if "features" not in name]
    return both(*verdicts, check(not left, f"left: {left}" if left else verdicts[-1].seen))


def _any_output(kit: Kit) -> bool:
    return any((kit.folder / name).exists() for name in ("out", "run", "b"))


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
    reported = "/dev/full" in outcome.err
    return both(well_ended(outcome), check(reported, f"reported: {reported}; {outcome}"))


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


def _train_on(kit: Kit, kib: int) -> Verdict:
    """Train on a disk of this size."""
    with _tiny_disk(kit, f"{kib}k") as disk:
        if disk is None:
            return NO_DISK
        outcome = kit.run("train", kit.demo / "prepared", "--out", disk / "run", limit_s=150)
        left = sorted(path.name for path in disk.rglob("*.ckpt*"))
        return both(refused(outcome), check(not left, f"{outcome}; left: {left}"))


@attack("E9", "train on a disk of 0.05 MB")
def _e9(kit: Kit) -> Verdict:
    return _train_on(kit, 56)


@attack("E11", "train on a disk that takes the checkpoint, but not the state")
def _e11(kit: Kit) -> Verdict:
    return _train_on(kit, (kit.demo / "checkpoint.ckpt").stat().st_size // 1024 + 512)


@attack("outputs-full", "report, convert, export and predict on a full disk")
def _outputs_full(kit: Kit) -> Verdict:
    with _tiny_disk(kit, "24k") as disk:
        if disk is None:
            return NO_DISK
        (disk / "filled").write_bytes(bytes(8192))
        genes = ("--genes", "FASN,GNAS")
        verdicts = [
            refused(kit.run("report", kit.prediction, "--out", disk / "x.html")),
            refused(
                kit.run("convert", kit.prediction, "--to", "geojson", "--out", disk / "x.geojson")
            ),
            refused(kit.run("export", kit.demo / "checkpoint.ckpt", "--out", disk / "bundle")),
            refused(kit.predict(kit.small(), "--all-tiles", *genes, out=disk / "out")),
        ]
        left = sorted(path.name for path in disk.rglob("*") if path.is_file())
        return both(*verdicts, check(left == ["filled"], f"left: {left}"))


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


@attack("R2", "lock held by a process that never ends")
def _r2(kit: Kit) -> Verdict:
    kit.small()
    (kit.folder / "out").mkdir()
    with held_lock(kit, b"process 99 on nowhere"):
        outcome = kit.predict(kit.folder / "small.tif", "--all-tiles", limit_s=14)
    reported = outcome.err.count("process 99 on nowhere")
    right = reported >= 1 and (outcome.hung or outcome.status in (0, 1, 3))
    return check(right, f"names the holder {reported} times; waits")


NOBODY = 65534


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


@attack("U7", "as nobody: spots that root keeps to itself")
def _u7(kit: Kit) -> Verdict:
    if verdict := _root_only():
        return verdict
    secret = kit.folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "s.csv").write_text("pixel_x,pixel_y\n200,200\n")
    common = ("--bundle", kit.bundle, "--spots", secret / "s.csv", "--out", kit.folder / "out")
    return refused(_as_nobody(kit, "predict", kit.small(), *common), "s.csv")


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
