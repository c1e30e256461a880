"""Lay out tissue, glands and nuclei of a synthetic H&E section from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.demo.tissue import TEXTURE_PX, Field, Nuclei, Section, smoothstep

COARSE_UM: Final = 4.0
"""Distance of the points of the coarse raster, if it fits into ``COARSE_MAX_PX``."""
COARSE_MAX_PX: Final = 2048
"""Maximum side of the coarse raster."""
VARIANTS: Final = 24
"""Number of stamps for each kind of nucleus."""

DRAWN: Final = ("tissue", "gland", "tumor", "shade", "turn", "bend_x", "bend_y", "light")
"""Coarse fields that pixels depend on; the other fields only place nuclei and glands."""


@dataclass(frozen=True)
class NucleusKind:
    """How one kind of nucleus looks."""

    long_um: float
    """Long half axis in microns."""
    short_um: float
    """Short half axis in microns."""
    stain: float
    """Strength of hematoxylin."""
    pallor: float
    """Fraction by which the middle is paler than the rim."""


EPITHELIAL: Final = NucleusKind(4.8, 3.2, 1.15, 0.45)
FIBROBLAST: Final = NucleusKind(7.0, 1.7, 1.25, 0.05)
LYMPHOCYTE: Final = NucleusKind(3.3, 3.0, 1.65, 0.05)
TUMOR: Final = NucleusKind(5.8, 4.6, 1.20, 0.55)
KINDS: Final = (EPITHELIAL, FIBROBLAST, LYMPHOCYTE, TUMOR)


def grow_section(size_wh: tuple[int, int], mpp: float, seed: int) -> Section:
    """Return a section; equal arguments give equal pixels.

    Args:
        size_wh: Width and height in level-0 pixels.
        mpp: Microns per pixel.
        seed: Seed of the section.
    """
    rng = np.random.default_rng(seed)
    stride_px = max(2, round(COARSE_UM / mpp), -(-max(size_wh) // COARSE_MAX_PX))
    coarse = _lay_out(size_wh, stride_px, mpp, rng)
    coarse["gland"], gland_nuclei = _place_glands(coarse, stride_px, mpp, rng)
    scattered = _scatter_nuclei(coarse, size_wh, stride_px, mpp, rng)
    return Section(
        size_wh=size_wh,
        stride_px=stride_px,
        coarse={name: coarse[name] for name in DRAWN},
        textures=_weave_textures(mpp, rng),
        stamps=_cut_stamps(mpp, rng),
        nuclei=_sort_nuclei(gland_nuclei, scattered, rng),
    )


def _lay_out(
    size_wh: tuple[int, int], stride_px: int, mpp: float, rng: np.random.Generator
) -> dict[str, Field]:
    """Return tissue outline (positive inside), regions, shading and displacement, coarsely."""
    width, height = (size // stride_px + 2 for size in size_wh)
    step_um = stride_px * mpp
    extent_um = min(size_wh) * mpp

    def noise(period_um: float) -> Field:
        return _smooth_noise((height, width), 0.25 * period_um / step_um, rng)

    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = 2 * y / height - 1, 2 * x / width - 1
    outline = 0.78 - np.hypot(x, 0.96 * y) + 0.09 * noise(extent_um) + 0.03 * noise(extent_um / 4)
    hole_y, hole_x = rng.uniform(-0.35, 0.35, 2)
    hole = np.hypot(x - hole_x, y - hole_y) - 0.15 + 0.05 * noise(extent_um / 5)
    region = noise(max(0.9 * extent_um, 400))
    return {
        "tissue": np.minimum(outline, hole).astype(np.float32),
        "region": region,
        "tumor": (-3 * region - 0.6).astype(np.float32),
        "immune": noise(max(0.5 * extent_um, 300)),
        "shade": noise(260),
        "turn": noise(500),
        "bend_x": noise(420) * np.float32(30 / mpp),
        "bend_y": noise(420) * np.float32(30 / mpp),
        "light": noise(2.5 * extent_um),
    }


def _place_glands(
    coarse: dict[str, Field], stride_px: int, mpp: float, rng: np.random.Generator
) -> tuple[Field, NDArray[np.float64]]:
    """Place glands on an irregular lattice within the glandular region.

    Returns:
        The gland field (0 in the middle of a gland, 1 at its border, 2 outside), and the nuclei of
        the glands' epithelium as rows of (x, y, kind, angle) in level-0 pixels.
    """
    gland = np.full_like(coarse["tissue"], 2.0)
    nuclei = [np.empty((0, 4))]
    pitch = 165 / (stride_px * mpp)
    height, width = gland.shape
    for line, y in enumerate(np.arange(pitch / 2, height, 0.87 * pitch)):
        for x in np.arange(pitch * (0.5 + 0.5 * (line % 2)), width, pitch):
            center = np.array([x, y]) + rng.uniform(-0.17, 0.17, 2) * pitch
            radius, wobble = rng.uniform(0.22, 0.46) * pitch, rng.uniform(0, 2 * np.pi, 3)
            place = tuple(np.clip(center[::-1].astype(int), 0, (height - 1, width - 1)))
            if (
                coarse["region"][place] < 0.1
                or rng.uniform() < 0.08
                or coarse["tissue"][place] < 0.06
            ):
                continue
            _stamp_gland(gland, center, radius, wobble)
            nuclei.append(_line_gland(center, radius, wobble, stride_px, mpp, rng))
    lining = np.concatenate(nuclei)
    columns, lines = (lining[:, :2] / stride_px).astype(int).T
    inside = coarse["tissue"][lines.clip(0, height - 1), columns.clip(0, width - 1)] > 0
    return gland, lining[inside]


def _gland_radius(angle: NDArray[np.float64], wobble: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of a gland's border from its center at ``angle``, for radius 1."""
    waves = [np.cos((order + 2) * angle + phase) for order, phase in enumerate(wobble)]
    return np.asarray(1 + 0.13 * waves[0] + 0.07 * waves[1] + 0.05 * waves[2])


