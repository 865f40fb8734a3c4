// Attention for all texts and heads: who computes which part, and where what lies between two stages is held.
// It does not know which instructions compute a head, nor Python or torch.

#include "calls.h"
#include "team.h"

#include <cmath>
#include <cstring>

namespace {

constexpr int64_t CHUNK = 48;  // tokens that one thread takes at once: whole tiles on every instruction set
constexpr int64_t SPAN = 128;  // positions whose values stay in the first cache for the tokens of a chunk
constexpr int64_t LINE = 16;   // floats of a line of the cache: threads share the components of values by lines

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The heads of one text's only new token that share a key/value head. scores, pattern: of all texts and heads.
Queries heads_of(const AttentionCall& c, int64_t text, int64_t group, float* scores, float* pattern) {
    int64_t row = (text * c.groups + group) * c.heads * c.row;
    const uint8_t* mask = c.mask ? c.mask + text * c.mask_text : nullptr;
    return {c.q + text * c.q_text + group * c.heads * c.width, c.width, c.heads, c.width, c.positions, mask, 0,
            c.positions, 0, scores + row, pattern + row, c.row};
}

// What is done to the scores of one head.
void cap_and_bias(const Kernels& kernels, const AttentionCall& c, int64_t head, float* scores) {
    if (c.softcap != 0) kernels.softcap(scores, c.positions, c.softcap, scores);
    if (c.bias)
        for (int64_t s = 0; s < c.positions; ++s) scores[s] += c.bias[head * c.positions + s];
}

// Threads share the keys by positions and the values by components, so that each is read once and in order.
void one_token_each(const Kernels& kernels, const AttentionCall& c, int stages, int threads) {
    threads = for_work(c.texts * c.groups * c.heads * c.positions * c.width, threads);
    int64_t rows = c.texts * c.groups * c.heads, panels = (c.positions + PANEL - 1) / PANEL;
    thread_local Scratch memory;
    memory.reserve(Scratch::bytes<float>(c.pattern ? 0 : rows * c.row));
    float* pattern = c.pattern ? c.pattern : memory.take<float>(0);
    float* scores = c.scores ? c.scores : pattern;
    if (stages & SCORES)
        split(c.texts * panels, threads, [&](int64_t from, int64_t to) {
            thread_local Scratch memory;
            memory.reserve(Scratch::bytes<float>(c.width * PANEL));
            float* panel = memory.take<float>(c.width * PANEL);
            for (int64_t i = from; i < to; ++i)
                for (int64_t group = 0; group < c.groups; ++group) {
                    int64_t text = i / panels, first = i % panels * PANEL;
                    const float* keys = c.keys + text * c.key_text + group * c.key_group + first * c.key_position;
                    kernels.key_panel(keys, c.key_position, least(PANEL, c.positions - first), c.width, panel);
                    kernels.scores(heads_of(c, text, group, scores, pattern), panel, first);
                }
        });
    if (stages & (SCORES | SOFTMAX))
        split(rows, threads, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; ++i) {
                Queries head = heads_of(c, i / c.heads / c.groups, i / c.heads % c.groups, scores, pattern);
                int64_t at = i % c.heads * c.row;
                head.scores += at, head.rows = 1;
                if (stages & SCORES) kernels.hide(head), cap_and_bias(kernels, c, i, head.scores);
                if (stages & SOFTMAX)
                    kernels.softmax(head.scores, c.positions, c.sinks ? c.sinks[i % (c.groups * c.heads)] : -INFINITY,
                                    head.pattern + at, head.pattern + at);
            }
        });
    if (!(stages & MIX)) return;
    int64_t parts = (c.width + LINE - 1) / LINE;
    split(c.texts * c.groups * parts, threads, [&](int64_t from, int64_t to) {
        for (int64_t first = 0; first < c.positions; first += PANEL)
            for (int64_t i = from, end; i < to; i = end) {
                int64_t text = i / parts / c.groups, group = i / parts % c.groups, column = i % parts * LINE;
                end = least(to, i - i % parts + parts);
                int64_t columns = least(c.width - column, (end - i) * LINE);
                float* z = c.z + (text * c.groups + group) * c.heads * c.width + column;
                for (int64_t h = 0; h < c.heads && first == 0; ++h)
                    memset(z + h * c.width, 0, size_t(columns) * sizeof(float));
                const float* values = c.values + text * c.value_text + group * c.value_group + column;
                kernels.mix(heads_of(c, text, group, scores, pattern), first, least(c.positions, first + PANEL),
                            values + first * c.value_position, c.value_position, columns, z, c.width);
            }
    });
}

// Keys and values of one key/value head as many tokens read them, each part again and again: keys in panels, values in
// strips [positions, PANEL] of components, 0 past the last.
struct Packed {
    float *keys, *values;
    int64_t panels, strips;

    Packed(const AttentionCall& c) : panels((c.positions + PANEL - 1) / PANEL), strips((c.width + PANEL - 1) / PANEL) {}

    float* panel(const AttentionCall& c, int64_t head, int64_t i) const {
        return keys + (head * panels + i) * c.width * PANEL;
    }
    float* strip(const AttentionCall& c, int64_t head, int64_t i) const {
        return values + (head * strips + i) * c.positions * PANEL;
    }
};

