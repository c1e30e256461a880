"""Run every step from data set to report on synthetic tissue, in one folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from triplex_deploy.demo.checkpoint import SYNTHETIC, mark_synthetic
from triplex_deploy.demo.dataset import (
    MadeSection,
    SectionPlan,
    image_path,
    spots_path,
    write_dataset,
)
from triplex_deploy.demo.programs import GENES
from triplex_deploy.demo.recipe import choose_tile_encoder, short_training, small_model
from triplex_deploy.demo.truth import measure_ceiling, measured_beside, write_truth
from triplex_deploy.errors import OutputError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.files.atomic import atomic_path, copy_file
from triplex_deploy.files.ours import first_foreign, require_no_link
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.report import write_report
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.progress import Progress
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.training.evaluate import evaluate_prediction
from triplex_deploy.training.figures import GeneMap, draw_histogram, draw_maps
from triplex_deploy.training.match import Matched, choose_genes, match_truth
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared
from triplex_deploy.training.run_files import (
    CHECKPOINT,
    CURVES,
    HISTORY,
    METRICS,
    STATE,
    without_nan,
)
from triplex_deploy.training.train import train_fold

logger = logging.getLogger(__name__)

Announce = Callable[[str], None]

SEED: Final = 0
DATASET_DIR: Final = "dataset"
SLIDE_FILE: Final = "slide.tif"
TRUTH_FILE: Final = "truth.h5ad"
MARKER_FILE: Final = ".triplex-demo"
"""Marks a folder of an earlier demo, which may be overwritten."""


@dataclass(frozen=True)
class DemoPlan:
    """How large the demo is."""

    sections: tuple[SectionPlan, ...]
    """Sections to make; the last patient is not trained on."""
    epochs: int
    """Number of training epochs."""

    @property
    def held_out(self) -> SectionPlan:
        """Section that is predicted and evaluated."""
        return self.sections[-1]

    @property
    def patients(self) -> tuple[str, ...]:
        """Return the names of the patients, in order."""
        return tuple(dict.fromkeys(plan.patient for plan in self.sections))


def _plan(names: tuple[str, ...], array_wh: tuple[int, int], epochs: int) -> DemoPlan:
    return DemoPlan(tuple(SectionPlan(n[0], int(n[1:]), array_wh) for n in names), epochs)


FULL: Final = _plan(("A1", "A2", "B1", "B2", "C1", "C2", "D1"), (16, 13), epochs=8)
QUICK: Final = _plan(("A1", "B1", "C1"), (9, 8), epochs=4)


@dataclass(frozen=True, eq=False)
class DemoResult:
    """Result of the demo."""

    prediction: Prediction
    """Prediction of the held-out section."""
    metrics: dict[str, Any]
    """Content of metrics.json."""


def run_demo(
    out: str | Path, plan: DemoPlan, progress: Progress, announce: Announce | None = None
) -> DemoResult:
    """Run every step of the demo and return the result.

    Args:
        out: Folder of all files, such as dataset/, prepared/, run/, checkpoint.ckpt, bundle/ and
            slide.tif.
        plan: How large the demo is.
        progress: Where the progress of stages is reported.
        announce: Gets one line about each step, which is also logged.

    Raises:
        OutputError: If ``out`` holds other files than those of an earlier demo, or cannot be
            written.
    """
    root = Path(out)
    _claim(root)
    return _Demo(root, plan, progress, announce).run()


@dataclass(frozen=True)
class _Demo:
    root: Path
    plan: DemoPlan
    progress: Progress
    announce: Announce | None

    def run(self) -> DemoResult:
        held_out = self._make_data()
        prepared = self._prepare()
        trained = self._train(prepared)
        self._export()
        prediction = self._predict()
        matched = match_truth(prediction, self.root / TRUTH_FILE)
        metrics = self._evaluate(held_out, prediction, matched, trained)
        self._report(prediction, matched, metrics["model"]["pcc"])
        return DemoResult(prediction, metrics)

    def _make_data(self) -> MadeSection:
        """Write the data set, and return the held-out section."""
        self._announce(
            f"1/7 data: drawing {len(self.plan.sections)} tissue sections of "
            f"{len(self.plan.patients)} synthetic patients, and counts of {len(GENES)} genes from "
            "the cells under each spot"
        )
        dataset = self.root / DATASET_DIR
        held_out = write_dataset(dataset, self.plan.sections, SEED)[-1]
        copy_file(image_path(dataset, self.plan.held_out), self.root / SLIDE_FILE)
        write_truth(self.root / TRUTH_FILE, held_out)
        return held_out

    def _prepare(self) -> Prepared:
        """Prepare features of all tiles, labels and folds."""
        encoder = choose_tile_encoder()
        what = "a ResNet18 with random weights" if encoder is None else f"{encoder} from ImageNet"
        self._announce(f"2/7 prepare: encoding every tile once with the frozen encoder ({what})")
        options = PrepareOptions("st", n_genes=len(GENES), tile_encoder=encoder, seed=SEED)
        return prepare_dataset(
            self.root / DATASET_DIR, self.root / "prepared", options, self.progress
        )

    def _train(self, prepared: Prepared) -> dict[str, Any]:
        """Train the fold that leaves the last patient out, and return its metrics."""
        options = short_training(self.plan.epochs, SEED)
        held_out = self.plan.held_out.patient
        fold = next(fold for fold in prepared.folds if fold.name == held_out)
        self._announce(
            f"3/7 train: {options.epochs} epochs ({options.precision}) on patients "
            f"{', '.join(self.plan.patients[:-1])}, one of which selects the best epoch; patient "
            f"{held_out} is not used"
        )
        folder = self.root / "run" / f"fold-{fold.index}"
        config = small_model(prepared)
        metrics = train_fold(prepared, fold, folder, config, options, self.progress)
        mark_synthetic(folder / CHECKPOINT)
        copy_file(folder / CHECKPOINT, self.root / "checkpoint.ckpt")
        return metrics

    def _export(self) -> None:
        self._announce("4/7 export: the checkpoint as ONNX graphs, which are compared with PyTorch")
        force = ExportOptions(force=True)
        export_bundle(self.root / "checkpoint.ckpt", self.root / "bundle", force)

    def _predict(self) -> Prediction:
        self._announce("5/7 predict: the held-out patient's slide, as on a machine without PyTorch")
        options = PredictOptions(spots=spots_path(self.root / DATASET_DIR, self.plan.held_out))
        with load_bundle(self.root / "bundle").open(device="cpu") as model:
            prediction = predict_slide(self.root / SLIDE_FILE, model, options, self.progress)
        write_outputs(prediction, self.root / "prediction", report=False)
        return prediction

    def _evaluate(
        self,
        held_out: MadeSection,
        prediction: Prediction,
        matched: Matched,
        trained: dict[str, Any],
    ) -> dict[str, Any]:
        self._announce(
            "6/7 evaluate: against the noisy counts, and the best score the noise allows"
        )
        metrics = {
            "note": SYNTHETIC,
            **evaluate_prediction(matched, prediction.slide_name),
            "constant": {key: trained["constant"][key] for key in ("mse", "mae")},
            "noise_ceiling": measure_ceiling(held_out, matched, prediction),
            "trained": {key: trained[key] for key in ("fitted_on", "selected_on", "best_epoch")},
        }
        with atomic_path(self.root / "metrics.json") as path:
            path.write_text(json.dumps(without_nan(metrics), indent=2) + "\n", encoding="utf-8")
        return metrics

    def _report(self, prediction: Prediction, matched: Matched, pcc: list[float]) -> None:
        self._announce("7/7 report: a page that shows predicted and measured maps side by side")
        page = self.root / "prediction" / f"{prediction.slide_name}.html"
        write_report(prediction, page, measured=measured_beside(matched))
        draw_histogram(self.root / "metrics.png", pcc)
        maps = [
            GeneMap(matched.genes[i], matched.labels[:, i], matched.predicted[:, i], pcc[i])
            for i in choose_genes(None, prediction, matched, pcc)
        ]
        if maps:
            draw_maps(self.root / "metrics-maps.png", matched.level0_xy, maps, prediction.units)

    def _announce(self, text: str) -> None:
        logger.info("%s", text)
        if self.announce is not None:
            self.announce(text)


_OWN_FILES: Final = {
    DATASET_DIR: ("README.md", "ST-cnts/*.tsv.gz", "ST-spotfiles/*_selection.tsv", "ST-imgs/*.tif"),
    "run": tuple(f"fold-*/{name}" for name in (CHECKPOINT, STATE, HISTORY, CURVES, METRICS)),
    "prediction": ("slide.h5ad", "slide.json", "slide.html"),
}
"""Files of an earlier demo that are removed, by folder."""


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    """Remove a folder of an earlier demo, unless it holds other files too."""
    require_no_link(folder)
    other = first_foreign(folder, patterns)
    if other is not None:
        raise OutputError(
            f"{other}: is not of the demo, which removes its folder; move it away or choose "
            "another --out"
        )
    if folder.is_dir():
        shutil.rmtree(folder)


def _claim(root: Path) -> None:
    """Make the folder of the demo, or clear the folder of an earlier demo except its features."""
    try:
        require_no_link(root / MARKER_FILE)
        found = sorted(root.iterdir()) if root.exists() else []
        if found and not (root / MARKER_FILE).exists():
            raise OutputError(
                f"{root}: holds other files, such as {found[0]}; choose an empty folder"
            )
        for made, patterns in _OWN_FILES.items():
            _remove(root / made, patterns)
        (root / "prediction").mkdir(parents=True)
        (root / MARKER_FILE).touch()
    except OSError as error:
        raise OutputError(
            f"{root}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
