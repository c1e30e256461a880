"""Find requested genes among those that are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ConfigError


def gene_indices(requested: Sequence[str] | None, genes: Sequence[str]) -> NDArray[np.int64]:
    """Return the positions of requested genes in ``genes``, in the requested order.

    Args:
        requested: Names of genes, None for all.
        genes: All genes that are predicted.

    Raises:
        ConfigError: If a gene is not predicted (the closest name is suggested), is named twice, or
            if no gene is named.
    """
    if requested is None:
        return np.arange(len(genes), dtype=np.int64)
    if not requested:
        raise ConfigError("genes: none is named; leave the option out to predict all genes")
    position = {gene: i for i, gene in enumerate(genes)}
    chosen: dict[str, int] = {}
    for gene in requested:
        if gene not in position:
            raise ConfigError(f"gene {gene}: it is not predicted; {_hint(gene, genes)}")
        if gene in chosen:
            raise ConfigError(f"gene {gene}: named twice; name it once")
        chosen[gene] = position[gene]
    return np.array(list(chosen.values()), dtype=np.int64)


def _hint(gene: str, genes: Sequence[str]) -> str:
    words = gene.split()
    if len(words) > 1 and all(word in genes for word in words):
        return f"separate names by commas: {','.join(words)}"
    upper = {name.upper(): name for name in genes}
    close = get_close_matches(gene.upper(), list(upper), n=1, cutoff=0.6)
    if close:
        return f"did you mean {upper[close[0]]}?"
    return f"its {len(genes)} genes begin with {', '.join(genes[:3])}"
