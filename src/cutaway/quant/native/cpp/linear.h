// The float half of the layer: quantize a row of activations, and finish a group of exact dot products.
// Included once by each instruction set, inside its namespace, after vectors.h. It does not know threads, nor how dots are made.

constexpr uint32_t SIX = 0x40c00000;       // the bits of 6.0f: from here on |x| is an outlier
constexpr uint32_t INFINITE = 0x7f800000;  // from here on x is infinity or NaN

INLINE uint32_t magnitude(float x) {  // bits that order as |x| does, with NaN above infinity
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

TARGET static void widen(const uint16_t* bfloat16, float* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) out[i] = from_bits(uint32_t(bfloat16[i]) << 16);
}

TARGET static void append(Token& token, int64_t column, float x) {
    token.slots[token.outliers] = int32_t(column);
    token.values[token.outliers++] = x;
}

INLINE u16 magnitudes(const float* x, int64_t count) { return (u16)load(x, count) & 0x7fffffff; }

INLINE u16 larger(u16 a, u16 b) { return a > b ? a : b; }

INLINE uint32_t largest_of(u16 v) {
    uint32_t largest = 0;
    for (int i = 0; i < 16; ++i) largest = v[i] > largest ? v[i] : largest;
    return largest;
}

TARGET static void list_outliers(const float* x, int64_t width, Token& token) {
    constexpr int64_t RUN_LENGTH = 32;  // outliers are rare: most runs are passed over as a whole
    for (int64_t start = 0; start < width; start += RUN_LENGTH) {
        int64_t stop = start + RUN_LENGTH < width ? start + RUN_LENGTH : width;
        u16 largest = {};
        for (int64_t k = start; k < stop; k += 16) largest = larger(largest, magnitudes(x + k, stop - k));
        if (largest_of(largest) < SIX) continue;
        for (int64_t k = start; k < stop; ++k)
            if (magnitude(x[k]) >= SIX) append(token, k, x[k]);
    }
}

TARGET static void encode(const float* seen, int64_t width, float scale, uint8_t* codes) {
    float inverse = 1.0f / scale * 127.0f;  // in this order, as the reference and bitsandbytes
    if (!(inverse < from_bits(INFINITE))) inverse = 0;  // a row of zeros, or too small for its inverse to be a float
    for (int64_t k = 0; k < width; ++k) {
        float inlier = magnitude(seen[k]) < SIX ? seen[k] * inverse : 0.0f;
        // 1.5 · 2^23 + 128: the sum is rounded half to even, and its lowest byte is code + 128.
        float shifted = inlier + 12583040.0f;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        codes[k] = uint8_t(bits);
    }
}

// seen: the values that decide scale, codes and outliers; x: the values by which outliers are multiplied.
// They differ only for pooled calls, where bitsandbytes looks at the row in float16.
TARGET static void quantize(const float* seen, const float* x, int64_t width, int64_t padded, const uint8_t* pooled,
                            uint8_t* codes, Token& token) {
    u16 sizes = {}, inside = {};
    for (int64_t k = 0; k < width; k += 16) {
        u16 size = magnitudes(seen + k, width - k);
        sizes = larger(sizes, size);
        inside = larger(inside, size < SIX ? size : u16{});
    }
    uint32_t largest = largest_of(sizes), inlier = largest_of(inside);
    token.outliers = 0;
    memset(codes + width, ZERO_POINT, size_t(padded - width));
    if (largest >= INFINITE) {
        token.scale = NAN;
        memset(codes, ZERO_POINT, size_t(width));
        return;
    }
    token.scale = from_bits(inlier);
    encode(seen, width, token.scale, codes);
    if (!pooled) {
        if (largest >= SIX) list_outliers(x, width, token);
        return;
    }
    for (int64_t k = 0; k < width; ++k) {
        if (!pooled[k]) continue;
        codes[k] = ZERO_POINT;
        append(token, k, x[k]);
    }
}

// 16 columns of a group: half to even, by adding 1.5 · 2^23.
INLINE void round_columns(v16 x, float inverse, int16_t* codes) {
    h16 rounded = __builtin_convertvector((i16)(x * inverse + 12582912.0f) - 0x4b400000, h16);
    memcpy(codes, &rounded, sizeof rounded);
}

