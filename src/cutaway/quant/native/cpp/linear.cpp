// The quantized linear layer, from activations to results: blocks of tokens, groups of weight rows, threads.
// It does not know which instructions multiply, nor Python or torch: this is a plain C interface.

#include "calls.h"
#include "isa.h"
#include "team.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t BLOCK_BYTES = 1024 * 1024;  // codes of the tokens of one block: a second-level cache
constexpr int64_t STEAL = 4;                // groups of weight rows that a thread takes at once, for one token
constexpr int64_t SMALL = 1 << 15;           // below so many products a second thread costs more than it brings

thread_local Scratch activations_memory, results_memory;

int64_t padded(int64_t width) { return (width + 63) / 64 * 64; }

// ---- activations ----------------------------------------------------------------------------------------------

int64_t groups_of_columns(const Layer& layer) { return (layer.width + COLUMNS - 1) / COLUMNS; }

// A line more than a panel needs: rows a power of two apart would share few sets of the nearest cache.
int64_t row_bytes(const Layer& layer) { return layer.panels ? padded(layer.width) * 2 + 64 : padded(layer.width); }

Tokens make_tokens(const Layer& layer, int64_t count) {
    int64_t stride = row_bytes(layer), codes = count * stride, outliers = layer.panels ? 0 : layer.width;
    int64_t scales = layer.panels ? count * groups_of_columns(layer) : 0;
    using S = Scratch;
    activations_memory.reserve(S::bytes<uint8_t>(codes) + S::bytes<float>(scales) + S::bytes<Token>(count) +
                               S::bytes<int32_t>(outliers) + S::bytes<int32_t>(count * outliers) +
                               S::bytes<float>(count * outliers));
    Tokens tokens = {};
    tokens.stride = stride;
    tokens.codes = activations_memory.take<uint8_t>(codes);
    tokens.scales = activations_memory.take<float>(scales);
    tokens.rows = activations_memory.take<Token>(count);
    tokens.columns = activations_memory.take<int32_t>(outliers);
    int32_t* slots = activations_memory.take<int32_t>(count * outliers);
    float* values = activations_memory.take<float>(count * outliers);
    for (int64_t t = 0; t < count; ++t) {
        tokens.rows[t].slots = slots + t * outliers;
        tokens.rows[t].values = values + t * outliers;
    }
    return tokens;
}

// The row in float32, after the norm where there is one. scratch: two rows of floats, used where it must be made.
const float* row_of(const Kernels& kernels, const Call& call, int64_t token, float* scratch) {
    int64_t width = call.layer->width, at = token * width;
    const float* x = (const float*)call.x + at;
    if (call.dtype != FLOAT32) kernels.widen((const uint16_t*)call.x + at, scratch, width), x = scratch;
    if (call.norm.kind == NO_NORM) return x;
    float* out = call.normed ? call.normed + at : scratch + width;
    kernels.norm({x, call.norm, width, call.scale ? call.scale + token : nullptr,
                  call.normalized ? call.normalized + at : nullptr, out});
    return out;
}

