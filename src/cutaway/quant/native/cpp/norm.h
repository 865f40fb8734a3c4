// Rows between the linear layers, in float32: means, norms, activations, rotations, caps.
// Included once by each instruction set, inside its namespace, after vectors.h. It does not know shapes, strides or
// threads. Sums are those of 16 lanes on every instruction set.

TARGET static float mean(const float* x, int64_t width) {
    vf total[PARTS] = {};
    for (int64_t i = 0; i < width; i += 16)
        for (int p = 0; p < PARTS; ++p)
            total[p] = total[p] + load_register(x + i + p * LANES, width - i - p * LANES);
    return sum(total) / float(width);
}

// out[r] = x · row r of w [rows, width], + bias[r] where there is one; four rows at once for each read of x.
TARGET static void dot_rows(const float* x, const float* w, int64_t width, int64_t rows, const float* bias,
                            float* out) {
    for (int64_t first = 0; first < rows; first += 4) {
        const float* row[4];
        vf total[4][PARTS] = {};
        for (int r = 0; r < 4; ++r) row[r] = w + (first + r < rows ? first + r : first) * width;
        for (int64_t i = 0; i < width; i += 16)
            for (int p = 0; p < PARTS; ++p) {
                int64_t at = i + p * LANES, left = width - at;
                vf here = load_register(x + at, left);
                for (int r = 0; r < 4; ++r) total[r][p] = total[r][p] + here * load_register(row[r] + at, left);
            }
        for (int r = 0; r < 4 && first + r < rows; ++r)
            out[first + r] = sum(total[r]) + (bias ? bias[first + r] : 0.0f);
    }
}

// Of x less `center`.
INLINE float root_mean_square(const float* x, int64_t width, float eps, float center) {
    vf squares[PARTS] = {};
    for (int64_t i = 0; i < width; i += 16)
        for (int p = 0; p < PARTS; ++p) {
            vf v = load_register(x + i + p * LANES, width - i - p * LANES, center) - center;
            squares[p] = squares[p] + v * v;
        }
    return sqrtf(sum(squares) / float(width) + eps);
}

TARGET static float root_mean_square(const float* x, int64_t width, float eps) {
    return root_mean_square(x, width, eps, 0.0f);
}

TARGET static void norm(const Row& r) {
    const Norm& n = r.norm;
    float center = n.kind == LAYER_NORM ? mean(r.x, r.width) : 0.0f;
    float scale = root_mean_square(r.x, r.width, n.eps, center);
    float inverse = 1.0f / scale;
    if (r.scale) *r.scale = scale;
    for (int64_t i = 0; i < r.width; i += LANES) {
        int64_t count = r.width - i;
        vf out = (load_register(r.x + i, count) - center) * inverse;
        if (r.normalized) stream_store(r.normalized + i, out, count);
        if (n.w) out = out * (n.offset != 0 ? load_register(n.w + i, count) + n.offset : load_register(n.w + i, count));
        if (n.b) out = out + load_register(n.b + i, count);
        store_register(r.out + i, out, count);
    }
}

TARGET static void copy(const float* x, int64_t count, float* out) {
    int64_t i = 0;
    for (; i < count && uintptr_t(out + i) % (LANES * sizeof(float)); ++i) out[i] = x[i];
    for (; i < count; i += LANES) stream_store(out + i, load_register(x + i, count - i), count - i);
}

TARGET static void activate(Activation activation, const float* x, const float* times, int64_t width, float* out) {
    for (int64_t i = 0; i < width; i += LANES) {
        vf y = activated(activation, load_register(x + i, width - i));
        store_register(out + i, times ? y * load_register(times + i, width - i) : y, width - i);
    }
}

// cap · tanh(x / cap); -infinity, a hidden score, stays. out may be x.
TARGET static void softcap(const float* x, int64_t count, float cap, float* out) {
    for (int64_t i = 0; i < count; i += LANES) {
        vf v = load_register(x + i, count - i);
        store_register(out + i, v == -INFINITY ? v : hyperbolic_tangent(v / cap) * cap, count - i);
    }
}

// Component i of a head's first half rotates with component i of the second, or interleaved each with its neighbour;
// what is past 2·pairs stays.
TARGET static void rotate(const Heads& h) {
    const float* x = h.x;
    float* out = h.out;
    for (int64_t head = 0; head < h.heads; ++head, x += h.stride, out += h.width) {
        if (h.interleaved)
            for (int64_t i = 0; i < h.pairs; ++i) {
                float first = x[2 * i], second = x[2 * i + 1];
                out[2 * i] = first * h.cos[i] - second * h.sin[i];
                out[2 * i + 1] = second * h.cos[i] + first * h.sin[i];
            }
        for (int64_t i = h.interleaved ? h.pairs : 0; i < h.pairs; i += LANES) {
            int64_t count = h.pairs - i;
            vf first = load_register(x + i, count), second = load_register(x + h.pairs + i, count);
            vf c = load_register(h.cos + i, count), s = load_register(h.sin + i, count);
            store_register(out + i, first * c - second * s, count);
            store_register(out + h.pairs + i, second * c + first * s, count);
        }
        for (int64_t i = 2 * h.pairs; i < h.width; ++i) out[i] = x[i];
    }
}
