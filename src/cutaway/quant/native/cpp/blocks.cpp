// Blocks of a decoder for one new token of each text: the four products of each and the attention between them, by one
// team of threads. It does not know how any of them is computed, nor Python or torch.

#include "calls.h"
#include "team.h"

#include <cstring>

// What q and k are normed by: each head by itself, with one gain for all or each with its own, or all heads together.
enum HeadNorm : int32_t { NOT_NORMED = 0, HEAD = 1, HEADS = 2, ALL = 3 };

// A router and its experts, in the MLP's place. native/blocks.py holds the same struct: change both together.
struct Mixture {
    const float *router, *bias;  // [count, width of the residual stream], and [count] or null
    const Layer* const* layers;  // up and down of each expert
    int64_t count, chosen, normalized;
};

// One block and the cache of its keys and values. native/blocks.py holds the same struct: change both together.
struct Block {
    const Layer *qkv, *out, *up, *down;  // of a mixture its first expert's
    const Mixture* mixture;              // or null
    Norm ln1, ln2;            // before attention and before the MLP, or after each sum (post_norm)
    Norm ln1_post, ln2_post;  // of what attention and the MLP add to the residual stream
    Norm q_norm, k_norm;
    const float* sinks;                         // [groups · heads], or null
    float *keys, *values;                       // the cache's [texts, capacity, groups, width]
    float clip, softcap, q_scale, resid_scale;  // of q, k and v, and of the scores: 0 where there is none; factors
    float limit, alpha;                         // of Call
    HeadNorm head_norm;
    Activation activation;
    int32_t gated, interleaved, post_norm, parallel;
};

// What is the same for all blocks of a pass. native/blocks.py holds the same struct: change both together.
struct Pass {
    int64_t texts, groups, heads, width, pairs;  // heads in one group; pairs that rotate, 0 where none do
    int64_t capacity, positions;                 // of the cache, and how many there are with the new token's
    const float *cos, *sin;                      // [texts, pairs]
    const uint8_t* mask;                         // bool [texts, positions] or null
    const float* bias;                           // added to the scores, [texts, groups · heads, positions] or null
    // Where values inside are written, block by block, SITES each, at starts[i] + index · steps[i]; null where a value
    // is not wanted, and for all of them. A head's row of scores and of the pattern is `row` floats.
    float* const* starts;
    const int64_t* steps;
    int64_t index, row;
};

