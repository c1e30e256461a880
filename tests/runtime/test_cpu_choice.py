"""The backend and the precision of a run on a CPU: what is chosen, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime import cpu_choice
from triplex_deploy.runtime.backends import BACKENDS, ONNXRUNTIME, OPENVINO
from triplex_deploy.runtime.cpu_choice import Candidate, choose_on_cpu
from triplex_deploy.runtime.model import RunnableBundle

BF16_CPU = frozenset({"avx2", "avx512f", "avx512_bf16"})
PLAIN_CPU = frozenset({"avx2", "avx512f"})
ORT, OV, OV_BF16 = (
    Candidate("onnxruntime", "fp32"),
    Candidate("openvino", "fp32"),
    Candidate("openvino", "bf16"),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[Candidate, float]:
    """Rates in place of a measurement; a test may change them before it chooses."""
    rates = {ORT: 10.0, OV: 10.0, OV_BF16: 20.0}

    def measure(_: Bundle, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
        return {candidate: rates[candidate] for candidate in candidates}

    monkeypatch.setattr(cpu_choice, "_measure", measure)
    return rates


def set_cpu(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str]) -> None:
    monkeypatch.setattr(cpu_choice, "processor_flags", lambda: flags)


def with_precision(bundle: Bundle, precision: str) -> Bundle:
    manifest = bundle.manifest.model_copy(update={"precision": precision})
    return Bundle(bundle.path, manifest, bundle.config)


def test_default_is_the_bundles_precision_in_the_first_backend(
    bundle: RunnableBundle, measured: dict[Candidate, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, BF16_CPU)
    choice = choose_on_cpu(bundle, None, None)
    assert (choice.backend, choice.precision, choice.float_type) == (ONNXRUNTIME, "fp32", "fp32")
    assert choice.tiles_per_s == {str(ORT): 10.0, str(OV): 10.0, str(OV_BF16): 20.0}
    assert choice.bf16_gain == 2.0


def test_nothing_is_said_of_bf16_where_it_gains_nothing_or_was_decided(
    bundle: RunnableBundle, measured: dict[Candidate, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, PLAIN_CPU)
    assert choose_on_cpu(bundle, None, None).bf16_gain is None
    set_cpu(monkeypatch, BF16_CPU)
    assert choose_on_cpu(bundle, None, "fp32").bf16_gain is None
    measured[OV_BF16] = 11.0
    assert choose_on_cpu(with_precision(bundle, "fp16"), None, None).bf16_gain is None


def test_faster_backend_is_chosen_at_the_same_precision(
    bundle: RunnableBundle, measured: dict[Candidate, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, BF16_CPU)
    measured[OV] = 13.0
    choice = choose_on_cpu(bundle, None, None)
    assert (choice.backend, choice.float_type) == (OPENVINO, "fp32")
    assert "openvino fp32 13.0" in choice.reason


def test_measurement_is_kept(
    bundle: RunnableBundle, measured: dict[Candidate, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, PLAIN_CPU)
    measured[OV] = 13.0
    first = choose_on_cpu(bundle, None, None)
    measured[OV] = 1.0
    assert choose_on_cpu(bundle, None, None) == first
    set_cpu(monkeypatch, BF16_CPU)  # another processor is measured again
    assert choose_on_cpu(bundle, None, None).backend == ONNXRUNTIME


def test_auto_precision_takes_bf16_only_where_it_is_native(
    bundle: RunnableBundle, measured: dict[Candidate, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, BF16_CPU)
    choice = choose_on_cpu(bundle, None, "auto")
    assert (choice.backend, choice.precision) == (OPENVINO, "bf16")
    set_cpu(monkeypatch, PLAIN_CPU)
    assert choose_on_cpu(bundle, None, "auto").precision == "fp32"


def test_bf16_is_refused_where_the_cpu_emulates_it(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, PLAIN_CPU)
    with pytest.raises(BackendError, match="no amx_bf16 or avx512_bf16"):
        choose_on_cpu(bundle, None, "bf16")


def test_bf16_needs_a_backend_that_has_it(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, BF16_CPU)
    with pytest.raises(BackendError, match="pass --backend openvino"):
        choose_on_cpu(bundle, ONNXRUNTIME, "bf16")
    assert choose_on_cpu(bundle, None, "bf16").backend == OPENVINO


def test_int8_bundle_runs_its_other_layers_in_bf16_where_the_cpu_has_it(
    bundle: RunnableBundle, measured: dict[Candidate, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = with_precision(bundle, "int8")
    set_cpu(monkeypatch, BF16_CPU)
    choice = choose_on_cpu(quantized, None, None)
    assert (choice.backend, choice.precision, choice.float_type) == (OPENVINO, "int8", "bf16")
    set_cpu(monkeypatch, PLAIN_CPU)
    choice = choose_on_cpu(quantized, OPENVINO, "int8")
    assert (choice.precision, choice.float_type) == ("int8", "fp32")


@pytest.mark.parametrize(
    ("own", "asked", "message"),
    [
        ("fp32", "int8", "the bundle is fp32; export another with .*--precision int8"),
        ("int8", "fp32", "the bundle is int8; export another"),
        ("int8", "bf16", "needs an fp32 bundle"),
        ("fp32", "fp16", "not known; use auto or fp32 or bf16 or int8"),
    ],
)
def test_other_precisions_than_the_bundle_has_are_refused(
    own: str, asked: str, message: str, bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpu(monkeypatch, BF16_CPU)
    with pytest.raises(BackendError, match=message):
        choose_on_cpu(with_precision(bundle, own), None, asked)


def test_real_measurement_gives_a_rate_for_each_candidate(bundle: RunnableBundle) -> None:
    rates = cpu_choice._measure(bundle, [ORT, OV])
    assert rates.keys() == {ORT, OV}
    assert min(rates.values()) > 0
    assert set(BACKENDS) == {"onnxruntime", "openvino", "tensorrt"}
