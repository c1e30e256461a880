from pathlib import Path

import pytest

from triplex_deploy.errors import ConfigError
from triplex_deploy.training.settings import read_settings, split_settings


def test_assignments_override_the_file_and_go_to_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"global_depth": 5, "patience": 3}')
    values = read_settings(path, ["global_depth=2", "learning_rate=3e-4", "position=none"])
    config, options = split_settings(values)
    assert (config.global_depth, config.position) == (2, "none")
    assert (options.patience, options.learning_rate) == (3, 3e-4)


@pytest.mark.parametrize(
    "assignment", ["lr=1", "epochs", "epochs=many", "augment=1", "epochs=0", "precision=fp8"]
)
def test_unknown_or_wrong_setting_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match=assignment.partition("=")[0]):
        split_settings(read_settings(None, [assignment]))
