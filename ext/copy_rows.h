/* Copying a rectangle out of a larger picture, as fast as one block of memory is copied.
 *
 * Rows of a few hundred bytes are too short for the processor to foresee the next one, and written
 * with plain stores they are read from memory first. So rows to come are asked for early, and where
 * the processor moves short strings fast, it is left to do so: that needs no reading before writing.
 */
#ifndef TRIPLEX_COPY_ROWS_H
#define TRIPLEX_COPY_ROWS_H

#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define TRIPLEX_STRING_MOVE 1
#include <cpuid.h>
#endif
#if defined(__GNUC__) || defined(__clang__)
#define TRIPLEX_PREFETCH(address) __builtin_prefetch(address)
#else
#define TRIPLEX_PREFETCH(address) ((void)(address))
#endif

#define TRIPLEX_ROWS_AHEAD 4
#define TRIPLEX_SHORT_ROW 512 /* below, plain copying starts sooner */
#define TRIPLEX_FAR_ROW 4096 /* rows closer than a page are foreseen */
#define TRIPLEX_CACHE_LINE 64

static int triplex_fast_string_move = 0;

/* Asks the processor once; the question itself is slow in a virtual machine. */
static void triplex_ask_processor(void)
{
#ifdef TRIPLEX_STRING_MOVE
    unsigned int a, b, c, d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        triplex_fast_string_move = (d >> 4) & 1; /* fast short rep mov */
#endif
}

static inline void triplex_copy_row(uint8_t *target, const uint8_t *source, int64_t bytes)
{
#ifdef TRIPLEX_STRING_MOVE
    if (triplex_fast_string_move && bytes >= TRIPLEX_SHORT_ROW) {
        __asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(bytes) : : "memory");
        return;
    }
#endif
    memcpy(target, source, (size_t)bytes);
}

/* Strides and the length of a row in bytes. */
static void triplex_copy_rows(uint8_t *target, int64_t target_stride, const uint8_t *source,
                              int64_t source_stride, int64_t bytes, int64_t rows)
{
    for (int64_t row = 0; row < rows; row++) {
        if (source_stride > TRIPLEX_FAR_ROW && row + TRIPLEX_ROWS_AHEAD < rows) {
            const uint8_t *next = source + TRIPLEX_ROWS_AHEAD * source_stride;
            for (int64_t at = 0; at < bytes; at += TRIPLEX_CACHE_LINE)
                TRIPLEX_PREFETCH(next + at);
        }
        triplex_copy_row(target, source, bytes);
        target += target_stride;
        source += source_stride;
    }
}

#endif
