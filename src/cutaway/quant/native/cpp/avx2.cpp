// For processors with AVX2: bytes widened to 16 bits, multiplied and added in pairs, which is exact.
// (vpmaddubsw would be shorter, but it saturates.) It does not know about threads.

#include "isa.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

namespace avx2 {

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define STREAM(p, v) _mm256_stream_ps(p, (__m256)(v))
#define LANES 8
#define ROWS 6
#include "vectors.h"
#include "linear.h"
#include "norm.h"
#include "attention.h"

bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

constexpr int64_t AHEAD = 4096;  // bytes of a row that are fetched before they are wanted

INLINE int32_t total(__m256i v) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

// ---- few tokens -----------------------------------------------------------------------------------------------

// M tokens times 4 weight rows; rows past the last real one repeat it.
template <int M>
TARGET static void tile(const Dots& d, int64_t token, int32_t row) {
    const int8_t* w[4];
    for (int r = 0; r < 4; ++r) w[r] = d.w + (row + r < d.rows ? row + r : d.rows - 1) * d.width;
    const uint8_t* x = d.x + token * d.stride;
    __m256i sums[M][4] = {};
    int64_t k = 0;
    for (; k + 16 <= d.width; k += 16) {
        __m256i codes[M];
        for (int m = 0; m < M; ++m)
            codes[m] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(x + m * d.stride + k)));
        for (int r = 0; r < 4; ++r) {
            if (M == 1 && k % 64 == 0) _mm_prefetch((const char*)(w[r] + k + AHEAD), _MM_HINT_T0);
            __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(w[r] + k)));
            for (int m = 0; m < M; ++m)
                sums[m][r] = _mm256_add_epi32(sums[m][r], _mm256_madd_epi16(codes[m], weights));
        }
    }
    for (int m = 0; m < M; ++m)
        for (int r = 0; r < 4; ++r) {
            int32_t sum = total(sums[m][r]);
            for (int64_t rest = k; rest < d.width; ++rest) sum += int32_t(x[m * d.stride + rest]) * w[r][rest];
            d.out[(token + m) * GROUP + row + r] = sum;
        }
}

// ---- many tokens ----------------------------------------------------------------------------------------------

constexpr int64_t RUN = 512;  // columns whose panel of 16 rows lies in the nearest cache
constexpr int TILE = 4;       // tokens whose sums fit in the registers beside each other

// 8 rows of 8 pairs of 16 bits → 8 columns of 8 pairs.
INLINE void transpose(__m256i v[8]) {
    __m256i t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) v[i] = t[i];
}

// 16 codes of a weight row from column k on, as 16 bits each; 0 past the row's end and for rows past the last.
INLINE __m256i widened(const Dots& d, int r, int64_t k) {
    if (r >= d.rows) return _mm256_setzero_si256();
    const int8_t* w = d.w + r * d.width + k;
    if (k + 16 <= d.width) return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)w));
    alignas(16) int8_t rest[16] = {};
    for (int64_t i = 0; i < d.width - k; ++i) rest[i] = w[i];
    return _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i*)rest));
}

// The group's weights as a panel: for each 2 columns, 2 codes of each of 16 rows, 16 bits each. It serves every token
// of the block.
TARGET static void pack(const Dots& d) {
    int16_t* panel = (int16_t*)d.panel;
    for (int64_t k = 0; k < d.width; k += 16)
        for (int half = 0; half < 2; ++half) {
            __m256i v[8];
            for (int r = 0; r < 8; ++r) v[r] = widened(d, half * 8 + r, k);
            transpose(v);
            for (int i = 0; i < 8; ++i)
                _mm256_store_si256((__m256i*)(panel + (k + 2 * i) * GROUP + half * 16), v[i]);
        }
}

