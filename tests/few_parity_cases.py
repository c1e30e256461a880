"""Make exports of tests fast: few and small parity cases."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def few_parity_cases() -> Iterator[None]:
    """Compare exported graphs at two small sizes and on a slide of nine spots, in this block."""
    from triplex_deploy.exporters import parity, tensorrt_parity

    with pytest.MonkeyPatch.context() as patch:
        for name in parity.SIZES:
            patch.setitem(parity.SIZES, name, (1, 2))
        patch.setattr(parity, "GRID_SIDE", 3)
        patch.setattr(tensorrt_parity, "usual_sizes", lambda *_: {"global_encoder": 5})
        yield
