from pathlib import Path

import numpy as np
import pytest

from tests.demo.conftest import PLANS, MadeDataset
from triplex_deploy.data import make_folds, read_dataset
from triplex_deploy.data.folds import patients_of
from triplex_deploy.demo.dataset import MPP, image_path, write_dataset
from triplex_deploy.demo.programs import GENES
from triplex_deploy.errors import OutputError
from triplex_deploy.slides import open_slide


def test_reader_of_the_her2st_layout_finds_what_was_made(made_dataset: MadeDataset) -> None:
    sections = read_dataset(made_dataset.root, "st")
    assert [section.name for section in sections] == ["A1", "B1"]
    for section, made in zip(sections, made_dataset.sections, strict=True):
        assert section.genes == GENES
        assert section.slide_mpp == pytest.approx(200 / 224, rel=1e-6)
        np.testing.assert_array_equal(section.grid_rc, made.grid_rc)
        np.testing.assert_array_equal(section.level0_xy, made.level0_xy)
        np.testing.assert_array_equal(section.counts.toarray(), made.counts.raw)


def test_every_patient_is_left_out_once(made_dataset: MadeDataset) -> None:
    folds = make_folds(patients_of(read_dataset(made_dataset.root, "st")))
    assert [(fold.train, fold.test) for fold in folds] == [(("B1",), ("A1",)), (("A1",), ("B1",))]


def test_slide_says_the_scale_of_the_array(made_dataset: MadeDataset) -> None:
    with open_slide(image_path(made_dataset.root, PLANS[0])) as slide:
        assert slide.level_sizes[0] == (6 * 224, 5 * 224)
        assert slide.mpp == pytest.approx(MPP, rel=1e-3)


def test_spots_lie_on_tissue_and_not_on_glass(made_dataset: MadeDataset) -> None:
    for made in made_dataset.sections:
        assert 6 <= len(made.grid_rc) < 30
        assert made.composition.areas["tissue"].min() >= 0.5
        with open_slide(image_path(made_dataset.root, made.plan)) as slide:
            colors = [
                slide.read(0, int(x) - 56, int(y) - 56, 112, 112).mean()
                for x, y in made.level0_xy.tolist()
            ]
        assert max(colors) < 235  # glass is 243


def test_equal_seeds_make_equal_files_and_another_seed_others(
    made_dataset: MadeDataset, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "again", PLANS[:1], seed=3)
    write_dataset(tmp_path / "other", PLANS[:1], seed=4)
    for path in ("ST-imgs/A/A1/A1.tif", "ST-cnts/A1.tsv.gz", "ST-spotfiles/A1_selection.tsv"):
        first = (made_dataset.root / path).read_bytes()
        assert (tmp_path / "again" / path).read_bytes() == first
        assert (tmp_path / "other" / path).read_bytes() != first


def test_patients_differ_in_staining(made_dataset: MadeDataset) -> None:
    darkness = []
    for plan in PLANS:
        with open_slide(image_path(made_dataset.root, plan)) as slide:
            pixels = slide.read(0, 0, 0, 6 * 224, 5 * 224).astype(float)
        tissue = pixels[pixels.min(axis=2) < 200]
        darkness.append(tissue.mean(axis=0))
    assert np.abs(darkness[0] - darkness[1]).max() > 3


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/dataset: cannot be written .* choose another"):
        write_dataset(tmp_path / "file" / "dataset", PLANS[:1], seed=3)
