"""Bundles are read strictly. The graphs are stand-in files, because nothing runs them."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.standin_bundle import GENES, write_standin_bundle
from triplex_deploy.bundle import Manifest, read_bundle
from triplex_deploy.errors import BundleError
from triplex_deploy.files.digest import sha256_of

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A well-formed bundle of three genes."""
    return write_standin_bundle(tmp_path / "bundle")


def _edit(folder: Path, change: Edit) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with contextlib.suppress(ValidationError):  # seal what is still a manifest
        path.write_text(Manifest.model_validate_json(path.read_text()).sealed().to_json())


def test_whole_bundle_is_read(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.manifest.genes == GENES
    assert bundle.config.n_genes == 3
    assert bundle.entry("fusion_head", "onnxruntime").file == "fusion_head.onnx"
    assert len(bundle.id) == 12


def test_id_follows_the_contents_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = read_bundle(folder).id
    moved = folder.rename(tmp_path / "elsewhere")
    assert read_bundle(moved).id == before
    _edit(moved, lambda m: m.update(tile_mpp=0.25))
    assert read_bundle(moved).id != before


def test_changed_byte_is_found_and_the_file_named(folder: Path) -> None:
    path = folder / "target_encoder.onnx"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"target_encoder\.onnx: altered"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("old", "new"), [("GNAS", "GNAT"), ('"tile_mpp":0.5', '"tile_mpp":0.6'), ("fp32", "int8")]
)
def test_edited_manifest_is_refused(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.json"
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BundleError, match=r"manifest\.json: altered"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["global_encoder.onnx", "parity.json"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "a\\..\\b"])
def test_path_outside_the_bundle_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside.onnx").write_bytes(b"x")
    _edit(folder, lambda m: m["graphs"][0].update(file=name))
    with pytest.raises(BundleError, match="outside the bundle"):
        read_bundle(folder)


def test_link_out_of_the_bundle_is_refused(folder: Path) -> None:
    inside, outside = folder / "fusion_head.onnx", folder.parent / "outside.onnx"
    outside.write_bytes(inside.read_bytes())
    inside.unlink()
    inside.symlink_to(outside)
    with pytest.raises(BundleError, match=r"fusion_head\.onnx: links outside"):
        read_bundle(folder)


@pytest.mark.parametrize("version", [2, "1", None])
def test_unknown_schema_version_is_refused(folder: Path, version: object) -> None:
    _edit(folder, lambda m: m.update(schema_version=version))
    with pytest.raises(BundleError, match="schema version"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.pop("genes"), "genes"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.update(tile_mpp="half"), "tile_mpp"),
        (lambda m: m["genes"].pop(), "2 genes listed for a model of 3"),
        (lambda m: m["graphs"].pop(), "the fusion_head graph is missing"),
        (lambda m: m["graphs"].append({**m["graphs"][0], "name": "odd"}), "unknown graph 'odd'"),
        (lambda m: m["graphs"][0]["inputs"][0].update(dtype="float32"), "tensors of tile_encoder"),
        (lambda m: m["config"].update(depth=3), "depth: not a model option"),
        (lambda m: m.update(tile_px=256), "tile_px is 256, this release runs 224"),
        (lambda m: m.update(neighborhood=7), "neighborhood is 7"),
        (lambda m: m.update(mean=[0.0, 0.0, 0.0]), "mean is (0.0, 0.0, 0.0)"),
        (lambda m: m.update(tile_mpp=-1.0), "tile_mpp -1.0"),
        (lambda m: m.update(genes=["GNAS", "ERBB2", "GNAS"]), "gene GNAS is listed twice"),
        (lambda m: m["graphs"].append(m["graphs"][2]), "neighbor_encoder for onnxruntime is"),
    ],
)
def test_manifest_that_breaks_the_contract_is_named(folder: Path, change: Edit, named: str) -> None:
    _edit(folder, change)
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert named in str(caught.value)


def test_folder_without_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle.*make one"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="bundel: no such folder; check the path"):
        read_bundle(tmp_path / "bundel")


def test_folder_around_a_bundle_names_it(folder: Path) -> None:
    with pytest.raises(BundleError, match=rf"not a bundle.*; pass {folder}$"):
        read_bundle(folder.parent)


