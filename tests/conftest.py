"""Fixtures shared by all tests; real data is used where it lies, else the test skips visibly."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from triplex_deploy.runtime.model import Model, RunnableBundle, load_bundle

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BUNDLE_MPP = 0.5


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
    """What is measured or built on behalf of tests is not kept for the user's own runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's small untrained checkpoint, for tiles at 0.5 um/px."""
    from triplex_deploy.demo.checkpoint import write_demo_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "demo.ckpt"
    write_demo_checkpoint(path, BUNDLE_MPP)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint_path: Path, tmp_path_factory: pytest.TempPathFactory) -> RunnableBundle:
    """That checkpoint exported, once per session; tests copy it before they damage it."""
    from triplex_deploy.exporters.export import export_bundle

    folder = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(checkpoint_path, folder)
    return load_bundle(folder)


@pytest.fixture(scope="session")
def model(bundle: RunnableBundle) -> Iterator[Model]:
    """The bundle opened on the CPU."""
    with bundle.open(device="cpu") as opened:
        yield opened
