"""Several slides with one call from Python, at once or one after the other."""

from pathlib import Path

import pytest

import triplex_deploy as td
from triplex_deploy.demo.slide import synthesize_slide

pytestmark = [pytest.mark.lengthy, pytest.mark.torch]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two slides of four tiles and, between them, a file that is none."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("a.tif", "c.tif"):
        synthesize_slide(folder / name, 448, 448, 0.5, seed=3)
    (folder / "b.tif").write_text("no slide")
    return sorted(folder.iterdir())


def test_each_slide_comes_as_soon_as_it_is_complete(
    slides: list[Path], demo_export: Path, tmp_path: Path
) -> None:
    options = td.PredictOptions(all_tiles=True)
    running = td.iter_slides(slides, demo_export / "bundle", tmp_path, options, device="cpu")
    first = next(running)
    assert (first.job.slide, first.status) == (slides[0], "done")
    assert not (tmp_path / "c.h5ad").exists()
    rest = list(running)
    assert [outcome.status for outcome in rest] == ["failed", "done"]
    assert (tmp_path / "index.html").exists()
    again = td.predict_slides(slides, demo_export / "bundle", tmp_path, options, device="cpu")
    assert [outcome.status for outcome in again] == ["skipped", "failed", "skipped"]
    assert again[2].read().n_spots == 4


def test_unknown_argument_is_named(demo_export: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no argument 'threads'; use device, backend"):
        td.iter_slides("a.tif", demo_export / "bundle", tmp_path, threads=2)


def test_wrong_folder_is_refused_before_the_first_slide(demo_export: Path) -> None:
    with pytest.raises(td.TriplexError, match="is a bundle; choose another folder"):
        td.iter_slides("a.tif", demo_export / "bundle", demo_export / "bundle")
