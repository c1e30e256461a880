"""Feed what an attack on the whole product fed, one function for each row of its list.

The names of the rows are those of the list that ``run_cases.py`` is given. Each module holds one
kind; importing this package registers all of them in ``ATTACKS``.
"""

from tests.field.attacks import (  # noqa: F401 - each registers its rows
    damaged_files,
    hostile_names,
    lost_data,
    rough_machine,
    trusted_sizes,
    wrong_numbers,
)
from tests.field.attacks.common import ATTACKS

__all__ = ["ATTACKS"]
