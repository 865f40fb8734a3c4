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

}  // namespace portable

const Kernels PORTABLE = KERNELS_OF(portable, "portable");
