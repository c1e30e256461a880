"""From the width of the frozen tile encoder to that of the tokens."""

from torch import nn


def feature_projection(feature_dim: int | None, dim: int) -> nn.Module:
    """Linear where the widths differ; nothing, as published, where they agree or none is given."""
    if feature_dim is None or feature_dim == dim:
        return nn.Identity()
    return nn.Linear(feature_dim, dim)
