"""Whole-slide images behind one interface: pixels by level, and their physical scale."""

from triplex_deploy.slides.slide import Slide

__all__ = ["Slide"]
