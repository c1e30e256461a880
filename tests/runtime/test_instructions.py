"""Test which instructions of a processor are found, and what doctor says of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from triplex_deploy import system
from triplex_deploy.runtime.cpu_choice import ISA_LIMIT
from triplex_deploy.runtime.diagnosis import Finding, cpu_findings
from triplex_deploy.runtime.instructions import instructions_for, known_instructions

AMX = "sse2 avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16"
Processor = Callable[[str], None]


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """Let the machine have a processor with these flags."""
    monkeypatch.delenv(ISA_LIMIT, raising=False)

    def describe(flags: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(f"model name : Imaginary 9000\nflags : {flags}\n")
        monkeypatch.setattr(system, "CPU_INFO", path)

    return describe


@pytest.mark.parametrize(
    ("flags", "fp32", "bf16", "int8"),
    [
        (AMX, "avx512f", "amx_bf16", "amx_int8"),
        ("avx2 avx512f avx512_bf16 avx512_vnni", "avx512f", "avx512_bf16", "avx512_vnni"),
        ("avx2 avx512f", "avx512f", None, "avx512f"),
        ("avx2 avx_vnni", "avx2", None, "avx_vnni"),
        ("avx2", "avx2", None, "avx2"),
        ("sse2", None, None, None),
    ],
)
def test_the_fastest_instructions_of_each_precision_are_found(
    flags: str, fp32: str | None, bf16: str | None, int8: str | None
) -> None:
    found = [instructions_for(name, flags.split()) for name in ("fp32", "bf16", "int8")]
    assert found == [fp32, bf16, int8]


def test_all_known_instructions_are_listed(processor: Processor) -> None:
    processor(AMX)
    assert known_instructions() == (
        "avx512f",
        "avx2",
        "amx_bf16",
        "avx512_bf16",
        "amx_int8",
        "avx512_vnni",
    )


def by_name() -> dict[str, Finding]:
    return {finding.name: finding for finding in cpu_findings()}


def test_doctor_names_the_command_for_each_precision_of_the_cpu(processor: Processor) -> None:
    processor(AMX)
    found = by_name()
    assert all(finding.ok for finding in found.values())
    assert "amx_int8" in found["CPU instructions"].detail
    assert "Imaginary 9000" in found["CPU instructions"].detail
    assert "by avx512f: `predict`" in found["CPU fp32"].detail
    assert "by amx_bf16: `predict --precision bf16`" in found["CPU bf16"].detail
    assert "by amx_int8: `export --precision int8" in found["CPU int8"].detail
    assert "--int8-weights" not in found["CPU int8"].detail


def test_doctor_says_what_a_cpu_with_avx2_alone_lacks(processor: Processor) -> None:
    processor("sse2 avx2")
    found = by_name()
    assert found["CPU bf16"].ok is None
    assert "needs amx_bf16 or avx512_bf16" in found["CPU bf16"].detail
    assert "by avx2, without VNNI" in found["CPU int8"].detail
    assert "--int8-weights 7" in found["CPU int8"].detail


def test_doctor_names_the_limit_that_takes_bf16_away(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(AMX)
    monkeypatch.setenv(ISA_LIMIT, "AVX2")
    assert f"{ISA_LIMIT} limits OpenVINO" in by_name()["CPU bf16"].detail


def test_processor_without_listed_flags_is_unknown_and_no_fault(processor: Processor) -> None:
    processor("")
    (finding,) = cpu_findings()
    assert (finding.ok, finding.detail.split(":")[0]) == (None, "unknown")
