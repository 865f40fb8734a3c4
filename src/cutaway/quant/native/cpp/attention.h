// Scaled dot-product attention over one key/value head: scores, softmax, and the mix of values, each by itself.
// Included once by each instruction set, inside its namespace, after vectors.h. It does not know texts or threads.
// ROWS: how many rows' sums fit in the registers beside each other, with two registers of columns each.

// One token reads keys and values once, from memory: they are fetched into the second cache so many positions before
// (measured: two panels are better than one or four, and the first cache is too small for them).
constexpr int64_t AHEAD_POSITIONS = 2 * PANEL;

constexpr int64_t RUN_OF_16 = 16 * sizeof(float);
static const float HIDDEN[16] = {
    -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,
    -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};

// How much of a row is left without its last positions, 16 at a time, that are hidden: most of a row may be later ones.
INLINE int64_t without_hidden(const float* row, int64_t count) {
    if (count % 16 && !memcmp(row + count / 16 * 16, HIDDEN, size_t(count % 16) * sizeof(float))) count -= count % 16;
    while (count % 16 == 0 && count && !memcmp(row + count - 16, HIDDEN, RUN_OF_16)) count -= 16;
    return count;
}

INLINE vf larger(vf a, vf b) { return (a > b) | (a != a) ? a : b; }  // NaN is larger than all

// Of 16 scores at most; WHOLE: there are 16. weights = e^(score - largest), added to the totals; 0 where hidden.
template <bool WHOLE>
INLINE void weigh(const float* scores, int64_t count, float largest, float* weights, vf total[PARTS]) {
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; ++p) {
        int64_t at = p * LANES, left = WHOLE ? LANES : count - at;
        vf score = load_register(scores + at, left, -INFINITY);
        vf weight = score == -INFINITY ? vf{} : exponential(score - largest);
        store_register(weights + at, weight, left);
        total[p] = total[p] + weight;
    }
}

// Hidden scores are -infinity. sink: the score of one more position, whose share is dropped; -infinity: none. NaN where
// every position is hidden, or a score is NaN. weights: memory for a row; it may be `scores` or `pattern`, which is else
// written past the caches.
TARGET static void softmax(const float* scores, int64_t count, float sink, float* weights, float* pattern) {
    int64_t end = without_hidden(scores, count), s = 0;
    vf most = vf{} - INFINITY, more = most;
    for (; s + 2 * LANES <= end; s += 2 * LANES) {
        most = larger(load_register(scores + s), most);
        more = larger(load_register(scores + s + LANES), more);
    }
    for (most = larger(more, most); s < end; s += LANES)
        most = larger(load_register(scores + s, end - s, -INFINITY), most);
    float largest = sink;
    for (int i = 0; i < LANES; ++i) largest = most[i] > largest || most[i] != most[i] ? most[i] : largest;
    vf total[PARTS] = {};
    for (s = 0; s + 16 <= end; s += 16) weigh<true>(scores + s, 16, largest, weights + s, total);
    if (s < end) weigh<false>(scores + s, end - s, largest, weights + s, total);
    float inverse = 1.0f / (sum(total) + (sink == -INFINITY ? 0.0f : exponential(vf{} + (sink - largest))[0]));
    if (weights == pattern)
        for (s = 0; s + LANES <= end; s += LANES) store_register(pattern + s, load_register(weights + s) * inverse);
    else
        for (s = 0; s + LANES <= end; s += LANES)
            stream_store(pattern + s, load_register(weights + s) * inverse, LANES);
    for (; s < end; ++s) pattern[s] = weights[s] * inverse;
    float rest = end || sink != -INFINITY ? 0.0f : NAN;
    for (s = end; s < count; ++s) pattern[s] = rest;
}

// 4 or 8 rows of as many components at once: in each four lanes a 4 × 4 transpose, which stores take apart.
constexpr int PIECE = LANES > 4 ? 8 : 4;
typedef float vp __attribute__((vector_size(PIECE * 4)));
typedef int32_t vpi __attribute__((vector_size(PIECE * 4)));

// What of a and b stands in each four lanes: `picks` are four lanes of them, from 4 on those of b.
INLINE vp four_of_each(vp a, vp b, int p0, int p1, int p2, int p3) {
    const int picks[4] = {p0, p1, p2, p3};
    vpi lanes;
    for (int i = 0; i < PIECE; ++i) lanes[i] = picks[i % 4] % 4 + i / 4 * 4 + picks[i % 4] / 4 * PIECE;
    return __builtin_shuffle(a, b, lanes);
}

