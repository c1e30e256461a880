"""Run the recipes of a folder of cases, and judge what comes out by the name of the recipe."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.field.child import Outcome, Verdict, both, check, refused, run_command, well_ended
from tests.field.kit import Kit

Judge = Callable[[Kit, Outcome], Verdict]
JUDGES: dict[str, tuple[str, Judge]] = {}
"""What a recipe feeds and how its outcome is judged, by the recipe's name."""


def judge(name: str, fed: str) -> Callable[[Judge], Judge]:
    """Register a function for a recipe."""

    def register(function: Judge) -> Judge:
        JUDGES[name] = (fed, function)
        return function

    return register


def run_recipe(recipe: Path, kit: Kit) -> Verdict:
    """Run a recipe in the kit's folder and judge it."""
    bin_folder = kit.folder / "bin"
    bin_folder.mkdir()
    for name, module in (("python", ""), ("triplex-deploy", "-m triplex_deploy.cli")):
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        program.chmod(0o755)
    env = {
        **kit.env,
        "DEMO": str(kit.demo),
        "HER2ST": str(kit.data / "her2st") if kit.data else "",
        "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin",
    }
    interpreter = "bash" if recipe.suffix == ".sh" else sys.executable
    outcome = run_command([interpreter, recipe], kit.folder, env, limit_s=300)
    if recipe.stem not in JUDGES:
        wrong = outcome.misbehaves
        return Verdict(None if not wrong else False, wrong or f"nobody judges it; {outcome}")
    if outcome.misbehaves:
        return Verdict(False, outcome.misbehaves)
    return JUDGES[recipe.stem][1](kit, outcome)


def _wrong_words(outcome: Outcome) -> Verdict:
    return check(not outcome.misbehaves, str(outcome))


@judge("d01_settings", "settings file in a data folder that names a file to write")
def _d01(kit: Kit, outcome: Outcome) -> Verdict:
    kept = outcome.out.endswith("# mine\n") and "pwned" not in outcome.out
    reported = "log-file" in outcome.err
    return check(kept and reported, f"~/.bashrc kept: {kept}; reported what it refused: {reported}")


@judge("d02_indices", "sparse counts whose indices or pointers leave the matrix")
def _d02(kit: Kit, outcome: Outcome) -> Verdict:
    verdicts = [_wrong_words(outcome)]
    for path in sorted(kit.folder.glob("truth-*.h5ad")):
        verdicts.append(refused(kit.evaluate(path), path.name))
    for path in sorted(kit.folder.glob("visium-*")):
        given = (path, "--format", "visium", "--mpp", "0.893")
        verdicts.append(refused(kit.prepare(*given), "filtered_feature_bc_matrix.h5"))
    return both(*verdicts)


@judge("d06_tile_tag", "one wrong tag in one of three TIFFs")
def _d06(kit: Kit, outcome: Outcome) -> Verdict:
    many = kit.run(
        "predict",
        "a.tif",
        "b.tif",
        "c.tif",
        "--bundle",
        kit.bundle,
        "--out",
        "out",
        "--all-tiles",
        "--mpp",
        "0.893",
    )
    good = all((kit.folder / f"out/{name}.h5ad").is_file() for name in "ac")
    return check(good and many.status == 3 and not many.misbehaves, f"{many}; good: {good}")


@judge("f01_frame", "truth whose array numbers are of another frame")
def _f01(kit: Kit, outcome: Outcome) -> Verdict:
    scores = re.findall(r"PCC\S* ?[=:]? ?(-?\d\.\d+)", outcome.out)
    lines = " | ".join(outcome.out.splitlines())
    if outcome.errors and not scores:
        return check(len(outcome.errors) <= 2, outcome.errors[0])
    return check(len(scores) >= 2 and len(set(scores)) == 1, lines[:150])


@judge("f01b_grid", "default grid scored against a measured array")
def _f01b(kit: Kit, outcome: Outcome) -> Verdict:
    if outcome.errors:
        return check(len(outcome.errors) == 1, outcome.errors[0])
    reported = "partner" in outcome.err or "no partner" in outcome.out
    return check(reported, f"scored; partners reported: {reported}: {outcome.out.splitlines()[:1]}")


