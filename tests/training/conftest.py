"""A small data set in her2st's layout, with noise for tissue."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE_WH = (1300, 900)
PLACES = [(x, y) for y in (2, 3) for x in (2, 3, 4)]
PITCH_PX = 224
GENES = ("GNAS", "FASN", "MUC1", "XIST")


def center_xy(x: int, y: int) -> tuple[int, int]:
    return 150 + PITCH_PX * x - 20, PITCH_PX * y - 100


@pytest.fixture(scope="session")
def st_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sections A1, B1 and C1 of three patients, 6 spots each, one tile apart."""
    root = tmp_path_factory.mktemp("st")
    for number, name in enumerate(("A1", "B1", "C1")):
        write_section(root, name, np.random.default_rng(number))
    return root


def write_section(root: Path, name: str, rng: np.random.Generator) -> None:
    folder = root / "ST-imgs" / name[0] / name
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    Image.fromarray(pixels).save(folder / "he.png")
    for part in ("ST-cnts", "ST-spotfiles"):
        (root / part).mkdir(exist_ok=True)
    scale = np.array([8, 4, 2, 15 if name == "A1" else 0])
    counts = rng.poisson(scale, (len(PLACES), len(GENES)))
    rows = [
        "\t".join([f"{x}x{y}", *map(str, row)])
        for (x, y), row in zip(PLACES, counts.tolist(), strict=True)
    ]
    (root / "ST-cnts" / f"{name}.tsv").write_text("\n".join(["\t" + "\t".join(GENES), *rows]))
    spots = ["\t".join(map(str, (x, y, *center_xy(x, y)))) for x, y in PLACES]
    (root / "ST-spotfiles" / f"{name}_selection.tsv").write_text(
        "\n".join(["x\ty\tpixel_x\tpixel_y", *spots])
    )


@pytest.fixture(scope="session")
def mean_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX encoder whose features are the normalized image's channel means: cheap and exact."""
    path = tmp_path_factory.mktemp("encoder") / "means.onnx"
    write_mean_encoder(path, batch="batch")
    return path


@pytest.fixture(scope="session")
def byte_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX encoder of uint8 tiles whose features are their channel means."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["features"], keepdims=0),
    ]
    tiles = helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["batch", 224, 224, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "bytes", [tiles], [features], [axes])
    path = tmp_path_factory.mktemp("encoder") / "bytes.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def write_mean_encoder(path: Path, batch: str | int, block: int = 16) -> None:
    """Write an encoder that takes the means of blocks, and their mean; all at once if it is 1.

    OpenVINO adds up in one float32, which is not exact over a whole tile.
    """
    import onnx
    from onnx import TensorProto, helper

    side = [block, block]
    graph = helper.make_graph(
        [
            helper.make_node(
                "AveragePool", ["images"], ["blocks"], kernel_shape=side, strides=side
            ),
            helper.make_node("GlobalAveragePool", ["blocks"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
        ],
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 224, 224])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 3])],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
