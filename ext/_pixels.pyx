"""Read and convert pixels of slide files without the GIL.

Nothing is checked here. Call these functions through ``triplex_deploy.slides``, which checks their
arguments first.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memchr


cdef extern from "rgb_rows.h" nogil:
    void triplex_bgra_row(
        const uint32_t* argb, uint8_t* rgb, int64_t width, uint32_t r, uint32_t g, uint32_t b
    )


ctypedef void (*read_region_t)(
    void* slide, uint32_t* argb, int64_t x, int64_t y, int32_t level, int64_t w, int64_t h
) noexcept nogil


def read_region(
    size_t function, size_t slide, uint32_t[:, ::1] argb,
    int64_t x, int64_t y, int32_t level,
    uint8_t[:, :, :] rgb, uint32_t r, uint32_t g, uint32_t b,
):
    """Read a region of ``slide`` and convert it to ``rgb`` (h, w, 3) over the color (r, g, b).

    ``function`` is the address of ``openslide_read_region``, ``argb`` (h, w) receives its output.
    """
    cdef int64_t row
    with nogil:
        (<read_region_t><void*>function)(
            <void*>slide, &argb[0, 0], x, y, level, argb.shape[1], argb.shape[0]
        )
        for row in range(argb.shape[0]):
            triplex_bgra_row(&argb[row, 0], &rgb[row, 0, 0], argb.shape[1], r, g, b)


cdef inline uint8_t clip(int32_t value) noexcept nogil:
    return <uint8_t>min(max(value, 0), 255)


def ycbcr_to_rgb(uint8_t[:, :, :] pixels):
    """Convert full-range YCbCr (h, w, 3) to RGB in place, rounded as OpenSlide does for JPEG 2000.

    Green takes 0.34414 of blue chroma and 0.71414 of red chroma, as exact decimals. The 16-bit
    fixed point of libjpeg differs by 1 if their sum is close to a half.
    """
    cdef int64_t row, x
    cdef int32_t luma, blue, green, red
    with nogil:
        for row in range(pixels.shape[0]):
            for x in range(pixels.shape[1]):
                luma = pixels[row, x, 0]
                blue = pixels[row, x, 1] - 128
                red = pixels[row, x, 2] - 128
                pixels[row, x, 0] = clip(luma + ((91881 * red + 32768) >> 16))
                green = (-34414 * blue - 71414 * red + 50000 + 256 * 100000) // 100000 - 256
                pixels[row, x, 1] = clip(luma + green)
                pixels[row, x, 2] = clip(luma + ((116130 * blue + 32768) >> 16))


def jpeg_is_whole(const uint8_t[::1] data):
    """Return True if the markers of a JPEG lead from its start to its end marker.

    Most damage breaks this chain. libjpeg would fill the places it cannot decode with gray and
    only warn, so call this before decoding.
    """
    cdef int64_t size = data.shape[0]
    cdef bint whole = False
    if size >= 4:
        with nogil:
            whole = markers_reach_the_end(&data[0], size)
    return whole


cdef bint markers_reach_the_end(const uint8_t* data, int64_t size) noexcept nogil:
    """Follow the markers of at least 4 bytes; 0xD8 starts an image, 0xDA a scan, 0xD9 ends it."""
    cdef int64_t at = 2
    cdef uint8_t marker
    cdef const uint8_t* found
    if data[0] != 0xFF or data[1] != 0xD8:
        return False
    while at + 1 < size:
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker < 0xC0 or 0xD0 <= marker <= 0xD8 or at + 3 >= size:
            return False
        at += 2 + (data[at + 2] << 8 | data[at + 3])
        if marker != 0xDA:
            continue
        while True:  # entropy-coded data up to the next marker that ends it
            if at >= size - 1:
                return False
            found = <const uint8_t*>memchr(data + at, 0xFF, size - 1 - at)
            if found == NULL:
                return False
            at = found - data
            if data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
                at += 2
            elif data[at + 1] == 0xFF:
                at += 1
            else:
                break
    return False
