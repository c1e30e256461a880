"""A real Triton server on the CPU predicts what ``predict`` does, with the exported repository.

The server is that of the package ``nvidia-pytriton``, which holds the Python backend alone. So each
graph is served by a Python model that runs its file in ONNX Runtime, under the graph's own
configuration; the chain ``triplex`` is the exported one. To run these tests::

    pip install --no-deps --target FOLDER nvidia-pytriton 'numpy<2'
    TRIPLEX_TEST_TRITON=FOLDER pytest tests/exporters/test_real_triton.py
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy import predict_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.exporters.triton import write_repository
from triplex_deploy.exporters.triton_templates.client import slide_inputs
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.model import Model, RunnableBundle

FOLDER = Path(os.environ.get("TRIPLEX_TEST_TRITON", "no folder"))
SITE = Path(np.__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "pytriton").is_dir(), reason="TRIPLEX_TEST_TRITON names no Triton server"
    ),
]
PATIENCE_S = 300
TYPES = {"uint8": "UINT8", "int64": "INT64"}
GRAPH_MODEL = f"""
import sys
from pathlib import Path
sys.path.append({str(SITE)!r})
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(folder / "model.onnx")

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        given = {{
            tensor.name: pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            for tensor in self.session.get_inputs()
        }}
        names = [tensor.name for tensor in self.session.get_outputs()]
        made = self.session.run(names, given)
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in zip(names, made)])
"""


@pytest.fixture(scope="module")
def repository(bundle: RunnableBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(bundle, folder)
    for name in bundle.specs:
        config = folder / name / "config.pbtxt"
        config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
        (folder / name / "1" / "model.py").write_text(GRAPH_MODEL)
    for file in (folder / "client.py", folder / "README.md"):
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def url(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server, and stop it."""
    with started(repository, tmp_path_factory.mktemp("server"), FOLDER) as (address, process, log):
        await_server(address, process, log)
        yield address


@contextmanager
def started(
    repository: Path, folder: Path, current: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Start a server that finds NumPy in the folder ``current``."""
    server = FOLDER / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends, binary = folder / "backends", folder / "tritonserver"
    shutil.copytree(server / "backends", backends)
    stub = backends / "python" / "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
    shutil.copy(server / "bin" / "tritonserver", binary)
    for program in (stub, binary):
        program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    command = [str(binary), f"--model-repository={repository}", f"--backend-directory={backends}"]
    command += ["--allow-grpc=false", "--allow-metrics=false", "--http-address=127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--http-port={port}"],
            stdout=output,
            stderr=output,
            env=os.environ | {"LD_LIBRARY_PATH": str(FOLDER / "nvidia_pytriton.libs")},
            cwd=current,
        )
    try:
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        process.terminate()
        process.wait(timeout=60)


def await_server(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5).close()
        except (urllib.error.URLError, OSError):
            text = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"the server ended: {text}"
            assert time.monotonic() < end, f"the server does not answer: {text}"
            time.sleep(0.5)
        else:
            return


def ask(address: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the expression that the server predicts, by its protocol with binary tensors."""
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": TYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    output = {"name": "expression", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": inputs, "outputs": [output]}).encode()
    body = header + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    request = urllib.request.Request(f"{address}/v2/models/triplex/infer", body, method="POST")
    request.add_header("Inference-Header-Content-Length", str(len(header)))
    request.add_header("Content-Type", "application/octet-stream")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            length = int(response.headers["Inference-Header-Content-Length"])
            content = response.read()
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read().decode()) from error
    shape = json.loads(content[:length])["outputs"][0]["shape"]
    return np.frombuffer(content[length:], np.float32).reshape(shape)


def test_server_predicts_what_predict_does(
    url: str, bundle: RunnableBundle, model: Model, tmp_path: Path
) -> None:
    """The spots at the border of the slide have masked neighbors."""
    slide = tmp_path / "slide.tif"
    mpp = bundle.manifest.tile_mpp
    synthesize_slide(slide, 900, 700, mpp, seed=3)
    inputs = slide_inputs(slide, bundle.path, mpp)
    assert (inputs["neighbor_tile"] < 0).any()
    found = ask(url, inputs)
    wanted = predict_slide(slide, model, PredictOptions(mpp=mpp)).expression
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert np.ptp(found, axis=0).max() > 1e-3, "tensors arrive, and are not constant"


def test_server_refuses_indices_beyond_the_tiles(url: str) -> None:
    arrays: dict[str, np.ndarray] = {
        "tiles": np.zeros((1, 224, 224, 3), np.uint8),
        "neighbor_tile": np.full((1, 25), 3, np.int64),
        "apeg_index": np.full((1, 9), -1, np.int64),
    }
    with pytest.raises(AssertionError, match="neighbor_tile must be -1 to 0"):
        ask(url, arrays)


def test_model_refuses_a_server_that_spoils_tensors(repository: Path, tmp_path: Path) -> None:
    """Triton 24.10 with NumPy 2, which is that of this process."""
    if np.__version__.startswith("1."):
        pytest.skip("NumPy 2 is needed")
    with started(repository, tmp_path, SITE) as (_, process, log):
        process.wait(timeout=PATIENCE_S)
        assert f"does not work with NumPy {np.__version__}" in log.read_text(errors="replace")
