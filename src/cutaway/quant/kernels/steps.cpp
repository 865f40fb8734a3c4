// The small steps of a decoder, for tensors with strides and for threads. All sizes and strides count floats.
// It does not know which instructions compute a row (the paths do), nor Python or torch.

#include "paths.h"
#include "team.h"

#include <cstring>

namespace {

constexpr int64_t SMALL = 1 << 15;  // floats below which a second thread costs more than it brings

int for_work(int64_t floats, int32_t threads) { return floats < SMALL ? 1 : threads; }

}  // namespace

extern "C" {

EXPORT void cutaway_rms_norm(const float* x, const float* w, float eps, int64_t rows, int64_t width, float* out,
                             int32_t threads) {
    const Path& path = chosen_path();
    threads = for_work(rows * width, threads);
    split(rows, threads, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) path.rms_norm(x + r * width, w, eps, width, out + r * width);
    });
}

EXPORT void cutaway_layer_norm(const float* x, const float* w, const float* b, float eps, int64_t rows, int64_t width,
                               float* out, int32_t threads) {
    const Path& path = chosen_path();
    threads = for_work(rows * width, threads);
    split(rows, threads, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) path.layer_norm(x + r * width, w, b, eps, width, out + r * width);
    });
}

// x [rows, heads, width], a row every row_stride and a head every head_stride; cos and sin [rows, pairs].
EXPORT void cutaway_rotate(const float* x, const float* cos, const float* sin, int64_t rows, int64_t heads,
                           int64_t width, int64_t pairs, int64_t row_stride, int64_t head_stride, float* out,
                           int32_t threads) {
    const Path& path = chosen_path();
    threads = for_work(rows * heads * width, threads);
    split(rows, threads, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            for (int64_t h = 0; h < heads; ++h)
                path.rotate(x + r * row_stride + h * head_stride, cos + r * pairs, sin + r * pairs, pairs, width,
                            out + (r * heads + h) * width);
    });
}

// gate and up [rows, width], each with its own distance between rows.
EXPORT void cutaway_silu_mul(const float* gate, const float* up, int64_t rows, int64_t width, int64_t gate_stride,
                             int64_t up_stride, float* out, int32_t threads) {
    const Path& path = chosen_path();
    threads = for_work(rows * width, threads);
    split(rows, threads, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            path.silu_mul(gate + r * gate_stride, up + r * up_stride, width, out + r * width);
    });
}

// One new token of each text. Its heads in groups that share keys: q and z [texts, groups, heads, width].
struct AttendOne {
    const float *q, *keys, *values;  // keys and values [texts, groups, places, width], a place every place_stride
    const uint8_t* mask;             // 0/1 [texts, places], elements of mask_step bytes, rows of mask_stride bytes; or null
    float* z;
    int64_t texts, groups, heads, width, places;
    int64_t text_stride, group_stride, place_stride, mask_stride, mask_step;
};

static void attend_one(const Path& path, const AttendOne& c, int32_t threads) {
    int64_t padded = (c.places + 15) / 16 * 16;
    threads = for_work(c.texts * c.groups * c.heads * c.places * c.width, threads);
    split(c.texts * c.groups, threads, [&](int64_t from, int64_t to) {
        thread_local Scratch memory;
        for (int64_t i = from; i < to; ++i) {
            int64_t text = i / c.groups, shared = text * c.text_stride + i % c.groups * c.group_stride;
            int64_t own = i * c.heads * c.width;
            memory.reserve(Scratch::room<float>(c.heads * padded));
            path.attend({c.q + own, c.keys + shared, c.values + shared,
                         c.mask ? c.mask + text * c.mask_stride : nullptr, c.heads, c.width, c.places, c.place_stride,
                         c.mask_step, memory.take<float>(c.heads * padded), c.z + own});
        }
    });
}

EXPORT void cutaway_attend_one(const AttendOne* call, int32_t threads) { attend_one(chosen_path(), *call, threads); }

// What stays the same from token to token: the shapes of a cache and of the heads that use it.
struct StepShape {
    int64_t texts, groups, heads, width, pairs;  // heads in one group; pairs that turn, 0 where none do
    int64_t text_stride, group_stride, place_stride;
    int64_t mask_stride, mask_step;
};

// The whole of attention between its two products, for one new token of each text: q and k turn, k and v take the
// cache's last place, and q looks at all `places`. qkv [texts, (groups·heads + 2·groups)·width] in that order.
EXPORT void cutaway_attention_step(const StepShape* shape, const float* qkv, const float* cos, const float* sin,
                                   float* keys, float* values, const uint8_t* mask, int64_t places, float* z,
                                   int32_t threads) {
    const Path& path = chosen_path();
    const StepShape& c = *shape;
    int64_t q_floats = c.groups * c.heads * c.width, kv_floats = c.groups * c.width;
    thread_local Scratch memory;
    memory.reserve(Scratch::room<float>(c.texts * q_floats));
    float* turned = memory.take<float>(c.texts * q_floats);
    for (int64_t text = 0; text < c.texts; ++text) {
        const float *q = qkv + text * (q_floats + 2 * kv_floats), *k = q + q_floats, *v = k + kv_floats;
        int64_t place = text * c.text_stride + (places - 1) * c.place_stride;
        const float *own_cos = cos + text * c.pairs, *own_sin = sin + text * c.pairs;
        for (int64_t i = 0; i < q_floats; i += c.width)
            path.rotate(q + i, own_cos, own_sin, c.pairs, c.width, turned + text * q_floats + i);
        for (int64_t g = 0; g < c.groups; ++g) {
            path.rotate(k + g * c.width, own_cos, own_sin, c.pairs, c.width, keys + place + g * c.group_stride);
            memcpy(values + place + g * c.group_stride, v + g * c.width, size_t(c.width) * sizeof(float));
        }
    }
    attend_one(path, {turned, keys, values, mask, z, c.texts, c.groups, c.heads, c.width, places, c.text_stride,
                      c.group_stride, c.place_stride, c.mask_stride, c.mask_step}, threads);
}

}  // extern "C"
