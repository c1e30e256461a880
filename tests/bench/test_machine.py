"""Test what is recorded of the machine, and what other work took of its cores."""

import os
from pathlib import Path

import pytest

from triplex_deploy.bench import machine
from triplex_deploy.bench.machine import (
    Moment,
    busy_ticks,
    measure_peaks,
    parse_gpus,
    read_machine,
    share_of_others,
)
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.product import PRODUCT_TYPES, CompiledProduct

STAT = """cpu  300 0 150 1000 10 0 0 8 0 0
cpu0 100 10 50 400 10 1 2 3 70 0
cpu1 200 0 100 600 0 0 0 5 0 0
cpu12 9000 0 0 0 0 0 0 0 0 0
intr 12345
"""


def test_machine_tells_cores_and_memory() -> None:
    found = read_machine()
    assert found.cores == os.cpu_count()
    assert 1 <= found.usable_cores <= found.cores
    assert found.memory_gb is None or found.memory_gb > 0.1
    assert found.cpu


def test_machine_names_its_instructions_for_products(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset({"sse2", "avx2", "avx512f", "avx512_vnni"})
    monkeypatch.setattr("triplex_deploy.runtime.instructions.processor_flags", lambda: flags)
    assert read_machine().instructions == ("avx512f", "avx2", "avx512_vnni")


def test_gpu_table_is_read_line_by_line() -> None:
    table = (
        "NVIDIA Imaginary 1, 580.65.06, 81559, 345, 1980\n"
        "NVIDIA Silent 2, 580.65.06, 81559, [N/A], [N/A]\n"
    )
    (gpu,) = parse_gpus(table)
    assert (gpu.name, gpu.driver) == ("NVIDIA Imaginary 1", "580.65.06")
    assert (gpu.memory_mb, gpu.sm_clock_mhz, gpu.max_sm_clock_mhz) == (81559.0, 345.0, 1980.0)
    assert parse_gpus("") == ()


def test_busy_is_all_but_idle_and_disk_on_our_cores_alone() -> None:
    assert busy_ticks(STAT, {0}) == 100 + 10 + 50 + 1 + 2 + 3
    assert busy_ticks(STAT, {0, 1}) == 166 + 305
    assert busy_ticks(STAT, {12}) == 9000


def test_share_is_what_we_did_not_use_ourselves() -> None:
    begin, end = Moment(10.0, 100.0, 5.0), Moment(12.0, 103.0, 6.0)
    assert share_of_others(begin, end, cores=2) == pytest.approx(2 / 4)


def test_share_stays_a_share_where_counts_are_coarse() -> None:
    begin = Moment(0.0, 0.0, 0.0)
    assert share_of_others(begin, Moment(1.0, 0.98, 1.0), 1) == 0.0
    assert share_of_others(begin, Moment(1.0, 1.03, 0.0), 1) == 1.0


def test_unknown_moments_have_no_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert share_of_others(None, Moment(1.0, 1.0, 1.0), 1) is None
    assert share_of_others(Moment(1.0, 1.0, 1.0), Moment(1.0, 1.0, 1.0), 1) is None
    monkeypatch.setattr(machine, "STAT", tmp_path / "absent")
    assert machine.used_ticks() is None


def made_up_product(precision: str) -> CompiledProduct:
    return CompiledProduct(lambda: None, PRODUCT_TYPES.index(precision) + 1, f"of {precision}")


class Ticking:
    """Each reading is half a second after the last."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        self.seconds += 0.5
        return self.seconds

    def sleep(self, seconds: float) -> None:
        raise AssertionError


def test_peaks_are_of_each_precision_with_its_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = frozenset({"avx2", "avx512f", "avx512_bf16", "avx512_vnni"})
    for module in ("instructions", "cpu_choice"):
        monkeypatch.setattr(f"triplex_deploy.runtime.{module}.processor_flags", lambda: flags)
    monkeypatch.setattr(machine, "compile_product", made_up_product)
    peaks, absent = measure_peaks(Ticking())
    assert absent == {}
    assert {name: (peak.flops_per_s, peak.instructions) for name, peak in peaks.items()} == {
        "fp32": (2.0, "avx512f"),
        "bf16": (4.0, "avx512_bf16"),
        "int8": (6.0, "avx512_vnni"),
    }
    assert peaks["int8"].how == "of int8"


def test_emulated_bf16_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset({"avx2"})
    for module in ("instructions", "cpu_choice"):
        monkeypatch.setattr(f"triplex_deploy.runtime.{module}.processor_flags", lambda: flags)
    monkeypatch.setattr(machine, "compile_product", made_up_product)
    peaks, absent = measure_peaks(Ticking())
    assert set(peaks) == {"fp32", "int8"}
    assert absent == {"bf16": "this CPU does not multiply it in hardware"}


def test_peaks_that_cannot_be_measured_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(precision: str) -> CompiledProduct:
        raise BackendError("openvino is not installed; run pip")

    monkeypatch.setattr(machine, "compile_product", refuse)
    peaks, absent = measure_peaks(Ticking())
    assert peaks == {}
    assert absent["fp32"] == absent["int8"] == "openvino is not installed; run pip"
