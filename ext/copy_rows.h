/* Copy a rectangle out of a larger picture, nearly as fast as a single block of memory.
 *
 * Rows of a few hundred bytes are too short for memcpy to reach full speed and for the processor to
 * predict the next row. So the next rows are prefetched, and rows are copied with wide, aligned
 * stores if the processor supports them. A release is built for baseline x86-64 and checks the
 * processor at run time.
 */
#ifndef TRIPLEX_COPY_ROWS_H
#define TRIPLEX_COPY_ROWS_H

#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define TRIPLEX_WIDE 1
#include <immintrin.h>
#endif
#if defined(__GNUC__) || defined(__clang__)
#define TRIPLEX_PREFETCH(address) __builtin_prefetch(address)
#else
#define TRIPLEX_PREFETCH(address) ((void)(address))
#endif

#define TRIPLEX_ROWS_AHEAD 4
#define TRIPLEX_FAR_ROW 4096 /* the processor itself prefetches rows closer than a page */
#define TRIPLEX_CACHE_LINE 64

static inline void triplex_prefetch_row(const uint8_t *row, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += TRIPLEX_CACHE_LINE)
        TRIPLEX_PREFETCH(row + at);
}

#ifdef TRIPLEX_WIDE
/* Copy at least 32 bytes. The first and last stores are not aligned and overlap the others. */
__attribute__((target("avx2"))) static inline void
triplex_copy_row_wide(uint8_t *target, const uint8_t *source, int64_t bytes)
{
    __m256i head = _mm256_loadu_si256((const __m256i *)source);
    __m256i tail = _mm256_loadu_si256((const __m256i *)(source + bytes - 32));
    int64_t at = (int64_t)(-(uintptr_t)target & 31);
    _mm256_storeu_si256((__m256i *)target, head);
    for (; at + 128 <= bytes; at += 128) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(source + at));
        __m256i b = _mm256_loadu_si256((const __m256i *)(source + at + 32));
        __m256i c = _mm256_loadu_si256((const __m256i *)(source + at + 64));
        __m256i d = _mm256_loadu_si256((const __m256i *)(source + at + 96));
        _mm256_store_si256((__m256i *)(target + at), a);
        _mm256_store_si256((__m256i *)(target + at + 32), b);
        _mm256_store_si256((__m256i *)(target + at + 64), c);
        _mm256_store_si256((__m256i *)(target + at + 96), d);
    }
    for (; at + 32 <= bytes; at += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(source + at));
        _mm256_store_si256((__m256i *)(target + at), a);
    }
    _mm256_storeu_si256((__m256i *)(target + bytes - 32), tail);
}

__attribute__((target("avx2"))) static void
triplex_copy_rows_wide(uint8_t *target, int64_t target_stride, const uint8_t *source,
                       int64_t source_stride, int64_t bytes, int64_t rows)
{
    for (int64_t row = 0; row < rows; row++) {
        if (source_stride > TRIPLEX_FAR_ROW && row + TRIPLEX_ROWS_AHEAD < rows)
            triplex_prefetch_row(source + TRIPLEX_ROWS_AHEAD * source_stride, bytes);
        triplex_copy_row_wide(target, source, bytes);
        target += target_stride;
        source += source_stride;
    }
}
#endif

/* Copy rows. Strides and row lengths are in bytes; source and target must not overlap. */
static void triplex_copy_rows(uint8_t *target, int64_t target_stride, const uint8_t *source,
                              int64_t source_stride, int64_t bytes, int64_t rows)
{
#ifdef TRIPLEX_WIDE
    if (bytes >= 32 && __builtin_cpu_supports("avx2")) {
        triplex_copy_rows_wide(target, target_stride, source, source_stride, bytes, rows);
        return;
    }
#endif
    for (int64_t row = 0; row < rows; row++) {
        if (source_stride > TRIPLEX_FAR_ROW && row + TRIPLEX_ROWS_AHEAD < rows)
            triplex_prefetch_row(source + TRIPLEX_ROWS_AHEAD * source_stride, bytes);
        memcpy(target, source, (size_t)bytes);
        target += target_stride;
        source += source_stride;
    }
}

#endif