void pack(const Kernels& kernels, const AttentionCall& c, int stages, const Packed& packed, int threads) {
    split(c.texts * c.groups * packed.panels, threads, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            int64_t both = i / packed.panels, text = both / c.groups, group = both % c.groups;
            int64_t first = i % packed.panels * PANEL, count = least(PANEL, c.positions - first);
            const float* keys = c.keys + text * c.key_text + group * c.key_group + first * c.key_position;
            const float* values = c.values + text * c.value_text + group * c.value_group + first * c.value_position;
            if (stages & SCORES)
                kernels.key_panel(keys, c.key_position, count, c.width, packed.panel(c, both, first / PANEL));
            for (int64_t k = 0; k < c.width && stages & MIX; k += PANEL)
                for (int64_t s = 0; s < count; ++s) {
                    float* to = packed.strip(c, both, k / PANEL) + (first + s) * PANEL;
                    int64_t real = least(PANEL, c.width - k);
                    memcpy(to, values + s * c.value_position + k, size_t(real) * sizeof(float));
                    memset(to + real, 0, size_t(PANEL - real) * sizeof(float));
                }
        }
    });
}

// Some tokens of one text and head, the stages one after the other while their rows are in the cache.
void chunk(const Kernels& kernels, const AttentionCall& c, int stages, const Packed& packed, int64_t text, int64_t head,
           int64_t first) {
    thread_local Scratch memory;
    int64_t all_heads = c.groups * c.heads, both = text * c.groups + head / c.heads;
    int64_t row = ((text * all_heads + head) * c.tokens + first) * c.row, count = least(CHUNK, c.tokens - first);
    bool watched = c.pattern || c.scores;
    int64_t attended = c.causal ? least(c.positions, first + count) : c.positions;
    int64_t positions = watched ? c.positions : attended;
    int64_t stride = watched ? c.row : (positions + 15) / 16 * 16 + 16;  // no two rows in the same set of a cache
    memory.reserve(Scratch::bytes<float>(watched ? 0 : count * stride));
    float* pattern = c.pattern ? c.pattern + row : c.scores ? c.scores + row : memory.take<float>(0);
    const uint8_t* mask = c.mask ? c.mask + text * c.mask_text + first * c.positions : nullptr;
    Queries rows = {c.q + text * c.q_text + first * c.q_token + head * c.width, c.q_token, count, c.width, positions,
                    mask, c.positions, c.causal ? 1 + first : positions, c.causal,
                    c.scores ? c.scores + row : pattern, pattern, stride};
    if (stages & SCORES) {
        for (int64_t s = 0; s < attended; s += PANEL)  // a panel stays in the first cache for all rows
            kernels.scores(rows, packed.panel(c, both, s / PANEL), s);
        kernels.hide(rows);
    }
    if (stages & SOFTMAX)
        for (int64_t t = 0; t < count; ++t)
            kernels.softmax(rows.scores + t * stride, positions, -INFINITY, pattern + t * stride, pattern + t * stride);
    if (!(stages & MIX)) return;
    float* z = c.z + ((text * c.tokens + first) * all_heads + head) * c.width;
    for (int64_t t = 0; t < count; ++t) memset(z + t * all_heads * c.width, 0, size_t(c.width) * sizeof(float));
    for (int64_t s = 0; s < attended; s += SPAN)
        for (int64_t k = 0; k < c.width; k += PANEL)
            kernels.mix(rows, s, least(attended, s + SPAN), packed.strip(c, both, k / PANEL) + s * PANEL, PANEL,
                        least(PANEL, c.width - k), z + k, all_heads * c.width);
}

void many_tokens_each(const Kernels& kernels, const AttentionCall& c, int stages, int threads) {
    int64_t all_heads = c.groups * c.heads, chunks = (c.tokens + CHUNK - 1) / CHUNK;
    threads = for_work(c.texts * all_heads * c.tokens * c.positions * c.width, threads);
    thread_local Scratch memory;
    Packed packed(c);
    if (stages & (SCORES | MIX)) {
        int64_t keys = stages & SCORES ? c.texts * c.groups * packed.panels * c.width * PANEL : 0;
        int64_t values = stages & MIX ? c.texts * c.groups * packed.strips * c.positions * PANEL : 0;
        memory.reserve(Scratch::bytes<float>(keys) + Scratch::bytes<float>(values));
        packed.keys = memory.take<float>(keys), packed.values = memory.take<float>(values);
        pack(kernels, c, stages, packed, threads);
    }
    WorkStealing pieces(c.texts * all_heads * chunks, 1);
    on_each(threads, [&](int index, int size) {
        pieces.each(index, size, [&](Share part) {
            for (int64_t i = part.from; i < part.to; ++i)  // the longest rows first: threads end together
                chunk(kernels, c, stages, packed, i / chunks / all_heads, i / chunks % all_heads,
                      (chunks - 1 - i % chunks) * CHUNK);
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

// scores and pattern [texts, heads, tokens, width]; sinks [heads] or null.
EXPORT void cutaway_softmax(const float* scores, int64_t rows, int64_t width, const float* sinks, int64_t heads,
                            int64_t tokens, float* pattern, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    split(rows, for_work(rows * width, threads), [&](int64_t from, int64_t to) {
        thread_local Scratch memory;
        memory.reserve(Scratch::bytes<float>(width));
        float* weights = memory.take<float>(width);
        for (int64_t r = from; r < to; ++r)
            kernels.softmax(scores + r * width, width, sinks ? sinks[r / tokens % heads] : -INFINITY, weights,
                            pattern + r * width);
        store_fence();
    });
}

}  // extern "C"
