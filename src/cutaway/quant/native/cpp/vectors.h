// Vectors of floats in the compiler's own types, for the instructions that TARGET names: v16, which every instruction
// set computes with in the same order, and vf, the LANES floats of one register, for loops over much data.
// Included once by each instruction set, inside its namespace. It does not know what is computed with them. Products
// and sums are never contracted (-ffp-contract=off), so every instruction set and every tail gives the same bits.

#define INLINE TARGET static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef int16_t h16 __attribute__((vector_size(32)));
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

constexpr int PARTS = 16 / LANES;  // of a v16

INLINE v16 load(const float* p) {
    v16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE v16 load(const float* p, int64_t count) {  // the rest is 0
    if (count >= 16) return load(p);
    v16 v = {};
    for (int64_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
}

INLINE vi load_ints(const int32_t* p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vf load_register(const float* p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vf load_register(const float* p, int64_t count, float rest = 0) {
    if (count >= LANES) return load_register(p);
    vf v = vf{} + rest;
    for (int64_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
}

INLINE void store_register(float* p, vf v) { memcpy(p, &v, sizeof v); }

INLINE void store_register(float* p, vf v, int64_t count) {
    if (count >= LANES) return store_register(p, v);
    for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

// For what is not read soon: a whole register goes past the caches, where the instruction set has such stores, and the
// line that it replaces is not read first. Before another thread may read it comes a store_fence() (threads.h).
INLINE void stream_store(float* p, vf v, int64_t count) {
#if defined(STREAM)
    if (count >= LANES && uintptr_t(p) % sizeof v == 0) return STREAM(p, v);
#endif
    store_register(p, v, count);
}

INLINE vf load_half(const uint16_t* p, int64_t count) {
    vh half = {};
    if (count >= LANES) memcpy(&half, p, sizeof half);
    else for (int64_t i = 0; i < count; ++i) half[i] = p[i];
    vu bits = __builtin_convertvector(half, vu) << 16;
    return (vf)bits;
}

INLINE void store_half(uint16_t* p, vf v, int64_t count) {  // bfloat16, round half to even
    vu bits = (vu)v;
    vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vu either = v == v ? rounded : vu{} + 0x7fc0;  // rounding could carry a NaN into infinity
    vh half = __builtin_convertvector(either, vh);
    if (count >= LANES) memcpy(p, &half, sizeof half);
    else for (int64_t i = 0; i < count; ++i) p[i] = half[i];
}

INLINE float sum(v16 v) {  // halves, quarters, pairs
    v8 half[2];
    memcpy(half, &v, sizeof v);
    half[0] = half[0] + half[1];
    v4 quarter[2];
    memcpy(quarter, half, sizeof *half);
    v4 q = quarter[0] + quarter[1];
    return (q[0] + q[2]) + (q[1] + q[3]);
}

INLINE float sum(const vf parts[PARTS]) {
    v16 v;
    memcpy(&v, parts, sizeof v);
    return sum(v);
}

// e^x within 2 units in the last place (Cephes' expf); below -87 it stays at e^-87, above 88 at e^88.
INLINE vf exponential(vf x) {
    x = x < -87.0f ? vf{} - 87.0f : x;
    x = x > 88.0f ? vf{} + 88.0f : x;
    const vf magic = vf{} + 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, held in the low bits
    vf shifted = x * 1.44269504f + magic;
    vf whole = shifted - magic;
    vf rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;  // ln 2 in two parts
    vf p = vf{} + 1.9875691500e-4f;
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    vf near_one = p * rest * rest + rest + 1.0f;
    vi power = (vi)shifted - (vi)magic;
    return near_one * (vf)((power + 127) << 23);
}

INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }

// 1 - 2 / (1 + e^(2|x|)) loses no digits above 0.6, a Chebyshev fit in x² none below.
INLINE vf hyperbolic_tangent(vf x) {
    vf size = absolute(x), square = x * x;
    vf p = vf{} - 0.00626911971f;
    p = p * square + 0.021110959f;
    p = p * square - 0.0538739488f;
    p = p * square + 0.133329154f;
    p = p * square - 0.333333303f;
    vf large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    large = (vf)((vi)large | ((vi)x & INT32_MIN));
    vf small = p * square * x + x;
    return size < 0.6f ? small : x == x ? large : x;
}

// The normal distribution's share below x: e^(-x²/2 + p(t)) · t / 2 of the far side, t = 1 / (1 + |x|/√8), where p is a
// Chebyshev fit of the logarithm of erfc, within 5e-8 up to |x| = 14.
INLINE vf normal_cdf(vf x) {
    vf z = absolute(x) * 0.707106781f, t = 1.0f / (1.0f + z * 0.5f);
    vf p = vf{} + 0.144930214f;
    p = p * t - 0.680827179f;
    p = p * t + 1.15673376f;
    p = p * t - 0.696251902f;
    p = p * t - 0.0802804292f;
    p = p * t + 0.00126758475f;
    p = p * t + 0.0346028006f;
    p = p * t + 0.386640412f;
    p = p * t + 0.998632783f;
    p = p * t - 1.265448f;
    vf far = 0.5f * t * exponential(p - z * z);
    return x < 0.0f ? far : 1.0f - far;  // NaN stays: 1 - NaN
}

INLINE vf activated(Activation activation, vf x) {
    if (activation == RELU) return x < 0.0f ? vf{} : x;  // NaN stays
    if (activation == SILU) return x / (1.0f + exponential(-x));
    if (activation == GELU_TANH)  // x/2 · (1 + tanh u) is x / (1 + e^(-2u)), which loses no digits below 0
        return x / (1.0f + exponential((x + x * x * x * 0.044715f) * -1.59576912f));
    if (activation == GELU) return x * normal_cdf(x);
    if (activation == RELU2) return x < 0.0f ? vf{} : x * x;
    return x;
}
