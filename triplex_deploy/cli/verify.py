"""Define ``triplex-deploy verify``: check a bundle and run it on stored inputs."""

from __future__ import annotations

from pathlib import Path

import click

from triplex_deploy.cli.shared import common_options, print_summary
from triplex_deploy.errors import ParityError


@click.command(epilog="Example: triplex-deploy verify bundle/")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda:N or auto.")
@common_options
def command(bundle: Path, device: str, as_json: bool) -> None:
    """Check the files of BUNDLE, and compare it with PyTorch on the inputs stored in it.

    The inputs and the outputs of PyTorch were stored by export.
    """
    from triplex_deploy.runtime.model import load_bundle
    from triplex_deploy.runtime.replay import replay_parity

    loaded = load_bundle(bundle)
    with loaded.open(device=device) as model:
        results = replay_parity(model)
        where = str(model.device)
    failed = [result.graph for result in results if not result.passed]
    summary = {
        "bundle": str(bundle),
        "bundle_id": loaded.id,
        "device": where,
        "passed": not failed,
        "graphs": [result.to_dict() for result in results],
    }
    lines = [
        f"  {r.graph:17} relative error {r.relative:.1e}  {'ok' if r.passed else 'FAILED'}"
        for r in results
    ]
    head = f"bundle {loaded.id}: {len(loaded.manifest.graphs)} graphs complete, run on {where}"
    print_summary(as_json, summary, [head, *lines])
    if failed:
        raise ParityError(
            f"{bundle}: {', '.join(failed)} no longer match PyTorch on {where}; "
            "compare `triplex-deploy doctor` with the versions in parity.json"
        )
