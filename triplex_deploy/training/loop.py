"""Train a model with Lightning Fabric; an interrupted run resumes to the same result.

An epoch depends only on the weights, the optimizer, the seed and the number of the epoch: order of
spots, augmentation and dropout start anew from seed and epoch. A resumed run repeats the unfinished
epoch from the state at its start, and ends with the same weights as a run without interruption.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from triplex_deploy.contract import config_from_dict
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.models import SpotModel, state_of
from triplex_deploy.progress import Progress
from triplex_deploy.training.bank import fill_bank
from triplex_deploy.training.batches import Sampler
from triplex_deploy.training.frozen_backbone import (
    freeze_backbone,
    image_backbone,
    keep_frozen_backbone_in_eval,
)
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepared import LabeledSections
from triplex_deploy.training.recipes import recipe_of

logger = logging.getLogger(__name__)

State = dict[str, Any]

FUSED_ADAM: Final = ("cpu", "cuda", "gpu")
"""Accelerators whose Adam updates all weights in one pass."""


@dataclass
class Record:
    """Holds the progress of a run."""

    epoch: int = 0
    """Number of finished epochs."""
    best_epoch: int = -1
    """Number of the epoch with the best score, from 0; -1 before the first epoch ends."""
    best_score: float = -math.inf
    """Highest score."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row of numbers per epoch."""

    def add(self, row: dict[str, float], score: float) -> bool:
        """Add a finished epoch; return True if its score is the best so far."""
        self.history.append(row)
        is_best = score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, self.epoch
        self.epoch += 1
        return is_best


@dataclass(frozen=True, eq=False)
class Keeper:
    """Holds the functions that save a run; only the first process calls them."""

    save_state: Callable[[State], None]
    """Saves the state at the start of the next epoch."""
    save_best: Callable[[SpotModel, Record], None]
    """Saves the model of the best epoch so far."""


def fit(
    model: SpotModel,
    train: LabeledSections,
    select: LabeledSections | None,
    options: TrainOptions,
    keeper: Keeper,
    progress: Progress,
    resume_from: State | None = None,
) -> Record:
    """Train a model and return the record of the run.

    The score of an epoch is defined by the model's recipe. Training ends after ``options.epochs``
    epochs, or if the last ``options.patience`` epochs had no better score.

    Args:
        model: The model, with its starting weights.
        train: The sections to train on.
        select: The sections to score epochs on; None to keep the last epoch.
        options: The options of the training.
        keeper: The functions that save the run.
        progress: Receives every finished epoch.
        resume_from: The saved state of an interrupted run; None to begin.

    Raises:
        ConfigError: The loss is not finite.
        CheckpointError: The saved state has other settings.
    """
    fabric = make_fabric(options)
    fabric.launch()
    recipe = recipe_of(model.config)
    if options.backbone_lr_scale == 0:
        freeze_backbone(model)
    made = recipe.objective(model, train, options, fabric.device)
    objective, optimizer = fabric.setup(made, _optimizer(model, options))
    fitted = _Fitted(model, optimizer.optimizer, options)
    record = Record() if resume_from is None else fitted.restore(resume_from)
    sampler = recipe.sampler(model.config, train, options)
    progress.start("training", options.epochs)
    progress.advance(record.epoch)
    while record.epoch < options.epochs and not _is_stale(record, options.patience):
        torch.manual_seed(_epoch_seed(options.seed, record.epoch, fabric.global_rank))
        loss = _train_epoch(fabric, objective, optimizer, sampler, record.epoch, fitted)
        fitted.scheduler.step()
        candidate = fitted.candidate
        fill_bank(candidate, train)
        row: dict[str, float] = {"epoch": float(record.epoch), "train_loss": loss}
        score = float(record.epoch)  # without sections to select on, the last epoch is kept
        if select is not None:
            measured, score = recipe.score(candidate, select, made.maps)
            row |= measured
        is_best = record.add(row, score)
        if fabric.is_global_zero:
            if is_best and (select is not None or record.epoch == options.epochs):
                keeper.save_best(candidate, record)
            keeper.save_state(fitted.state(record))
        fabric.barrier()
        logger.info("epoch %(epoch)d: loss %(train_loss).4f", row)
        progress.advance(1)
    return record


def make_fabric(options: TrainOptions) -> Any:
    """Return Lightning's ``Fabric`` for a training; its note about the precision is not printed."""
    from lightning_fabric import Fabric  # its import sets the levels of its loggers

    with _warnings_only("lightning_fabric"):
        return Fabric(
            accelerator=options.accelerator, devices=options.devices, precision=options.precision
        )


