"""Give files, genes and spots names that act on a terminal, a log or another program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.field.attacks.common import attack, held_lock
from tests.field.child import (
    Outcome,
    Verdict,
    both,
    check,
    done,
    run_command,
    well_ended,
)
from tests.field.kit import (
    Kit,
)

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


@attack("R3", "lock file with terminal escapes and a forged line")
def _r3(kit: Kit) -> Verdict:
    kit.small()
    (kit.folder / "out").mkdir()
    with held_lock(kit, b"\x1b[31mEVIL\nerror: forged line"):
        outcome = kit.predict(kit.folder / "small.tif", "--all-tiles", limit_s=14)
    raw = "\x1b" in outcome.err or "error: forged line" in outcome.err.splitlines()
    return check(not raw, f"shown raw: {raw}")
