// What the linear layer and the instruction paths say to each other: plain data and a table of functions.
// It does not know Python, torch, threads, nor how any path computes.
#pragma once

#include <cstdint>

#define EXPORT __attribute__((visibility("default")))

constexpr int GROUP = 16;            // weight rows that are finished together: one vector of results
constexpr int64_t MAX_WIDTH = 65536; // 255 · 127 · width must fit in 32 bits
constexpr int ZERO_POINT = 128;      // activation codes are stored as unsigned bytes: code + 128
constexpr int DIGITS = 3;            // bytes, to base 256, that hold an activation as well as its 24 bits do

// One quantized linear layer. The arrays beside the codes are padded to a multiple of GROUP rows.
// native/layer.py holds the same struct: change both together.
struct Layer {
    const int8_t* codes;          // [rows, width], as they lie on disk
    const int32_t* shift;         // ZERO_POINT · (sum of the row's codes): what the zero point adds to a dot product
    const float* factor;          // scale / 127²
    const float* outlier_factor;  // scale / 127
    const float* bias;            // or null
    int64_t rows, width;
    struct Stretch* stretch;      // the codes as what every pass reads (team.h)
    int32_t pooled;               // outlier columns are shared by all tokens of a call
    int32_t digits;               // bytes of an activation: 1 as LLM.int8() rounds it, DIGITS to hold a float32
};

enum Epilogue : int32_t { PLAIN = 0, RELU = 1, RESIDUAL = 2, GATED_SILU = 3 };
enum Dtype : int32_t { FLOAT32 = 0, BFLOAT16 = 1 };

// Where values that are born inside a call are kept, row by row. native/buffers.py holds the same struct: change both
// together.
struct Room {
    float* const* start;  // of each value; null where nobody asks for it
    const int64_t* step;  // floats of a row
    int64_t at;           // the row that is written next

    static float* slot(const Room* room, int i) {
        return room && room->start[i] ? room->start[i] + room->at * room->step[i] : nullptr;
    }

    Room from(int i) const { return {start + i, step + i, at}; }  // the values of a part of the call
};

// The norm that stands before a layer (steps.h); w is null where none does.
struct Norm {
    const float *w, *b;  // b: null for RMSNorm
    float eps;
};

// One call of a layer. With GATED_SILU the first half of the rows is the gate and the output half as wide.
struct Call {
    const Layer* layer;
    const void* x;         // [tokens, width]
    void* out;             // [tokens, columns]
    const void* residual;  // as out, or null
    int64_t tokens, columns;
    Epilogue epilogue;
    Dtype dtype;
    Norm norm;
    // What is inside, float32, where it is asked for: of the norm [tokens], [tokens, width] twice; what the epilogue
    // takes [tokens, columns], where gated of each half; the result once more.
    float *scale, *normalized, *normed, *product, *other_half, *result;
};

// One quantized activation row. Its outliers are in the order of their columns.
struct Token {
    float scale;  // NaN where the row holds NaN or infinity: so is the whole result
    int32_t outliers;
    int32_t* slots;  // first the outliers' columns, later their places in Tokens::columns
    float* values;
};

// A block of quantized rows, and the columns in which any of them has an outlier.
struct Tokens {
    uint8_t* codes;  // [count, digits, stride], padded with code 0
    int64_t stride, first, count;
    Token* rows;
    int32_t* columns;
    int32_t n_columns;
};

// Up to GROUP weight rows times rows of activation codes. A path may rearrange the weights in `panel`: [width, GROUP]
// bytes, with the width rounded up to 64, aligned to 64 bytes.
struct Dots {
    const uint8_t* x;
    int64_t stride, tokens;  // where a token has several digits, each is a row and counts as a token
    const int8_t* w;
    int64_t width;
    int32_t rows;
    int32_t* out;  // [tokens, GROUP]
    int8_t* panel;
};

// Results of one group before they are finished.
struct Part {
    int64_t row;           // the first weight row
    int32_t rows;          // how many of the GROUP are real
    const int32_t* dots;   // [tokens, digits, GROUP]
    const float* columns;  // [n_columns, GROUP]: the weights' codes in the outlier columns
};

// One new token's attention over the places of one key/value head.
struct Attention {
    const float *q, *keys, *values;  // q [heads, width]; a key or value row every `stride` floats
    const uint8_t* mask;             // first byte of a 0/1 element every mask_step bytes, or null
    int64_t heads, width, places, stride, mask_step;
    float* scores;  // scratch [heads, places rounded up to 16]
    float* z;       // [heads, width]
};

// Attention of some tokens by one head, whose every step is kept. A token sees the places below its limit.
struct Open {
    const float *q, *keys, *values;     // q a row every q_stride; a value row every value_stride
    int64_t q_stride, value_stride, z_stride;
    const uint8_t* mask;                // bool [tokens, places], or null
    int64_t tokens, width, places;
    int64_t limit, later;               // token i sees `limit + i · later` places at most
    float *scores, *pattern, *z;        // [tokens, places] twice; z a row every z_stride
};

constexpr int PANEL = 32;  // places whose keys lie beside each other, component by component: [panels, width, PANEL]

// One row brought to unit size. What is inside the step is written where it is asked for: not null.
struct Row {
    const float *x, *w, *b;  // b of layer_norm only
    float eps;
    int64_t width;
    float *scale, *normalized, *out;
};

struct Path {
    const char* name;
    bool (*available)();
    void (*dots)(const Dots&);
    void (*widen)(const uint16_t* bfloat16, float* out, int64_t count);
    void (*quantize)(const float* seen, const float* x, int64_t width, int64_t padded, const uint8_t* pooled,
                     uint8_t* codes, Token& token);
    void (*expand)(const float* x, int64_t width, int64_t padded, uint8_t* codes, Token& token);
    void (*gather)(const Layer& layer, const Tokens& tokens, int64_t row, int32_t rows, float* columns);
    void (*finish)(const Call& call, const Tokens& tokens, const Part& part, const Part* up);
    void (*rms_norm)(const Row& row);
    void (*layer_norm)(const Row& row);
    void (*rotate)(const float* x, const float* cos, const float* sin, int64_t pairs, int64_t width, float* out);
    void (*silu_mul)(const float* gate, const float* up, int64_t width, float* out);
    void (*attend)(const Attention& a);
    void (*attend_open)(const Open& o);
};

extern const Path PORTABLE_PATH;
#if defined(__x86_64__)
extern const Path AVX2_PATH, AVX512_PATH;
#endif

const Path& chosen_path();  // the fastest that this machine has, or the one that was forced
