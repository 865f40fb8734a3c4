// For any processor: plain loops, which the compiler may turn into whatever vectors it has.
// It does not know about threads or blocks beyond the one it is given.

#include "isa.h"

#include <cmath>
#include <cstring>
#include <utility>

namespace portable {

#define TARGET
#define LANES 4
#define ROWS 4
#include "vectors.h"
#include "linear.h"
#include "norm.h"
#include "attention.h"

bool available() { return true; }

void dots(const Dots& d) {
    for (int64_t t = 0; t < d.tokens; ++t) {
        const uint8_t* x = d.x + t * d.stride;
        for (int32_t r = 0; r < d.rows; ++r) {
            const int8_t* w = d.w + r * d.width;
            int32_t sum = 0;
            for (int64_t k = 0; k < d.width; ++k) sum += int32_t(x[k]) * w[k];
            d.out[t * GROUP + r] = sum;
        }
    }
}

float from_half(uint16_t half) {
    uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    return (sign ? -0x1p-24f : 0x1p-24f) * float(fraction);
}

void panel_dots(const PanelDots& d) {
    for (int64_t t = 0; t < d.tokens; ++t) {
        float* sums = d.sums + t * GROUP;
        memset(sums, 0, GROUP * sizeof *sums);
        for (int64_t group = 0; group < d.groups; ++group) {
            const int8_t* lines = d.panel + group * PANEL_BYTES;
            const int16_t* x = d.x + t * d.stride + group * COLUMNS;
            int32_t sum[GROUP] = {};
            for (int pair = 0; pair < COLUMNS / 2; ++pair)
                for (int r = 0; r < GROUP; ++r) {
                    const int8_t* w = lines + 32 + pair * 32 + r * 2;
                    sum[r] += w[0] * x[pair * 2] + w[1] * x[pair * 2 + 1];
                }
            for (int r = 0; r < GROUP; ++r) {
                uint16_t half;
                memcpy(&half, lines + r * 2, sizeof half);
                sums[r] = sums[r] + float(sum[r]) * from_half(half) * d.scales[t * d.groups + group];
            }
        }
    }
}

}  // namespace portable

const Kernels PORTABLE = KERNELS_OF(portable, "portable");
