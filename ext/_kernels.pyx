"""Tiling kernels: plain loops over checked arrays, without the GIL and without allocation.

Nothing here checks anything. Call these through ``triplex_deploy.tiles.kernels`` and
``triplex_deploy.tiles.apeg``, which check dtype, layout and bounds first.
"""

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset


cdef void crop_one(
    const uint8_t* block, int64_t height, int64_t width,
    int64_t x, int64_t y, uint8_t* tile, int64_t side,
) noexcept nogil:
    """Copy the square at (x, y) out of an RGB block; what lies outside the block becomes zero."""
    cdef int64_t left = min(max(-x, 0), side)
    cdef int64_t right = max(min(width - x, side), left)
    cdef int64_t row
    cdef uint8_t* line = tile
    for row in range(side):
        if y + row < 0 or y + row >= height or left == right:
            memset(line, 0, 3 * side)
        else:
            memset(line, 0, 3 * left)
            memcpy(
                line + 3 * left,
                block + 3 * ((y + row) * width + x + left),
                3 * (right - left),
            )
            memset(line + 3 * right, 0, 3 * (side - right))
        line += 3 * side


def crop_tiles(
    const uint8_t[:, :, ::1] block, const int64_t[:, ::1] origin_xy, uint8_t[:, :, :, ::1] tiles
):
    cdef int64_t n
    with nogil:
        for n in range(origin_xy.shape[0]):
            crop_one(
                &block[0, 0, 0], block.shape[0], block.shape[1],
                origin_xy[n, 0], origin_xy[n, 1], &tiles[n, 0, 0, 0], tiles.shape[1],
            )


def crop_neighborhoods(
    const uint8_t[:, :, ::1] block,
    const int64_t[:, :, ::1] origin_xy,
    const uint8_t[:, ::1] mask,
    uint8_t[:, :, :, :, ::1] tiles,
):
    cdef int64_t n, k, side = tiles.shape[2]
    with nogil:
        for n in range(origin_xy.shape[0]):
            for k in range(origin_xy.shape[1]):
                if mask[n, k]:
                    crop_one(
                        &block[0, 0, 0], block.shape[0], block.shape[1],
                        origin_xy[n, k, 0], origin_xy[n, k, 1], &tiles[n, k, 0, 0, 0], side,
                    )
                else:
                    memset(&tiles[n, k, 0, 0, 0], 0, 3 * side * side)


