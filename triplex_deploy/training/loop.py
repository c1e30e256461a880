"""The training loop on Lightning Fabric: resumable to the same result, epoch by epoch.

What happens in an epoch is a function of the weights, the optimiser and (seed, epoch) alone: the
order of spots, augmentation and dropout all start anew from these two numbers. So a run that was
killed repeats the unfinished epoch from the state at its start, and ends as if never killed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.expression import FoldMetrics
from triplex_deploy.models import Triplex, state_of
from triplex_deploy.pipeline.progress import Progress
from triplex_deploy.training.measure import measure_model
from triplex_deploy.training.objective import Objective
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import PreparedSection
from triplex_deploy.training.spot_batches import SpotSampler

logger = logging.getLogger(__name__)

State = dict[str, Any]


@dataclass(frozen=True, eq=False)
class LabelledSections:
    """Prepared sections with their labels (N, G)."""

    sections: Sequence[PreparedSection]
    labels: Sequence[NDArray[np.float32]]


@dataclass
class Record:
    """What the run knows besides weights; ``history`` has one row of numbers per epoch."""

    epoch: int = 0
    best_epoch: int = -1
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, row: dict[str, float], score: float) -> bool:
        """Count one more epoch; True if it is the best so far."""
        self.history.append(row)
        is_best = score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, self.epoch
        self.epoch += 1
        return is_best


@dataclass(frozen=True, eq=False)
class Keeper:
    """Where a run keeps itself: both are called on the first process alone."""

    save_state: Callable[[State], None]
    save_best: Callable[[Triplex, Record], None]


def fit(
    model: Triplex,
    train: LabelledSections,
    select: LabelledSections,
    options: TrainOptions,
    keeper: Keeper,
    progress: Progress,
    resume_from: State | None = None,
) -> Record:
    """Train until the best epoch on ``select`` is ``patience`` epochs past, or all are done.

    The best epoch is the one of highest mean correlation over slides and genes.
    """
    from lightning.fabric import Fabric

    fabric = Fabric(
        accelerator=options.accelerator, devices=options.devices, precision=options.precision
    )
    fabric.launch()
    objective, optimizer = fabric.setup(
        Objective(model, train.sections), _optimizer(model, options)
    )
    scheduler = torch.optim.lr_scheduler.StepLR(
        optimizer.optimizer, options.lr_step_epochs, options.lr_gamma
    )
    record = Record()
    if resume_from is not None:
        record = _restore(resume_from, model, optimizer, scheduler, options)
    sampler = SpotSampler(
        train.sections, train.labels, options.batch_size, options.seed, options.augment
    )
    progress.start("training", options.epochs)
    progress.advance(record.epoch)
    while record.epoch < options.epochs and not _is_stale(record, options.patience):
        torch.manual_seed(_epoch_seed(options.seed, record.epoch, fabric.global_rank))
        loss = _train_epoch(fabric, objective, optimizer, sampler, record.epoch)
        scheduler.step()
        metrics = measure_model(model.eval(), select.sections, select.labels)
        is_best = record.add(_row(record.epoch, loss, metrics), _score(metrics))
        if fabric.is_global_zero:
            if is_best:
                keeper.save_best(model, record)
            keeper.save_state(_state(record, model, optimizer, scheduler, options))
        fabric.barrier()
        logger.info("epoch %d: loss %.4f, PCC %.4f", record.epoch, loss, metrics.pcc_m)
        progress.advance(1)
    return record


def _train_epoch(
    fabric: Any, objective: Any, optimizer: Any, sampler: SpotSampler, epoch: int
) -> float:
    objective.train()
    total, count = 0.0, 0
    for batch in sampler.epoch(epoch, fabric.global_rank, fabric.world_size):
        optimizer.zero_grad()
        loss = objective(batch.to(fabric.device))
        fabric.backward(loss)
        optimizer.step()
        total, count = total + float(loss.detach()) * len(batch.row), count + len(batch.row)
    mean = total / max(count, 1)
    if not math.isfinite(mean):
        raise ConfigError(f"epoch {epoch}: the loss is {mean}; lower learning_rate")
    return mean


def _optimizer(model: Triplex, options: TrainOptions) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def _is_stale(record: Record, patience: int) -> bool:
    return record.epoch > 0 and record.epoch - 1 - record.best_epoch >= patience


def _score(metrics: FoldMetrics) -> float:
    """Correlation to maximise; a model without any is worse than every other."""
    return -math.inf if math.isnan(metrics.pcc_m) else metrics.pcc_m


def _row(epoch: int, loss: float, metrics: FoldMetrics) -> dict[str, float]:
    return {
        "epoch": float(epoch),
        "train_loss": loss,
        "select_pcc": metrics.pcc_m,
        "select_mse": metrics.mse,
        "select_mae": metrics.mae,
    }


def _state(
    record: Record, model: Triplex, optimizer: Any, scheduler: Any, options: TrainOptions
) -> State:
    return {
        "options": options.to_dict(),
        "record": dict(vars(record)),
        "model": state_of(model),
        "optimizer": optimizer.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def _restore(
    state: State, model: Triplex, optimizer: Any, scheduler: Any, options: TrainOptions
) -> Record:
    """Continue from ``state``; other options but more epochs would be another run."""
    theirs, ours = dict(state["options"]), options.to_dict()
    changed = sorted(k for k in ours if k != "epochs" and theirs.get(k) != ours[k])
    if changed:
        raise CheckpointError(
            f"resume: {', '.join(changed)} differ from the interrupted run; give the same options, "
            "or another --out"
        )
    model.load_state_dict(state["model"])
    optimizer.optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return Record(**state["record"])
