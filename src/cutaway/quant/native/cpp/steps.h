// The small steps of a decoder between two linear layers, one row at a time, in float32.
// Included once by each path, inside its namespace, after vectors.h. It does not know shapes, strides or threads.

// The second half of both norms: each element, less `mean`, over the row's root mean square.
INLINE void finish_norm(const Row& r, float mean, v16 squares) {
    float scale = sqrtf(sum(squares) / float(r.width) + r.eps), inverse = 1.0f / scale;
    if (r.scale) *r.scale = scale;
    for (int64_t i = 0; i < r.width; i += 16) {
        int64_t count = r.width - i;
        v16 normalized = (load(r.x + i, count) - mean) * inverse;
        v16 w = load(r.w + i, count);
        if (r.normalized) keep(r.normalized + i, normalized, count);
        store(r.out + i, r.b ? normalized * w + load(r.b + i, count) : normalized * w, count);
    }
}

TARGET static void rms_norm(const Row& r) {
    v16 squares = {};
    for (int64_t i = 0; i < r.width; i += 16) {
        v16 v = load(r.x + i, r.width - i);
        squares = squares + v * v;
    }
    finish_norm(r, 0.0f, squares);
}

TARGET static void layer_norm(const Row& r) {
    v16 total = {};
    for (int64_t i = 0; i < r.width; i += 16) total = total + load(r.x + i, r.width - i);
    float mean = sum(total) / float(r.width);
    v16 squares = {};
    for (int64_t i = 0; i < r.width; i += 16) {
        v16 centered = load(r.x + i, r.width - i) - mean;
        for (int64_t past = r.width - i; past < 16; ++past) centered[past] = 0;
        squares = squares + centered * centered;
    }
    finish_norm(r, mean, squares);
}

// One head: component i of the first half turns with component i of the second; what is past 2·pairs stays.
TARGET static void rotate(const float* x, const float* cos, const float* sin, int64_t pairs, int64_t width,
                          float* out) {
    for (int64_t i = 0; i < pairs; i += 16) {
        int64_t count = pairs - i;
        v16 first = load(x + i, count), second = load(x + pairs + i, count);
        v16 c = load(cos + i, count), s = load(sin + i, count);
        store(out + i, first * c - second * s, count);
        store(out + pairs + i, second * c + first * s, count);
    }
    for (int64_t i = 2 * pairs; i < width; ++i) out[i] = x[i];
}

TARGET static void silu_mul(const float* gate, const float* up, int64_t width, float* out) {
    for (int64_t i = 0; i < width; i += 16)
        store(out + i, silu(load(gate + i, width - i)) * load(up + i, width - i), width - i);
}

INLINE bool visible(const Attention& a, int64_t place) { return !a.mask || a.mask[place * a.mask_step]; }

INLINE float dot(const float* a, const float* b, int64_t width) {
    v16 total = {};
    for (int64_t i = 0; i < width; i += 16) total = total + load(a + i, width - i) * load(b + i, width - i);
    return sum(total);
}

// Scores → e^(score - largest), 0 where hidden; returns the inverse of their sum (0/0 where every place is hidden).
TARGET static float soften(const Attention& a, float* scores) {
    int64_t padded = (a.places + 15) / 16 * 16;
    float largest = -INFINITY;
    for (int64_t s = 0; s < a.places; ++s) {
        scores[s] = visible(a, s) ? scores[s] : -INFINITY;
        largest = scores[s] > largest || scores[s] != scores[s] ? scores[s] : largest;
    }
    for (int64_t s = a.places; s < padded; ++s) scores[s] = -INFINITY;
    v16 total = {};
    for (int64_t s = 0; s < padded; s += 16) {
        v16 score = load(scores + s);
        v16 weight = score == -INFINITY ? v16{} : exponential(score - largest);
        store(scores + s, weight);
        total = total + weight;
    }
    return 1.0f / sum(total);
}

// Some vectors of one head's z: they stay in registers while all places pass by.
template <int VECTORS>
TARGET static void mix(const Attention& a, const float* weights, float inverse, int64_t start, float* z) {
    int64_t count = VECTORS > 1 ? 16 : a.width - start;
    v16 total[VECTORS] = {};
    for (int64_t s = 0; s < a.places; ++s) {
        if (!visible(a, s)) continue;  // what a hidden place holds may be anything, even NaN
        const float* value = a.values + s * a.stride + start;
        for (int i = 0; i < VECTORS; ++i) total[i] = total[i] + weights[s] * load(value + i * 16, count);
    }
    for (int i = 0; i < VECTORS; ++i) store(z + start + i * 16, total[i] * inverse, count);
}

TARGET static void attend(const Attention& a) {
    int64_t padded = (a.places + 15) / 16 * 16;
    float sharpness = 1.0f / sqrtf(float(a.width));
    for (int64_t s = 0; s < a.places; ++s)  // the heads that share a key read it together
        for (int64_t h = 0; h < a.heads; ++h)
            a.scores[h * padded + s] = dot(a.q + h * a.width, a.keys + s * a.stride, a.width) * sharpness;
    for (int64_t h = 0; h < a.heads; ++h) {
        float inverse = soften(a, a.scores + h * padded);
        const float* weights = a.scores + h * padded;
        int64_t start = 0;
        for (; start + 64 <= a.width; start += 64) mix<4>(a, weights, inverse, start, a.z + h * a.width);
        for (; start < a.width; start += 16) mix<1>(a, weights, inverse, start, a.z + h * a.width);
    }
}

