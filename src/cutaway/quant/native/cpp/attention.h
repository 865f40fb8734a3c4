// Scaled dot-product attention of one head: scores, softmax, and the mix of values, each by itself.
// Included once by each instruction set, inside its namespace, after vectors.h. It does not know texts or threads.
// ROWS: how many tokens' sums fit in the registers beside each other.

// Scores of one token and one position: 16 sums side by side.
INLINE float dot(const float* a, const float* b, int64_t width) {
    vf total[PARTS] = {};
    for (int64_t i = 0; i < width; i += 16)
        for (int p = 0; p < PARTS; ++p) {
            int64_t at = i + p * LANES;
            total[p] = total[p] + load_register(a + at, width - at) * load_register(b + at, width - at);
        }
    return sum(total);
}

TARGET static void scores_of_one(const OneToken& o) {
    float sharpness = 1.0f / sqrtf(float(o.width));
    for (int64_t s = 0; s < o.positions; ++s)  // the heads that share a key read it together
        for (int64_t h = 0; h < o.heads; ++h) {
            bool hidden = o.mask && !o.mask[s];
            o.scores[h * o.row + s] =
                hidden ? -INFINITY : dot(o.q + h * o.width, o.keys + s * o.stride, o.width) * sharpness;
        }
}

// REGISTERS · LANES components of one head's z, which stay in registers while all positions pass by.
template <int REGISTERS>
INLINE void mix_components(const OneToken& o, const float* pattern, int64_t start, float* z) {
    int64_t count = o.width - start;
    vf total[REGISTERS] = {};
    for (int64_t s = 0; s < o.positions; ++s) {
        if (pattern[s] == 0) continue;  // what a hidden position holds may be anything, even NaN
        const float* value = o.values + s * o.stride + start;
        for (int i = 0; i < REGISTERS; ++i)
            total[i] = total[i] + pattern[s] * load_register(value + i * LANES, count - i * LANES);
    }
    for (int i = 0; i < REGISTERS; ++i) store_register(z + start + i * LANES, total[i], count - i * LANES);
}

TARGET static void mix_of_one(const OneToken& o) {
    constexpr int REGISTERS = LANES > 8 ? 4 : 8;
    for (int64_t h = 0; h < o.heads; ++h) {
        int64_t start = 0;
        for (; start + REGISTERS * LANES <= o.width; start += REGISTERS * LANES)
            mix_components<REGISTERS>(o, o.pattern + h * o.row, start, o.z + h * o.width);
        for (; start < o.width; start += LANES)
            mix_components<1>(o, o.pattern + h * o.row, start, o.z + h * o.width);
    }
}

constexpr int64_t RUN_OF_16 = 16 * sizeof(float);
static const float HIDDEN[16] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                                 -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
static const float ZEROS[16] = {};

// How much of a row is left without its last positions, 16 at a time, that hold `rest` alone: most of a row may be later
// positions, which are hidden.
INLINE int64_t without_rest(const float* row, int64_t count, const float rest[16]) {
    if (count % 16 && !memcmp(row + count / 16 * 16, rest, size_t(count % 16) * sizeof(float))) count -= count % 16;
    while (count % 16 == 0 && count && !memcmp(row + count - 16, rest, RUN_OF_16)) count -= 16;
    return count;
}

// Hidden scores are -infinity. NaN where every position is hidden, or a score is NaN. weights: memory for a row; it may be
// `scores` or `pattern`, which is else written past the caches.
TARGET static void softmax(const float* scores, int64_t count, float* weights, float* pattern) {
    int64_t end = without_rest(scores, count, HIDDEN);
    vf most = vf{} - INFINITY, total[PARTS] = {};
    for (int64_t s = 0; s < end; s += LANES) {
        vf score = load_register(scores + s, end - s, -INFINITY);
        most = (score > most) | (score != score) ? score : most;
    }
    float largest = -INFINITY;
    for (int i = 0; i < LANES; ++i) largest = most[i] > largest || most[i] != most[i] ? most[i] : largest;
    for (int64_t s = 0; s < end; s += 16)
        for (int p = 0; p < PARTS; ++p) {
            int64_t at = s + p * LANES;
            vf score = load_register(scores + at, end - at, -INFINITY);
            vf weight = score == -INFINITY ? vf{} : exponential(score - largest);
            store_register(weights + at, weight, end - at);
            total[p] = total[p] + weight;
        }
    float inverse = 1.0f / sum(total);
    for (int64_t s = 0; s < end; s += LANES) {
        vf weight = load_register(weights + s, end - s) * inverse;
        if (weights == pattern) store_register(pattern + s, weight, end - s);
        else stream_store(pattern + s, weight, end - s);
    }
    float rest = end ? 0.0f : NAN;
    for (int64_t s = end; s < count; ++s) pattern[s] = rest;
}

// A matrix: its first row, and how far it is to the next.
struct Rows {
    const float* at;
    int64_t stride;
};

