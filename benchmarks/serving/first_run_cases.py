"""The cases of ``gpu_first_run.py``. None of them has run on a GPU yet."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from triplex_deploy.runtime.ort_load import cuda_device_count

ROOT: Final = Path(__file__).resolve().parents[2]
MPP: Final = 0.688
TILE_PX: Final = 224
PACKAGES: Final = ("onnxruntime-gpu", "onnxruntime", "tensorrt", "pycuda", "torch", "numpy")
SMI_FIELDS: Final = (
    "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,"
    "power.draw,power.limit,temperature.gpu,persistence_mode,mig.mode.current"
)
ORT: Final = ("fp32", "fp16")
TRT: Final = ("fp32", "tf32", "fp16")


@dataclass(frozen=True)
class Place:
    """Where a run keeps its files, and what it runs with."""

    out: Path
    """Folder of the results."""
    slides: tuple[Path, ...]
    """Real slides, an empty tuple for a synthetic one."""
    rehearse: bool
    """Use small sizes, and a CPU with stand-ins if there is no GPU."""

    @property
    def work(self) -> Path:
        """Folder of checkpoints, bundles and answers."""
        return self.out / ("rehearsal" if self.rehearse else "work")

    @cached_property
    def has_gpu(self) -> bool:
        """Whether the driver reports a GPU."""
        return cuda_device_count() > 0

    @property
    def dense_side(self) -> int:
        """Spots along a side of the dense slide."""
        return 6 if self.rehearse else 100

    def bundle(self, backend: str, precision: str) -> Path:
        """Return a bundle of seeded random weights of the paper's size, exported once."""
        from benchmarks.predicting.models import PAPER, SMALL, few_parity_cases, make_checkpoint
        from triplex_deploy.exporters.export import export_bundle
        from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
        from triplex_deploy.models import write_checkpoint

        folder = self.work / f"{backend}-{precision}"
        if folder.exists():
            return folder
        checkpoint = self.work / "model.ckpt"
        if not checkpoint.exists():
            made = make_checkpoint(SMALL if self.rehearse else PAPER, MPP)
            write_checkpoint(made, checkpoint)
        options = (
            ExportOptions(tensorrt=TensorrtOptions(precision))
            if backend == "tensorrt"
            else ExportOptions(precision)
        )
        with few_parity_cases() if self.rehearse else contextlib.nullcontext():
            export_bundle(checkpoint, folder, options)
        return folder

    @contextmanager
    def opened(self, backend: str, precision: str, device: str = "cuda:0") -> Iterator[Any]:
        """Open a bundle on the GPU; a rehearsal without one uses the CPU and stand-ins."""
        from triplex_deploy.runtime.model import load_bundle

        if not self.has_gpu:
            if backend == "tensorrt":
                _install_stand_in()
            else:
                device = "cpu"
        loaded = load_bundle(self.bundle(backend, precision))
        with loaded.open(device, backend) as model:
            yield model

    def dense_slide(self) -> Path:
        """Return a synthetic slide of ``dense_side`` x ``dense_side`` touching tiles."""
        from triplex_deploy.demo.slide import synthesize_slide

        side = (self.dense_side + 4) * TILE_PX
        path = self.work / f"dense-{side}.tif"
        if not path.exists():
            synthesize_slide(path, side, side, MPP, seed=1)
        return path


@dataclass(frozen=True)
class Case:
    """Something to try or to measure."""

    about: str
    """What it answers."""
    run: Callable[[Place], dict[str, Any]]
    """Returns the answer, as JSON has it."""
    limit_s: int = 600
    """Seconds after which it is stopped."""
    on_cpu: bool = False
    """Whether a rehearsal can run it without a GPU."""
    needs_gpu: bool = True
    """Whether it says nothing without a GPU."""


