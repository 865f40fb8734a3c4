// The path for any processor: plain loops, which the compiler may turn into whatever vectors it has.
// It does not know about threads or blocks beyond the one it is given.

#include "isa.h"

#include <cmath>
#include <cstring>
#include <utility>

namespace portable {

#define TARGET
#include "vectors.h"
#include "loops.h"
#include "steps.h"

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

const Path PORTABLE_PATH = {
    "portable",         portable::available, portable::dots,     portable::widen,
    portable::quantize, portable::expand,    portable::gather, portable::finish,   portable::rms_norm,
    portable::layer_norm, portable::rotate,  portable::silu_mul, portable::attend,
    portable::attend_open,
};
