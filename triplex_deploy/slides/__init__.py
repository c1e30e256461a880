"""Open whole-slide images behind one interface: pixels by level, and the physical scale."""

from triplex_deploy.slides.mpp import resolve_mpp
from triplex_deploy.slides.open import open_slide
from triplex_deploy.slides.slide import Slide
from triplex_deploy.slides.thumbnail import thumbnail

__all__ = ["Slide", "open_slide", "resolve_mpp", "thumbnail"]
