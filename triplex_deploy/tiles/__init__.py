"""Plan, read and crop the tiles of a slide's spots."""

from triplex_deploy.tiles.apeg import apeg_index
from triplex_deploy.tiles.plan import TilePlan, plan_tiles
from triplex_deploy.tiles.stream import TileBatch, stream_tiles
from triplex_deploy.tiles.view import SlideView

__all__ = [
    "SlideView",
    "TileBatch",
    "TilePlan",
    "apeg_index",
    "plan_tiles",
    "stream_tiles",
]
