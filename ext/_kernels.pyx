"""Crop, resample and tabulate tiles: loops over arrays without the GIL and without allocation.

Nothing is checked here. Call these functions through ``triplex_deploy.tiles.kernels`` and
``triplex_deploy.tiles.apeg``, which check dtype, layout and bounds first.
"""

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t
from libc.string cimport memset


cdef extern from "copy_rows.h" nogil:
    void triplex_copy_rows(
        uint8_t* target, int64_t target_stride,
        const uint8_t* source, int64_t source_stride, int64_t bytes, int64_t rows,
    )


def gather(
    const uint8_t[:, :, :, ::1] segments,
    const int64_t[:, :, ::1] slots,
    const int64_t[:, ::1] first_xy,
    const int64_t[:, ::1] origin_xy,
    int64_t limit_width, int64_t limit_height,
    uint8_t[:, :, :, ::1] out,
):
    """Crop windows out of the segments under them; pixels outside the limits are zero."""
    cdef int64_t n, r, c, left, right, top, bottom, x0, x1, y0, y1, x, y, left_in, top_in
    cdef int64_t high = segments.shape[1], wide = segments.shape[2]
    cdef int64_t height = out.shape[1], width = out.shape[2]
    cdef const uint8_t* source
    cdef uint8_t* target
    with nogil:
        for n in range(out.shape[0]):
            x, y = origin_xy[n, 0], origin_xy[n, 1]
            left, right = max(x, 0), min(x + width, limit_width)
            top, bottom = max(y, 0), min(y + height, limit_height)
            target = &out[n, 0, 0, 0]
            if right - left < width or bottom - top < height:
                memset(target, 0, 3 * width * height)
            for r in range(slots.shape[1]):
                y0 = max(top, first_xy[n, 1] + r * high)
                y1 = min(bottom, first_xy[n, 1] + (r + 1) * high)
                for c in range(slots.shape[2]):
                    x0 = max(left, first_xy[n, 0] + c * wide)
                    x1 = min(right, first_xy[n, 0] + (c + 1) * wide)
                    if slots[n, r, c] < 0 or x1 <= x0 or y1 <= y0:
                        continue
                    left_in, top_in = x0 - first_xy[n, 0] - c * wide, y0 - first_xy[n, 1] - r * high
                    source = &segments[slots[n, r, c], 0, 0, 0]
                    triplex_copy_rows(
                        target + 3 * ((y0 - y) * width + x0 - x), 3 * width,
                        source + 3 * (top_in * wide + left_in), 3 * wide,
                        3 * (x1 - x0), y1 - y0,
                    )


def neighbor_table(
    const int64_t[:, ::1] center_xy,
    int64_t width, int64_t height, int64_t side,
    int64_t[:, :, ::1] origin_xy,
    uint8_t[:, ::1] mask,
):
    """Write the corners and the mask of the 5 x 5 tiles with side ``side`` around every center."""
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
    """Return the position of (row, col) among lexicographically sorted pairs, or -1."""
    cdef int64_t low = 0, high = count, middle
    while low < high:
        middle = low + (high - low) // 2
        if rows[middle] < row or (rows[middle] == row and cols[middle] < col):
            low = middle + 1
        else:
            high = middle
    return low if low < count and rows[low] == row and cols[low] == col else -1


cdef inline bint overflows(int64_t value, int64_t offset) noexcept nogil:
    """Return True if value + offset does not fit in int64."""
    return value > INT64_MAX - offset if offset > 0 else value < INT64_MIN - offset


def apeg_table(
    const int64_t[::1] rows, const int64_t[::1] cols, const int64_t[::1] order,
    int64_t reach, int64_t[:, ::1] table,
):
    """Write the spot at each offset of each spot; ``order`` maps sorted spots to their numbers."""
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
    """Write weighted sums over rows, then columns, rounded half up; ``line`` is work space."""
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
