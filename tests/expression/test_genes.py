import numpy as np
import pytest

from triplex_deploy.errors import DatasetError
from triplex_deploy.expression import GeneTotals, select_genes
from triplex_deploy.expression.genes import pooled_means


def totals(n_spots: int, **genes: float) -> GeneTotals:
    return GeneTotals(tuple(genes), np.array(list(genes.values()), np.float64), n_spots)


def test_means_are_pooled_over_spots_and_missing_genes_count_zero() -> None:
    means = pooled_means([totals(3, A=3, B=6), totals(1, B=2, C=4)])
    assert means == {"A": 0.75, "B": 2.0, "C": 1.0}


def test_largest_mean_comes_first_and_ties_go_by_symbol() -> None:
    sections = [totals(2, Z=4, B=4, A=1, M=9)]
    assert select_genes(sections, 3) == ("M", "B", "Z")


def test_asking_for_more_genes_than_there_are_is_an_error() -> None:
    with pytest.raises(DatasetError, match="hold 2"):
        select_genes([totals(1, A=1, B=1)], 3)


def test_gene_listed_twice_is_refused() -> None:
    with pytest.raises(DatasetError, match="twice"):
        GeneTotals(("A", "A"), np.ones(2), 1)


def test_published_gene_set_is_reproduced(golden) -> None:
    data = golden("geneset_stnet.npz")
    section = GeneTotals(tuple(map(str, data["all_genes"])), data["mean_expression"], 1)
    assert set(select_genes([section], 50)) == set(data["top50_in_gene_order"])


def test_pooled_means_over_unequal_gene_lists(golden) -> None:
    data = golden("geneset_v2.npz")
    sections = [
        GeneTotals(
            tuple(map(str, data[f"sample{i}_genes"])),
            data[f"sample{i}_counts"].sum(axis=0).astype(np.float64),
            len(data[f"sample{i}_counts"]),
        )
        for i in range(3)
    ]
    means = pooled_means(sections)
    n_spots = sum(section.n_spots for section in sections)
    for gene, total in zip(data["common_genes"], data["total_counts_common"], strict=True):
        assert means[str(gene)] * n_spots == pytest.approx(total)
    # the rewritten code ranks by total among genes common to all sections, given enough spots
    ours = set(select_genes(sections, 50)) & set(map(str, data["common_genes"]))
    assert len(ours & set(map(str, data["HEG50"]))) >= 40