// M tokens times the panel over columns [from, to), added to what stands in `out` unless from is 0.
template <int M>
TARGET static void panel_tile(const Dots& d, int64_t token, int64_t from, int64_t to) {
    alignas(32) int16_t codes[M][RUN];
    const int16_t* panel = (const int16_t*)d.panel;
    int32_t* out = d.out + token * GROUP;
    for (int m = 0; m < M; ++m)
        for (int64_t k = from; k < to; k += 16) {
            const uint8_t* x = d.x + (token + m) * d.stride + k;
            _mm256_store_si256((__m256i*)(codes[m] + k - from), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)x)));
        }
    __m256i sums[M][2];
    for (int m = 0; m < M; ++m)
        for (int half = 0; half < 2; ++half)
            sums[m][half] = from ? _mm256_loadu_si256((const __m256i*)(out + m * GROUP + half * 8))
                                 : _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int64_t k = from; k < to; k += 2) {
        __m256i first = _mm256_load_si256((const __m256i*)(panel + k * GROUP));
        __m256i second = _mm256_load_si256((const __m256i*)(panel + k * GROUP + 16));
        for (int m = 0; m < M; ++m) {
            int32_t two;
            memcpy(&two, codes[m] + k - from, 4);
            __m256i pair = _mm256_set1_epi32(two);
            sums[m][0] = _mm256_add_epi32(sums[m][0], _mm256_madd_epi16(pair, first));
            sums[m][1] = _mm256_add_epi32(sums[m][1], _mm256_madd_epi16(pair, second));
        }
    }
    for (int m = 0; m < M; ++m)
        for (int half = 0; half < 2; ++half)
            _mm256_storeu_si256((__m256i*)(out + m * GROUP + half * 8), sums[m][half]);
}

TARGET static void many_tokens(const Dots& d) {
    pack(d);
    for (int64_t from = 0; from < d.width; from += RUN) {
        int64_t to = from + RUN < d.width ? from + RUN : (d.width + 15) / 16 * 16, t = 0;
        for (; t + TILE <= d.tokens; t += TILE) panel_tile<TILE>(d, t, from, to);
        if (d.tokens - t >= 2) panel_tile<2>(d, t, from, to), t += 2;
        if (d.tokens - t >= 1) panel_tile<1>(d, t, from, to);
    }
}

TARGET static void dots(const Dots& d) {
    if (d.tokens > 4 && d.panel) return many_tokens(d);
    for (int64_t t = 0; t < d.tokens; t += 2)
        for (int32_t row = 0; row < d.rows; row += 4) d.tokens - t >= 2 ? tile<2>(d, t, row) : tile<1>(d, t, row);
}

// ---- panels -----------------------------------------------------------------------------------------------------

constexpr int PANEL_TILE = 6;  // tokens whose exact sums fit in the registers beside each other

INLINE __m256i widen_line(const int8_t* line) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)line)); }

// In place, and in the order of the source: left to itself the compiler takes all products first, and lacks registers.
INLINE void add_products(__m256i& sum, __m256i products) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products)); }

// A group's exact sums, in float and scaled, added to a token's.
INLINE void add_group(float* sums, __m256i sum, __m256 scale, float of_token) {
    v8 before, group = (v8)_mm256_cvtepi32_ps(sum) * (v8)scale * of_token;
    memcpy(&before, sums, sizeof before);
    before = before + group;
    memcpy(sums, &before, sizeof before);
}

// M tokens times a panel. A line of the panel is two columns of 16 rows: widened, it serves every token of the tile.
template <int M>
TARGET static void panel_tile(const PanelDots& d, int64_t token) {
    const int16_t* x = d.x + token * d.stride;
    float* sums = d.sums + token * GROUP;
    memset(sums, 0, M * GROUP * sizeof *sums);
    for (int64_t group = 0; group < d.groups; ++group) {
        const int8_t* lines = d.panel + group * PANEL_BYTES;
        __m256i sum[M][2];
        for (int m = 0; m < M; ++m) sum[m][0] = sum[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int pair = 0; pair < COLUMNS / 2; ++pair) {
            __m256i first = widen_line(lines + 32 + pair * 32), second = widen_line(lines + 48 + pair * 32);
            for (int m = 0; m < M; ++m) {
                int32_t two;
                memcpy(&two, x + m * d.stride + group * COLUMNS + pair * 2, sizeof two);
                __m256i columns = _mm256_set1_epi32(two);
                add_products(sum[m][0], _mm256_madd_epi16(first, columns));
                add_products(sum[m][1], _mm256_madd_epi16(second, columns));
            }
        }
        __m256 low = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)lines));
        __m256 high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(lines + 16)));
        for (int m = 0; m < M; ++m) {
            float of_token = d.scales[(token + m) * d.groups + group];
            add_group(sums + m * GROUP, sum[m][0], low, of_token);
            add_group(sums + m * GROUP + 8, sum[m][1], high, of_token);
        }
    }
}

TARGET static void panel_dots(const PanelDots& d) {
    int64_t t = 0;
    for (; t + PANEL_TILE <= d.tokens; t += PANEL_TILE) panel_tile<PANEL_TILE>(d, t);
    for (; t + 2 <= d.tokens; t += 2) panel_tile<2>(d, t);
    for (; t < d.tokens; ++t) panel_tile<1>(d, t);
}

}  // namespace avx2

const Kernels AVX2 = KERNELS_OF(avx2, "avx2");

#endif