COMPARE = """
import sys, numpy as np, triplex_deploy as td
with td.open_slide("scan.tif") as slide:
    wanted, mpp = slide.read(0, 0, 0, *slide.level_sizes[0]), slide.mpp
for path in sys.argv[1:]:
    try:
        with td.open_slide(path) as slide:
            got = slide.read(0, 0, 0, *slide.level_sizes[0])
            same = got.shape == wanted.shape and np.array_equal(got, wanted)
            scale = slide.mpp is not None and np.allclose(slide.mpp, mpp, rtol=1e-3)
        print(path, "same" if same and scale else f"ANOTHER {got.shape} {same} {scale}")
    except td.TriplexError as error:
        print(path, "error:", error)
"""


@judge("f03_tiled_tiff", "tiled OME-TIFFs, a stack, a turned image")
def _f03(kit: Kit, outcome: Outcome) -> Verdict:
    names = sorted(path.name for path in kit.folder.glob("*.tif") if path.name != "scan.tif")
    seen = run_command([sys.executable, "-c", COMPARE, *names], kit.folder, kit.env)
    other = [line for line in seen.out.splitlines() if "ANOTHER" in line]
    return both(_wrong_words(seen), check(not other, "; ".join(other) or seen.out[-150:].strip()))


@judge("f10_no_home", "user without HOME and passwd entry")
def _f10(kit: Kit, outcome: Outcome) -> Verdict:
    return check(outcome.status == 0, str(outcome))


@judge("f11_name", "one name that is not UTF-8 among three slides")
def _f11(kit: Kit, outcome: Outcome) -> Verdict:
    words = outcome.out.split()
    right = ("exit 3" in outcome.out or "exit 0" in outcome.out) and "index.html" in words
    good = all(f"{name}.h5ad" in words for name in "az")
    return check(right and good, f"good slides: {good}; {outcome.out.splitlines()[-1:]}")


@judge("f12_patients", "patients.csv with Excel's BOM; empty")
def _f12(kit: Kit, outcome: Outcome) -> Verdict:
    ends = re.findall(r"exit (\d)", outcome.out)
    named = [line for line in outcome.errors if "empty.csv" in line]
    right = ends == ["0", "1"] and len(outcome.errors) == 1 and bool(named)
    return check(right, f"exits {ends}; {outcome}")


@judge("f15_visium_hd", "Visium HD bins")
def _f15(kit: Kit, outcome: Outcome) -> Verdict:
    bins = "hd/outs/binned_outputs/square_016um"
    many = kit.predict("hd/slide.tif", "--spots", bins)
    if many.status:
        return refused(many)
    import anndata

    table = anndata.read_h5ad(kit.folder / "out/slide.h5ad")
    return both(well_ended(many), check(table.n_obs == 100, f"{table.n_obs} of 100 bins"))


@judge("f16_selected", "every second spot has selected = 0")
def _f16(kit: Kit, outcome: Outcome) -> Verdict:
    spots = kit.demo / "dataset/ST-spotfiles/A1_selection.tsv"
    n_all = len(spots.read_text().splitlines()) - 1
    n_kept = sum(1 for line in range(2, n_all + 2) if line % 2)
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("A1 ")] or [""]
    right = f"({n_kept}," in line and f"({n_all}," not in line
    return check(right, f"{n_kept} of {n_all} spots are selected; {line[:100]}")


@judge("f17_two_sections", "normalized truth of two sections")
def _f17(kit: Kit, outcome: Outcome) -> Verdict:
    return refused(kit.evaluate(kit.folder / "two.h5ad"), "two.h5ad")


@judge("f18_locked", "h5ad open for writing elsewhere")
def _f18(kit: Kit, outcome: Outcome) -> Verdict:
    if not outcome.errors:
        return check(outcome.status == 0, str(outcome))
    (line,) = outcome.errors[:1]
    right = ("open" in line or "lock" in line) and "predict again" not in line
    return check(right, line)
