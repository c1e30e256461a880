"""Define ``triplex-deploy doctor``: check what is installed and what works."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import click

from triplex_deploy.cli.config_file import config_files
from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.errors import BackendError, TriplexError
from triplex_deploy.install import install_command, install_package
from triplex_deploy.runtime.diagnosis import Finding, cpu_findings


@click.command(epilog="Example: triplex-deploy doctor --json")
@common_options
def command(as_json: bool) -> None:
    """Check versions, devices and libraries.

    Exits 1 if this machine cannot predict.
    """
    from triplex_deploy.runtime.diagnosis import GpuDiagnosis

    findings = [_system(), *cpu_findings(), *_libraries(), _openslide(), _kernels(), _runtime()]
    findings += [*GpuDiagnosis().findings(), _auto_device(), _defaults()]
    faults = [finding for finding in findings if finding.ok is False]
    marks = {True: "ok", False: "FAULT", None: "-"}
    lines = [f"{marks[f.ok]:6} {f.name:20} {f.detail}" for f in findings]
    print_summary(as_json, {"ok": not faults, "findings": [asdict(f) for f in findings]}, lines)
    if faults:
        raise BackendError("; ".join(f"{fault.name}: {fault.detail}" for fault in faults))


def _system() -> Finding:
    cores = os.cpu_count()
    return Finding("system", True, f"{platform.platform()}, {cores} cores, {_python()}")


def _python() -> str:
    return f"Python {platform.python_version()}"


def _libraries() -> list[Finding]:
    needed = ("triplex-deploy", "numpy", "anndata", "tifffile", "imagecodecs")
    optional = {"openvino": "cpu", "torch": "export", "onnx": "export", "lightning-fabric": "train"}
    found = [_package(name, None) for name in needed]
    return found + [_package(name, extra) for name, extra in optional.items()]


def _package(name: str, extra: str | None) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        if extra is None:
            return Finding(name, False, f"missing; run `{install_command()}`")
        return Finding(name, None, f"absent; `{install_command(extra)}` adds it")


def _defaults() -> Finding:
    """Name the files that give options their defaults."""
    files = [str(path.absolute()) for path in reversed(config_files())]
    return Finding("defaults", True if files else None, ", then ".join(files) or "no settings file")


def _openslide() -> Finding:
    try:
        openslide = import_module("openslide")
    except (ImportError, OSError) as error:
        return Finding("OpenSlide", False, f"{error}; run `{install_package('openslide-bin')}`")
    return Finding("OpenSlide", True, openslide.__library_version__)


def _kernels() -> Finding:
    try:
        import_module("triplex_deploy.tiles._kernels")
    except ImportError as error:
        return Finding("tiling kernels", False, f"{error}; reinstall with a C compiler present")
    return Finding("tiling kernels", True, "compiled")


def _runtime() -> Finding:
    from triplex_deploy.runtime.ort_load import import_onnxruntime

    try:
        ort = import_onnxruntime()
    except TriplexError as error:
        return Finding("onnxruntime", False, str(error))
    return Finding("onnxruntime", True, f"{ort.__version__}, {', '.join(_provider_names(ort))}")


def _provider_names(ort: object) -> list[str]:
    names: list[str] = ort.get_available_providers()  # type: ignore[attr-defined]
    return [name.removesuffix("ExecutionProvider") for name in names]


def _auto_device() -> Finding:
    """Say which device ``--device auto`` chooses."""
    from triplex_deploy.runtime.ort_load import cuda_usable

    try:
        usable = cuda_usable()
    except TriplexError:
        usable = False
    return Finding("--device auto", True, "cuda:0" if usable else "cpu")