def machine(_: Place) -> dict[str, Any]:
    """Return versions, driver and clocks, and what ``doctor`` says."""
    from triplex_deploy.system import installed_versions

    doctor = [sys.executable, "-m", "triplex_deploy.cli", "doctor"]
    said = subprocess.run(doctor, capture_output=True, text=True, check=False, timeout=120)
    return {
        "packages": installed_versions(PACKAGES),
        "gpu": _smi(SMI_FIELDS),
        "doctor": said.stdout,
        "python": sys.version,
    }


def load(place: Place, backend: str, precision: str) -> dict[str, Any]:
    """Load every graph with no fallback to the CPU, and run it once small and three times large."""
    from triplex_deploy.exporters.inputs import graph_inputs

    begin = time.perf_counter()
    found: dict[str, Any] = {}
    with place.opened(backend, precision) as model:
        opened_s = time.perf_counter() - begin
        for name, spec in model.bundle.specs.items():
            size = 8 if place.rehearse else 64 if spec.batch_axis == "batch" else 5000
            inputs = graph_inputs(spec, size)
            session = model.session(name)
            session.run(graph_inputs(spec, 2))
            found[name] = {"size": size, "seconds": [_time(session.run, inputs) for _ in "123"]}
    return {"open_and_export_s": opened_s, "graphs": found}


def gpu_tests(_: Place) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-rs", "-q"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"status": ended.returncode, "last lines": ended.stdout.splitlines()[-40:]}


def agreement(place: Place, backend: str, precision: str) -> dict[str, Any]:
    """Return how far predictions on the GPU are from those of fp32 on the CPU."""
    from triplex_deploy import predict_slide
    from triplex_deploy.pipeline.options import PredictOptions
    from triplex_deploy.runtime.gates import GATES, compare_end_to_end
    from triplex_deploy.runtime.model import load_bundle

    found = {}
    options = PredictOptions() if place.slides else PredictOptions(all_tiles=True)
    exact = load_bundle(place.bundle("onnxruntime", "fp32"))
    with place.opened(backend, precision) as gpu, exact.open("cpu", "onnxruntime") as cpu:
        for slide in place.slides or (place.dense_slide(),):
            there, here = (predict_slide(slide, m, options).expression for m in (gpu, cpu))
            result = compare_end_to_end(there, here, GATES[precision])
            found[slide.name] = {
                "spots": len(here),
                "largest difference": float(np.abs(there - here).max()),
                "median correlation": float(result.median_gene_pcc),
                "least correlation": float(result.min_gene_pcc),
                "passed": bool(result.passed),
            }
    return found


def dense(place: Place, backend: str, precision: str) -> dict[str, Any]:
    """Predict a dense slide at three batch sizes, with the GPU's load beside."""
    from triplex_deploy import predict_slide
    from triplex_deploy.pipeline.options import PredictOptions

    slide, found = place.dense_slide(), {}
    with place.opened(backend, precision) as model:
        for batch in (2, 4) if place.rehearse else (64, 128, 256):
            options = PredictOptions(all_tiles=True, batch_size=batch)
            with _load_beside(place.out / f"dmon-{backend}-{precision}-{batch}.txt"):
                begin = time.perf_counter()
                prediction = predict_slide(slide, model, options)
                seconds = time.perf_counter() - begin
            found[f"batch {batch}"] = {
                "spots": prediction.n_spots,
                "dense spots/s": prediction.n_spots / seconds,
                "stages_s": prediction.run["timings_s"],
                "gpu after": _smi(SMI_FIELDS),
            }
    return found


def padding(place: Place) -> dict[str, Any]:
    """Time batches of changing sizes as they are, and padded to two sizes."""
    from triplex_deploy.runtime.padding import pad_batches

    largest = 4 if place.rehearse else 64
    sizes = np.random.default_rng(0).integers(1, largest + 1, 4 if place.rehearse else 100).tolist()
    tiles = np.full((largest, TILE_PX, TILE_PX, 3), 200, np.uint8)
    with place.opened("onnxruntime", "fp32") as model:
        plain = {"tile_encoder": model.session("tile_encoder")}
        padded = pad_batches(plain, {"per tile": largest})
        seconds = {
            name: _time(lambda s: [s.run({"tiles": tiles[:n]}) for n in sizes], s["tile_encoder"])
            for name, s in (("varying", plain), ("padded", padded))
        }
    return {"tiles": sum(sizes), "calls": len(sizes), "seconds": seconds}


