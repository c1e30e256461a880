"""Read data sets of measured spatial expression as sections, and split them into folds."""

from triplex_deploy.data.dataset import FORMATS, read_dataset
from triplex_deploy.data.folds import Fold, inner_validation, make_folds
from triplex_deploy.data.section import Section
from triplex_deploy.data.section_list import SectionEntry, read_section_list

__all__ = [
    "FORMATS",
    "Fold",
    "Section",
    "SectionEntry",
    "inner_validation",
    "make_folds",
    "read_dataset",
    "read_section_list",
]
