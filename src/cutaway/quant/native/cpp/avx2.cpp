// The path for processors with AVX2: bytes widened to 16 bits, multiplied and added in pairs, which is exact.
// (vpmaddubsw would be shorter, but it saturates.) It does not know about threads.

#include "isa.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>

namespace avx2 {

#define TARGET __attribute__((target("avx2,fma")))
#include "vectors.h"
#include "loops.h"
#include "steps.h"

bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

constexpr int64_t AHEAD = 4096;  // bytes of a row that are fetched before they are wanted

INLINE int32_t total(__m256i v) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

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

TARGET static void dots(const Dots& d) {
    for (int64_t t = 0; t < d.tokens; t += 2)
        for (int32_t row = 0; row < d.rows; row += 4) d.tokens - t >= 2 ? tile<2>(d, t, row) : tile<1>(d, t, row);
}

}  // namespace avx2

const Path AVX2_PATH = {
    "avx2",         avx2::available, avx2::dots,   avx2::widen,  avx2::quantize, avx2::expand, avx2::gather,
    avx2::finish,   avx2::rms_norm,  avx2::layer_norm, avx2::rotate, avx2::silu_mul, avx2::attend,
    avx2::attend_open,
};

#endif
