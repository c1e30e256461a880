"""Values of training options that a model is published with, where the shared recipe differs."""

from __future__ import annotations

from typing import Any, Final

from triplex_deploy.contract import Config, Hist2StConfig, HisToGeneConfig

_WHOLE_SLIDES: Final = {"learning_rate": 1e-5}
"""MODELS 2.2 and 2.3: one step per section and a transformer without a warm-up."""

_RECOMMENDED: Final[dict[type[Config], dict[str, Any]]] = {
    HisToGeneConfig: _WHOLE_SLIDES,
    Hist2StConfig: _WHOLE_SLIDES,
}


def recommended_options(kind: type[Config]) -> dict[str, Any]:
    """What holds for a model unless the user sets it; empty where the shared recipe does."""
    return dict(_RECOMMENDED.get(kind, {}))
