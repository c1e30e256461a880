import pytest

from triplex_deploy.outputs.units import describe_units

PAPER = {"library": "panel", "scale": 10000.0, "log": "log10", "smoothing": "3x3"}


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (
            PAPER,
            "log₁₀(1 + counts per 10,000 of the model's genes), "
            "mean over each spot and the eight around it",
        ),
        (
            {**PAPER, "library": "all", "log": "ln", "smoothing": "none"},
            "ln(1 + counts per 10,000 of all genes)",
        ),
        ({"library": "none", "scale": 1.0, "log": "none", "smoothing": "none"}, "counts"),
        ({}, ""),
        (None, ""),
    ],
)
def test_a_label_transform_in_words(transform: object, words: str) -> None:
    assert describe_units(transform) == words