namespace {

// The values of a block. native/blocks.py has their names in the same order: change both together.
enum Site {
    RESID_PRE, LN1_SCALE, LN1_NORMALIZED, LN1_OUT, ATTN_Q, ATTN_K, ATTN_V,
    ATTN_Q_NORM_SCALE, ATTN_Q_NORM_NORMALIZED, ATTN_Q_NORM_OUT,
    ATTN_K_NORM_SCALE, ATTN_K_NORM_NORMALIZED, ATTN_K_NORM_OUT, ATTN_ROT_Q, ATTN_ROT_K,
    ATTN_SCORES, ATTN_PATTERN, ATTN_Z, ATTN_GIVES, LN1_POST_SCALE, LN1_POST_NORMALIZED, ATTN_OUT, RESID_MID,
    LN2_SCALE, LN2_NORMALIZED, LN2_OUT, MLP_ROUTER_LOGITS, MLP_ROUTER_SCORES, MLP_PRE, MLP_PRE_LINEAR, MLP_POST,
    MLP_GIVES, LN2_POST_SCALE, LN2_POST_NORMALIZED, MLP_OUT, RESID_POST, SITES
};

void copy(float* to, const float* from, int64_t count) {
    if (to) memcpy(to, from, size_t(count) * sizeof(float));
}

template <class T>
T* at(T* buffer, int64_t offset) { return buffer ? buffer + offset : nullptr; }

// A row for each text, in place. site: where its scale is written; normalized and out stand after it.
void norm(const Kernels& kernels, const Norm& own, int64_t texts, int64_t width, float* x, float* const* site) {
    if (own.kind == NO_NORM) return;
    for (int64_t text = 0; text < texts; ++text)
        kernels.norm({x + text * width, own, width, at(site[0], text), at(site[1], text * width), x + text * width});
    copy(site[2], x, texts * width);
}

// q or k of one text, in place. site: where its scales are written; normalized and out stand after it.
void norm_heads(const Kernels& kernels, const Norm& norm, HeadNorm kind, int64_t heads, int64_t width, float* x,
                float* const* site, int64_t text) {
    int64_t rows = kind == ALL ? 1 : heads, step = kind == HEADS ? width : 0, all = heads * width;
    if (norm.kind == NO_NORM) return;
    for (int64_t r = 0, row = all / rows; r < rows; ++r) {
        Norm own = norm;
        own.w = at(norm.w, r * step), own.b = at(norm.b, r * step);
        float *scale = at(site[0], text * rows + r), *normalized = at(site[1], text * all + r * row);
        kernels.norm({x + r * row, own, row, scale, normalized, x + r * row});
    }
    copy(at(site[2], text * all), x, all);
}

// Between the first two products: q and k are normed and rotate, k and v go to the cache's last position, and q attends
// to all.
void attend(const Kernels& kernels, const Block& b, const Pass& p, float* qkv, float* const* sites, float* z,
            int threads) {
    int64_t heads = p.groups * p.heads, q_width = heads * p.width, kv_width = p.groups * p.width;
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(p.texts * q_width));
    float* rotated = memory.take<float>(p.texts * q_width);
    for (int64_t text = 0; text < p.texts; ++text) {
        float *q = qkv + text * (q_width + 2 * kv_width), *k = q + q_width, *v = k + kv_width;
        float* to = rotated + text * q_width;
        if (b.clip != 0)
            for (int64_t i = 0; i < q_width + 2 * kv_width; ++i)
                q[i] = q[i] < -b.clip ? -b.clip : q[i] > b.clip ? b.clip : q[i];
        copy(at(sites[ATTN_Q], text * q_width), q, q_width), copy(at(sites[ATTN_K], text * kv_width), k, kv_width);
        copy(at(sites[ATTN_V], text * kv_width), v, kv_width);
        norm_heads(kernels, b.q_norm, b.head_norm, heads, p.width, q, sites + ATTN_Q_NORM_SCALE, text);
        norm_heads(kernels, b.k_norm, b.head_norm, p.groups, p.width, k, sites + ATTN_K_NORM_SCALE, text);
        const float *cos = p.cos + text * p.pairs, *sin = p.sin + text * p.pairs;
        int64_t last = (text * p.capacity + p.positions - 1) * kv_width;
        kernels.rotate({q, cos, sin, p.pairs, heads, p.width, p.width, to, b.interleaved});
        kernels.rotate({k, cos, sin, p.pairs, p.groups, p.width, p.width, b.keys + last, b.interleaved});
        copy(b.values + last, v, kv_width);
        copy(at(sites[ATTN_ROT_Q], text * q_width), to, q_width);
        copy(at(sites[ATTN_ROT_K], text * kv_width), b.keys + last, kv_width);
        if (b.q_scale != 1)
            for (int64_t i = 0; i < q_width; ++i) to[i] *= b.q_scale;
    }
    AttentionCall call = {};
    call.q = rotated, call.keys = b.keys, call.values = b.values, call.z = z;
    call.mask = p.mask, call.mask_text = p.positions;
    call.softcap = b.softcap, call.bias = p.bias, call.sinks = b.sinks;
    call.scores = sites[ATTN_SCORES], call.pattern = sites[ATTN_PATTERN];
    call.texts = p.texts, call.groups = p.groups, call.heads = p.heads, call.tokens = 1;
    call.positions = p.positions, call.width = p.width, call.row = p.row;
    call.q_text = q_width, call.key_text = call.value_text = p.capacity * kv_width;
    call.key_group = call.value_group = p.width, call.key_position = call.value_position = kv_width;
    attention(kernels, call, SCORES | SOFTMAX | MIX, threads);
    copy(sites[ATTN_Z], z, p.texts * q_width);
}