def global_encoder(place: Place, backend: str, precision: str) -> dict[str, Any]:
    """Time the global encoder on large slides, and read the GPU's memory."""
    from triplex_deploy.exporters.inputs import graph_inputs

    found: dict[str, Any] = {}
    with place.opened(backend, precision) as model:
        spec = model.bundle.specs["global_encoder"]
        for spots in (50, 100) if place.rehearse else (5_000, 20_000, 50_000):
            try:
                seconds = _time(model.session("global_encoder").run, graph_inputs(spec, spots))
            except Exception as error:  # noqa: BLE001 - the message is the answer
                found[str(spots)] = {"error": str(error)}
            else:
                found[str(spots)] = {"seconds": seconds, "memory": _smi("memory.used")}
    return found


def messages(place: Place) -> dict[str, Any]:
    """Return what a user reads when memory is full, and when no GPU is visible."""
    import os

    import torch

    from triplex_deploy.exporters.inputs import graph_inputs

    with place.opened("onnxruntime", "fp32") as model:
        spec = model.bundle.specs["tile_encoder"]
        free, _ = torch.cuda.mem_get_info()
        kept = torch.empty(max(1, free - (300 << 20)), dtype=torch.uint8, device="cuda")
        try:
            model.run("tile_encoder", graph_inputs(spec, 1024))
            full = "it fitted"
        except Exception as error:  # noqa: BLE001 - the message is the answer
            full = f"{type(error).__name__}: {error}"
        del kept
    command = [sys.executable, "-m", "triplex_deploy.cli", "predict", str(place.dense_slide())]
    command += ["--bundle", str(place.bundle("onnxruntime", "fp32")), "--device", "cuda:0"]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    said = subprocess.run(
        [*command, "--out", str(place.work / "hidden")],
        env=hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"memory is full": full, "no GPU is visible": said.stderr.splitlines()[-3:]}


def two_processes(place: Place) -> dict[str, Any]:
    """Time the same prediction in one process, and in two processes at once."""
    bundle, slide = place.bundle("onnxruntime", "fp32"), place.dense_slide()
    device = "cuda:0" if place.has_gpu else "cpu"

    def start(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "triplex_deploy.cli", "predict", str(slide)]
        out = place.work / f"process-{number}"
        shutil.rmtree(out, ignore_errors=True)
        options = ["--all-tiles", "--device", device, "--no-resume", "--out", str(out)]
        return subprocess.Popen([*command, "--bundle", str(bundle), *options])

    found = {}
    for count in (1, 2):
        begin = time.perf_counter()
        statuses = [process.wait() for process in [start(number) for number in range(count)]]
        found[str(count)] = {"seconds": time.perf_counter() - begin, "statuses": statuses}
    return found


def pytorch(place: Place) -> dict[str, Any]:
    """Time the tile encoder in PyTorch as a sceptic would, in turn with ours."""
    import torch

    from benchmarks.predicting.models import SMALL, make_checkpoint

    on_gpu = place.has_gpu
    device = "cuda" if on_gpu else "cpu"
    size, rounds = (64, 20) if on_gpu else (2, 2)
    encoder = make_checkpoint(SMALL, MPP).tile_encoder.build().eval().to(device)
    images = torch.rand(size, 3, TILE_PX, TILE_PX, device=device)
    calls: dict[str, Callable[[], object]] = {"eager fp32": partial(encoder, images)}
    if on_gpu:
        import copy

        half: Any = copy.deepcopy(encoder).half()
        half = half.to(memory_format=torch.channels_last)
        small = images.half().to(memory_format=torch.channels_last)
        calls["eager fp16 channels_last"] = partial(half, small)
        calls["compiled fp16 channels_last"] = partial(torch.compile(half), small)
        calls["compiled fp16, CUDA graphs"] = partial(
            torch.compile(half, mode="reduce-overhead"), small
        )
    tiles = np.full((size, TILE_PX, TILE_PX, 3), 200, np.uint8)
    with place.opened("onnxruntime", "fp16" if on_gpu else "fp32") as model, torch.inference_mode():
        calls["ours, with copies"] = partial(model.run, "tile_encoder", {"tiles": tiles})
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + 3):
            for name, call in calls.items():
                spent = _gpu_time(call) if on_gpu else _time(call)
                if number >= 3:
                    seconds[name].append(spent)
    return {name: {"tiles/s": size / float(np.median(s)), "s": s} for name, s in seconds.items()}


