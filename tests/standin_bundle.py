"""Write a well-formed bundle with stand-ins for graphs, for tests that read it and run nothing."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.bundle import GraphEntry, Manifest, tensor_entries
from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, ModelConfig, graph_specs
from triplex_deploy.files.digest import sha256_of

GENES = ("GNAS", "ERBB2", "FASN")


def write_standin_bundle(root: Path) -> Path:
    """Write the bundle into a new folder, and return the folder."""
    config = ModelConfig(n_genes=len(GENES))
    root.mkdir()
    entries = []
    for name, spec in graph_specs(config).items():
        path = root / f"{name}.onnx"
        path.write_bytes(f"stand-in for {name}".encode() * 20)
        inputs, outputs = tensor_entries(spec)
        entries.append(
            GraphEntry(
                name=name,
                file=path.name,
                sha256=sha256_of(path),
                precision="fp32",
                opset=20,
                target="onnxruntime",
                inputs=inputs,
                outputs=outputs,
            )
        )
    (root / "parity.json").write_text('{"passed": true}')
    manifest = Manifest(
        schema_version=1,
        config=config.to_dict(),
        genes=GENES,
        tile_px=224,
        tile_mpp=0.5,
        neighborhood=5,
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        label_transform={},
        precision="fp32",
        graphs=tuple(entries),
        files={"parity.json": sha256_of(root / "parity.json")},
        parity_passed=True,
        provenance={},
    )
    (root / "manifest.json").write_text(manifest.sealed().to_json(), encoding="utf-8")
    return root
