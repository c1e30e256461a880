"""The frozen encoder in the runtimes of prediction: equal to PyTorch, in several workers."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.install import install_command
from triplex_deploy.runtime import cpu_choice, tile_graph
from triplex_deploy.runtime.cpu_choice import Candidate, has_fast_bf16
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.session import Session
from triplex_deploy.training import tile_encoder
from triplex_deploy.training.encoder_runner import TORCH, EncoderRunner, RunOptions
from triplex_deploy.training.tile_encoder import FrozenEncoder, open_tile_encoder

from .conftest import write_mean_encoder

TILES = np.random.default_rng(3).integers(0, 256, (6, 224, 224, 3), np.uint8)
BACKENDS = [backend.name for backend in cpu_choice.installed_on_cpu()]


@pytest.fixture(scope="module")
def encoder() -> FrozenEncoder:
    """A ResNet18 of random weights."""
    return open_tile_encoder(None, 1)


def assert_within_gate(features: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(features - expected).max() <= 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_are_those_of_pytorch(backend: str, encoder: FrozenEncoder) -> None:
    with EncoderRunner(encoder, RunOptions(backend, workers=2)) as runner:
        assert (runner.running.backend, runner.running.workers) == (backend, 2)
        assert_within_gate(runner.running.encode(TILES), encoder.encode(TILES))
        assert runner.digest == encoder.digest
        assert runner.metadata() == encoder.metadata()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_do_not_depend_on_batches_and_workers(backend: str, encoder: FrozenEncoder) -> None:
    with EncoderRunner(encoder, RunOptions(backend, workers=3)) as runner:
        encode = runner.running.encode
        whole = encode(TILES)
        for size in (1, 4):
            parts = [TILES[begin : begin + size] for begin in range(0, len(TILES), size)]
            with ThreadPoolExecutor(3) as pool:
                features = np.concatenate(list(pool.map(encode, parts)))
            np.testing.assert_array_equal(features, whole)


def test_graph_lies_in_the_cache_and_is_not_trusted(
    encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.system import cache_folder

    path = cache_folder() / "encoders" / f"{encoder.digest}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something else")
    with EncoderRunner(encoder, RunOptions(BACKENDS[0])) as runner:
        assert_within_gate(runner.running.encode(TILES), encoder.encode(TILES))
    written = path.stat().st_mtime_ns
    with EncoderRunner(encoder, RunOptions(BACKENDS[0])) as runner:
        assert runner.running.backend == BACKENDS[0]
    assert path.stat().st_mtime_ns == written


def test_users_own_graph_runs_in_every_backend(mean_encoder: Path, tmp_path: Path) -> None:
    own = open_tile_encoder(mean_encoder, threads=1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    for backend in BACKENDS:
        with EncoderRunner(own, RunOptions(backend)) as runner:
            assert_within_gate(runner.running.encode(TILES), own.encode(TILES))


def test_backend_that_computes_a_graph_less_exactly_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_mean_encoder(tmp_path / "means.onnx", batch="batch", block=1)
    own = open_tile_encoder(tmp_path / "means.onnx", threads=1)
    with EncoderRunner(own, RunOptions()) as runner:
        assert runner.running.backend == "onnxruntime"
    assert "openvino is left out" in caplog.text


def test_torch_and_a_fixed_batch_run_in_their_own_runtime(
    encoder: FrozenEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EncoderRunner(encoder, RunOptions(TORCH)) as runner:
        assert (runner.running.backend, runner.running.workers) == (TORCH, 1)
    write_mean_encoder(tmp_path / "pairs.onnx", batch=2)
    pairs = open_tile_encoder(tmp_path / "pairs.onnx", threads=1)
    with EncoderRunner(pairs, RunOptions(workers=2)) as runner:
        assert (runner.running.backend, runner.running.workers) == ("onnxruntime", 2)
    assert "takes exactly 2 tiles" in caplog.text
    with pytest.raises(BackendError, match="takes exactly 2 tiles"):
        EncoderRunner(pairs, RunOptions("openvino"))


def test_without_the_exporters_packages_pytorch_encodes_and_says_so(
    encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tile_encoder, "EXPORTER_PACKAGES", ("onnx", "no_such_package"))
    with caplog.at_level(logging.WARNING), EncoderRunner(encoder, RunOptions()) as runner:
        assert runner.running.backend == TORCH
    (record,) = caplog.records
    assert f"no_such_package not installed; run `{install_command('export')}`" in str(
        record.msg % record.args
    )
    for options in (RunOptions("onnxruntime"), RunOptions(precision="bf16")):
        with pytest.raises(BackendError, match="no_such_package"):
            EncoderRunner(encoder, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RunOptions(TORCH, "bf16"), "fp32 only; pass --backend auto"),
        (RunOptions("onnxruntime", "bf16"), "onnxruntime has none on a CPU"),
        (RunOptions(precision="bf16", device=Device("cuda")), "fp32 only; pass --device cpu"),
        (RunOptions("openvino", device=Device("cuda")), "pass --device cpu"),
        (RunOptions(precision="int8"), "use fp32 or bf16"),
        (RunOptions("tensorrt"), "use auto or onnxruntime or openvino or torch"),
    ],
)
def test_what_cannot_be_had_is_refused_at_once(
    options: RunOptions, message: str, encoder: FrozenEncoder
) -> None:
    with pytest.raises(BackendError, match=message):
        EncoderRunner(encoder, options)


def test_bf16_is_refused_where_the_cpu_does_not_multiply_it(
    encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "openvino" not in BACKENDS:
        pytest.skip("OpenVINO is not installed")
    monkeypatch.setattr(cpu_choice, "processor_flags", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(BackendError, match="does not multiply it in hardware"):
        EncoderRunner(encoder, RunOptions(precision="bf16"))


def test_bf16_differs_within_its_gate(encoder: FrozenEncoder) -> None:
    if "openvino" not in BACKENDS or not has_fast_bf16():
        pytest.skip("bf16 needs OpenVINO and a CPU that multiplies it")
    with EncoderRunner(encoder, RunOptions(precision="bf16")) as runner:
        features, expected = runner.running.encode(TILES), encoder.encode(TILES)
        assert not np.array_equal(features, expected)
        assert np.corrcoef(features.ravel(), expected.ravel())[0, 1] > 0.999
        assert runner.digest != encoder.digest
        assert runner.metadata()["precision"] == "bf16"


def test_faster_backend_is_taken_and_one_that_misses_the_gate_is_left_out(
    encoder: FrozenEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if len(BACKENDS) < 2:
        pytest.skip("only one runtime is installed")
    first, second = (Candidate(name, "fp32") for name in BACKENDS)
    monkeypatch.setattr(
        tile_graph, "time_sessions", lambda sessions: dict.fromkeys(sessions, 1.0) | {second: 9.0}
    )
    monkeypatch.setattr(tile_graph, "kept_rates", lambda _, __, measure: measure())
    with EncoderRunner(encoder, RunOptions()) as runner:
        assert runner.running.backend == second.backend
    check = tile_graph._check_features

    def check_second(
        graph: tile_graph.TileGraph, candidate: Candidate, session: Session, is_named: bool
    ) -> None:
        if candidate == second:
            raise BackendError("it misses the gate")
        check(graph, candidate, session, is_named)

    monkeypatch.setattr(tile_graph, "_check_features", check_second)
    with EncoderRunner(encoder, RunOptions()) as runner:
        assert runner.running.backend == first.backend
    assert f"{second.backend} is left out: it misses the gate" in caplog.text
    with EncoderRunner(encoder, RunOptions(second.backend)) as runner, pytest.raises(BackendError):
        _ = runner.running
