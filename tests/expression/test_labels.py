import numpy as np
import pytest

from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.expression import LabelTransform, smooth_spots

UNSMOOTHED = LabelTransform(smoothing="none")


def test_three_genes_by_hand() -> None:
    labels = UNSMOOTHED(np.array([[1, 3, 0]]), np.array([[0, 0]]))
    np.testing.assert_allclose(labels, [[3.3981137, 3.8751189, 0.0]], atol=1e-6)


def test_spot_without_counts_becomes_zero() -> None:
    counts = np.array([[0, 0], [1, 1]])
    labels = UNSMOOTHED(counts, np.array([[0, 0], [0, 9]]))
    np.testing.assert_array_equal(labels[0], [0, 0])


def test_smoothing_leaves_holes_and_edges_out_of_the_mean() -> None:
    # . is a hole:  1 2 .
    #               . 6 .
    grid_rc = np.array([[0, 0], [0, 1], [1, 1], [5, 5]])
    values = np.array([[1.0], [2.0], [6.0], [7.0]])
    np.testing.assert_allclose(smooth_spots(values, grid_rc), [[3.0], [3.0], [3.0], [7.0]])


def test_smoothing_does_not_wrap_from_one_row_to_the_next() -> None:
    grid_rc = np.array([[0, 4], [1, 0]])
    np.testing.assert_array_equal(smooth_spots(np.array([[1.0], [5.0]]), grid_rc), [[1.0], [5.0]])


def test_hexagonal_window_holds_the_six_neighbors() -> None:
    grid_rc = np.array([[1, 1], [1, 3], [1, 5], [0, 2], [0, 4], [2, 2], [2, 4], [1, 7]])
    values = np.array([[1.0], [2], [4], [8], [16], [32], [64], [1000]])
    smoothed = smooth_spots(values, grid_rc, "hex")
    assert smoothed[1, 0] == (1 + 2 + 4 + 8 + 16 + 32 + 64) / 7


def test_smoothing_follows_the_spots_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    grid_rc = np.stack(np.divmod(rng.permutation(60)[:40], 10), axis=1)
    values = rng.normal(size=(40, 3))
    order = rng.permutation(40)
    shuffled = smooth_spots(values[order], grid_rc[order])
    np.testing.assert_allclose(shuffled, smooth_spots(values, grid_rc)[order], rtol=1e-12)


def test_library_may_be_over_all_genes() -> None:
    transform = LabelTransform(library="all", log="none", smoothing="none", scale=100)
    counts, grid_rc = np.array([[1, 3]]), np.array([[0, 0]])
    np.testing.assert_array_equal(transform(counts, grid_rc, np.array([10])), [[10.0, 30.0]])
    with pytest.raises(DatasetError, match="library 'all'"):
        transform(counts, grid_rc)


def test_options_survive_the_round_trip() -> None:
    transform = LabelTransform(library="all", log="ln", smoothing="hex", scale=1e6)
    assert LabelTransform.from_dict(transform.to_dict()) == transform


@pytest.mark.parametrize(
    "options", [{"log": "log2"}, {"library": "genes"}, {"smoothing": "5x5"}, {"scale": 0.0}]
)
def test_unknown_option_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        LabelTransform(**options)
    with pytest.raises(ConfigError, match="sigma"):
        LabelTransform.from_dict({"sigma": 1})


def test_negative_counts_are_refused() -> None:
    with pytest.raises(DatasetError, match="negative"):
        UNSMOOTHED(np.array([[-1.0, 2.0]]), np.array([[0, 0]]))


def test_paper_era_labels_are_reproduced(golden) -> None:
    data = golden("normalise_smooth_v1.npz")
    counts = data["counts"][:, data["selected_idx"]]
    grid_rc = data["xy"][:, ::-1]
    np.testing.assert_allclose(
        UNSMOOTHED(counts, grid_rc), data["log_expression"], rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        LabelTransform()(counts, grid_rc), data["smoothed"], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("cpm", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_rewritten_code_labels_are_reproduced(golden, cpm: bool, smooth: bool) -> None:
    data = golden("normalise_smooth_v2.npz")
    chosen = np.searchsorted(data["gene_names"], data["selected_genes"])
    grid_rc = np.stack([data["array_row"], data["array_col"]], axis=1)
    transform = LabelTransform(
        library="panel" if cpm else "none", log="ln", smoothing="3x3" if smooth else "none"
    )
    np.testing.assert_allclose(
        transform(data["counts"][:, chosen], grid_rc),
        data[f"cpm{cpm:d}_smooth{smooth:d}"],
        rtol=1e-6,
    )
