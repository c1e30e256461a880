import numpy as np
import pytest

from tests.demo.conftest import MadeDataset
from triplex_deploy.demo.composition import Composition, compose
from triplex_deploy.demo.counts import draw_counts, patient_factors
from triplex_deploy.demo.dataset import MPP
from triplex_deploy.demo.growth import grow_section
from triplex_deploy.demo.programs import COMPARTMENTS, GENES, RATES, rate_matrix

KINDS = ("epithelial", "fibroblast", "lymphocyte", "tumor")


def _composition(
    nuclei: dict[str, int], stroma: float, tumor_around: float, n: int = 4000
) -> Composition:
    return Composition(
        {kind: np.full(n, nuclei.get(kind, 0)) for kind in KINDS},
        {"stroma": np.full(n, stroma)},
        np.full(n, tumor_around),
    )


def test_nuclei_are_counted_within_the_captured_disc() -> None:
    section = grow_section((1344, 1120), MPP, seed=3)
    centers = np.array([[672.0, 560.0], [300.0, 500.0]])
    counted = compose(section, MPP, centers).nuclei
    x, y = section.nuclei.x, section.nuclei.y
    for spot, (cx, cy) in enumerate(centers.tolist()):
        near = int((np.hypot(x - cx, y - cy) <= 112).sum())  # 100 um at 0.893 um/px
        assert near > 0
        assert sum(int(counted[kind][spot]) for kind in KINDS) == near


def test_areas_are_shares_that_do_not_exceed_the_tissue() -> None:
    section = grow_section((1344, 1120), MPP, seed=3)
    areas = compose(section, MPP, np.array([[672.0, 560.0], [20.0, 20.0]])).areas
    parts = areas["epithelium"] + areas["tumor"] + areas["stroma"]
    assert (parts <= areas["tissue"] + 1e-6).all()
    assert areas["tissue"][0] > areas["tissue"][1]


def test_tumor_around_turns_stroma_into_front() -> None:
    far, near = (
        _composition({"fibroblast": 10}, 1.0, around, n=1).abundance()[0] for around in (0, 0.5)
    )
    assert dict(zip(COMPARTMENTS, far, strict=True)) == {
        "gland": 0,
        "tumor": 0,
        "stroma": 40,
        "immune": 0,
        "front": 0,
    }
    assert near[COMPARTMENTS.index("stroma")] == 20
    assert near[COMPARTMENTS.index("front")] == 20


def test_counts_are_whole_numbers_of_the_documented_mean_and_variance() -> None:
    composition = _composition({"tumor": 100}, 0.0, 0.0)
    counts = draw_counts(composition, np.ones(len(GENES)), np.random.default_rng(1))
    assert counts.raw.dtype == np.int64
    assert counts.raw.min() >= 0
    share = rate_matrix()[COMPARTMENTS.index("tumor")]
    np.testing.assert_allclose(
        counts.expected / counts.expected.sum(axis=1, keepdims=True),
        np.broadcast_to(share / share.sum(), counts.expected.shape),
    )
    library = np.log(counts.expected.sum(axis=1))
    assert np.exp(library.mean()) == pytest.approx(900, rel=0.03)
    assert library.std() == pytest.approx(0.35, rel=0.05)
    standardised = (counts.raw - counts.expected) / np.sqrt(
        counts.expected + 0.15 * counts.expected**2
    )
    assert abs(standardised.mean()) < 0.01
    assert standardised.std() == pytest.approx(1, rel=0.02)


def test_patients_have_factors_of_their_own() -> None:
    np.testing.assert_array_equal(patient_factors(0, "A"), patient_factors(0, "A"))
    assert np.abs(np.log(patient_factors(0, "A") / patient_factors(0, "B"))).max() > 0.1


def test_expression_follows_what_is_drawn_under_the_spots(made_dataset: MadeDataset) -> None:
    share_of = {
        "COL1A1": "fibroblast",
        "IGKC": "lymphocyte",
        "MUC1": "epithelial",
        "ERBB2": "tumor",
    }
    nuclei = {
        kind: np.concatenate([made.composition.nuclei[kind] for made in made_dataset.sections])
        for kind in KINDS
    }
    raw = np.concatenate([made.counts.raw for made in made_dataset.sections])
    total = sum(nuclei.values())
    for gene, kind in share_of.items():
        expression = raw[:, GENES.index(gene)] / raw.sum(axis=1)
        assert np.corrcoef(expression, nuclei[kind] / total)[0, 1] > 0.5, gene


def test_every_gene_has_a_rate_in_every_compartment() -> None:
    assert len(GENES) == 30
    assert all(len(rates) == len(COMPARTMENTS) and min(rates) > 0 for rates in RATES.values())
