"""Under a narrow limit of memory a command ends well: a result, or a line that names the limit."""

from __future__ import annotations

import pytest

from tests.field.child import well_ended
from tests.field.kit import Kit

pytestmark = [pytest.mark.torch, pytest.mark.lengthy]


@pytest.mark.parametrize("memory_gb", [0.3, 0.6])
def test_a_small_address_space_is_named(kit: Kit, memory_gb: float) -> None:
    kit.env["OMP_NUM_THREADS"] = ""  # as for users: libraries choose their threads
    outcome = kit.predict(kit.small(), "--all-tiles", memory_gb=memory_gb, limit_s=120)
    verdict = well_ended(outcome)
    assert verdict.right, verdict.seen
    if outcome.status:
        assert "`ulimit -v`" in outcome.errors[0]
