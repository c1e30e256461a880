"""Train one fold of a prepared data set and test it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from triplex_deploy.contract import Config
from triplex_deploy.data import Fold, inner_validation
from triplex_deploy.errors import OutputError
from triplex_deploy.expression import constant_predictor
from triplex_deploy.familiarity import TrainingTiles
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.files.room import require_room
from triplex_deploy.models import (
    Checkpoint,
    SpotModel,
    build_model,
    read_checkpoint,
    state_of,
    write_checkpoint,
)
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.training.add_held_out import add_held_out
from triplex_deploy.training.bank import bank_metadata, check_bank
from triplex_deploy.training.loop import Keeper, Record, fit
from triplex_deploy.training.options import TEST_FOLD, VALIDATION, TrainOptions
from triplex_deploy.training.predict_section import (
    measure_constant,
    measure_predictions,
    predict_section,
)
from triplex_deploy.training.prepared import (
    LabeledSections,
    Prepared,
    fit_to_data,
    label_sections,
    with_bank,
)
from triplex_deploy.training.recipes import check_options, recipe_of
from triplex_deploy.training.run_files import (
    CHECKPOINT,
    STATE,
    draw_curves,
    load_state,
    require_own_run,
    save_state,
    write_metrics,
)
from triplex_deploy.training.tile_encoder import stored_weights

SELECTING: Final = "selecting"


@dataclass(frozen=True, eq=False)
class FoldSplit:
    """Holds the sections of each role, and the genes."""

    fold: Fold
    """The fold, with its test sections."""
    fit: tuple[str, ...]
    """Names of the sections to train on."""
    select: tuple[str, ...]
    """Names of the sections to choose the epoch on."""
    panel: tuple[str, ...]
    """Predicted genes."""


def train_fold(
    prepared: Prepared,
    fold: Fold,
    out: Path,
    config: Config,
    options: TrainOptions,
    progress: Progress | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train one fold and return its test metrics.

    Writes checkpoint.ckpt (the best epoch), state.pt, history.csv, curves.png and metrics.json.
    With ``options.refit``, the folder ``selecting`` holds the training that chose the number of
    epochs.

    Args:
        prepared: The prepared data set.
        fold: The fold.
        out: Folder of the run.
        config: The model; number of genes and width of features come from the data set.
        options: The options of the training.
        progress: Receives every finished epoch.
        resume: Continue an interrupted run, which ends with the same result.

    Returns:
        The content of metrics.json: settings and sections, and the metrics of the model and of the
        constant predictor.

    Raises:
        ConfigError: A setting does not fit the model or the data set.
        DatasetError: The bank of the model would hold test labels.
        CheckpointError: The interrupted run had other settings.
        OutputError: ``out`` holds a run and ``resume`` is False, or cannot be written.
    """
    plan = _plan(prepared, fold, options)
    config = fit_to_data(config, prepared, len(plan.panel))
    check_options(config, options)
    _claim(out, resume)
    job = _Job(prepared, plan, config, options, progress or Silent(), resume)
    selecting = out / SELECTING if options.refit else out
    if options.refit:
        chosen = job.fit(selecting, plan.fit, plan.select, options)
        fitted = replace(plan, fit=fold.train)
        job = replace(job, plan=fitted)
        again = replace(options, epochs=chosen.best_epoch + 1)
        record = job.fit(out, fitted.fit, None, again)
    else:
        record = job.fit(out, plan.fit, plan.select, options)
    if options.selection == VALIDATION:
        # with test_fold, nothing is held out but the test sections, which calibration may not see
        checkpoints = (out / CHECKPOINT, selecting / CHECKPOINT)
        add_held_out(prepared, *checkpoints, plan.select)
    metrics = _test(prepared, job.plan, options, record, out)
    write_metrics(out, metrics)
    return metrics


