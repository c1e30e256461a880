/* Convert rows of pixels to RGB, with loops for several instruction sets.
 *
 * A release is built for baseline x86-64, which has no byte shuffle. The functions with a target
 * attribute use one, and are called only if the processor supports it.
 */
#ifndef TRIPLEX_RGB_ROWS_H
#define TRIPLEX_RGB_ROWS_H

#include <stdint.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define TRIPLEX_X86 1
#include <immintrin.h>
#endif

/* Return the bytes of a word in reverse order. */
static inline uint32_t triplex_reverse(uint32_t argb)
{
    return (argb >> 24) | (argb >> 8 & 0xFF00u) | (argb << 8 & 0xFF0000u) | (argb << 24);
}

/* Convert opaque premultiplied ARGB words to RGB bytes. Returns the number of pixels converted: all
 * of them, or those before a group of pixels with a transparent pixel. */
static int64_t triplex_opaque_plain(const uint32_t *argb, uint8_t *rgb, int64_t width)
{
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
        uint32_t p0 = argb[x], p1 = argb[x + 1], p2 = argb[x + 2], p3 = argb[x + 3];
        uint32_t a = (triplex_reverse(p0) >> 8) | (p1 << 8 & 0xFF000000u);
        uint32_t b = (triplex_reverse(p1) >> 16) | (triplex_reverse(p2) << 8 & 0xFFFF0000u);
        uint32_t c = (triplex_reverse(p2) >> 24) | (triplex_reverse(p3) & 0xFFFFFF00u);
        if ((p0 & p1 & p2 & p3) < 0xFF000000u)
            return x;
        memcpy(rgb + 3 * x, &a, 4);
        memcpy(rgb + 3 * x + 4, &b, 4);
        memcpy(rgb + 3 * x + 8, &c, 4);
    }
    for (; x < width && argb[x] >= 0xFF000000u; x++) {
        uint32_t d = triplex_reverse(argb[x]) >> 8;
        memcpy(rgb + 3 * x, &d, 3);
    }
    return x;
}

#ifdef TRIPLEX_X86
/* The same, sixteen pixels at a time: 64 bytes in, 48 out. */
__attribute__((target("ssse3"))) static int64_t
triplex_opaque_ssse3(const uint32_t *argb, uint8_t *rgb, int64_t width)
{
    const __m128i order = _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const __m128i alpha = _mm_set1_epi32((int)0xFF000000u);
    int64_t x = 0;
    for (; x + 16 <= width; x += 16) {
        __m128i a = _mm_loadu_si128((const __m128i *)(argb + x));
        __m128i b = _mm_loadu_si128((const __m128i *)(argb + x + 4));
        __m128i c = _mm_loadu_si128((const __m128i *)(argb + x + 8));
        __m128i d = _mm_loadu_si128((const __m128i *)(argb + x + 12));
        __m128i all = _mm_and_si128(_mm_and_si128(a, b), _mm_and_si128(c, d));
        __m128i *out = (__m128i *)(rgb + 3 * x);
        all = _mm_cmpeq_epi32(_mm_and_si128(all, alpha), alpha);
        if (_mm_movemask_epi8(all) != 0xFFFF)
            break;
        a = _mm_shuffle_epi8(a, order);
        b = _mm_shuffle_epi8(b, order);
        c = _mm_shuffle_epi8(c, order);
        d = _mm_shuffle_epi8(d, order);
        _mm_storeu_si128(out, _mm_or_si128(a, _mm_slli_si128(b, 12)));
        _mm_storeu_si128(out + 1, _mm_or_si128(_mm_srli_si128(b, 4), _mm_slli_si128(c, 8)));
        _mm_storeu_si128(out + 2, _mm_or_si128(_mm_srli_si128(c, 8), _mm_slli_si128(d, 4)));
    }
    return x + triplex_opaque_plain(argb + x, rgb + 3 * x, width - x);
}

/* The same, thirty-two pixels at a time. Each store of eight pixels writes eight bytes too many,
 * which the next store overwrites. The last pixels of a row are left to the function above. */
__attribute__((target("avx2"))) static int64_t
triplex_opaque_avx2(const uint32_t *argb, uint8_t *rgb, int64_t width)
{
    const __m256i order = _mm256_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1,
                                           2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const __m256i halves = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
    const __m256i alpha = _mm256_set1_epi32((int)0xFF000000u);
    int64_t x = 0;
    for (; x + 40 <= width; x += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(argb + x));
        __m256i b = _mm256_loadu_si256((const __m256i *)(argb + x + 8));
        __m256i c = _mm256_loadu_si256((const __m256i *)(argb + x + 16));
        __m256i d = _mm256_loadu_si256((const __m256i *)(argb + x + 24));
        __m256i all = _mm256_and_si256(_mm256_and_si256(a, b), _mm256_and_si256(c, d));
        uint8_t *out = rgb + 3 * x;
        if (!_mm256_testc_si256(all, alpha))
            break;
        a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(a, order), halves);
        b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(b, order), halves);
        c = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(c, order), halves);
        d = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(d, order), halves);
        _mm256_storeu_si256((__m256i *)out, a);
        _mm256_storeu_si256((__m256i *)(out + 24), b);
        _mm256_storeu_si256((__m256i *)(out + 48), c);
        _mm256_storeu_si256((__m256i *)(out + 72), d);
    }
    return x + triplex_opaque_ssse3(argb + x, rgb + 3 * x, width - x);
}
#endif

/* The same, with the widest instructions that the processor supports. */
static int64_t triplex_opaque(const uint32_t *argb, uint8_t *rgb, int64_t width)
{
#ifdef TRIPLEX_X86
    if (__builtin_cpu_supports("avx2"))
        return triplex_opaque_avx2(argb, rgb, width);
    if (__builtin_cpu_supports("ssse3"))
        return triplex_opaque_ssse3(argb, rgb, width);
#endif
    return triplex_opaque_plain(argb, rgb, width);
}

/* Return a premultiplied channel over a backdrop, rounded; clear is 255 - alpha. */
static inline uint8_t triplex_over(uint32_t channel, uint32_t clear, uint32_t backdrop)
{
    uint32_t value = (channel & 0xFF) + (clear * backdrop + 127) / 255;
    return (uint8_t)(value < 255 ? value : 255);
}

/* Convert a row of premultiplied ARGB words, as OpenSlide returns them, over a background color. */
static void triplex_bgra_row(const uint32_t *argb, uint8_t *rgb, int64_t width, uint32_t red,
                             uint32_t green, uint32_t blue)
{
    int64_t x = triplex_opaque(argb, rgb, width);
    while (x < width) {
        int64_t stop = x + 16 < width ? x + 16 : width;
        for (; x < stop; x++) {
            uint32_t pixel = argb[x], clear = 255 - (pixel >> 24);
            rgb[3 * x] = triplex_over(pixel >> 16, clear, red);
            rgb[3 * x + 1] = triplex_over(pixel >> 8, clear, green);
            rgb[3 * x + 2] = triplex_over(pixel, clear, blue);
        }
        x += triplex_opaque(argb + x, rgb + 3 * x, width - x);
    }
}

#endif
