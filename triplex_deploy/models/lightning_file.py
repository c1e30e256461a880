"""State dicts of Lightning checkpoints, whose settings are pickled objects of other libraries."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.safe_load import load_tensors


class _Table:
    """Stands in for dictionaries and namespaces: a plain dictionary, whatever it is made from."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Nothing:
    """Stands in for values nobody reads."""

    def __init__(self, *_: object) -> None:
        """Keep none of it."""

    def __setstate__(self, state: object) -> None:
        """Nor of this."""


_TABLES: Final = (
    "addict.addict.Dict",
    "argparse.Namespace",
    "easydict.EasyDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "types.SimpleNamespace",
)
_NOTHINGS: Final = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)


def load_state_dict(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors under ``state_dict``, as Lightning files have them, or of the file itself.

    Settings that published checkpoints keep in a few well-known classes are read as if they were
    ours, and dropped: nothing the file names is imported or called. ``CheckpointError`` for any
    other object, and for a file without a state dict.
    """
    stand_ins = [(_Table, name) for name in _TABLES] + [(_Nothing, name) for name in _NOTHINGS]
    try:
        content = load_tensors(path, stand_ins)
    except CheckpointError as error:
        if "refused" not in str(error):
            raise
        raise CheckpointError(
            f"{str(error).partition('; ')[0]}; if you trust the file, write its tensors alone with "
            "`python -c \"import torch; c = torch.load('FILE', 'cpu', weights_only=False); "
            "torch.save(c['state_dict'], 'TENSORS')\"` and pass those"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path}: holds no state dict of tensors; pass weights saved with torch"
        )
    return state
