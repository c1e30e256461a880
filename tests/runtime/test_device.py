"""Names of devices: one, or one for each worker."""

import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device import each_device


def three() -> int:
    return 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto",)),
        ("cpu", ("cpu",)),
        ("cuda:1", ("cuda:1",)),
        ("cuda:all", ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda:0,cuda:2", ("cuda:0", "cuda:2")),
        ("cuda:2, cuda", ("cuda:2", "cuda:0")),
    ],
)
def test_each_worker_gets_one_of_the_devices(text: str, expected: tuple[str, ...]) -> None:
    assert each_device(text, three) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda:0,cpu", "names GPUs alone"),
        ("auto,cuda:0", "names GPUs alone"),
        ("cuda:0,", "not known"),
        ("cuda:0,cuda:all", "not known"),
        ("cuda:0,cuda", "names a GPU twice"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        each_device(text, three)


def test_all_gpus_of_a_machine_without_any_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"no GPU is found; .*--device cpu"):
        each_device("cuda:all", lambda: 0)