// panel [width, PANEL]: the keys of so many positions component by component; 0 where there are no more positions.
TARGET static void key_panel(const float* keys, int64_t stride, int64_t count, int64_t width, float* panel) {
    int64_t whole = count / 4 * 4, even = width / PIECE * PIECE;
    for (int64_t s = 0; s < whole; s += 4) {
        const float* row = keys + s * stride;
        for (int64_t k = 0; k < even; k += PIECE) {
            for (int i = 0; i < 4 && k % 16 == 0; ++i)
                __builtin_prefetch(row + (AHEAD_POSITIONS + i) * stride + k, 0, 2);
            vp a, b, c, d;
            memcpy(&a, row + k, sizeof a), memcpy(&b, row + stride + k, sizeof b);
            memcpy(&c, row + 2 * stride + k, sizeof c), memcpy(&d, row + 3 * stride + k, sizeof d);
            vp ab = four_of_each(a, b, 0, 4, 1, 5), cd = four_of_each(c, d, 0, 4, 1, 5);
            vp AB = four_of_each(a, b, 2, 6, 3, 7), CD = four_of_each(c, d, 2, 6, 3, 7);
            vp columns[4] = {four_of_each(ab, cd, 0, 1, 4, 5), four_of_each(ab, cd, 2, 3, 6, 7),
                             four_of_each(AB, CD, 0, 1, 4, 5), four_of_each(AB, CD, 2, 3, 6, 7)};
            for (int part = 0; part < PIECE / 4; ++part)
                for (int i = 0; i < 4; ++i)
                    memcpy(panel + (k + part * 4 + i) * PANEL + s, (const char*)&columns[i] + part * 16, 16);
        }
        for (int64_t k = even; k < width; ++k)
            for (int i = 0; i < 4; ++i) panel[k * PANEL + s + i] = row[i * stride + k];
    }
    for (int64_t s = whole; s < PANEL; ++s)
        for (int64_t k = 0; k < width; ++k) panel[k * PANEL + s] = s < count ? keys[s * stride + k] : 0;
}

// A matrix: its first row, and how far it is to the next.
struct Matrix {
    const float* at;
    int64_t stride;
};

// out [R, count] = factor · a [R, depth] · b [depth, count], or what stands there + a · b if ADD, for C registers of
// columns, whose sums stay in registers. WHOLE: all C registers of b may be read, and of out where ADD. FETCH: b is
// read once, from memory. SKIP: what stands in b beside a 0 of a may be anything, even NaN.
template <int R, int C, bool WHOLE, bool ADD, bool FETCH = false, bool SKIP = false>
INLINE void product(Matrix a, Matrix b, int64_t depth, float factor, float* out, int64_t stride, int64_t count) {
    vf sums[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c)
            sums[r][c] = !ADD   ? vf{}
                         : WHOLE ? load_register(out + r * stride + c * LANES)
                                 : load_register(out + r * stride + c * LANES, count - c * LANES);
    for (int64_t k = 0; k < depth; ++k) {
        for (int c = 0; c < C && FETCH; c += PARTS)
            __builtin_prefetch(b.at + (k + AHEAD_POSITIONS) * b.stride + c * LANES, 0, 2);
        vf row[C];
        for (int c = 0; c < C; ++c)
            row[c] = WHOLE ? load_register(b.at + k * b.stride + c * LANES)
                           : load_register(b.at + k * b.stride + c * LANES, count - c * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c) {
                float factor = a.at[r * a.stride + k];
                if (!SKIP || factor != 0) sums[r][c] = sums[r][c] + factor * row[c];
            }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            vf sum = ADD ? sums[r][c] : sums[r][c] * factor;
            if (WHOLE && ADD) store_register(out + r * stride + c * LANES, sum);
            else store_register(out + r * stride + c * LANES, sum, count - c * LANES);
        }
}

INLINE int64_t limit_of(const Queries& o, int64_t row) {
    int64_t limit = o.limit + row * o.later;
    return limit < o.positions ? limit : o.positions;
}

// As many registers of columns as R rows leave room for.
template <int R>
constexpr int wide() { return R * 4 <= 2 * ROWS && 4 * LANES <= PANEL ? 4 : 2; }

template <int R>
INLINE void score_tile(const Queries& o, const float* panel, int64_t first, int64_t row) {
    constexpr int C = wide<R>();
    if (first >= limit_of(o, row + R - 1)) return;
    float sharpness = 1.0f / sqrtf(float(o.width));
    for (int64_t column = 0; column < PANEL && first + column < o.positions; column += C * LANES)
        product<R, C, true, false>({o.q + row * o.q_stride, o.q_stride}, {panel + column, PANEL}, o.width, sharpness,
                                   o.scores + row * o.stride + first + column, o.stride, o.positions - first - column);
}

// Of a panel's positions, from `first` on.
TARGET static void scores(const Queries& o, const float* panel, int64_t first) {
    int64_t r = 0;
    for (; r + ROWS <= o.rows; r += ROWS) score_tile<ROWS>(o, panel, first, r);
    for (; r + 4 <= o.rows; r += 4) score_tile<4>(o, panel, first, r);
    if (r + 3 <= o.rows) score_tile<3>(o, panel, first, r), r += 3;
    for (; r < o.rows; ++r) score_tile<1>(o, panel, first, r);
}

