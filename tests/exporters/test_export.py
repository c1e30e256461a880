"""The export of a checkpoint: files, faults that the parity gate finds, and failures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from triplex_deploy.bundle import read_bundle
from triplex_deploy.contract import ModelConfig, graph_specs
from triplex_deploy.errors import BundleError, CheckpointError, OutputError, ParityError
from triplex_deploy.exporters import export as export_module
from triplex_deploy.exporters import wrappers
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.exporters.parity import SIZES
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.runtime.model import RunnableBundle, load_bundle
from triplex_deploy.runtime.replay import replay_parity


def test_bundle_holds_all_that_it_promises(bundle: RunnableBundle) -> None:
    names = {path.name for path in bundle.path.iterdir()}
    graphs = {f"{name}.onnx" for name in graph_specs(bundle.config)}
    assert names == graphs | {"manifest.json", "parity.json", "parity_inputs.npz", "README.md"}
    card = (bundle.path / "README.md").read_text()
    assert "Untrained demo weights" in card
    assert "30 genes at 0.5 um/px" in card


def test_graphs_are_opset_20_with_dynamic_axes_and_metadata(bundle: RunnableBundle) -> None:
    for entry in bundle.manifest.graphs:
        graph = onnx.load(bundle.path / entry.file)
        onnx.checker.check_model(bundle.path / entry.file)
        opsets = {opset.domain: opset.version for opset in graph.opset_import}
        assert opsets[""] == 20
        assert ("com.microsoft" in opsets) == (entry.name == "global_encoder")
        for value in [*graph.graph.input, *graph.graph.output]:
            first = value.type.tensor_type.shape.dim[0]
            assert first.dim_param, f"{entry.name}: {value.name} has a fixed first axis"
        metadata = {prop.key: prop.value for prop in graph.metadata_props}
        assert json.loads(metadata["triplex.genes"])[0] == "GNAS"
        assert json.loads(metadata["triplex.tile"]) == {"px": 224, "mpp": 0.5}


def test_global_encoder_attends_in_linear_memory(bundle: RunnableBundle) -> None:
    graph = onnx.load(bundle.path / "global_encoder.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert isinstance(bundle.config, ModelConfig)
    assert kinds.count("MultiHeadAttention") == bundle.config.global_depth
    assert "Softmax" not in kinds


def test_parity_is_recorded_for_every_graph_at_three_sizes(bundle: RunnableBundle) -> None:
    report = json.loads((bundle.path / "parity.json").read_text())
    assert report["passed"] is True
    measured = {(graph["graph"], graph["size"]) for graph in report["graphs"]}
    assert measured == {(name, size) for name in bundle.specs for size in SIZES[name]}
    assert all(sizes[0] == 1 and len(sizes) == 3 for sizes in SIZES.values())
    assert all(0 < graph["relative"] <= 1e-4 for graph in report["graphs"])
    assert report["end_to_end"]["min_gene_pcc"] >= 0.99999


def test_stored_parity_inputs_replay(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu") as model:
        results = replay_parity(model)
    assert [result.graph for result in results] == list(bundle.specs)
    assert all(result.passed for result in results)


def test_replay_notices_a_graph_that_computes_something_else(
    bundle: RunnableBundle, tmp_path: Path
) -> None:
    stored = dict(np.load(bundle.path / "parity_inputs.npz"))
    stored["fusion_head/out/expression"] = stored["fusion_head/out/expression"] + 0.1
    np.savez(tmp_path / "parity_inputs.npz", **stored)
    damaged = RunnableBundle(tmp_path, bundle.manifest, bundle.config)
    with bundle.open(device="cpu") as model:
        model.bundle = damaged
        failed = [result.graph for result in replay_parity(model) if not result.passed]
    assert failed == ["fusion_head"]


def test_replay_without_its_arrays_is_a_bundle_error(
    bundle: RunnableBundle, tmp_path: Path
) -> None:
    np.savez(tmp_path / "parity_inputs.npz", nothing=np.zeros(1))
    with bundle.open(device="cpu") as model:
        model.bundle = RunnableBundle(tmp_path, bundle.manifest, bundle.config)
        with pytest.raises(BundleError, match="tile_encoder/in/tiles"):
            replay_parity(model)


@pytest.fixture
def broken_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export a fusion head that adds a small error, which only the parity gate can find."""
    write = write_onnx

    class Wrong(torch.nn.Module):
        def __init__(self, right: torch.nn.Module) -> None:
            super().__init__()
            self.right = right

        def forward(self, global_tokens: torch.Tensor) -> torch.Tensor:
            right: torch.Tensor = self.right(global_tokens)
            return right + 0.01 * global_tokens[:, :1]

    def write_wrong(module, spec, target, metadata, path) -> None:
        wrong = Wrong(module).eval() if spec.name == "fusion_head" else module
        write(wrong, spec, target, metadata, path)

    monkeypatch.setattr(export_module, "write_onnx", write_wrong)


