// The small steps of a decoder between two linear layers, one row at a time, in float32.
// Included once by each path, inside its namespace, after vectors.h. It does not know shapes, strides or threads.

TARGET static void rms_norm(const float* x, const float* w, float eps, int64_t width, float* out) {
    v16 squares = {};
    for (int64_t i = 0; i < width; i += 16) {
        v16 v = load(x + i, width - i);
        squares = squares + v * v;
    }
    float inverse = 1.0f / sqrtf(sum(squares) / float(width) + eps);
    for (int64_t i = 0; i < width; i += 16)
        store(out + i, load(x + i, width - i) * inverse * load(w + i, width - i), width - i);
}

TARGET static void layer_norm(const float* x, const float* w, const float* b, float eps, int64_t width, float* out) {
    v16 total = {};
    for (int64_t i = 0; i < width; i += 16) total = total + load(x + i, width - i);
    float mean = sum(total) / float(width);
    v16 squares = {};
    for (int64_t i = 0; i < width; i += 16) {
        v16 centered = load(x + i, width - i) - mean;
        for (int64_t past = width - i; past < 16; ++past) centered[past] = 0;
        squares = squares + centered * centered;
    }
    float inverse = 1.0f / sqrtf(sum(squares) / float(width) + eps);
    for (int64_t i = 0; i < width; i += 16) {
        v16 normalized = (load(x + i, width - i) - mean) * inverse;
        store(out + i, normalized * load(w + i, width - i) + load(b + i, width - i), width - i);
    }
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