Call product(const Layer* layer, const Pass& p, const float* in, float* out, int64_t columns) {
    Call call = {};
    call.layer = layer, call.x = in, call.out = out, call.tokens = p.texts, call.columns = columns;
    return call;
}

// sites: of a scale, normalized and what the norm gives.
void normed(Call& call, const Norm& norm, float* const* sites) {
    call.norm = norm, call.scale = sites[0], call.normalized = sites[1], call.normed = sites[2];
}

// result = resid + what is added, that normed or scaled first where the model does so. sites: of what it is before, of
// the norm, of what is added, and of the sum.
void add(const Kernels& kernels, const Block& b, const Pass& p, float* added, const float* resid, const Norm& own,
         float* const* sites, float* result) {
    int64_t width = b.out->rows, all = p.texts * width;
    bool changed = own.kind != NO_NORM || b.resid_scale != 1;
    if (changed) copy(sites[0], added, all);
    norm(kernels, own, p.texts, width, added, sites + 1);
    for (int64_t i = 0; i < all && own.kind == NO_NORM; ++i) added[i] *= b.resid_scale;
    if (own.kind == NO_NORM) copy(sites[3], added, all);
    for (int64_t i = 0; i < all; ++i) result[i] = resid[i] + added[i];
    copy(sites[4], result, all);
}

// The same of what the layer gives.
void add(const Kernels& kernels, const Block& b, const Pass& p, const Layer* layer, const float* in, const float* resid,
         const Norm& own, float* const* sites, float* result, int threads) {
    Call call = product(layer, p, in, result, layer->rows);
    if (own.kind == NO_NORM && b.resid_scale == 1) {
        call.residual = resid, call.product = sites[3], call.result = sites[4];
        return linear(kernels, call, threads);
    }
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(p.texts * layer->rows));
    float* added = memory.take<float>(p.texts * layer->rows);
    call.out = added;
    linear(kernels, call, threads);
    add(kernels, b, p, added, resid, own, sites, result);
}

// The sum of the chosen experts' outputs, each times its score. x [texts, width], as what is given.
void mix_experts(const Kernels& kernels, const Block& b, const Pass& p, const float* x, float* const* sites, float* out,
                 int threads) {
    const Mixture& m = *b.mixture;
    int64_t width = b.out->rows, inner = b.down->width;
    bool watched = sites[MLP_PRE] || sites[MLP_PRE_LINEAR] || sites[MLP_POST];
    thread_local Scratch memory;
    memory.reserve(2 * Scratch::bytes<float>(p.texts * m.count) + Scratch::bytes<int64_t>(p.texts) +
                   2 * Scratch::bytes<float>(p.texts * width) + 3 * Scratch::bytes<float>(p.texts * inner));
    float *logits = memory.take<float>(p.texts * m.count), *scores = memory.take<float>(p.texts * m.count);
    int64_t* who = memory.take<int64_t>(p.texts);
    float *rows = memory.take<float>(p.texts * width), *gives = memory.take<float>(p.texts * width), *inside[3];
    for (float*& value : inside) value = memory.take<float>(p.texts * inner);
    float_product(kernels, x, m.router, m.bias, p.texts, m.count, width, logits, threads);
    for (int64_t text = 0; text < p.texts; ++text)
        route(kernels, logits + text * m.count, m.count, m.chosen, m.normalized, scores + text * m.count);
    copy(sites[MLP_ROUTER_LOGITS], logits, p.texts * m.count);
    copy(sites[MLP_ROUTER_SCORES], scores, p.texts * m.count);
    memset(out, 0, size_t(p.texts * width) * sizeof *out);
    for (int value = 0; value < 3; ++value)
        if (float* all = sites[MLP_PRE + value]) memset(all, 0, size_t(p.texts * m.count * inner) * sizeof *all);
    for (int64_t i = 0; i < m.count; ++i) {
        int64_t count = 0;
        for (int64_t text = 0; text < p.texts; ++text)
            if (scores[text * m.count + i] != 0) {
                copy(rows + count * width, x + text * width, width);
                who[count++] = text;
            }
        if (!count) continue;
        Call call = product(m.layers[2 * i], p, rows, inside[2], inner);
        call.tokens = count, call.activation = b.activation, call.gated = true;
        call.limit = b.limit, call.alpha = b.alpha;
        if (watched) call.product = inside[0], call.other_half = inside[1];
        linear(kernels, call, threads);
        for (int value = 0; value < 3 && watched; ++value)
            for (int64_t n = 0; n < count; ++n)
                copy(at(sites[MLP_PRE + value], (who[n] * m.count + i) * inner), inside[value] + n * inner, inner);
        call = product(m.layers[2 * i + 1], p, inside[2], gives, width);
        call.tokens = count;
        linear(kernels, call, threads);
        for (int64_t n = 0; n < count; ++n) {
            float score = scores[who[n] * m.count + i], *sum = out + who[n] * width;
            for (int64_t k = 0; k < width; ++k) sum[k] = sum[k] + gives[n * width + k] * score;
        }
    }
}

