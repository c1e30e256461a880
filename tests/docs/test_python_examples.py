"""The Python examples run: with the tests' bundle and made-up slides under the names they use."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import PAGES, ROOT, blocks
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.runtime.model import Model, RunnableBundle

NEEDS_MORE = {
    "torch.onnx.export(": "an encoder of the reader's",
    "import lazyslide": "LazySlide, which the test environment lacks",
    "import anndata, squidpy": "more spots: tests/outputs/test_squidpy.py tries it",
    "import spatialdata\n": "a store whose making and reading tests/outputs tests, in many seconds",
}
"""First words of the examples that cannot run here, and what they need."""

EXAMPLES = {
    str(page.relative_to(ROOT)): [
        block for block in blocks(page, "python") if not block.startswith(tuple(NEEDS_MORE))
    ]
    for page in PAGES
    # the first needs a data set, the second many spots: see the tests of their own
    if page.name not in ("from-python.md", "biology.md")
}


@pytest.fixture(scope="module")
def reader_folder(
    tmp_path_factory: pytest.TempPathFactory, bundle: RunnableBundle, model: Model
) -> Path:
    """What a reader of the documentation has in the working folder."""
    from triplex_deploy import PredictOptions, predict_slide

    folder = tmp_path_factory.mktemp("reader")
    (folder / "bundle").symlink_to(bundle.path)
    (folder / "predictions").mkdir()
    synthesize_slide(folder / "slide.svs", 500, 500, 0.5, seed=3)
    picture = np.random.default_rng(0).integers(90, 230, (360, 360, 3), np.uint8)
    Image.fromarray(picture).save(folder / "C3.jpg")
    (folder / "C3_selection.tsv").write_text(
        "x\ty\tpixel_x\tpixel_y\n10\t11\t120\t130\n11\t11\t240\t130\n"
    )
    options = PredictOptions(all_tiles=True)
    prediction = predict_slide(folder / "slide.svs", model, options)
    prediction.write_h5ad(folder / "predictions" / "slide.h5ad")
    return folder


@pytest.mark.parametrize("page", [page for page, examples in EXAMPLES.items() if examples])
def test_python_examples_of_a_page_run_in_order(
    page: str, reader_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reader_folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for example in EXAMPLES[page]:
        exec(compile(example, page, "exec"), names)


def test_the_pages_that_teach_python_have_examples() -> None:
    for page in ("README.md", "docs/reference/python.md", "docs/tutorials/my-own-slide.md"):
        assert EXAMPLES[page], page


@pytest.mark.parametrize("beginning", NEEDS_MORE)
def test_examples_left_out_still_exist(beginning: str) -> None:
    assert any(text.startswith(beginning) for page in PAGES for text in blocks(page, "python"))
