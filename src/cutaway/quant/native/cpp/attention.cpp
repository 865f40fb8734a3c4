// Attention for all texts and heads: who computes which part, and where what lies between two stages is held.
// It does not know which instructions compute a head, nor Python or torch.

#include "calls.h"
#include "team.h"

namespace {

constexpr int64_t SMALL = 1 << 15;  // floats below which a second thread costs more than it brings
constexpr int64_t CHUNK = 64;       // tokens that one thread takes at once

int for_work(int64_t floats, int threads) { return floats < SMALL ? 1 : threads; }

void one_token_each(const Kernels& kernels, const AttentionCall& c, int stages, int threads) {
    threads = for_work(c.texts * c.groups * c.heads * c.positions * c.width, threads);
    split(c.texts * c.groups, threads, [&](int64_t from, int64_t to) {
        thread_local Scratch memory;
        for (int64_t i = from; i < to; ++i) {
            int64_t text = i / c.groups, group = i % c.groups, rows = i * c.heads * c.row;
            memory.reserve(Scratch::bytes<float>(c.heads * c.row));
            float* scratch = memory.take<float>(c.heads * c.row);
            float* pattern = c.pattern ? c.pattern + rows : scratch;
            OneToken one = {c.q + text * c.q_text + group * c.heads * c.width,
                            c.keys + text * c.key_text + group * c.key_group,
                            c.values + text * c.value_text + group * c.value_group,
                            c.mask ? c.mask + text * c.mask_text : nullptr, c.heads, c.width, c.positions,
                            c.key_position, c.scores ? c.scores + rows : pattern, pattern, c.row,
                            c.z + i * c.heads * c.width};
            if (stages & SCORES) kernels.scores_of_one(one);
            if (stages & SOFTMAX)
                for (int64_t h = 0; h < c.heads; ++h)
                    kernels.softmax(one.scores + h * c.row, c.positions, one.pattern + h * c.row, one.pattern + h * c.row);
            one.stride = c.value_position;
            if (stages & MIX) kernels.mix_of_one(one);
        }
        store_fence();
    });
}

// The keys of PANEL positions, component by component; 0 where there are no more positions.
void make_panel(const AttentionCall& c, const float* keys, int64_t first, float* panel) {
    int64_t count = c.positions - first < PANEL ? c.positions - first : PANEL;
    for (int64_t k = 0; k < c.width; ++k)
        for (int64_t s = 0; s < PANEL; ++s)
            panel[k * PANEL + s] = s < count ? keys[(first + s) * c.key_position + k] : 0;
}

// Some tokens of one text and head, the stages one after the other while their rows are in the cache.
void chunk(const Kernels& kernels, const AttentionCall& c, int stages, const float* panels, int64_t text, int64_t head,
           int64_t first) {
    thread_local Scratch memory;
    int64_t all_heads = c.groups * c.heads, group = head / c.heads;
    int64_t row = ((text * all_heads + head) * c.tokens + first) * c.positions;
    int64_t count = c.tokens - first < CHUNK ? c.tokens - first : CHUNK;
    memory.reserve(Scratch::bytes<float>(c.pattern || c.scores ? 0 : CHUNK * c.positions));
    float* pattern = c.pattern ? c.pattern + row : c.scores ? c.scores + row : memory.take<float>(0);
    ManyTokens many = {c.q + text * c.q_text + first * c.q_token + head * c.width, panels,
                       c.values + text * c.value_text + group * c.value_group, c.q_token, c.value_position,
                       all_heads * c.width, c.mask ? c.mask + text * c.mask_text + first * c.positions : nullptr,
                       count, c.width, c.positions, c.causal ? 1 + first : c.positions, c.causal,
                       c.scores ? c.scores + row : pattern, pattern,
                       c.z + ((text * c.tokens + first) * all_heads + head) * c.width};
    if (stages & SCORES) kernels.scores_of_many(many);
    if (stages & SOFTMAX)
        for (int64_t t = 0; t < count; ++t)
            kernels.softmax(many.scores + t * c.positions, c.positions, pattern + t * c.positions,
                            pattern + t * c.positions);
    if (stages & MIX) kernels.mix_of_many(many);
}

void many_tokens_each(const Kernels& kernels, const AttentionCall& c, int stages, int threads) {
    int64_t all_heads = c.groups * c.heads, chunks = (c.tokens + CHUNK - 1) / CHUNK;
    int64_t panels = (c.positions + PANEL - 1) / PANEL, panel = c.width * PANEL;
    threads = for_work(c.texts * all_heads * c.tokens * c.positions * c.width, threads);
    thread_local Scratch memory;
    float* keys = nullptr;
    if (stages & SCORES) {
        int64_t count = c.texts * c.groups * panels;
        memory.reserve(Scratch::bytes<float>(count * panel));
        keys = memory.take<float>(count * panel);
        split(count, threads, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; ++i) {
                int64_t text = i / panels / c.groups, group = i / panels % c.groups;
                make_panel(c, c.keys + text * c.key_text + group * c.key_group, i % panels * PANEL, keys + i * panel);
            }
        });
    }
    WorkStealing pieces(c.texts * all_heads * chunks, 1);
    on_each(threads, [&](int index, int size) {
        pieces.each(index, size, [&](Share part) {
            for (int64_t i = part.from; i < part.to; ++i) {
                int64_t text = i / chunks / all_heads, head = i / chunks % all_heads;
                const float* own = keys ? keys + (text * c.groups + head / c.heads) * panels * panel : nullptr;
                // the longest rows first: threads end together
                chunk(kernels, c, stages, own, text, head, (chunks - 1 - i % chunks) * CHUNK);
            }
        });
    });
}

}  // namespace

void attention(const Kernels& kernels, const AttentionCall& call, int stages, int threads) {
    if (call.tokens == 1) one_token_each(kernels, call, stages, threads);
    else many_tokens_each(kernels, call, stages, threads);
}

extern "C" {

EXPORT void cutaway_attention(const AttentionCall* call, int32_t stages, int32_t threads) {
    int64_t floats = call->texts * call->tokens * call->groups * call->heads * call->width;
    in_thread_team_if_small(floats, threads, [&](int size) { attention(chosen_kernels(), *call, stages, size); });
}

EXPORT void cutaway_softmax(const float* scores, int64_t rows, int64_t width, float* pattern, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        thread_local Scratch memory;
        memory.reserve(Scratch::bytes<float>(width));
        float* weights = memory.take<float>(width);
        for (int64_t r = from; r < to; ++r) kernels.softmax(scores + r * width, width, weights, pattern + r * width);
        store_fence();
    });
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

// x [rows, heads, width], a row every row_stride and a head every head_stride; cos and sin [rows, pairs].
EXPORT void cutaway_rotate(const float* x, const float* cos, const float* sin, int64_t rows, int64_t heads,
                           int64_t width, int64_t pairs, int64_t row_stride, int64_t head_stride, float* out,
                           int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * heads * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            for (int64_t h = 0; h < heads; ++h)
                kernels.rotate(x + r * row_stride + h * head_stride, cos + r * pairs, sin + r * pairs, pairs, width,
                               out + (r * heads + h) * width);
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

// out [rows, width]; x a row every `stride` floats.
EXPORT void cutaway_activate(int32_t activation, const float* x, int64_t rows, int64_t width, int64_t stride, float* out,
                             int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r)
            kernels.activate(Activation(activation), x + r * stride, width, out + r * width);
    });
}

}  // extern "C"