def test_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not a JSON object"):
        read_bundle(folder)


def test_absent_target_is_an_error_that_lists_the_graphs(folder: Path) -> None:
    with pytest.raises(BundleError, match="fusion_head for onnxruntime"):
        read_bundle(folder).entry("fusion_head", "tensorrt")


def test_graph_without_a_digest_of_its_content_keeps_its_old_seal(folder: Path) -> None:
    """Bundles of version 0.1 have no ``graph_sha256``."""
    manifest = read_bundle(folder).manifest
    content = json.loads(manifest.to_json())
    del content["digest"]
    assert all("graph_sha256" not in graph for graph in content["graphs"])
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert manifest.content_digest() == seal
    assert [graph.content_sha256 for graph in manifest.graphs] == [
        graph.sha256 for graph in manifest.graphs
    ]


def test_digest_of_a_graphs_content_is_sealed_and_read(folder: Path) -> None:
    before = read_bundle(folder)
    _edit(folder, lambda m: m["graphs"][0].update(graph_sha256="a" * 64))
    bundle = read_bundle(folder)
    assert bundle.manifest.graphs[0].content_sha256 == "a" * 64
    assert bundle.manifest.digest != before.manifest.digest
    assert bundle.id == before.id


def _outside_graph() -> bytes:
    """Return a model whose only tensor has a location outside, as ONNX stores it."""
    pair = b"\x0a\x88\x00location\x12\x05w.bin"  # the length of the key in two bytes
    tensor = b"\x70\x01\x6a" + bytes([len(pair)]) + pair
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


def test_graph_with_values_outside_the_manifest_is_refused(folder: Path) -> None:
    path = folder / "fusion_head.onnx"
    path.write_bytes(_outside_graph())
    (folder / "w.bin").write_bytes(bytes(16))

    def name_it(manifest: dict[str, Any]) -> None:
        entry = next(graph for graph in manifest["graphs"] if graph["file"] == path.name)
        entry["sha256"] = sha256_of(path)

    _edit(folder, name_it)
    with pytest.raises(BundleError, match=r"fusion_head\.onnx: takes values from another file"):
        read_bundle(folder)


def test_graph_of_another_format_is_refused(folder: Path) -> None:
    (folder / "fusion_head.onnx").rename(folder / "fusion_head.ort")

    def rename(manifest: dict[str, Any]) -> None:
        manifest["graphs"][-1]["file"] = "fusion_head.ort"

    _edit(folder, rename)
    with pytest.raises(BundleError, match=r"is not named \*\.onnx"):
        read_bundle(folder)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"schema_version": ' + "9" * 100_000 + "}"])
def test_manifest_that_python_cannot_parse_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="not a JSON object"):
        read_bundle(folder)


@pytest.mark.parametrize("gene", ["GN\x00AS", "GNAS\nFORGED", "\x1b[31mGNAS", ""])
def test_gene_with_control_characters_is_refused(folder: Path, gene: str) -> None:
    _edit(folder, lambda m: m["genes"].__setitem__(0, gene))
    with pytest.raises(BundleError, match="control characters") as caught:
        read_bundle(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["n" * 300 + ".onnx", "zero\x00.onnx"])
def test_name_that_no_file_can_have_is_refused(folder: Path, name: str) -> None:
    _edit(folder, lambda m: m["graphs"][0].update(file=name))
    with pytest.raises(BundleError, match=r"cannot be read|missing|not the name of a file"):
        read_bundle(folder)


def test_many_genes_take_linear_time(folder: Path) -> None:
    genes = [f"GENE{number}" for number in range(50_000)]
    _edit(
        folder, lambda m: m.update(genes=[*genes, genes[0]]) or m["config"].update(n_genes=50_001)
    )
    start = time.perf_counter()
    with pytest.raises(BundleError):
        read_bundle(folder)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("key", "value"),
    [("apeg_kernel", 3001), ("global_depth", 10**9), ("n_genes", 10**12), ("embedding_dim", 10**9)],
)
def test_size_that_no_model_has_is_refused(folder: Path, key: str, value: int) -> None:
    _edit(folder, lambda m: m["config"].update({key: value}))
    with pytest.raises(BundleError, match=f"{key}={value}: use at most"):
        read_bundle(folder)
