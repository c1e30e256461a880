"""Engines are built once, kept in a writable folder, and loaded only if they were built here."""

import logging
import os
from pathlib import Path

import pytest

from tests.gpu.stand_in_tensorrt import MAGIC
from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import BackendError, OutputError
from triplex_deploy.runtime.model import RunnableBundle
from triplex_deploy.runtime.tensorrt.build import Plan, read_settings
from triplex_deploy.runtime.tensorrt.manifest import EngineManifest, Platform
from triplex_deploy.runtime.tensorrt.store import EngineStore

L4 = Platform("NVIDIA L4", (8, 9), "11.4.0.106")


class Builder:
    """Counts the builds, and keeps the timing cache of each."""

    def __init__(self) -> None:
        self.caches: list[bytes] = []

    def __call__(self, onnx: bytes, timing_cache: bytes) -> Plan:
        self.caches.append(timing_cache)
        return Plan(MAGIC + onnx[:16], timing_cache + b"t")


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def store_of(bundle: Bundle, platform: Platform = L4) -> EngineStore:
    return EngineStore(bundle, read_settings(bundle), platform)


def test_engine_is_built_once_and_kept_in_the_bundle(
    engine_bundle: RunnableBundle, build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first = store_of(engine_bundle).plan("fusion_head", build)
    assert "building the TensorRT engine of fusion_head for NVIDIA L4, once" in caplog.text
    caplog.clear()
    assert store_of(engine_bundle).plan("fusion_head", build) == first
    assert (len(build.caches), caplog.text) == (1, "")
    folder = engine_bundle.path / "engines" / "nvidia-l4-sm89-trt11.4.0.106-fp32"
    names = {path.name for path in folder.iterdir()}
    assert names == {"timing.cache", "fusion_head.plan", "fusion_head.json"}
    manifest = EngineManifest.model_validate_json((folder / "fusion_head.json").read_text())
    assert manifest.platform == L4
    assert manifest.onnx_sha256 == engine_bundle.entry("fusion_head", "tensorrt").sha256
    assert manifest.profile == (1, 4, 8)


def test_timing_cache_grows_from_engine_to_engine(
    engine_bundle: RunnableBundle, build: Builder
) -> None:
    store = store_of(engine_bundle)
    store.plan("fusion_head", build)
    store.plan("neighbor_encoder", build)
    assert build.caches == [b"", b"t"]


@pytest.mark.parametrize(
    "other",
    [
        Platform("NVIDIA L40", (8, 9), "11.4.0.106"),
        Platform("NVIDIA L4", (8, 9), "11.5.0.1"),
    ],
)
def test_other_gpu_or_library_gets_an_engine_of_its_own(
    other: Platform, engine_bundle: RunnableBundle, build: Builder
) -> None:
    store_of(engine_bundle).plan("fusion_head", build)
    store_of(engine_bundle, other).plan("fusion_head", build)
    assert len(build.caches) == 2
    assert len(list((engine_bundle.path / "engines").iterdir())) == 2


def test_engine_moved_from_another_gpu_is_refused(
    engine_bundle: RunnableBundle, build: Builder
) -> None:
    other = Platform("NVIDIA A100", (8, 0), "11.4.0.106")
    store_of(engine_bundle, other).plan("fusion_head", build)
    engines = engine_bundle.path / "engines"
    (engines / other.folder("fp32")).rename(engines / L4.folder("fp32"))
    with pytest.raises(BackendError, match=r"built for NVIDIA A100 .*this is NVIDIA L4"):
        store_of(engine_bundle).plan("fusion_head", build)


def test_read_only_bundle_keeps_engines_in_the_user_s_cache(
    engine_bundle: RunnableBundle, build: Builder, cache: Path
) -> None:
    (engine_bundle.path / "engines").write_text("no folder can be made here")
    plan = store_of(engine_bundle).plan("fusion_head", build)
    folder = cache / "triplex-deploy" / "engines" / engine_bundle.id / L4.folder("fp32")
    assert (folder / "fusion_head.plan").read_bytes() == plan
    assert store_of(engine_bundle).plan("fusion_head", build) == plan
    assert len(build.caches) == 1


def test_nowhere_to_keep_an_engine_is_an_error(
    engine_bundle: RunnableBundle, build: Builder, cache: Path
) -> None:
    (engine_bundle.path / "engines").write_text("")
    cache.write_text("")
    with pytest.raises(BackendError, match=r"engines cannot be kept .*XDG_CACHE_HOME"):
        store_of(engine_bundle).plan("fusion_head", build)


def test_failed_build_leaves_nothing_to_load(engine_bundle: RunnableBundle, build: Builder) -> None:
    def broken(onnx: bytes, timing_cache: bytes) -> Plan:
        raise BackendError("fusion_head: TensorRT built no engine")

    with pytest.raises(BackendError, match=r"built no engine"):
        store_of(engine_bundle).plan("fusion_head", broken)
    store_of(engine_bundle).plan("fusion_head", build)
    assert len(build.caches) == 1


def test_engine_that_came_with_the_bundle_is_built_again_and_said(
    engine_bundle: RunnableBundle,
    build: Builder,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A plan is code, and only a signature proves who wrote it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "the maker"))
    store_of(engine_bundle).plan("fusion_head", build)
    came = engine_bundle.path / "engines" / L4.folder("fp32")
    before = {path.name: path.read_bytes() for path in came.iterdir()}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "the user"))
    with caplog.at_level(logging.WARNING):
        plan = store_of(engine_bundle).plan("fusion_head", build)
    message = f"{came / 'fusion_head.plan'}: came with the bundle or from another installation"
    assert message in caplog.text
    assert build.caches == [b"", b""]  # its timing cache is not taken either
    own = cache / "triplex-deploy" / "engines" / engine_bundle.id / L4.folder("fp32")
    assert (own / "fusion_head.plan").read_bytes() == plan
    assert {path.name: path.read_bytes() for path in came.iterdir()} == before
    caplog.clear()
    assert store_of(engine_bundle).plan("fusion_head", build) == plan
    assert (len(build.caches), caplog.text) == (2, "")


