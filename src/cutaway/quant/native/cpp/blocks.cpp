// Blocks of a decoder for one new token of each text: the four products of each and the attention between them, by one
// team of threads. It does not know how any of them is computed, nor Python or torch.

#include "calls.h"
#include "team.h"

#include <cstring>

// One block and the cache of its keys and values. native/blocks.py holds the same struct: change both together.
struct Block {
    const Layer *qkv, *out, *up, *down;
    const float *w1, *b1, *w2, *b2;  // of the norms before attention and before the MLP; b: null for RMSNorm
    float *keys, *values;            // the cache's [texts, capacity, groups, width]
    float eps1, eps2;
    int32_t activation, gated;
};

// What is the same for all blocks of a pass. native/blocks.py holds the same struct: change both together.
struct Pass {
    int64_t texts, groups, heads, width, pairs;  // heads in one group; pairs that rotate, 0 where none do
    int64_t capacity, positions;                 // of the cache, and how many there are with the new token's
    const float *cos, *sin;                      // [texts, pairs]
    const uint8_t* mask;                         // bool [texts, positions] or null
    // Where values inside are written, block by block, SITES each, at starts[i] + index · steps[i]; null where a value
    // is not wanted, and for all of them. A head's row of scores and of the pattern is `row` floats.
    float* const* starts;
    const int64_t* steps;
    int64_t index, row;
};

namespace {

// The values of a block. native/blocks.py has their names in the same order: change both together.
enum Site {
    RESID_PRE, SCALE_1, NORMALIZED_1, OUT_1, Q, K, V, ROT_Q, ROT_K, SCORE, PATTERN, Z, ATTN_OUT, RESID_MID,
    SCALE_2, NORMALIZED_2, OUT_2, PRE, PRE_LINEAR, POST, MLP_OUT, RESID_POST, SITES
};

void copy(float* to, const float* from, int64_t count) {
    if (to) memcpy(to, from, size_t(count) * sizeof(float));
}

float* at(float* buffer, int64_t offset) { return buffer ? buffer + offset : nullptr; }

// Between the first two products: q and k rotate, k and v go to the cache's last position, and q attends to all.
void attend(const Kernels& kernels, const Block& b, const Pass& p, const float* qkv, float* const* buffers, float* z,
            int threads) {
    int64_t q_width = p.groups * p.heads * p.width, kv_width = p.groups * p.width;
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(p.texts * q_width));
    float* rotated = memory.take<float>(p.texts * q_width);
    for (int64_t text = 0; text < p.texts; ++text) {
        const float *q = qkv + text * (q_width + 2 * kv_width), *k = q + q_width, *v = k + kv_width;
        const float *cos = p.cos + text * p.pairs, *sin = p.sin + text * p.pairs;
        int64_t last = (text * p.capacity + p.positions - 1) * kv_width;
        kernels.rotate({q, cos, sin, p.pairs, p.groups * p.heads, p.width, p.width, rotated + text * q_width});
        kernels.rotate({k, cos, sin, p.pairs, p.groups, p.width, p.width, b.keys + last});
        copy(b.values + last, v, kv_width);
        copy(at(buffers[Q], text * q_width), q, q_width), copy(at(buffers[K], text * kv_width), k, kv_width);
        copy(at(buffers[V], text * kv_width), v, kv_width);
        copy(at(buffers[ROT_Q], text * q_width), rotated + text * q_width, q_width);
        copy(at(buffers[ROT_K], text * kv_width), b.keys + last, kv_width);
    }
    AttentionCall call = {};
    call.q = rotated, call.keys = b.keys, call.values = b.values, call.z = z;
    call.mask = p.mask, call.mask_text = p.positions;
    call.scores = buffers[SCORE], call.pattern = buffers[PATTERN];
    call.texts = p.texts, call.groups = p.groups, call.heads = p.heads, call.tokens = 1;
    call.positions = p.positions, call.width = p.width, call.row = p.row;
    call.q_text = q_width, call.key_text = call.value_text = p.capacity * kv_width;
    call.key_group = call.value_group = p.width, call.key_position = call.value_position = kv_width;
    attention(kernels, call, SCORES | SOFTMAX | MIX, threads);
    copy(buffers[Z], z, p.texts * q_width);
}

void run(const Kernels& kernels, const Block& b, const Pass& p, const float* x, float* const* buffers, float* result,
         int threads) {
    int64_t width = b.out->rows;
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(p.texts * b.qkv->rows) + Scratch::bytes<float>(p.texts * b.out->width) +
                   Scratch::bytes<float>(p.texts * width) + Scratch::bytes<float>(p.texts * b.down->width));
    float *qkv = memory.take<float>(p.texts * b.qkv->rows), *z = memory.take<float>(p.texts * b.out->width);
    float *mid = memory.take<float>(p.texts * width), *post = memory.take<float>(p.texts * b.down->width);
    auto layer = [&](const Layer* layer, const float* in, float* out, const float* residual, int64_t columns) {
        Call call = {};
        call.layer = layer, call.x = in, call.out = out, call.residual = residual;
        call.tokens = p.texts, call.columns = columns;
        return call;
    };
    copy(buffers[RESID_PRE], x, p.texts * width);
    Call call = layer(b.qkv, x, qkv, nullptr, b.qkv->rows);
    call.norm = {b.w1, b.b1, b.eps1};
    call.scale = buffers[SCALE_1], call.normalized = buffers[NORMALIZED_1], call.normed = buffers[OUT_1];
    linear(kernels, call, threads);
    attend(kernels, b, p, qkv, buffers, z, threads);
    call = layer(b.out, z, mid, x, width);
    call.product = buffers[ATTN_OUT], call.result = buffers[RESID_MID];
    linear(kernels, call, threads);
    call = layer(b.up, mid, post, nullptr, b.down->width);
    call.activation = Activation(b.activation), call.gated = b.gated;
    call.norm = {b.w2, b.b2, b.eps2};
    call.scale = buffers[SCALE_2], call.normalized = buffers[NORMALIZED_2], call.normed = buffers[OUT_2];
    call.product = buffers[PRE], call.other_half = buffers[PRE_LINEAR], call.result = buffers[POST];
    linear(kernels, call, threads);
    call = layer(b.down, post, result, mid, width);
    call.product = buffers[MLP_OUT], call.result = buffers[RESID_POST];
    linear(kernels, call, threads);
}

}  // namespace

extern "C" {

// x and result [texts, width of the residual stream].
EXPORT void cutaway_blocks(const Block* const* blocks, int64_t count, const Pass* pass, const float* x, float* result,
                           int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    in_thread_team(threads, [&](int size) {
        for (int64_t i = 0; i < count; ++i) {
            float* buffers[SITES] = {};
            for (int64_t s = 0; pass->starts && s < SITES; ++s)
                buffers[s] = at(pass->starts[i * SITES + s], pass->index * pass->steps[i * SITES + s]);
            run(kernels, *blocks[i], *pass, i ? result : x, buffers, result, size);
        }
    });
}

}  // extern "C"
