"""Make the tables of a study as rows of text, for Markdown, CSV and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

COLUMNS: Final = {
    "mse": "MSE",
    "mae": "MAE",
    "pcc_m": "PCC(M)",
    "pcc_h": "PCC(H)",
    "mse_within": "MSE within",
    "mse_offset": "MSE offset",
}
ABSENT: Final = "-"
CONSTANT: Final = "constant predictor"
BASELINE_NAMES: Final = {"tile_ridge": "tile ridge", "context_ridge": "context ridge"}

AVERAGED: Final = "seeds are averaged within a fold, then mean ± std over folds (ddof 0)"
TOP_GENES: Final = (
    "PCC(H) is over the 50 genes that each model ranks best over the test folds, PCC(50) over the "
    "same 50 genes for all models. MSE is the sum of MSE within, the error of the pattern on a "
    "slide, and MSE offset, the squared mean error of each gene"
)


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    """Title of the table."""
    note: str
    """Explanation of the values."""
    header: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """Text of the rows, as long as ``header``."""


def make_tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a study's results that have rows."""
    tables = []
    for label, dataset in results["datasets"].items():
        tables.append(_scores(results, label, dataset))
        tables.append(_differences(results, label, dataset))
        tables.append(_costs(label, dataset))
    for label, external in results["external"].items():
        tables += _external(label, external)
    return [table for table in tables if table.rows]


def _scores(results: Mapping[str, Any], label: str, dataset: Mapping[str, Any]) -> Table:
    printed = [key for key in COLUMNS if any(key in (m["paper"] or {}) for m in _of(dataset))]
    header = ("model", *COLUMNS.values(), "PCC(50)", *(f"paper {COLUMNS[k]}" for k in printed))
    rows = [_constant_row(dataset["constant"], len(header))] if dataset["constant"] else []
    for name, baseline in dataset["baselines"].items():
        cells = [_spread(baseline[key]) for key in COLUMNS]
        absent = [ABSENT] * (len(header) - len(cells) - 1)
        rows.append((BASELINE_NAMES[name], *cells, *absent))
    for name, model in dataset["models"].items():
        paper = model["paper"] or {}
        cells = [_spread(model[key]) for key in (*COLUMNS, "pcc_common")]
        rows.append((_named(name, model), *cells, *(_spread(paper.get(key)) for key in printed)))
    shared = "; test patients are also in the training data" if dataset["shares_patients"] else ""
    note = (
        f"folds {', '.join(dataset['folds'])}; seeds {', '.join(map(str, results['seeds']))}; "
        f"{results['selection']} selection{shared}; {AVERAGED}. {TOP_GENES}."
    )
    return Table(f"{label}: accuracy", note, header, tuple(rows))


def _constant_row(constant: Mapping[str, Any], width: int) -> tuple[str, ...]:
    cells = (CONSTANT, *(_spread(constant.get(key)) for key in COLUMNS))
    return (*cells, *[ABSENT] * (width - len(cells)))


def _named(name: str, model: Mapping[str, Any]) -> str:
    done, wanted = model["cells_done"], model["cells"]
    return name if done == wanted else f"{name} ({done} of {wanted} cells)"


def _differences(results: Mapping[str, Any], label: str, dataset: Mapping[str, Any]) -> Table:
    reference = results["reference"]
    named = {BASELINE_NAMES[name]: row for name, row in dataset["baselines"].items()}
    rows = [
        (name, *(_difference(model["difference"][key]) for key in COLUMNS), _count(model))
        for name, model in {**named, **dataset["models"]}.items()
        if model["difference"] is not None and name != reference
    ]
    note = f"Model minus {reference} on the same fold, mean ± std over folds (ddof 0)."
    header = ("model", *(f"Δ {name}" for name in COLUMNS.values()), "folds")
    return Table(f"{label}: paired with {reference}", note, header, tuple(rows))


def _count(model: Mapping[str, Any]) -> str:
    return str(model["difference"]["mse"]["n"])


def _costs(label: str, dataset: Mapping[str, Any]) -> Table:
    header = (
        "model",
        "parameters (M)",
        "in training (M)",
        "bundle (MB)",
        "spots/s",
        "peak memory (MB)",
        "training (s)",
    )
    rows = tuple(_cost_row(name, model) for name, model in dataset["models"].items())
    note = (
        "Parameters are those that the prediction depends on, without the frozen tile encoder, "
        "which is in the bundle. Spots/s is of the faster of two predictions of one section by "
        "ONNX Runtime in a new process. Training is the wall time of all cells."
    )
    return Table(f"{label}: cost", note, header, rows)


def _cost_row(name: str, model: Mapping[str, Any]) -> tuple[str, ...]:
    cost = model["deployed"] or {}
    return (
        name,
        _number(_millions(cost.get("parameters")), 2),
        _number(_millions(cost.get("parameters_in_training")), 2),
        _number(cost.get("bundle_mb"), 1),
        _number(cost.get("spots_per_s"), 1),
        _number(cost.get("peak_memory_mb"), 0),
        _number(model["training_s"], 0),
    )


def _external(label: str, external: Mapping[str, Any]) -> Iterator[Table]:
    for sample, content in external["samples"].items():
        printed = [key for key in COLUMNS if any(key in (m["paper"] or {}) for m in _of(content))]
        header = (
            "model",
            *COLUMNS.values(),
            *(f"ensemble {name}" for name in COLUMNS.values()),
            *(f"paper {COLUMNS[key]}" for key in printed),
        )
        rows = tuple(
            (
                name,
                *(_spread(model["folds"][key]) for key in COLUMNS),
                *(_number(model["ensemble"][key]) for key in COLUMNS),
                *(_number((model["paper"] or {}).get(key, {}).get("mean")) for key in printed),
            )
            for name, model in content["models"].items()
        )
        note = (
            f"Models trained on {external['trained_on']}; {content['spots']} spots, "
            f"{content['matched']} genes matched by symbol, labels of these genes only; mean ± std "
            "over the fold models (ddof 0); the ensemble is the mean of their predictions."
        )
        yield Table(f"{label}: {sample}", note, header, rows)


def _of(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(content["models"].values())


def _spread(value: Mapping[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return ABSENT
    return _number(value["mean"]) + _deviation(value)


def _difference(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return ABSENT
    return f"{value['mean']:+.3f}" + _deviation(value)


def _deviation(value: Mapping[str, Any]) -> str:
    return "" if value["std"] is None else f" ± {_number(value['std'])}"


def _number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _millions(value: int | None) -> float | None:
    return None if value is None else value / 1e6