@pytest.mark.parametrize("change", ["unsigned", "another precision", "damaged", "a pipe"])
def test_manifest_that_was_changed_is_not_of_this_installation(
    change: str, engine_bundle: RunnableBundle, build: Builder
) -> None:
    store_of(engine_bundle).plan("fusion_head", build)
    path = engine_bundle.path / "engines" / L4.folder("fp32") / "fusion_head.json"
    manifest = EngineManifest.model_validate_json(path.read_text())
    assert manifest.is_signed
    path.unlink()
    if change == "unsigned":
        path.write_text(manifest.model_copy(update={"signature": ""}).to_json())
    elif change == "another precision":
        path.write_text(manifest.model_copy(update={"precision": "fp16"}).to_json())
    elif change == "damaged":
        path.write_text("{")
    else:
        os.mkfifo(path)
    store_of(engine_bundle).plan("fusion_head", build)
    assert len(build.caches) == 2


def test_engines_that_anyone_may_write_are_built_again_in_the_cache(
    engine_bundle: RunnableBundle, build: Builder, cache: Path
) -> None:
    store_of(engine_bundle).plan("fusion_head", build)
    (engine_bundle.path / "engines" / L4.folder("fp32")).chmod(0o777)
    store_of(engine_bundle).plan("fusion_head", build)
    assert len(build.caches) == 2
    assert len(list(cache.rglob("fusion_head.plan"))) == 1


def test_two_folders_that_anyone_may_write_are_an_error(
    engine_bundle: RunnableBundle, build: Builder, cache: Path
) -> None:
    name = L4.folder("fp32")
    cached = cache / "triplex-deploy" / "engines" / engine_bundle.id / name
    for folder in (engine_bundle.path / "engines" / name, cached):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    with pytest.raises(BackendError, match=r"engines cannot be kept .*chmod o-w"):
        store_of(engine_bundle).plan("fusion_head", build)


def test_half_written_engine_never_appears(
    engine_bundle: RunnableBundle, build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=r"No space left on device, .* check .* free space"):
        store_of(engine_bundle).plan("fusion_head", build)
    folder = engine_bundle.path / "engines" / L4.folder("fp32")
    assert {path.name for path in folder.iterdir()} == set()


def test_bundle_without_graphs_for_tensorrt_names_the_export(bundle: RunnableBundle) -> None:
    from triplex_deploy.errors import BundleError

    with pytest.raises(BundleError, match=r"export the checkpoint with --format tensorrt"):
        read_settings(bundle)