def _stamp_gland(
    gland: Field, center: NDArray[np.float64], radius: float, wobble: NDArray[np.float64]
) -> None:
    reach = int(1.5 * radius) + 2
    left, top = (max(0, int(value) - reach) for value in center)
    window = gland[top : int(center[1]) + reach, left : int(center[0]) + reach]
    y, x = np.mgrid[0 : window.shape[0], 0 : window.shape[1]].astype(np.float64)
    y, x = y + top - center[1], x + left - center[0]
    level = np.hypot(x, y) / (radius * _gland_radius(np.arctan2(y, x), wobble))
    np.minimum(window, level.astype(np.float32), out=window)


def _line_gland(
    center: NDArray[np.float64],
    radius: float,
    wobble: NDArray[np.float64],
    stride_px: int,
    mpp: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return a row of nuclei near the basal side of the epithelium that point to the lumen."""
    count = int(2 * np.pi * 0.8 * radius * stride_px * mpp / 6.6)
    angle = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / max(count, 1)
    distance = radius * _gland_radius(angle, wobble) * rng.normal(0.80, 0.035, count)
    x = (center[0] + distance * np.cos(angle)) * stride_px
    y = (center[1] + distance * np.sin(angle)) * stride_px
    return np.stack([x, y, np.full(count, KINDS.index(EPITHELIAL)), angle], axis=1)


def _scatter_nuclei(
    coarse: dict[str, Field],
    size_wh: tuple[int, int],
    stride_px: int,
    mpp: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return nuclei outside glands, by local density, as rows of (x, y, kind, angle)."""
    area_mm2 = size_wh[0] * size_wh[1] * mpp**2 / 1e6
    per_mm2 = {
        FIBROBLAST: np.where(coarse["tumor"] < 1, 750.0, 150.0),
        LYMPHOCYTE: 180 + 5200 * smoothstep(coarse["immune"], 0.6, 1.7),
        TUMOR: np.where(coarse["tumor"] > 1, 5200.0, 0.0),
    }
    free = (coarse["tissue"] > 0.015) & (coarse["gland"] > 1.02)
    found = []
    for kind, density in per_mm2.items():
        peak = float(density.max())
        x, y = rng.uniform(0, 1, (2, int(peak * area_mm2))) * np.array(size_wh)[:, None]
        place = (y / stride_px).astype(int), (x / stride_px).astype(int)
        keep = free[place] & (rng.uniform(0, peak, x.size) < density[place])
        turned = coarse["turn"][place] > 0
        angle = np.where(turned, np.pi / 2, 0) + rng.normal(0, 0.35, x.size)
        if kind is not FIBROBLAST:
            angle = rng.uniform(0, np.pi, x.size)
        rows = np.stack([x, y, np.full(x.size, KINDS.index(kind)), angle], axis=1)
        found.append(rows[keep])
    return np.concatenate(found)


def _sort_nuclei(
    gland: NDArray[np.float64], scattered: NDArray[np.float64], rng: np.random.Generator
) -> Nuclei:
    rows = np.concatenate([gland, scattered])
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    turn = np.rint(rows[:, 3] / np.pi * VARIANTS).astype(np.int64) % VARIANTS
    return Nuclei(
        x=rows[:, 0].astype(np.int64),
        y=rows[:, 1].astype(np.int64),
        stamp=rows[:, 2].astype(np.int64) * VARIANTS + turn,
        strength=rng.uniform(0.72, 1.12, len(rows)).astype(np.float32),
    )


def _cut_stamps(mpp: float, rng: np.random.Generator) -> tuple[Field, ...]:
    """Return the hematoxylin of single nuclei: ``VARIANTS`` directions and shapes of each kind."""
    stamps = []
    for kind in KINDS:
        half = int(np.ceil(1.35 * kind.long_um / mpp)) + 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1] * mpp
        for turn in range(VARIANTS):
            angle = np.pi * turn / VARIANTS
            long_um, short_um = np.array([kind.long_um, kind.short_um]) * rng.uniform(0.8, 1.2, 2)
            along = (x * np.cos(angle) + y * np.sin(angle)) / long_um
            across = (y * np.cos(angle) - x * np.sin(angle)) / short_um
            lobes = rng.uniform(0, 2 * np.pi)
            level = np.hypot(along, across)
            level *= 1 + 0.08 * np.cos(3 * np.arctan2(across, along) + lobes)
            soft = 0.5 / kind.short_um
            inside = 1 - smoothstep(level.astype(np.float32), 1 - soft, 1 + soft)
            chromatin = 1 - kind.pallor * (1 - level**2).clip(0)
            speck = _smooth_noise(level.shape, 0.7 / mpp, rng)
            stamps.append((kind.stain * inside * (chromatin + 0.13 * speck)).astype(np.float32))
    return tuple(stamps)


def _weave_textures(mpp: float, rng: np.random.Generator) -> dict[str, Field]:
    """Return periodic textures of standard deviation 1: fibers both ways, grain, sensor noise."""
    shape = (TEXTURE_PX, TEXTURE_PX)
    thin, long = 1.1 / mpp, 16.0 / mpp
    return {
        "across": _smooth_noise(shape, (thin, long), rng) * 0.8
        + _smooth_noise(shape, (4 * thin, long), rng) * 0.6,
        "along": _smooth_noise(shape, (long, thin), rng) * 0.8
        + _smooth_noise(shape, (long, 4 * thin), rng) * 0.6,
        "grain": _smooth_noise(shape, 0.8 / mpp, rng),
        "noise": _smooth_noise(shape, 0.6, rng),
    }


def _smooth_noise(
    shape: tuple[int, ...], sigma: float | tuple[float, float], rng: np.random.Generator
) -> Field:
    """Return Gaussian noise of mean 0 and standard deviation 1 that is periodic in both axes."""
    from scipy import ndimage

    white = rng.standard_normal(shape, np.float32)
    smooth: Field = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3)
    smooth -= smooth.mean()
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)
