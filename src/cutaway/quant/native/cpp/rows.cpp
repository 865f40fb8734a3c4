// What each row of a matrix is computed from by itself, between the linear layers: who computes which rows.
// It does not know how a row is computed (norm.h), nor Python or torch.

#include "calls.h"
#include "team.h"

#include <cmath>
#include <cstring>

void float_product(const Kernels& kernels, const float* x, const float* w, const float* bias, int64_t tokens,
                   int64_t rows, int64_t width, float* out, int threads) {
    split((rows + 3) / 4, for_work(tokens * rows * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t t = 0; t < tokens; ++t) {
            int64_t first = from * 4, count = (to * 4 < rows ? to * 4 : rows) - first;
            kernels.dot_rows(x + t * width, w + first * width, width, count, bias ? bias + first : nullptr,
                             out + t * rows + first);
        }
    });
}

void route(const Kernels& kernels, const float* logits, int64_t experts, int64_t chosen, bool normalized,
           float* scores) {
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(experts));
    float *shares = memory.take<float>(experts), sum = 0;
    kernels.softmax(logits, experts, -INFINITY, shares, shares);
    memset(scores, 0, size_t(experts) * sizeof *scores);
    for (int64_t taken = 0; taken < chosen; ++taken) {
        int64_t best = 0;
        while (best < experts && shares[best] < 0) ++best;
        for (int64_t i = best + 1; i < experts; ++i)
            if (shares[i] > shares[best]) best = i;
        scores[best] = shares[best], sum += shares[best];
        shares[best] = -1;
    }
    for (int64_t i = 0; i < experts && normalized; ++i) scores[i] = scores[i] / sum;
}

extern "C" {

// out [tokens, rows] = x [tokens, width] · w [rows, width], + bias [rows] where it is not null.
EXPORT void cutaway_float_product(const float* x, const float* w, const float* bias, int64_t tokens, int64_t rows,
                                  int64_t width, float* out, int32_t threads) {
    in_thread_team_if_small(tokens * width, threads, [&](int size) {
        float_product(chosen_kernels(), x, w, bias, tokens, rows, width, out, size);
    });
}

// scores [tokens, experts] of logits [tokens, experts].
EXPORT void cutaway_route(const float* logits, int64_t tokens, int64_t experts, int64_t chosen, int32_t normalized,
                          float* scores) {
    for (int64_t t = 0; t < tokens; ++t)
        route(chosen_kernels(), logits + t * experts, experts, chosen, normalized, scores + t * experts);
}

// out [rows]: each row's mean.
EXPORT void cutaway_mean(const float* x, int64_t rows, int64_t width, float* out, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) out[r] = kernels.mean(x + r * width, width);
    });
}

// out [rows]: the root of each row's mean square + eps.
EXPORT void cutaway_root_mean_square(const float* x, int64_t rows, int64_t width, float eps, float* out,
                                     int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) out[r] = kernels.root_mean_square(x + r * width, width, eps);
    });
}

// out [rows, width]: each row normed; scale [rows] and normalized [rows, width] where not null.
EXPORT void cutaway_norm(const float* x, int64_t rows, int64_t width, const Norm* norm, float* scale, float* normalized,
                         float* out, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            kernels.norm({x + r * width, *norm, width, scale ? scale + r : nullptr,
                          normalized ? normalized + r * width : nullptr, out + r * width});
        store_fence();
    });
}

// out [count] = cap · tanh(x / cap); -infinity stays.
EXPORT void cutaway_softcap(const float* x, int64_t count, float cap, float* out, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(count, for_work(count * 8, threads), [&](int64_t from, int64_t to) {
        kernels.softcap(x + from, to - from, cap, out + from);
    });
}

// x [rows, heads, width], a row every row_stride and a head every head_stride; cos and sin [rows, pairs].
EXPORT void cutaway_rotate(const float* x, const float* cos, const float* sin, int64_t rows, int64_t heads,
                           int64_t width, int64_t pairs, int64_t row_stride, int64_t head_stride,
                           int32_t interleaved, float* out, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * heads * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            kernels.rotate({x + r * row_stride, cos + r * pairs, sin + r * pairs, pairs, heads, width, head_stride,
                            out + r * heads * width, interleaved});
    });
}

// Of each angle, in radians. Torch's own open threads for a hundred of them, which then spin beside the library's.
EXPORT void cutaway_cos_sin(const float* angles, int64_t count, float* cosines, float* sines, int32_t threads) {
    split(count, for_work(count, threads), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) cosines[i] = cosf(angles[i]), sines[i] = sinf(angles[i]);
    });
}

// out [rows, width] = x, a row every `stride` floats; of one row each thread copies its part.
EXPORT void cutaway_copy(const float* x, int64_t rows, int64_t width, int64_t stride, float* out, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    threads = for_work(rows * width, threads);
    if (rows == 1)
        return split(width, threads, [&](int64_t from, int64_t to) {
            kernels.copy(x + from, to - from, out + from);
            store_fence();
        });
    split(rows, threads, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) kernels.copy(x + r * stride, width, out + r * width);
        store_fence();
    });
}

// out [rows, width]: the activation of x, where `times` is not null multiplied by it; a row of x every `stride` floats,
// of `times` every times_stride.
EXPORT void cutaway_activate(int32_t activation, const float* x, const float* times, int64_t rows, int64_t width,
                             int64_t stride, int64_t times_stride, float* out, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            kernels.activate(Activation(activation), x + r * stride, times ? times + r * times_stride : nullptr, width,
                             out + r * width);
    });
}

}  // extern "C"
