"""Files of a run: the state that a resumed training reads."""

from pathlib import Path

import torch

from triplex_deploy.training.run_files import STATE, load_state


def test_no_state_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


def test_state_with_older_names_of_modules_is_read(tmp_path: Path) -> None:
    weight = torch.arange(3.0)
    old = {
        "model": {"target_encoder.trunk.conv1.weight": weight},
        "mean": {"n_averaged": torch.tensor(2), "module.trunk.bn1.weight": weight},
        "optimizer": {"state": {}},
    }
    torch.save(old, tmp_path / STATE)
    state = load_state(tmp_path)
    assert state is not None
    assert list(state["model"]) == ["target_encoder.backbone.conv1.weight"]
    assert list(state["mean"]) == ["n_averaged", "module.backbone.bn1.weight"]
    assert torch.equal(state["mean"]["module.backbone.bn1.weight"], weight)