// The nearest float16, as a float: what bitsandbytes sees of an activation. Past float16's range x is an outlier,
// or not finite, all the same.
float through_half(float x) {
    float size = std::fabs(x);
    if (!(size < 65504.0f)) return x;
    if (size < 6.103515625e-05f) return std::copysign(size + 0.75f - 0.75f, x);  // steps of 2^-24, as near 0.75
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void quantize_row(const Kernels& kernels, const Call& call, const Tokens& tokens, int64_t t, const uint8_t* pooled,
                  float* scratch) {
    const Layer& layer = *call.layer;
    const float *x = row_of(kernels, call, tokens.first + t, scratch), *seen = x;
    if (pooled) {
        float* half = scratch + 2 * layer.width;
        for (int64_t k = 0; k < layer.width; ++k) half[k] = through_half(x[k]);
        seen = half;
    }
    uint8_t* codes = tokens.codes + t * tokens.stride;
    if (layer.panels) {
        tokens.rows[t].outliers = 0;
        float* scales = tokens.scales + t * groups_of_columns(layer);
        kernels.round(x, layer.width, padded(layer.width), (int16_t*)codes, scales);
        return;
    }
    kernels.quantize(seen, x, layer.width, tokens.stride, pooled, codes, tokens.rows[t]);
}

// Which columns hold an outlier in any token of the call.
void pool_columns(const Kernels& kernels, Call call, uint8_t* pooled, float* scratch) {
    int64_t width = call.layer->width;
    call.scale = call.normalized = call.normed = nullptr;  // shown when the rows are quantized
    memset(pooled, 0, size_t(width));
    for (int64_t t = 0; t < call.tokens; ++t) {
        const float* x = row_of(kernels, call, t, scratch);
        for (int64_t k = 0; k < width; ++k) pooled[k] |= std::fabs(through_half(x[k])) >= 6.0f;
    }
}

// One token's outliers are its columns; several share a list, so that a weight is fetched once for all of them.
void list_columns(const Layer& layer, Tokens& tokens, int32_t* index) {
    tokens.n_columns = 0;
    bool any = false;
    for (int64_t t = 0; t < tokens.count; ++t) any = any || tokens.rows[t].outliers;
    if (!any) return;
    memset(index, -1, size_t(layer.width) * sizeof *index);
    for (int64_t t = 0; t < tokens.count; ++t) {
        Token& token = tokens.rows[t];
        for (int32_t j = 0; j < token.outliers; ++j) {
            int32_t column = token.slots[j];
            if (index[column] < 0) {
                index[column] = tokens.n_columns;
                tokens.columns[tokens.n_columns++] = column;
            }
            token.slots[j] = index[column];
        }
    }
}

// ---- products -------------------------------------------------------------------------------------------------

struct Space {
    int32_t* dots[2];  // the group's, and where gated its other half's: float sums where weights lie in panels
    float* columns[2];
    int8_t* panel;
};

Space make_space(const Layer& layer, int64_t tokens) {
    using S = Scratch;
    int64_t panel = layer.panels ? 0 : padded(layer.width) * GROUP * 2;
    int64_t dots = tokens * GROUP;
    results_memory.reserve(2 * (S::bytes<int32_t>(dots) + S::bytes<float>(layer.width * GROUP)) +
                           S::bytes<int8_t>(panel));
    Space space;
    space.panel = results_memory.take<int8_t>(panel);
    for (int side = 0; side < 2; ++side) {
        space.dots[side] = results_memory.take<int32_t>(dots);
        space.columns[side] = results_memory.take<float>(layer.width * GROUP);
    }
    return space;
}

Part multiply(const Kernels& kernels, const Layer& layer, const Tokens& tokens, int64_t row, int32_t rows, const Space& space,
              int side) {
    if (layer.panels) {
        int64_t groups = groups_of_columns(layer);
        kernels.panel_dots({(const int16_t*)tokens.codes, tokens.stride / 2, tokens.count, tokens.scales,
                            layer.panels + row / GROUP * groups * PANEL_BYTES, groups, (float*)space.dots[side]});
        return {row, rows, space.dots[side], nullptr};
    }
    kernels.dots({tokens.codes, tokens.stride, tokens.count, layer.codes + row * layer.width, layer.width, rows,
                  space.dots[side], space.panel});
    if (tokens.n_columns) kernels.gather(layer, tokens, row, rows, space.columns[side]);
    return {row, rows, space.dots[side], space.columns[side]};
}

// The results of one thread's groups for one block of tokens.
void run_groups(const Kernels& kernels, const Call& call, const Tokens& tokens, Share groups, const Space& space) {
    for (int64_t group = groups.from; group < groups.to; ++group) {
        int64_t row = group * GROUP, left = call.columns - row;
        int32_t rows = int32_t(left < GROUP ? left : GROUP);
        Part part = multiply(kernels, *call.layer, tokens, row, rows, space, 0), up = {};
        if (call.gated) up = multiply(kernels, *call.layer, tokens, call.columns + row, rows, space, 1);
        kernels.finish(call, tokens, part, call.gated ? &up : nullptr);
    }
}

int64_t groups_of(const Call& call) { return (call.columns + GROUP - 1) / GROUP; }

// One token: every thread quantizes it for itself, which is cheaper than waiting for another to do it.
void run_one(const Kernels& kernels, const Call& call, int threads) {
    WorkStealing portions(groups_of(call), STEAL);
    auto part = [&](int index, int size) {
        Tokens tokens = make_tokens(*call.layer, 1);
        tokens.count = 1;
        Space space = make_space(*call.layer, 1);
        Call own = call;
        if (index) own.scale = own.normalized = own.normed = nullptr;  // one thread shows what all compute
        quantize_row(kernels, own, tokens, 0, nullptr, space.columns[0]);  // which is not needed for columns yet
        tokens.n_columns = tokens.rows[0].outliers;
        memcpy(tokens.columns, tokens.rows[0].slots, size_t(tokens.n_columns) * sizeof(int32_t));
        for (int32_t j = 0; j < tokens.n_columns; ++j) tokens.rows[0].slots[j] = j;
        portions.each(index, size, [&](Share groups) { run_groups(kernels, call, tokens, groups, space); });
        store_fence();
    };
    on_each(threads, part, call.layer->span);
}

void quantize_block(const Kernels& kernels, const Call& call, Tokens& tokens, const uint8_t* pooled, int threads) {
    split(tokens.count, tokens.count > 8 ? threads : 1, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t)
            quantize_row(kernels, call, tokens, t, pooled, make_space(*call.layer, 1).columns[0]);
        store_fence();
    });
    list_columns(*call.layer, tokens, (int32_t*)make_space(*call.layer, 1).columns[0]);
}