@contextmanager
def _warnings_only(name: str) -> Iterator[None]:
    """Let a logger pass only warnings and errors inside the ``with`` block."""
    noisy = logging.getLogger(name)
    level = noisy.level
    noisy.setLevel(logging.WARNING)
    try:
        yield
    finally:
        noisy.setLevel(level)


class _Fitted:
    """Holds the model in training, with everything that its next step depends on."""

    def __init__(
        self, model: SpotModel, optimizer: torch.optim.Optimizer, options: TrainOptions
    ) -> None:
        self.model = model
        self._optimizer = optimizer
        self._options = options
        self.scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, options.lr_step_epochs, options.lr_gamma
        )
        self._mean = _running_mean(model, options.ema_decay) if options.ema_decay else None

    @property
    def candidate(self) -> SpotModel:
        """Return the model that this epoch would save, in evaluation mode: itself or its mean."""
        model = self.model if self._mean is None else self._mean.module
        assert isinstance(model, SpotModel)
        return model.eval()

    def after_step(self) -> None:
        """Update the running mean of the weights, if there is a mean."""
        if self._mean is not None:
            self._mean.update_parameters(self.model)

    def state(self, record: Record) -> State:
        """Return the state to resume from."""
        return {
            "options": self._options.to_dict(),
            "config": self.model.config.to_dict(),
            "record": dict(vars(record)),
            "model": state_of(self.model),
            "mean": {} if self._mean is None else state_of(self._mean),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def restore(self, state: State) -> Record:
        """Continue from ``state`` and return its record.

        Raises:
            CheckpointError: A setting other than ``epochs`` differs.
        """
        theirs = {
            **TrainOptions.from_dict(state["options"]).to_dict(),
            **config_from_dict(state["config"]).to_dict(),
        }
        ours = {**self._options.to_dict(), **self.model.config.to_dict()}
        keys = (theirs.keys() | ours.keys()) - {"epochs"}
        changed = sorted(key for key in keys if theirs.get(key) != ours.get(key))
        if changed:
            raise CheckpointError(
                f"resume: {', '.join(changed)} differ from the interrupted run; give the same "
                "settings, or another --out"
            )
        self.model.load_state_dict(state["model"])
        if self._mean is not None:
            self._mean.load_state_dict(state["mean"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        return Record(**state["record"])


def _train_epoch(
    fabric: Any,
    objective: Any,
    optimizer: Any,
    sampler: Sampler,
    epoch: int,
    fitted: _Fitted,
) -> float:
    objective.train()
    keep_frozen_backbone_in_eval(fitted.model)
    total, count = 0.0, 0
    for batch in sampler.epoch(epoch, fabric.global_rank, fabric.world_size):
        optimizer.zero_grad()
        loss = objective(batch.to(fabric.device))
        fabric.backward(loss)
        optimizer.step()
        fitted.after_step()
        total, count = total + float(loss.detach()) * len(batch.row), count + len(batch.row)
    mean = total / max(count, 1)
    if not math.isfinite(mean):
        raise ConfigError(f"epoch {epoch}: the loss is {mean}; lower learning_rate")
    return mean


def _optimizer(model: SpotModel, options: TrainOptions) -> torch.optim.Optimizer:
    """Return Adam, fused where possible.

    With 10 million weights, a fused step took 8 ms on a CPU core, and another step 150 ms.
    """
    image = image_backbone(model)
    backbone = [] if image is None else list(image.parameters())
    in_backbone = {id(parameter) for parameter in backbone}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in in_backbone]
    groups = [{"params": rest, "lr": options.learning_rate}]
    if backbone and options.backbone_lr_scale:
        groups.append({"params": backbone, "lr": options.learning_rate * options.backbone_lr_scale})
    fused = options.accelerator in FUSED_ADAM
    return torch.optim.Adam(groups, weight_decay=options.weight_decay, fused=fused)


def _running_mean(model: SpotModel, decay: float) -> AveragedModel:
    """Return an exponential mean of the weights, in which the first steps soon count little.

    All weights are updated in one call, which takes half the time of a call for each.
    """

    def average(means: Any, current: Any, count: Tensor | int) -> None:
        steps = int(count)
        update = get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))  # type: ignore[no-untyped-call]
        update(means, current, count)

    return AveragedModel(model, multi_avg_fn=average)


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def _is_stale(record: Record, patience: int) -> bool:
    return record.epoch > 0 and record.epoch - 1 - record.best_epoch >= patience
