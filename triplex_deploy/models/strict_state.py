"""Loading weights all or nothing: every key must be there, known, and of the right shape."""

from collections.abc import Mapping

from torch import Tensor, nn

from triplex_deploy.errors import CheckpointError

_SHOWN = 5


def check_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raise ``CheckpointError`` naming the keys of ``state`` that do not fit ``module``."""
    expected = module.state_dict()
    _refuse(what, "not a tensor", [key for key, value in state.items() if not _is_tensor(value)])
    _refuse(what, "missing keys", [key for key in expected if key not in state])
    _refuse(what, "unexpected keys", [key for key in state if key not in expected])
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if state[key].shape != value.shape
    ]
    _refuse(what, "wrong shapes", misshaped)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy ``state`` into ``module``; ``what`` names the weights in the ``CheckpointError``."""
    check_state(module, state, what)
    module.load_state_dict(state)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _refuse(what: str, why: str, keys: list[str]) -> None:
    if not keys:
        return
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    raise CheckpointError(
        f"{what}: {why}: {', '.join(keys[:_SHOWN])}{more}; "
        "use weights of this architecture and configuration"
    )
