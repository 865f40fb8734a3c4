// For processors with AVX-512 and VNNI: vpdpbusd multiplies 64 unsigned by 64 signed bytes and adds them,
// four by four, to 16 sums of 32 bits, exactly. It does not know about threads.

#include "isa.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

namespace avx512 {

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,prefer-vector-width=512")))
#define STREAM(p, v) _mm512_stream_ps(p, (__m512)(v))
#define LANES 16
#define ROWS 8
#include "vectors.h"
#include "linear.h"
#include "norm.h"
#include "attention.h"

bool available() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// Many tokens are bound by arithmetic: over this width a panel of 16 rows and the codes of TILE tokens come from the
// nearest caches, and sums are put down and taken up again seldom.
constexpr int64_t RUN = 2048;
constexpr int TILE = 8;

// ---- a few tokens -----------------------------------------------------------------------------------------------

// Four vectors → the sum of each.
INLINE __m128i totals(const __m512i v[4]) {
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// The activation is padded to 64; the last weights of a row are masked, since the next row follows at once.
INLINE __mmask64 real_columns(int64_t width) { return ~0ull >> (63 - (width - 1) % 64); }

template <int M>
INLINE void add_dots(const Dots& d, int64_t k, __m512i weights, __m512i sum[M]) {
    for (int m = 0; m < M; ++m)
        sum[m] = _mm512_dpbusd_epi32(sum[m], _mm512_loadu_si512(d.x + m * d.stride + k), weights);
}

// Weight row r of four times M rows of codes, over columns [from, to). next: what to fetch meanwhile, or null.
template <int M>
INLINE void dot_row(const Dots& d, const int8_t* w, int64_t from, int64_t to, int r, const char* next,
                    __m512i sums[M][4]) {
    __m512i sum[M];
    for (int m = 0; m < M; ++m) sum[m] = sums[m][r];
    int64_t last = to < d.width ? to : (d.width - 1) / 64 * 64;
    for (int64_t k = from; k < last; k += 64) {
        if (next) _mm_prefetch(next + k - from, _MM_HINT_T1);
        add_dots<M>(d, k, _mm512_loadu_si512(w + k), sum);
    }
    if (last < to) add_dots<M>(d, last, _mm512_maskz_loadu_epi8(real_columns(d.width), w + last), sum);
    for (int m = 0; m < M; ++m) sums[m][r] = sum[m];
}

// Row after row, so that memory is read as one stream: with four rows side by side it came at half the speed. The
// processor sees such a stream by itself: with prefetch instructions for it a token took 6 to 15 % longer. But several
// rows of codes, if they are wide, leave no space in the nearest cache for the stream (it came at half the speed, too): then
// four rows are gone through in runs, while the next four are fetched in the order in which they lie.
template <int M>
TARGET static void few(const Dots& d) {
    constexpr int64_t LENGTH = M == 1 ? MAX_WIDTH : 12288 / M;
    for (int32_t row = 0; row < d.rows; row += 4) {
        __m512i sums[M][4] = {};
        const char* next = d.width > LENGTH ? (const char*)(d.w + (row + 4) * d.width) : nullptr;
        for (int64_t from = 0; from < d.width; from += LENGTH) {
            int64_t to = from + LENGTH < d.width ? from + LENGTH : d.width;
            for (int r = 0; r < 4 && row + r < d.rows; ++r) {
                dot_row<M>(d, d.w + (row + r) * d.width, from, to, r, next, sums);
                if (next) next += to - from;
            }
        }
        for (int m = 0; m < M; ++m) _mm_storeu_si128((__m128i*)(d.out + m * GROUP + row), totals(sums[m]));
    }
}

// ---- many tokens ----------------------------------------------------------------------------------------------

// 16 rows of 16 fours of bytes → 16 columns of 16 fours.
INLINE void transpose(__m512i v[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {  // quarters of 128 bits: lane j of row group g holds column 4j + i
        __m512i low02 = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88), low13 = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        __m512i high02 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        __m512i high13 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
        t[i] = _mm512_shuffle_i32x4(low02, high02, 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(low13, high13, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(low02, high02, 0xdd);
        t[i + 12] = _mm512_shuffle_i32x4(low13, high13, 0xdd);
    }
    for (int i = 0; i < 16; ++i) v[i] = t[i];
}

// The group's weights as a panel: for each 4 columns, 4 bytes of each of 16 rows. It serves every token of the block.
TARGET static void pack(const Dots& d) {
    for (int64_t k = 0; k < d.width; k += 64) {
        __mmask64 real = k + 64 <= d.width ? ~0ull : real_columns(d.width);
        __m512i v[16];
        for (int r = 0; r < 16; ++r)
            v[r] = r < d.rows ? _mm512_maskz_loadu_epi8(real, d.w + r * d.width + k) : _mm512_setzero_si512();
        transpose(v);
        for (int i = 0; i < 16; ++i) _mm512_store_si512(d.panel + k * GROUP + i * 64, v[i]);
    }
}

// M tokens times the panel over columns [from, to), added to what stands in `out` unless from is 0.
// FETCH: with every 4 columns comes one line of the group that follows in memory: all of it, in one tile's time.
template <int M, bool FETCH>
TARGET static void tile(const Dots& d, int64_t token, int64_t from, int64_t to) {
    const uint8_t* x = d.x + token * d.stride;
    const char* next = (const char*)(d.w + d.width * GROUP);
    int32_t* out = d.out + token * GROUP;
    __m512i sums[M];
    for (int m = 0; m < M; ++m) sums[m] = from ? _mm512_loadu_si512(out + m * GROUP) : _mm512_setzero_si512();
    for (int64_t k = from; k < to; k += 4) {
        if (FETCH) _mm_prefetch(next + k * GROUP, _MM_HINT_T1);
        __m512i weights = _mm512_load_si512(d.panel + k * GROUP);
        for (int m = 0; m < M; ++m) {
            int32_t four;
            memcpy(&four, x + m * d.stride + k, 4);
            sums[m] = _mm512_dpbusd_epi32(sums[m], _mm512_set1_epi32(four), weights);
        }
    }
    for (int m = 0; m < M; ++m) _mm512_storeu_si512(out + m * GROUP, sums[m]);
}

// Up to TILE tokens: all, or 4, then 2, then 1.
template <bool FETCH>
TARGET static void tiles(const Dots& d, int64_t token, int64_t from, int64_t to) {
    int64_t left = d.tokens - token;
    if (left >= TILE) return tile<TILE, FETCH>(d, token, from, to);
    if (left & 4) tile<4, FETCH>(d, token, from, to), token += 4;
    if (left & 2) tile<2, FETCH>(d, token, from, to), token += 2;
    if (left & 1) tile<1, FETCH>(d, token, from, to);
}

// Part `index` of `parts` of the group that follows in memory.
INLINE void fetch_part(const Dots& d, int64_t index, int64_t parts) {
    int64_t lines = d.width * GROUP / 64;
    const char* next = (const char*)(d.w + d.width * GROUP);
    for (int64_t i = lines * index / parts; i < lines * (index + 1) / parts; ++i)
        _mm_prefetch(next + i * 64, _MM_HINT_T1);
}

TARGET static void many_tokens(const Dots& d) {
    pack(d);
    int64_t count = (d.tokens + TILE - 1) / TILE, runs = (d.width + RUN - 1) / RUN;
    for (int64_t run = 0; run < runs; ++run) {
        int64_t from = run * RUN, to = from + RUN < d.width ? from + RUN : d.width;
        for (int64_t i = 0; i < count; ++i) {
            // The next group comes while this one is multiplied: few tokens are bound by memory and need an even
            // stream; with many there is time, and the inner loop stays bare.
            if (count >= 4) fetch_part(d, run * count + i, runs * count);
            if (count < 4 && i == 0) tiles<true>(d, 0, from, to);
            else tiles<false>(d, i * TILE, from, to);
        }
    }
}

TARGET static void dots(const Dots& d) {
    if (d.tokens == 1) return few<1>(d);
    if (d.tokens == 2) return few<2>(d);
    many_tokens(d);
}

// ---- panels -----------------------------------------------------------------------------------------------------

constexpr int PANEL_TILE = 12;  // tokens whose sums, exact and in float, fit in the registers beside each other

INLINE __m512i two_columns(const int16_t* x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
}

// M tokens times a panel. A line of the panel is two columns of 16 rows: widened, it serves every token of the tile.
template <int M>
TARGET static void panel_tile(const PanelDots& d, int64_t token) {
    const int16_t* x = d.x + token * d.stride;
    v16 total[M] = {};
    for (int64_t group = 0; group < d.groups; ++group) {
        const int8_t* lines = d.panel + group * PANEL_BYTES;
        __m512i sum[M];
        for (int m = 0; m < M; ++m) sum[m] = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int pair = 0; pair < COLUMNS / 2; ++pair) {
            __m512i weights = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)(lines + 32 + pair * 32)));
            for (int m = 0; m < M; ++m)
                sum[m] = _mm512_dpwssd_epi32(sum[m], weights, two_columns(x + m * d.stride + group * COLUMNS + pair * 2));
        }
        v16 scale = (v16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)lines));
        const float* of_tokens = d.scales + token * d.groups + group;
        for (int m = 0; m < M; ++m)
            total[m] = total[m] + (v16)_mm512_cvtepi32_ps(sum[m]) * scale * of_tokens[m * d.groups];
    }
    for (int m = 0; m < M; ++m) memcpy(d.sums + (token + m) * GROUP, &total[m], sizeof total[m]);
}

TARGET static void panel_dots(const PanelDots& d) {
    int64_t t = 0;
    for (; t + PANEL_TILE <= d.tokens; t += PANEL_TILE) panel_tile<PANEL_TILE>(d, t);
    for (; t + 4 <= d.tokens; t += 4) panel_tile<4>(d, t);
    for (; t + 2 <= d.tokens; t += 2) panel_tile<2>(d, t);
    for (; t < d.tokens; ++t) panel_tile<1>(d, t);
}

}  // namespace avx512

const Kernels AVX512 = KERNELS_OF(avx512, "avx512-vnni");

#endif