void multiply_block(const Kernels& kernels, const Call& call, const Tokens& tokens, int threads) {
    split(groups_of(call), threads, [&](int64_t from, int64_t to) {
        run_groups(kernels, call, tokens, {from, to}, make_space(*call.layer, tokens.count));
        store_fence();
    });
}

// Many tokens: block after block is quantized by all threads together, then each takes its own weight rows.
void run_many(const Kernels& kernels, const Call& call, int threads) {
    const Layer& layer = *call.layer;
    int64_t block = BLOCK_BYTES / row_bytes(layer) / 8 * 8;
    block = block < 16 ? 16 : block > 256 ? 256 : block;
    block = block < call.tokens ? block : call.tokens;
    std::vector<uint8_t> pooled(size_t(layer.pooled ? layer.width : 0));
    if (layer.pooled) pool_columns(kernels, call, pooled.data(), make_space(layer, 1).columns[0]);
    Tokens tokens = make_tokens(layer, block);
    for (; tokens.first < call.tokens; tokens.first += block) {
        tokens.count = call.tokens - tokens.first < block ? call.tokens - tokens.first : block;
        quantize_block(kernels, call, tokens, layer.pooled ? pooled.data() : nullptr, threads);
        multiply_block(kernels, call, tokens, threads);
    }
}

}  // namespace

void linear(const Kernels& kernels, Call call, int threads) {
    if (!call.tokens || !call.columns) return;
    if (call.result == call.out) call.result = nullptr;
    if (call.tokens * call.layer->rows * call.layer->width < SMALL) threads = 1;
    if (call.tokens == 1 && !call.layer->pooled) run_one(kernels, call, threads);
    else run_many(kernels, call, threads);
}

extern "C" {

// out [tokens, rows] = the activation of the layer of x [tokens, width]; gated: [tokens, rows / 2], the activation of its
// first half times its second; limit, alpha, product, other_half: of Call.
EXPORT void cutaway_linear(const Layer* layer, const void* x, void* out, float* product, float* other_half,
                           int64_t tokens, int32_t dtype, int32_t activation, int32_t gated, float limit, float alpha,
                           int32_t threads) {
    Call call = {};
    call.layer = layer, call.x = x, call.out = out, call.tokens = tokens;
    call.columns = gated ? layer->rows / 2 : layer->rows;
    call.activation = Activation(activation), call.gated = gated;
    call.dtype = Dtype(dtype), call.limit = limit, call.alpha = alpha;
    call.product = product, call.other_half = other_half;
    // The stream between the layers is as wide as the narrower side: by its size torch's own ops are parallel, or not.
    int64_t floats = tokens * (layer->width < layer->rows ? layer->width : layer->rows);
    in_thread_team_if_small(floats, threads, [&](int size) { linear(chosen_kernels(), call, size); });
}

// How many threads a call with `threads` really has.
EXPORT int32_t cutaway_team(int32_t threads) {
    int32_t team = 0;
    on_each(threads, [&](int index, int size) {
        if (index == 0) team = size;
    });
    return team;
}

// shift [rows] = ZERO_POINT · the sum of each row's codes: the product with a token of ones.
EXPORT void cutaway_shift(const int8_t* codes, int64_t rows, int64_t width, int32_t* shift, int32_t threads) {
    const Kernels& kernels = chosen_kernels();
    std::vector<uint8_t> ones(size_t(padded(width)), 1);
    split((rows + GROUP - 1) / GROUP, threads, [&](int64_t from, int64_t to) {
        for (int64_t row = from * GROUP; row < rows && row < to * GROUP; row += GROUP) {
            int32_t count = int32_t(rows - row < GROUP ? rows - row : GROUP), sums[GROUP];
            kernels.dots({ones.data(), padded(width), 1, codes + row * width, width, count, sums, nullptr});
            for (int32_t r = 0; r < count; ++r) shift[row + r] = ZERO_POINT * sums[r];
        }
    });
}

}  // extern "C"