// out rows R... [count] = factor · a [R..., depth] · b [depth, count], for at most two registers of columns; the sums
// stay in registers, which the compiler does if it sees each by itself. WHOLE: both registers of b may be read. from:
// where not 0, the sums up to there stand in out.
template <bool WHOLE, int... R>
INLINE void product(Rows a, Rows b, int64_t from, int64_t depth, float factor, float* out, int64_t out_stride,
                    int64_t count, std::integer_sequence<int, R...>) {
    vf firsts[sizeof...(R)] = {}, seconds[sizeof...(R)] = {};
    if (from) {
        (..., (firsts[R] = load_register(out + R * out_stride, count)));
        (..., (seconds[R] = load_register(out + R * out_stride + LANES, count - LANES)));
    }
    for (int64_t k = from; k < depth; ++k) {
        const float* row = b.at + k * b.stride;
        vf first = WHOLE ? load_register(row) : load_register(row, count);
        vf second = WHOLE ? load_register(row + LANES) : load_register(row + LANES, count - LANES);
        (..., (firsts[R] = firsts[R] + a.at[R * a.stride + k] * first));
        (..., (seconds[R] = seconds[R] + a.at[R * a.stride + k] * second));
    }
    (..., store_register(out + R * out_stride, firsts[R] * factor, count));
    (..., store_register(out + R * out_stride + LANES, seconds[R] * factor, count - LANES));
}

INLINE int64_t limit_of(const ManyTokens& o, int64_t token) {
    int64_t limit = o.limit + token * o.later;
    return limit < o.positions ? limit : o.positions;
}

template <int TOKENS>
INLINE void score_tile(const ManyTokens& o, int64_t token, int64_t start) {
    if (start >= limit_of(o, token + TOKENS - 1)) return;
    float sharpness = 1.0f / sqrtf(float(o.width));
    for (int64_t column = 0; column < PANEL && start + column < o.positions; column += 2 * LANES)
        product<true>({o.q + token * o.q_stride, o.q_stride}, {o.panels + start * o.width + column, PANEL}, 0,
                      o.width, sharpness, o.scores + token * o.positions + start + column, o.positions,
                      o.positions - start - column, std::make_integer_sequence<int, TOKENS>());
}

// -infinity where a token does not attend.
INLINE void hide(const ManyTokens& o, int64_t token) {
    float* scores = o.scores + token * o.positions;
    int64_t limit = limit_of(o, token);
    for (int64_t s = limit; s < o.positions; ++s) scores[s] = -INFINITY;
    if (o.mask)
        for (int64_t s = 0; s < limit; ++s)
            if (!o.mask[token * o.positions + s]) scores[s] = -INFINITY;
}

TARGET static void scores_of_many(const ManyTokens& o) {
    for (int64_t start = 0; start < o.positions; start += PANEL) {  // a panel stays in the first cache for all tokens
        int64_t t = 0;
        for (; t + ROWS <= o.tokens; t += ROWS) score_tile<ROWS>(o, t, start);
        for (; t + 4 <= o.tokens; t += 4) score_tile<4>(o, t, start);
        for (; t < o.tokens; ++t) score_tile<1>(o, t, start);
    }
    for (int64_t t = 0; t < o.tokens; ++t) hide(o, t);
}

// Positions [from, to) of some tokens' z, added to what stands there unless from is 0.
template <int TOKENS>
INLINE void mix_positions(const ManyTokens& o, int64_t token, int64_t from, int64_t to) {
    Rows pattern = {o.pattern + token * o.positions, o.positions};
    float* z = o.z + token * o.z_stride;
    int64_t i = 0;
    for (; i + 2 * LANES <= o.width; i += 2 * LANES)
        product<true>(pattern, {o.values + i, o.value_stride}, from, to, 1.0f, z + i, o.z_stride, 2 * LANES,
                      std::make_integer_sequence<int, TOKENS>());
    if (i < o.width)
        product<false>(pattern, {o.values + i, o.value_stride}, from, to, 1.0f, z + i, o.z_stride, o.width - i,
                       std::make_integer_sequence<int, TOKENS>());
}

// All tokens together as far as each attends, then each by itself: what lies after it may be anything, even NaN.
template <int TOKENS>
INLINE void mix_tile(const ManyTokens& o, int64_t token) {
    int64_t own[TOKENS], common = o.positions;
    for (int t = 0; t < TOKENS; ++t) {
        const float* row = o.pattern + (token + t) * o.positions;
        own[t] = without_rest(row, o.positions, ZEROS);
        while (own[t] && row[own[t] - 1] == 0) --own[t];
        common = own[t] < common ? own[t] : common;
    }
    mix_positions<TOKENS>(o, token, 0, common);
    for (int t = 0; t < TOKENS; ++t)
        if (own[t] > common) mix_positions<1>(o, token + t, common, own[t]);
}

TARGET static void mix_of_many(const ManyTokens& o) {
    int64_t t = 0;
    for (; t + ROWS <= o.tokens; t += ROWS) mix_tile<ROWS>(o, t);
    for (; t + 4 <= o.tokens; t += 4) mix_tile<4>(o, t);
    for (; t < o.tokens; ++t) mix_tile<1>(o, t);
}
