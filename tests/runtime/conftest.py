"""Fixtures: a stand-in for a GPU, and a bundle with engines that run on it."""

import shutil
from pathlib import Path

import pytest

from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy.bundle import MANIFEST, read_bundle
from triplex_deploy.exporters.options import TensorrtOptions
from triplex_deploy.exporters.tensorrt import write_tensorrt_graphs
from triplex_deploy.files.digest import sha256_of
from triplex_deploy.runtime.model import RunnableBundle, load_bundle
from triplex_deploy.runtime.tensorrt import engines
from triplex_deploy.runtime.tensorrt.build import SETTINGS, write_settings
from triplex_deploy.runtime.tensorrt.cuda import Cuda


def add_tensorrt(bundle: RunnableBundle, folder: Path, options: TensorrtOptions) -> RunnableBundle:
    """Return a copy of ``bundle`` in ``folder`` that also has graphs for TensorRT."""
    shutil.copytree(bundle.path, folder)
    write_settings(folder, options.settings(bundle.specs))
    exact = {name: folder / f"{name}.onnx" for name in bundle.specs}
    entries = write_tensorrt_graphs(folder, exact, bundle.config, options.precision)
    manifest = bundle.manifest.model_copy(
        update={
            "graphs": (*bundle.manifest.graphs, *entries),
            "files": {**bundle.manifest.files, SETTINGS: sha256_of(folder / SETTINGS)},
        }
    )
    (folder / MANIFEST).write_text(manifest.sealed().to_json())
    read_bundle(folder)
    return load_bundle(folder)


@pytest.fixture(scope="session")
def shared_engine_bundle(
    bundle: RunnableBundle, tmp_path_factory: pytest.TempPathFactory
) -> RunnableBundle:
    options = TensorrtOptions("fp32", profiles=("batch=1:4:8", "spots=2:8:40"))
    return add_tensorrt(bundle, tmp_path_factory.mktemp("trt") / "bundle", options)


@pytest.fixture
def engine_bundle(shared_engine_bundle: RunnableBundle, tmp_path: Path) -> RunnableBundle:
    """Return a new bundle for fp32 engines of up to 8 tiles and 2 to 40 spots."""
    folder = tmp_path / "bundle"
    without_engines = shutil.ignore_patterns("engines")
    shutil.copytree(shared_engine_bundle.path, folder, copy_function=_link, ignore=without_engines)
    return load_bundle(folder)


def _link(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target


@pytest.fixture
def gpu() -> StandInGpu:
    return StandInGpu()


@pytest.fixture
def trt(gpu: StandInGpu) -> StandInTensorrt:
    return StandInTensorrt(gpu)


@pytest.fixture
def cuda(gpu: StandInGpu) -> Cuda:
    return gpu.cuda()


@pytest.fixture
def installed(
    trt: StandInTensorrt, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> StandInTensorrt:
    """Make the backend find TensorRT and a GPU, and a cache folder of the test."""
    monkeypatch.setattr(engines, "import_tensorrt", lambda: trt)
    monkeypatch.setattr(engines, "open_cuda", lambda index: cuda)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return trt
