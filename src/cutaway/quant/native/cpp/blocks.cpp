// Blocks of a decoder for one new place of each text: the four products of each and the attention between them.
// It does not know how any of them is computed, nor Python or torch.

#include "calls.h"
#include "threads.h"

#include <cstring>

// What stays the same from token to token. native/blocks.py holds the same struct: change both together.
struct Block {
    const Layer *qkv, *out, *up, *down;
    const float *w1, *b1, *w2, *b2;  // of the norms before attention and before the MLP; b: null for RMSNorm
    const StepShape* shape;
    float *keys, *values;  // the cache's
    float eps1, eps2;
    int32_t nonlinearity;  // an Epilogue
};

namespace {

// Where the values of each part begin among those of a block, in the order of decoder.py: Block.inside. native/blocks.py
// has their number, too: change both together.
enum Slots { STREAM = 0, READS = 1, ATTENTION = 7, SUM = 15, MLP = 21, LAST_SUM = 27, SLOTS = 33 };

void run(const Block& b, const float* x, const float* cos, const float* sin, const uint8_t* mask, int64_t places,
         const Room* room, float* result, int32_t threads) {
    int64_t texts = b.shape->texts, width = b.out->rows;
    thread_local Scratch memory;
    memory.reserve(Scratch::room<float>(texts * b.qkv->rows) + Scratch::room<float>(texts * b.out->width) +
                   Scratch::room<float>(texts * width) + Scratch::room<float>(texts * b.down->width));
    float *qkv = memory.take<float>(texts * b.qkv->rows), *z = memory.take<float>(texts * b.out->width);
    float *mid = memory.take<float>(texts * width), *post = memory.take<float>(texts * b.down->width);
    Room part;
    auto of = [&](Slots first) { return room ? &(part = room->from(first)) : nullptr; };
    if (float* stream = Room::slot(room, STREAM)) memcpy(stream, x, size_t(texts * width) * sizeof(float));
    cutaway_linear(b.qkv, x, qkv, texts, nullptr, PLAIN, FLOAT32, b.w1, b.b1, b.eps1, of(READS), threads);
    cutaway_attention_step(b.shape, qkv, cos, sin, b.keys, b.values, mask, places, of(ATTENTION), z, threads);
    cutaway_linear(b.out, z, mid, texts, x, RESIDUAL, FLOAT32, nullptr, nullptr, 0, of(SUM), threads);
    cutaway_linear(b.up, mid, post, texts, nullptr, b.nonlinearity, FLOAT32, b.w2, b.b2, b.eps2, of(MLP), threads);
    cutaway_linear(b.down, post, result, texts, mid, RESIDUAL, FLOAT32, nullptr, nullptr, 0, of(LAST_SUM), threads);
}

}  // namespace

extern "C" {

// x and result [texts, width]. cos, sin, mask, places: as cutaway_attention_step takes them. room, or null: all that is
// inside each block.
EXPORT void cutaway_blocks(const Block* const* blocks, int64_t count, const float* x, const float* cos,
                           const float* sin, const uint8_t* mask, int64_t places, const Room* room, float* result,
                           int32_t threads) {
    for (int64_t i = 0; i < count; ++i) {
        Room own;
        if (room) own = room->from(int(i) * SLOTS);
        run(*blocks[i], i ? result : x, cos, sin, mask, places, room ? &own : nullptr, result, threads);
    }
}

}  // extern "C"
