"""Fixtures shared by all tests; real data is used where it lies, else the test skips visibly."""

import os
import signal
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest

from tests.few_parity_cases import few_parity_cases
from tests.needs_torch import EXPORTED, LIBRARIES, needs_torch
from tests.shared_cache import EXPORT, FOLDER, share_traces, shared
from triplex_deploy.runtime.model import Model, RunnableBundle, load_bundle

# One thread each, for torch and NumPy: two test processes on two cores would wait for each other,
# and sums do not depend on the number of cores. Read when those are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BUNDLE_MPP = 0.5


def pytest_configure(config: pytest.Config) -> None:
    """Hide PyTorch from a run that leaves its tests out, so that none of the others needs it."""
    if _without_torch(config):
        sys.meta_path.insert(0, _Hidden())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files out that could not be imported without PyTorch."""
    is_test = collection_path.is_dir() or collection_path.name.startswith("test_")
    if _without_torch(config) and is_test and needs_torch(collection_path):
        return True
    return None


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Leave bytes out of test names: packed bytes hold the time, and processes must agree."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need PyTorch or an exported bundle, if the run asks for the marker."""
    if "torch" not in config.getoption("markexpr"):
        return
    for item in items:
        fixtures = EXPORTED.intersection(getattr(item, "fixturenames", ()))
        if fixtures or needs_torch(item.path) or needs_torch(item.path.parent):
            item.add_marker("torch")


def _without_torch(config: pytest.Config) -> bool:
    """Return whether the run is ``-m "not torch"``."""
    return "not torch" in config.getoption("markexpr")


class _Hidden(MetaPathFinder):
    """Answer imports of PyTorch and ONNX as where they are not installed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition(".")[0] in LIBRARIES:
            raise ModuleNotFoundError(
                f"{fullname} is hidden from this run: mark the test with pytest.mark.torch",
                name=fullname,
            )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and reference numbers; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is absent: no ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C works in tests of it even where the suite was started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measurements, engines and the key of the tests out of the user's folders."""
    folder = tmp_path_factory.mktemp("cache")
    share_traces(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("XDG_STATE_HOME", str(FOLDER / "state"))  # one key, as the traces are shared
        yield


@pytest.fixture(scope="session")
def demo_export() -> Path:
    """Folder with the demo's small untrained ``demo.ckpt`` and its ``bundle``, made once for all.

    Tests copy what they change.
    """
    return shared("demo-export", (*EXPORT, "demo"), _export_demo)


def _export_demo(folder: Path) -> None:
    from triplex_deploy.demo.checkpoint import write_demo_checkpoint
    from triplex_deploy.exporters.export import export_bundle

    write_demo_checkpoint(folder / "demo.ckpt", BUNDLE_MPP)
    export_bundle(folder / "demo.ckpt", folder / "bundle")


@pytest.fixture(scope="session")
def checkpoint_path(demo_export: Path) -> Path:
    """The demo's small untrained checkpoint, for tiles at 0.5 um/px."""
    return demo_export / "demo.ckpt"


@pytest.fixture(scope="session")
def bundle(demo_export: Path) -> RunnableBundle:
    """That checkpoint exported; tests copy it before they damage it."""
    return load_bundle(demo_export / "bundle")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without convolutions: exported in a second, for tests of what is around it."""
    from tests.training.conftest import write_mean_encoder
    from tests.variants import SMALL, variant_checkpoint
    from triplex_deploy.contract import ModelConfig
    from triplex_deploy.models import TileEncoderWeights, write_checkpoint

    folder = tmp_path_factory.mktemp("tiny")
    write_mean_encoder(folder / "means.onnx", batch="batch")
    content = (folder / "means.onnx").read_bytes()
    encoder = TileEncoderWeights("means", "onnx", {}, content, feature_dim=3)
    config = ModelConfig(**{**SMALL, "model": "gem", "feature_dim": 3})
    write_checkpoint(variant_checkpoint(config, encoder), folder / "tiny.ckpt")
    return folder / "tiny.ckpt"


@pytest.fixture
def small_parity() -> Iterator[None]:
    """Few and small parity cases: for tests of what happens around them."""
    with few_parity_cases():
        yield


@pytest.fixture(scope="session")
def model(bundle: RunnableBundle) -> Iterator[Model]:
    """The bundle opened on the CPU."""
    with bundle.open(device="cpu") as opened:
        yield opened