// -infinity where a row does not attend.
TARGET static void hide(const Queries& o) {
    for (int64_t r = 0; r < o.rows; ++r) {
        float* scores = o.scores + r * o.stride;
        int64_t limit = limit_of(o, r);
        for (int64_t s = limit; s < o.positions; ++s) scores[s] = -INFINITY;
        if (!o.mask) continue;
        const uint8_t* mask = o.mask + r * o.mask_stride;
        for (int64_t s = 0; s < limit; ++s) scores[s] = mask[s] ? scores[s] : -INFINITY;
    }
}

// How many positions come before the first at which no row's pattern is 0, or all are.
template <int R>
INLINE int64_t mixed(const float* pattern, int64_t stride, int64_t count) {
    for (int64_t s = 0; s < count; ++s) {
        int zeros = 0;
        for (int r = 0; r < R; ++r) zeros += pattern[r * stride + s] == 0;
        if (zeros == 0 || zeros == R) return s;
    }
    return count;
}

// How many positions come before the first at which a row's pattern is 0 (zero), or at which a row's is not.
template <int R>
INLINE int64_t before(bool zero, const float* pattern, int64_t stride, int64_t count) {
    int64_t s = 0;
    for (; s + LANES <= count; s += LANES) {
        vi in_any = {}, in_all = vi{} - 1;
        for (int r = 0; r < R; ++r) {
            vi none = load_register(pattern + r * stride + s) == 0;
            in_any |= none, in_all &= none;
        }
        vi found = zero ? in_any : ~in_all;
        int32_t any = 0;
        for (int i = 0; i < LANES; ++i) any |= found[i];
        if (any) break;
    }
    for (; s < count; ++s) {
        bool in_any = false, in_all = true;
        for (int r = 0; r < R; ++r) {
            bool none = pattern[r * stride + s] == 0;
            in_any |= none, in_all &= none;
        }
        if (zero ? in_any : !in_all) return s;
    }
    return count;
}

// z += pattern [R, depth] · values [depth, columns].
template <int R, bool FETCH, bool SKIP>
INLINE void mix_run(Matrix pattern, Matrix values, int64_t depth, int64_t columns, float* z, int64_t stride) {
    constexpr int C = wide<R>();
    int64_t i = 0;
    for (; i + C * LANES <= columns; i += C * LANES)
        product<R, C, true, true, FETCH, SKIP>(pattern, {values.at + i, values.stride}, depth, 1, z + i, stride,
                                               columns - i);
    for (; i < columns; i += LANES)
        product<R, 1, false, true, false, SKIP>(pattern, {values.at + i, values.stride}, depth, 1, z + i, stride,
                                                columns - i);
}

template <int R, bool FETCH = true>
INLINE void mix_tile(const Queries& o, int64_t row, int64_t from, int64_t to, Matrix values, int64_t columns, float* z,
                     int64_t stride) {
    const float* pattern = o.pattern + row * o.stride + from;
    for (int64_t s = 0, count = to - from; s < count;) {
        s += before<R>(false, pattern + s, o.stride, count - s);
        int64_t run = before<R>(true, pattern + s, o.stride, count - s);
        const float* value = values.at + s * values.stride;
        if (run) mix_run<R, FETCH, false>({pattern + s, o.stride}, {value, values.stride}, run, columns, z, stride);
        s += run, value += run * values.stride;
        int64_t some = mixed<R>(pattern + s, o.stride, count - s);
        if (some) mix_run<R, false, true>({pattern + s, o.stride}, {value, values.stride}, some, columns, z, stride);
        s += some;
    }
}

// z [rows, columns], a row every z_stride, += the values of positions [from, to), weighted by the pattern. values: of
// position `from`.
TARGET static void mix(const Queries& o, int64_t from, int64_t to, const float* values, int64_t value_stride,
                       int64_t columns, float* z, int64_t z_stride) {
    Matrix v = {values, value_stride};
    int64_t r = 0;
    for (; r + ROWS <= o.rows && value_stride == PANEL; r += ROWS)  // packed for many tokens: they lie in the caches
        mix_tile<ROWS, false>(o, r, from, to, v, columns, z + r * z_stride, z_stride);
    for (; r + ROWS <= o.rows; r += ROWS) mix_tile<ROWS>(o, r, from, to, v, columns, z + r * z_stride, z_stride);
    for (; r + 4 <= o.rows; r += 4) mix_tile<4>(o, r, from, to, v, columns, z + r * z_stride, z_stride);
    if (r + 3 <= o.rows) mix_tile<3>(o, r, from, to, v, columns, z + r * z_stride, z_stride), r += 3;
    for (; r < o.rows; ++r) mix_tile<1>(o, r, from, to, v, columns, z + r * z_stride, z_stride);
}
