import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex_deploy.slides import _pixels

READ_REGION = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_int64,
)

OPAQUE = np.array([[0xFF102030, 0xFFFFFFFF]], np.uint32)


@READ_REGION
def read_nothing(*_):
    """Stand in for OpenSlide's function; the pixels are in the buffer already."""


def bgra_to_rgb(argb, background_rgb=(255, 255, 255), out=None):
    rgb = np.empty((*argb.shape, 3), np.uint8) if out is None else out
    address = ctypes.cast(read_nothing, ctypes.c_void_p).value or 0
    _pixels.read_region(address, 0, argb, 0, 0, 0, rgb, *background_rgb)
    return rgb


def composite_reference(argb, background_rgb):
    channels = np.stack([argb >> 16, argb >> 8, argb], axis=-1) & 0xFF
    clear = 255 - (argb >> 24)[..., None].astype(np.int64)
    backdrop = (clear * np.array(background_rgb) + 127) // 255
    return np.minimum(channels + backdrop, 255).astype(np.uint8)


def test_opaque_pixels_lose_their_alpha_and_change_order():
    assert bgra_to_rgb(OPAQUE).tolist() == [[[0x10, 0x20, 0x30], [255, 255, 255]]]


def test_words_are_blue_first_in_memory():
    memory = np.array([[1, 2, 3, 255]], np.uint8)
    assert bgra_to_rgb(memory.view(np.uint32)).tolist() == [[[3, 2, 1]]]


def test_transparent_pixels_become_the_background_and_half_transparent_ones_mix():
    argb = np.array([[0x00000000, 0x80400000]], np.uint32)
    assert bgra_to_rgb(argb, (200, 100, 50)).tolist() == [[[200, 100, 50], [64 + 100, 50, 25]]]


@settings(deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 11),
    alpha=st.sampled_from([0, 1, 128, 254, 255, None]),
    background=st.tuples(*[st.integers(0, 255)] * 3),
    seed=st.integers(0, 99),
)
def test_conversion_equals_the_reference(height, width, alpha, background, seed):
    rng = np.random.default_rng(seed)
    argb = rng.integers(0, 1 << 32, (height, width), dtype=np.uint32)
    if alpha is not None:
        argb = (argb & np.uint32(0xFFFFFF)) | np.uint32(alpha << 24)
    rgb = bgra_to_rgb(argb, background)
    np.testing.assert_array_equal(rgb, composite_reference(argb, background))


@pytest.mark.parametrize("width", range(1, 10))
@pytest.mark.parametrize("alpha", [0xFF, 0x40])
def test_a_window_of_a_larger_image_is_written_and_nothing_around_it(width, alpha):
    argb = np.full((3, width), alpha << 24 | 0x102030, np.uint32)
    image = np.full((5, width + 2, 3), 9, np.uint8)
    bgra_to_rgb(argb, out=image[1:4, 1:-1])
    np.testing.assert_array_equal(image[1:4, 1:-1], composite_reference(argb, (255, 255, 255)))
    image[1:4, 1:-1] = 9
    assert (image == 9).all()