cdef inline uint8_t over(uint32_t channel, uint32_t clear, uint32_t backdrop) noexcept nogil:
    """One premultiplied channel over a backdrop, rounded; ``clear`` is 255 - alpha."""
    return <uint8_t>min((channel & 0xFF) + (clear * backdrop + 127) // 255, 255)


cdef inline uint32_t reverse(uint32_t argb) noexcept nogil:
    """Bytes reversed: alpha, red, green, blue in the memory of a little-endian machine."""
    return (argb >> 24) | (argb >> 8 & 0xFF00) | (argb << 8 & 0xFF0000) | (argb << 24)


cdef inline bint is_opaque(const uint32_t* argb, int64_t width) noexcept nogil:
    cdef int64_t x
    cdef uint32_t alpha = <uint32_t>-1
    for x in range(width):
        alpha &= argb[x]
    return alpha >> 24 == 255


cdef void drop_alpha(const uint32_t* argb, uint8_t* rgb, int64_t width) noexcept nogil:
    """Convert a row of opaque pixels; four of them make three words."""
    cdef int64_t x
    cdef uint32_t a, b, c, d
    for x in range(0, width - 3, 4):
        a = (reverse(argb[x]) >> 8) | (argb[x + 1] << 8 & <uint32_t>0xFF000000)
        b = (reverse(argb[x + 1]) >> 16) | (reverse(argb[x + 2]) << 8 & <uint32_t>0xFFFF0000)
        c = (reverse(argb[x + 2]) >> 24) | (reverse(argb[x + 3]) & <uint32_t>0xFFFFFF00)
        memcpy(rgb + 3 * x, &a, 4)
        memcpy(rgb + 3 * x + 4, &b, 4)
        memcpy(rgb + 3 * x + 8, &c, 4)
    for x in range(width & ~<int64_t>3, width):
        d = reverse(argb[x]) >> 8
        memcpy(rgb + 3 * x, &d, 3)


def bgra_to_rgb(
    const uint32_t[:, ::1] argb, uint8_t[:, :, :] rgb, uint32_t r, uint32_t g, uint32_t b
):
    cdef int64_t x, y, width = argb.shape[1]
    cdef uint32_t pixel, clear
    with nogil:
        for y in range(argb.shape[0]):
            if is_opaque(&argb[y, 0], width):
                drop_alpha(&argb[y, 0], &rgb[y, 0, 0], width)
                continue
            for x in range(width):
                pixel = argb[y, x]
                clear = 255 - (pixel >> 24)
                rgb[y, x, 0] = over(pixel >> 16, clear, r)
                rgb[y, x, 1] = over(pixel >> 8, clear, g)
                rgb[y, x, 2] = over(pixel, clear, b)


def neighbor_table(
    const int64_t[:, ::1] center_xy,
    int64_t width, int64_t height, int64_t side,
    int64_t[:, :, ::1] origin_xy,
    uint8_t[:, ::1] mask,
):
    cdef int64_t n, row, col, x, y, window = 5
    cdef int64_t reach = window * side // 2
    cdef bint row_inside
    with nogil:
        for n in range(center_xy.shape[0]):
            for row in range(window):
                y = center_xy[n, 1] - reach + row * side
                row_inside = row == window // 2 or (y >= 0 and y + side <= height)
                for col in range(window):
                    x = center_xy[n, 0] - reach + col * side
                    origin_xy[n, row * window + col, 0] = x
                    origin_xy[n, row * window + col, 1] = y
                    mask[n, row * window + col] = row_inside and (
                        col == window // 2 or (x >= 0 and x + side <= width)
                    )


cdef inline int64_t find(
    const int64_t* rows, const int64_t* cols, int64_t count, int64_t row, int64_t col
) noexcept nogil:
    """Position of (row, col) among lexicographically sorted pairs, or -1."""
    cdef int64_t low = 0, high = count, middle
    while low < high:
        middle = low + (high - low) // 2
        if rows[middle] < row or (rows[middle] == row and cols[middle] < col):
            low = middle + 1
        else:
            high = middle
    return low if low < count and rows[low] == row and cols[low] == col else -1


cdef inline bint overflows(int64_t value, int64_t offset) noexcept nogil:
    return value > INT64_MAX - offset if offset > 0 else value < INT64_MIN - offset


def apeg_table(
    const int64_t[::1] rows, const int64_t[::1] cols, const int64_t[::1] order,
    int64_t reach, int64_t[:, ::1] table,
):
    cdef int64_t i, drow, dcol, slot, found, count = rows.shape[0]
    with nogil:
        for i in range(count):
            slot = 0
            for drow in range(-reach, reach + 1):
                for dcol in range(-reach, reach + 1):
                    found = -1
                    if not overflows(rows[i], drow) and not overflows(cols[i], dcol):
                        found = find(&rows[0], &cols[0], count, rows[i] + drow, cols[i] + dcol)
                    table[order[i], slot] = order[found] if found >= 0 else -1
                    slot += 1


def resample(
    const uint8_t[:, :, ::1] block,
    const int64_t[::1] row_start, const int64_t[::1] row_count, const float[:, ::1] row_weight,
    const int64_t[::1] col_start, const int64_t[::1] col_count, const float[:, ::1] col_weight,
    float[::1] line,
    uint8_t[:, :, ::1] out,
):
    cdef int64_t y, x, tap, i, values = 3 * block.shape[1]
    cdef const uint8_t* source
    cdef const float* pixel
    cdef float weight, red, green, blue
    with nogil:
        for y in range(out.shape[0]):
            memset(&line[0], 0, values * sizeof(float))
            for tap in range(row_count[y]):
                source = &block[row_start[y] + tap, 0, 0]
                weight = row_weight[y, tap]
                for i in range(values):
                    line[i] += weight * <float>source[i]
            for x in range(out.shape[1]):
                red = green = blue = 0.5
                pixel = &line[3 * col_start[x]]
                for tap in range(col_count[x]):
                    weight = col_weight[x, tap]
                    red += weight * pixel[3 * tap]
                    green += weight * pixel[3 * tap + 1]
                    blue += weight * pixel[3 * tap + 2]
                out[y, x, 0] = <uint8_t>min(max(red, 0), 255)
                out[y, x, 1] = <uint8_t>min(max(green, 0), 255)
                out[y, x, 2] = <uint8_t>min(max(blue, 0), 255)
