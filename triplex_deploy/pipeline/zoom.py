"""Write the tiles of a slide beside its report, so that the report zooms to the cells."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.errors import SlideError
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.outputs.zoom_tiles import ZoomTiles
from triplex_deploy.progress import Progress, Silent
from triplex_deploy.slides import open_slide
from triplex_deploy.slides.tile_pyramid import FINEST_UM, require_own_pyramid, write_pyramid


def zoom_folder(page: Path) -> Path:
    """Return the folder of the tiles beside a report."""
    return page.with_name(f"{page.stem}_tiles")


def require_own_zoom(page: Path) -> None:
    """Raise ``OutputError`` if the folder of the tiles holds anything else."""
    require_own_pyramid(zoom_folder(page))


def write_zoom(
    prediction: Prediction,
    slide_path: Path,
    page: Path,
    finest_um: float = FINEST_UM,
    progress: Progress | None = None,
) -> ZoomTiles:
    """Write the tiles of the slide of a prediction beside its report, and describe them.

    Args:
        prediction: The prediction.
        slide_path: Its slide.
        page: Where the report is or will be.
        finest_um: Microns per pixel of the finest tiles.
        progress: Receives the progress; nothing is shown if None.

    Raises:
        ConfigError: If ``finest_um`` is not a positive length.
        OutputError: If the folder cannot be written, or holds other files.
        SlideError: If the slide cannot be read, or is another than the predicted one.
    """
    shown = progress or Silent()
    started: list[int] = []

    def advance(done: int, total: int) -> None:
        if not started:
            started.append(done)
            shown.start("tiles to zoom in", total)
        shown.advance(1)

    folder = zoom_folder(page)
    with open_slide(slide_path) as slide:
        if slide.level_sizes[0] != prediction.slide_size_wh:
            sizes = (
                "{:,} x {:,} px".format(*s)
                for s in (slide.level_sizes[0], prediction.slide_size_wh)
            )
            raise SlideError(
                f"{slide_path}: has {next(sizes)}, the predicted slide {next(sizes)}; "
                "give the slide that was predicted"
            )
        made = write_pyramid(slide, prediction.slide_mpp, folder, finest_um, advance)
    present = tuple(made.present[level] for level in sorted(made.present))
    return ZoomTiles(
        folder.name, made.width, made.height, made.level0_per_px, made.tile_px, present
    )