@pytest.mark.usefixtures("small_parity")
def test_wrapper_that_forgets_to_normalize_is_caught(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference normalizes the images in its own code, so only the wrapper has the mistake."""
    monkeypatch.setattr(wrappers, "IMAGE_MEAN", (0.0, 0.0, 0.0))
    with pytest.raises(ParityError, match="tile_encoder at size 1"):
        export_bundle(checkpoint_path, tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_force_never_replaces_what_is_no_bundle(
    kind: str, checkpoint_path: Path, bundle: RunnableBundle, tmp_path: Path
) -> None:
    out = tmp_path / "thesis"
    if kind == "folder":
        out.mkdir()
        (out / "chapter.tex").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError):
        export_bundle(checkpoint_path, out, ExportOptions(force=kind != "link"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]
    assert out.is_symlink() or out.is_file() or (out / "chapter.tex").read_text() == "mine"


@pytest.mark.usefixtures("small_parity")
def test_output_that_appears_meanwhile_is_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    check = read_bundle

    def meanwhile(stage: Path) -> Any:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        return check(stage)

    monkeypatch.setattr(export_module, "read_bundle", meanwhile)
    with pytest.raises(OutputError, match="exists already"):
        export_bundle(tiny_checkpoint, out)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (out / "mine.txt").read_text() == "mine"


def test_no_graph_leaves_work_for_the_cpu_beside_a_gpu(bundle: RunnableBundle) -> None:
    """ONNX Runtime keeps Shape nodes on the CPU even where CUDA runs the rest."""
    for entry in bundle.manifest.graphs:
        kinds = {node.op_type for node in onnx.load(bundle.path / entry.file).graph.node}
        assert "Shape" not in kinds, entry.name


@pytest.mark.usefixtures("broken_fusion", "small_parity")
def test_failed_parity_leaves_no_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(ParityError, match="fusion_head at size 1: relative error"):
        export_bundle(tiny_checkpoint, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("broken_fusion", "small_parity")
def test_failed_parity_can_be_kept_and_is_marked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    _, report = export_bundle(tiny_checkpoint, out, ExportOptions(allow_parity_failure=True))
    assert not report.passed
    assert read_bundle(out).manifest.parity_passed is False
    assert "FAILED" in (out / "README.md").read_text()


def test_existing_output_is_kept_unless_forced(checkpoint_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export_bundle(checkpoint_path, out)
    assert (out / "precious.txt").read_text() == "mine"


@pytest.mark.usefixtures("small_parity")
def test_force_replaces_a_bundle_whole(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle(tiny_checkpoint, out)
    card = out / "README.md"
    card.write_text("old")
    export_bundle(tiny_checkpoint, out, ExportOptions(force=True))
    assert card.read_text() != "old"
    assert load_bundle(out).config.model == "gem"
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt: does not belong to the bundle"):
        export_bundle(tiny_checkpoint, out, ExportOptions(force=True))
    assert (out / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_file_that_is_no_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_text("hello")
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        export_bundle(path, tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["model.ckpt"]


def test_unwritable_output_is_named(checkpoint_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another --out"):
        export_bundle(checkpoint_path, tmp_path / "file" / "bundle")


@pytest.mark.slow
def test_paper_configuration_and_its_options_export(tmp_path: Path) -> None:
    """The full-size model, without position encoding and clipped at zero, still passes its gate."""
    from triplex_deploy.models import (
        Checkpoint,
        TileEncoder,
        TileEncoderWeights,
        build_model,
        state_of,
        write_checkpoint,
    )

    config = ModelConfig(position="none", nonnegative=True)
    checkpoint = Checkpoint(
        config=config,
        genes=tuple(f"gene{i}" for i in range(250)),
        label_transform={},
        tile_mpp=0.688,
        state_dict=state_of(build_model(config, seed=1)),
        tile_encoder=TileEncoderWeights("random", state_dict=state_of(TileEncoder().backbone)),
    )
    write_checkpoint(checkpoint, tmp_path / "paper.ckpt")
    exported, report = export_bundle(tmp_path / "paper.ckpt", tmp_path / "bundle")
    assert report.passed
    with load_bundle(exported.path).open(device="cpu") as model:
        rng = np.random.default_rng(0)
        inputs = {
            "global_tokens": rng.standard_normal((4, 512), dtype=np.float32),
            "target_tokens": rng.standard_normal((4, 49, 512), dtype=np.float32),
            "neighbor_tokens": rng.standard_normal((4, 25, 512), dtype=np.float32),
            "mask": np.ones((4, 25), dtype=bool),
        }
        expression = model.run("fusion_head", inputs)["expression"]
    assert expression.shape == (4, 250)
    assert (expression >= 0).all()
    assert (expression == 0).any()