// To 16 bits: the largest |x| of each group of columns is code 32767.
TARGET static void round(const float* x, int64_t width, int64_t padded, int16_t* codes, float* scales) {
    memset(codes + width, 0, size_t(padded - width) * sizeof *codes);
    uint32_t all = 0;
    int64_t groups = (width + COLUMNS - 1) / COLUMNS;
    for (int64_t g = 0; g < groups; ++g) {
        int64_t k = g * COLUMNS, left = width - k;
        v16 first = load(x + k, left), second = left > 16 ? load(x + k + 16, left - 16) : v16{};
        uint32_t largest = largest_of(larger((u16)first & 0x7fffffff, (u16)second & 0x7fffffff));
        all = all > largest ? all : largest;
        float inverse = 32767.0f / from_bits(largest);
        if (!(inverse < from_bits(INFINITE))) inverse = 0;  // zeros, or too small for its inverse to be a float
        scales[g] = from_bits(largest) / 32767.0f;
        round_columns(first, inverse, codes + k);
        if (left > 16) round_columns(second, inverse, codes + k + 16);
    }
    if (all < INFINITE) return;
    memset(codes, 0, size_t(padded) * sizeof *codes);
    for (int64_t g = 0; g < groups; ++g) scales[g] = NAN;
}

// The weights' codes in the outlier columns, while their rows are in cache.
TARGET static void gather(const Layer& layer, const Tokens& tokens, int64_t row, int32_t rows, float* columns) {
    const int8_t* w = layer.codes + row * layer.width;
    for (int32_t c = 0; c < tokens.n_columns; ++c)
        for (int32_t r = 0; r < GROUP; ++r)
            columns[c * GROUP + r] = r < rows ? w[r * layer.width + tokens.columns[c]] : 0.0f;
}

// LANES of a group's results, from row `lane` on. Always in this order of float operations, so that a row's result does
// not depend on its batch or on threads.
INLINE vf value(const Layer& layer, const Token& token, const Part& part, int64_t at, int lane) {
    int64_t row = part.row + lane;
    if (layer.panels) {
        vf y = load_register((const float*)part.dots + at * GROUP + lane);
        return layer.bias ? y + load_register(layer.bias + row) : y;
    }
    vi dots = load_ints((const int32_t*)part.dots + at * GROUP + lane);
    vf product = __builtin_convertvector(dots - load_ints(layer.shift + row), vf);
    vf y = product * (token.scale * load_register(layer.factor + row));
    if (token.outliers) {
        vf apart = {};
        for (int32_t j = 0; j < token.outliers; ++j)
            apart = apart + token.values[j] * load_register(part.columns + int64_t(token.slots[j]) * GROUP + lane);
        y = y + apart * load_register(layer.outlier_factor + row);
    }
    return layer.bias ? y + load_register(layer.bias + row) : y;
}

INLINE vf load_as(Dtype dtype, const void* p, int64_t at, int64_t count) {
    if (dtype == FLOAT32) return load_register((const float*)p + at, count);
    return load_half((const uint16_t*)p + at, count);
}

INLINE void store_as(Dtype dtype, void* p, int64_t at, vf v, int64_t count) {
    if (dtype == FLOAT32) return store_register((float*)p + at, v, count);
    store_half((uint16_t*)p + at, v, count);
}

// Scales, outliers, bias, activation and residual of one group for all tokens of a block. up: the other half, where
// gated.
TARGET static void finish(const Call& call, const Tokens& tokens, const Part& part, const Part* up) {
    for (int64_t t = 0; t < tokens.count; ++t) {
        const Token& token = tokens.rows[t];
        for (int lane = 0; lane < part.rows; lane += LANES) {
            int64_t at = (tokens.first + t) * call.columns + part.row + lane, count = part.rows - lane;
            vf y = value(*call.layer, token, part, t, lane);
            if (call.product) stream_store(call.product + at, y, count);
            if (up) {
                vf other = value(*call.layer, token, *up, t, lane);
                if (call.other_half) stream_store(call.other_half + at, other, count);
                if (call.limit != 0) {
                    y = call.alpha * (y > call.limit ? vf{} + call.limit : y);
                    other = other > call.limit ? vf{} + call.limit : other < -call.limit ? vf{} - call.limit : other;
                    other = (1.0f + other) / call.alpha;
                }
                y = activated(call.activation, y) * other;
            } else {
                y = activated(call.activation, y);
            }
            if (call.residual) y = load_as(call.dtype, call.residual, at, count) + y;
            if (call.result) stream_store(call.result + at, y, count);
            store_as(call.dtype, call.out, at, y, count);
        }
    }
}
