// The small steps of a decoder, for tensors with strides and for threads. All sizes and strides count floats.
// It does not know which instructions compute a row (the paths do), nor Python or torch.

#include "calls.h"
#include "isa.h"
#include "team.h"

#include <cstring>

namespace {

constexpr int64_t SMALL = 1 << 15;  // floats below which a second thread costs more than it brings

int for_work(int64_t floats, int32_t threads) { return floats < SMALL ? 1 : threads; }

}  // namespace

extern "C" {

// x and out [rows, width]. b: null for RMSNorm. scale [rows] and normalized [rows, width]: null where nobody asks.
EXPORT void cutaway_norm(const float* x, const float* w, const float* b, float eps, int64_t rows, int64_t width,
                         float* scale, float* normalized, float* out, int32_t threads) {
    const Path& path = chosen_path();
    auto norm = b ? path.layer_norm : path.rms_norm;
    threads = for_work(rows * width, threads);
    split(rows, threads, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            norm({x + r * width, w, b, eps, width, scale ? scale + r : nullptr,
                  normalized ? normalized + r * width : nullptr, out + r * width});
        settle();
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

// Attention of many tokens: z [texts, tokens, heads, width], heads in groups that share keys; and where they are asked
// for (not null), scores and pattern [texts, heads, tokens, places].
struct AttendOpen {
    const float *q, *keys, *values;  // a token's q every q_stride; a place's key every key_stride, and values likewise
    const uint8_t* mask;             // bool [texts or 1, tokens, places], or null
    float *panels;                   // room for the keys [texts, groups, panels, width, PANEL]
    float *scores, *pattern, *z;
    int64_t texts, groups, heads, tokens, places, width;  // heads in one group
    int64_t q_text, q_stride, key_text, key_group, key_stride, value_text, value_group, value_stride, mask_text;
    int64_t limit, later;  // token i of a text sees `limit + i * later` places at most
};

// The keys of PANEL places, component by component; 0 where there are no more places.
static void make_panel(const AttendOpen& c, const float* keys, int64_t first, float* panel) {
    int64_t count = c.places - first < PANEL ? c.places - first : PANEL;
    for (int64_t k = 0; k < c.width; ++k)
        for (int64_t s = 0; s < PANEL; ++s) panel[k * PANEL + s] = s < count ? keys[(first + s) * c.key_stride + k] : 0;
}

EXPORT void cutaway_attend_open(const AttendOpen* call, int32_t threads) {
    constexpr int64_t CHUNK = 64;  // tokens that one thread takes at once
    const Path& path = chosen_path();
    const AttendOpen& c = *call;
    int64_t all_heads = c.groups * c.heads, chunks = (c.tokens + CHUNK - 1) / CHUNK;
    int64_t panels = (c.places + PANEL - 1) / PANEL;
    auto chunk = [&](int64_t i) {
        thread_local Scratch memory;
        memory.reserve(Scratch::room<float>(c.pattern ? 0 : CHUNK * c.places));
        int64_t first = (chunks - 1 - i % chunks) * CHUNK;  // the longest rows first: threads end together
        int64_t text = i / chunks / all_heads, head = i / chunks % all_heads, group = head / c.heads;
        int64_t row = (text * all_heads + head) * c.tokens + first;
        int64_t count = c.tokens - first < CHUNK ? c.tokens - first : CHUNK;
        float* pattern = c.pattern ? c.pattern + row * c.places : memory.take<float>(0);
        float* scores = c.scores ? c.scores + row * c.places : pattern;  // a softmax may stand where its scores stood
        path.attend_open({c.q + text * c.q_text + first * c.q_stride + head * c.width,
                          c.panels + (text * c.groups + group) * panels * c.width * PANEL,
                          c.values + text * c.value_text + group * c.value_group, c.q_stride, c.value_stride,
                          all_heads * c.width, c.mask ? c.mask + text * c.mask_text + first * c.places : nullptr, count,
                          c.width, c.places, c.limit + first * c.later, c.later, scores, pattern,
                          c.z + ((text * c.tokens + first) * all_heads + head) * c.width});
    };
    threads = for_work(c.texts * all_heads * c.tokens * c.places * c.width, threads);
    split(c.texts * c.groups * panels, threads, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            int64_t row = i / panels;
            make_panel(c, c.keys + row / c.groups * c.key_text + row % c.groups * c.key_group, i % panels * PANEL,
                       c.panels + i * c.width * PANEL);
        }
    });
    Portions portions(c.texts * all_heads * chunks, 1);
    on_each(threads, [&](int index, int size) {
        portions.each(index, size, [&](Share part) {
            for (int64_t i = part.from; i < part.to; ++i) chunk(i);
        });
    });
}

// The whole of attention between its two products, for one new token of each text: q and k turn, k and v take the
// cache's last place, and q looks at all `places`. qkv [texts, (groups·heads + 2·groups)·width] in that order.
// room, or null: q, k, v, the turned q and k, z.
EXPORT void cutaway_attention_step(const StepShape* shape, const float* qkv, const float* cos, const float* sin,
                                   float* keys, float* values, const uint8_t* mask, int64_t places, const Room* room,
                                   float* z, int32_t threads) {
    const Path& path = chosen_path();
    const StepShape& c = *shape;
    int64_t q_floats = c.groups * c.heads * c.width, kv_floats = c.groups * c.width;
    thread_local Scratch memory;
    memory.reserve(Scratch::room<float>(c.texts * q_floats));
    size_t head_bytes = size_t(c.width) * sizeof(float);
    float* turned = memory.take<float>(c.texts * q_floats);
    auto show = [&](int slot, const float* from, int64_t text, int64_t head, int64_t floats) {
        float* to = Room::slot(room, slot);
        if (to) memcpy(to + text * (slot == 0 || slot == 3 ? q_floats : kv_floats) + head, from, size_t(floats) * sizeof(float));
    };
    for (int64_t text = 0; text < c.texts; ++text) {
        const float *q = qkv + text * (q_floats + 2 * kv_floats), *k = q + q_floats, *v = k + kv_floats;
        int64_t place = text * c.text_stride + (places - 1) * c.place_stride;
        const float *own_cos = cos + text * c.pairs, *own_sin = sin + text * c.pairs;
        for (int64_t i = 0; i < q_floats; i += c.width)
            path.rotate(q + i, own_cos, own_sin, c.pairs, c.width, turned + text * q_floats + i);
        for (int64_t g = 0; g < c.groups; ++g) {
            float *key = keys + place + g * c.group_stride, *value = values + place + g * c.group_stride;
            path.rotate(k + g * c.width, own_cos, own_sin, c.pairs, c.width, key);
            memcpy(value, v + g * c.width, head_bytes);
            show(4, key, text, g * c.width, c.width);
        }
        show(0, q, text, 0, q_floats), show(1, k, text, 0, kv_floats), show(2, v, text, 0, kv_floats);
        show(3, turned + text * q_floats, text, 0, q_floats);
    }
    attend_one(path, {turned, keys, values, mask, z, c.texts, c.groups, c.heads, c.width, places, c.text_stride,
                      c.group_stride, c.place_stride, c.mask_stride, c.mask_step}, threads);
    if (float* to = Room::slot(room, 5)) memcpy(to, z, size_t(c.texts * q_floats) * sizeof(float));
}

}  // extern "C"