def _gpu_time(call: Callable[[], object]) -> float:
    """Return the seconds between two events on the GPU around a call."""
    import torch

    event: Any = torch.cuda.Event
    first, last = (event(enable_timing=True) for _ in "12")
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000


def _time(call: Callable[..., object], *arguments: Any) -> float:
    begin = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begin


def _smi(fields: str) -> str:
    """Return fields of ``nvidia-smi``, or why there are none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "nvidia-smi is not installed"
    command = [tool, f"--query-gpu={fields}", "--format=csv"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return said.stdout.strip() or said.stderr.strip()


@contextmanager
def _load_beside(path: Path) -> Iterator[None]:
    """Write the GPU's load each second into a file during a block."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield
        return
    with path.open("wb") as file:
        process = subprocess.Popen([tool, "dmon", "-s", "pucvmet"], stdout=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _install_stand_in() -> None:
    """Let the TensorRT backend run on the stand-in of the tests."""
    from tests.gpu.stand_in import StandInGpu
    from tests.gpu.stand_in_tensorrt import StandInTensorrt
    from triplex_deploy.runtime.tensorrt import engines

    opener: Any = engines
    gpu = StandInGpu(total_bytes=4 << 30)
    cuda, trt = gpu.cuda(), StandInTensorrt(gpu)
    opener.import_tensorrt = lambda: trt
    opener.open_cuda = lambda index: cuda


def _cases() -> Iterator[tuple[str, Case]]:
    yield "machine", Case("versions, driver, clocks", machine, 180, on_cpu=True, needs_gpu=False)
    pairs = [*(("onnxruntime", p) for p in ORT), *(("tensorrt", p) for p in TRT)]
    for backend, precision in pairs:
        about = f"do all graphs load in {backend} {precision}, without the CPU"
        name = f"load-{backend}-{precision}"
        yield name, Case(about, partial(load, backend=backend, precision=precision), 900, True)
    yield "tests", Case("the tests that need a GPU", gpu_tests, 1800)
    for backend, precision in pairs:
        about = f"predictions of {backend} {precision} against fp32 on the CPU"
        run = partial(agreement, backend=backend, precision=precision)
        yield f"agreement-{backend}-{precision}", Case(about, run, 1800, True)
    for backend, precision in pairs:
        about = f"a dense slide in {backend} {precision} at three batch sizes"
        run = partial(dense, backend=backend, precision=precision)
        yield f"dense-{backend}-{precision}", Case(about, run, 900, True)
    yield "padding", Case("batches of changing sizes, plain and padded", padding, on_cpu=True)
    for backend, precision in pairs:
        about = f"the global encoder of large slides in {backend} {precision}"
        run = partial(global_encoder, backend=backend, precision=precision)
        yield f"global-{backend}-{precision}", Case(about, run, 600, True)
    yield "pytorch", Case("PyTorch, in turn with ours", pytorch, 900, on_cpu=True)
    yield "two-processes", Case("two processes on one GPU", two_processes, 900, on_cpu=True)
    yield "messages", Case("what errors say", messages)


CASES: Final = dict(_cases())
"""The cases by name, in the order in which they run."""
