// Sixteen floats at a time, in the compiler's own vector types, for whatever instructions TARGET names.
// Included once by each path, inside its namespace. It does not know what is computed with them. Products and sums
// are never contracted (-ffp-contract=off), so every path and every tail gives the same bits.

#define INLINE TARGET static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));

INLINE v16 all(float x) { return v16{} + x; }

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

INLINE i16 load_ints(const int32_t* p) {
    i16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float* p, v16 v) { memcpy(p, &v, sizeof v); }

INLINE void store(float* p, v16 v, int64_t count) {
    if (count >= 16) return store(p, v);
    for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

// What is kept and not read soon: a whole line goes past the caches, where a path has such stores, and the line that it
// replaces is not read first. Whoever lets other threads read it calls settle() first (threads.h).
INLINE void keep(float* p, v16 v, int64_t count) {
#if defined(STREAM)
    if (count >= 16 && uintptr_t(p) % sizeof v == 0) return STREAM(p, v);
#endif
    store(p, v, count);
}

INLINE v16 load_half(const uint16_t* p, int64_t count) {
    h16 half = {};
    if (count >= 16) memcpy(&half, p, sizeof half);
    else for (int64_t i = 0; i < count; ++i) half[i] = p[i];
    u16 bits = __builtin_convertvector(half, u16) << 16;
    return (v16)bits;
}

INLINE void store_half(uint16_t* p, v16 v, int64_t count) {  // bfloat16, round half to even
    u16 bits = (u16)v;
    u16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u16 either = v == v ? rounded : u16{} + 0x7fc0;  // rounding could carry a NaN into infinity
    h16 half = __builtin_convertvector(either, h16);
    if (count >= 16) memcpy(p, &half, sizeof half);
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

// e^x within 2 units in the last place (Cephes' expf); below -87 it stays at e^-87, above 88 at e^88.
INLINE v16 exponential(v16 x) {
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    const v16 magic = all(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer, held in the low bits
    v16 shifted = x * 1.44269504f + magic;
    v16 whole = shifted - magic;
    v16 rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;  // ln 2 in two parts
    v16 p = all(1.9875691500e-4f);
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    v16 near_one = p * rest * rest + rest + 1.0f;
    i16 power = (i16)shifted - (i16)magic;
    return near_one * (v16)((power + 127) << 23);
}

INLINE v16 silu(v16 x) { return x / (1.0f + exponential(-x)); }