// A matrix: its first row, and how far it is to the next.
struct Rows {
    const float* at;
    int64_t stride;
};

// One row's share of a product: component k of `a` times 32 columns of `b`.
INLINE void add_product(float a, const v16 b[2], v16& first, v16& second) {
    first = first + a * b[0];
    second = second + a * b[1];
}

// out rows R... [count] = factor · a [R..., depth] · b [depth, count], for at most 32 columns; the sums stay in
// registers, which the compiler does if it sees each by itself. WHOLE: all 32 columns of b may be read.
template <bool WHOLE, int... R>
INLINE void product(Rows a, Rows b, int64_t depth, float factor, float* out, int64_t out_stride, int64_t count,
                    std::integer_sequence<int, R...>) {
    v16 firsts[sizeof...(R)] = {}, seconds[sizeof...(R)] = {};
    for (int64_t k = 0; k < depth; ++k) {
        const float* row = b.at + k * b.stride;
        v16 columns[2] = {WHOLE ? load(row) : load(row, count), WHOLE ? load(row + 16) : load(row + 16, count - 16)};
        (..., add_product(a.at[R * a.stride + k], columns, firsts[R], seconds[R]));
    }
    (..., store(out + R * out_stride, firsts[R] * factor, count));
    (..., store(out + R * out_stride + 16, seconds[R] * factor, count - 16));
}

INLINE int64_t seen(const Open& o, int64_t token) {
    int64_t limit = o.limit + token * o.later;
    return limit < o.places ? limit : o.places;
}

// One token's scores, as they came → -infinity where hidden; and their softmax.
TARGET static void soften(const Open& o, int64_t token) {
    float *scores = o.scores + token * o.places, *pattern = o.pattern + token * o.places;
    int64_t limit = seen(o, token);
    for (int64_t s = limit; s < o.places; ++s) scores[s] = -INFINITY;
    if (o.mask)
        for (int64_t s = 0; s < limit; ++s)
            if (!o.mask[token * o.places + s]) scores[s] = -INFINITY;
    v16 most = all(-INFINITY), total = {};
    for (int64_t s = 0; s < limit; s += 16) {
        v16 score = load(scores + s, limit - s);
        for (int64_t past = limit - s; past < 16; ++past) score[past] = -INFINITY;
        most = (score > most) | (score != score) ? score : most;
    }
    float largest = -INFINITY;
    for (int i = 0; i < 16; ++i) largest = most[i] > largest || most[i] != most[i] ? most[i] : largest;
    for (int64_t s = 0; s < limit; s += 16) {
        v16 score = load(scores + s, limit - s);
        for (int64_t past = limit - s; past < 16; ++past) score[past] = -INFINITY;
        v16 weight = score == -INFINITY ? v16{} : exponential(score - largest);
        store(pattern + s, weight, limit - s);
        total = total + weight;
    }
    float inverse = 1.0f / sum(total);
    for (int64_t s = 0; s < limit; s += 16) store(pattern + s, load(pattern + s, limit - s) * inverse, limit - s);
    memset(pattern + limit, 0, size_t(o.places - limit) * sizeof(float));
}

template <int ROWS>
TARGET static void score_rows(const Open& o, int64_t token, int64_t start) {
    int64_t left = o.places - start;
    product<true>({o.q + token * o.q_stride, o.q_stride}, {o.keys + start * o.width, PANEL}, o.width,
                  1.0f / sqrtf(float(o.width)), o.scores + token * o.places + start, o.places,
                  left < PANEL ? left : PANEL, std::make_integer_sequence<int, ROWS>());
}

template <int ROWS>
TARGET static void mix_rows(const Open& o, int64_t token, int64_t) {
    Rows pattern = {o.pattern + token * o.places, o.places};
    int64_t depth = seen(o, token + ROWS - 1), i = 0;
    for (; i + 32 <= o.width; i += 32)
        product<true>(pattern, {o.values + i, o.value_stride}, depth, 1.0f, o.z + token * o.z_stride + i, o.z_stride, 32,
                      std::make_integer_sequence<int, ROWS>());
    if (i < o.width)
        product<false>(pattern, {o.values + i, o.value_stride}, depth, 1.0f, o.z + token * o.z_stride + i, o.z_stride,
                       o.width - i, std::make_integer_sequence<int, ROWS>());
}

using EachRows = void (*)(const Open& o, int64_t token, int64_t start);

// All tokens that see the place `start`, eight at a time, then those that are left.
template <EachRows EIGHT, EachRows FOUR, EachRows ONE>
INLINE void by_rows(const Open& o, int64_t start) {
    int64_t t = 0;
    for (; t + 8 <= o.tokens; t += 8)
        if (start < seen(o, t + 7)) EIGHT(o, t, start);
    for (; t + 4 <= o.tokens; t += 4)
        if (start < seen(o, t + 3)) FOUR(o, t, start);
    for (; t < o.tokens; ++t)
        if (start < seen(o, t)) ONE(o, t, start);
}

TARGET static void attend_open(const Open& o) {
    int64_t reach = seen(o, o.tokens - 1);
    for (int64_t start = 0; start < reach; start += PANEL)  // a panel stays in the first cache for all tokens
        by_rows<score_rows<8>, score_rows<4>, score_rows<1>>(o, start);
    for (int64_t t = 0; t < o.tokens; ++t) soften(o, t);
    by_rows<mix_rows<8>, mix_rows<4>, mix_rows<1>>(o, 0);
}