@dataclass(frozen=True, eq=False)
class _Job:
    """Trains one fold, in one training or two."""

    prepared: Prepared
    plan: FoldSplit
    config: Config
    options: TrainOptions
    progress: Progress
    resume: bool

    def fit(
        self,
        folder: Path,
        fitted: tuple[str, ...],
        select: tuple[str, ...] | None,
        options: TrainOptions,
    ) -> Record:
        """Train on the sections ``fitted`` and choose the epoch on ``select``."""
        folder.mkdir(exist_ok=True)
        train = label_sections(self.prepared, fitted, self.plan.panel)
        chosen_on = (
            None if select is None else label_sections(self.prepared, select, self.plan.panel)
        )
        model = self._start(train, options)
        require_room(folder / STATE, _bytes_of_a_run(model, options))
        state = load_state(folder) if self.resume else None
        keeper = Keeper(lambda content: save_state(folder, content), self._saver(folder, train))
        record = fit(model, train, chosen_on, options, keeper, self.progress, state)
        draw_curves(folder, record.history, record.best_epoch)
        return record

    def _start(self, train: LabeledSections, options: TrainOptions) -> SpotModel:
        """Return the model before its first step, with room for its bank, if it has a bank."""
        model = build_model(with_bank(self.config, train.n_spots), options.seed)
        if model.has_bank:
            names = [section.measured.name for section in train.sections]
            check_bank(self.plan.fold, names, self.prepared.patient_of)
        encoder = stored_weights(self.prepared.tile_encoder, self.prepared.tile_encoder_path)
        recipe_of(self.config).start(model, train, encoder, options)
        return model

    def _saver(self, folder: Path, train: LabeledSections) -> Callable[[SpotModel, Record], None]:
        tiles = TrainingTiles.describe([section.features for section in train.sections])

        def save(model: SpotModel, record: Record) -> None:
            bank = {"bank": bank_metadata(train)} if model.has_bank else {}
            checkpoint = _checkpoint(self.prepared, self.plan, self.options, model, record, bank)
            write_checkpoint(replace(checkpoint, training_tiles=tiles), folder / CHECKPOINT)

        return save


def _bytes_of_a_run(model: SpotModel, options: TrainOptions) -> int:
    """Return the size of the checkpoint and the state: weights, their means, Adam's two moments."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return int((3 if options.ema_decay else 2) * weights + 2 * trained)


def _plan(prepared: Prepared, fold: Fold, options: TrainOptions) -> FoldSplit:
    panel = prepared.panel(fold, options.selection)
    if options.selection == TEST_FOLD:
        return FoldSplit(fold, fold.train, fold.test, panel)
    fitted, held = inner_validation(fold, prepared.patient_of, options.seed)
    return FoldSplit(fold, fitted, held, panel)


def _claim(out: Path, resume: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not resume and any(path.is_file() for path in out.rglob("*")):
            raise OutputError(f"{out}: holds a run already; pass --resume or another --out")
        for folder in (out, out / SELECTING):
            require_own_run(folder)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error}); choose another --out") from error


def _checkpoint(
    prepared: Prepared,
    plan: FoldSplit,
    options: TrainOptions,
    model: SpotModel,
    record: Record,
    bank: dict[str, Any],
) -> Checkpoint:
    return Checkpoint(
        config=model.config,
        genes=plan.panel,
        label_transform=prepared.label_transform.to_dict(),
        tile_mpp=prepared.tile_mpp,
        state_dict=state_of(model),
        tile_encoder=stored_weights(prepared.tile_encoder, prepared.tile_encoder_path),
        provenance={
            "selection": options.selection,
            "fold": plan.fold.name,
            "fitted_on": list(plan.fit),
            "selected_on": list(plan.select),
            "tested_on": list(plan.fold.test),
            "shares_patients": plan.fold.shares_patients,
            "epoch": record.best_epoch,
            **bank,
            "training": options.to_dict(),
            **_backbone_metadata(options),
            "tile_encoder_digest": str(prepared.tile_encoder["digest"]),
            "versions": {
                name: version(name) for name in ("triplex-deploy", "torch", "lightning-fabric")
            },
        },
    )


def _backbone_metadata(options: TrainOptions) -> dict[str, Any]:
    """Return the digest of ``backbone_weights`` if it is set."""
    if not options.backbone_weights:
        return {}
    return {"backbone_weights_sha256": sha256_of(Path(options.backbone_weights))}


def _test(
    prepared: Prepared, plan: FoldSplit, options: TrainOptions, record: Record, out: Path
) -> dict[str, Any]:
    checkpoint = read_checkpoint(out / CHECKPOINT)
    test = label_sections(prepared, plan.fold.test, plan.panel)
    constant = constant_predictor(label_sections(prepared, plan.fold.train, plan.panel).labels)
    return {
        "fold": plan.fold.name,
        "selection": options.selection,
        "refit": options.refit,
        "shares_patients": plan.fold.shares_patients,
        "fitted_on": list(plan.fit),
        "selected_on": list(plan.select),
        "tested_on": list(plan.fold.test),
        "best_epoch": record.best_epoch,
        "epochs": record.epoch,
        "genes": list(plan.panel),
        **_measure(checkpoint, test),
        "constant": measure_constant(constant, test.labels).to_dict(),
    }


def _measure(checkpoint: Checkpoint, test: LabeledSections) -> dict[str, Any]:
    """Return the metrics of the model, and of the same predictions calibrated, if they can be."""
    model = checkpoint.build_model()
    predicted = [predict_section(model, section) for section in test.sections]
    found = {"model": measure_predictions(predicted, test.labels).to_dict()}
    if checkpoint.calibration is not None:
        calibrated = [checkpoint.calibration.apply(values) for values in predicted]
        found["calibrated"] = measure_predictions(calibrated, test.labels).to_dict()
    return found
