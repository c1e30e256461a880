"""A guard against running inference with dropout or batch statistics still active."""

from torch import nn

from triplex_deploy.errors import ContractError


def assert_eval(module: nn.Module) -> None:
    """Raise ``ContractError`` naming the first submodule that is in training mode."""
    for name, part in module.named_modules():
        if part.training:
            where = name or type(module).__name__
            raise ContractError(f"{where}: still in training mode; call eval() on the model first")