void run(const Kernels& kernels, const Block& b, const Pass& p, const float* x, float* const* sites, float* result,
         int threads) {
    int64_t width = b.out->rows, inner = b.down->width;
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(p.texts * b.qkv->rows) + Scratch::bytes<float>(p.texts * b.out->width) +
                   3 * Scratch::bytes<float>(p.texts * width) + Scratch::bytes<float>(p.texts * inner));
    float *qkv = memory.take<float>(p.texts * b.qkv->rows), *z = memory.take<float>(p.texts * b.out->width);
    float *mid = memory.take<float>(p.texts * width), *post = memory.take<float>(p.texts * inner);
    float *read = memory.take<float>(p.texts * width), *sum = memory.take<float>(p.texts * width);  // of a mixture
    copy(sites[RESID_PRE], x, p.texts * width);
    Call call = product(b.qkv, p, x, qkv, b.qkv->rows);
    if (!b.post_norm) normed(call, b.ln1, sites + LN1_SCALE);
    linear(kernels, call, threads);
    attend(kernels, b, p, qkv, sites, z, threads);
    add(kernels, b, p, b.out, z, x, b.ln1_post, sites + ATTN_GIVES, mid, threads);
    if (b.post_norm) norm(kernels, b.ln1, p.texts, width, mid, sites + LN1_SCALE);
    if (b.mixture) {
        copy(read, b.parallel ? x : mid, p.texts * width);
        if (!b.post_norm) norm(kernels, b.ln2, p.texts, width, read, sites + LN2_SCALE);
        mix_experts(kernels, b, p, read, sites, sum, threads);
        add(kernels, b, p, sum, mid, b.ln2_post, sites + MLP_GIVES, result);
    } else {
        call = product(b.up, p, b.parallel ? x : mid, post, inner);
        call.activation = b.activation, call.gated = b.gated, call.limit = b.limit, call.alpha = b.alpha;
        if (!b.post_norm) normed(call, b.ln2, sites + LN2_SCALE);
        call.product = sites[MLP_PRE], call.other_half = sites[MLP_PRE_LINEAR], call.result = sites[MLP_POST];
        linear(kernels, call, threads);
        add(kernels, b, p, b.down, post, mid, b.ln2_post, sites + MLP_GIVES, result, threads);
    }
    if (b.post_norm) norm(kernels, b.ln2, p.texts, width, result, sites + LN2_SCALE);
}

}  // namespace

extern "C" {

// x and result [texts, width of the residual stream].
EXPORT void cutaway_blocks(const Block* const* blocks, int64_t count, const Pass* pass, const float* x, float* result,
                           int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    in_thread_team(threads, [&](int size) {
        for (int64_t i = 0; i < count; ++i) {
            float* sites[SITES] = {};
            for (int64_t s = 0; pass->starts && s < SITES; ++s)
                sites[s] = at(pass->starts[i * SITES + s], pass->index * pass->steps[i * SITES + s]);
            run(kernels, *blocks[i], *pass, i ? result : x, sites, result, size);
        }
        store_fence();
    });
}

}  // extern "C"
