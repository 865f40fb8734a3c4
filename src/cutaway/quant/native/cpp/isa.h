// What the layers, the attention and each instruction set say to each other: plain data and a table of functions.
// It does not know Python, torch, threads, nor how any instruction set computes.
#pragma once

#include <cstdint>

#define EXPORT __attribute__((visibility("default")))

constexpr int GROUP = 16;            // weight rows that are finished together: one vector of results
constexpr int64_t MAX_WIDTH = 65536; // 255 · 127 · width must fit in 32 bits
constexpr int ZERO_POINT = 128;      // activation codes are stored as unsigned bytes: code + 128
constexpr int COLUMNS = 32;          // that share a scale, of a weight row and of an activation, with weights in panels
constexpr int PANEL_BYTES = GROUP * (2 + COLUMNS);  // of one group of columns: 16 scales, then 16 pairs of columns
constexpr int PANEL = 32;            // positions whose keys lie beside each other, component by component

// ---- linear layers ---------------------------------------------------------------------------------------------

// One quantized linear layer: grouped weights in panels (quant/panels.py), or codes with one scale a row (LLM.int8()).
// The arrays beside them are padded to a multiple of GROUP rows. native/layer.py holds the same struct: change both
// together.
struct Layer {
    const int8_t* panels;         // [rows / GROUP, width / COLUMNS, PANEL_BYTES], or null
    const int8_t* codes;          // [rows, width], as they lie on disk, or null, as the three that follow
    const int32_t* shift;         // ZERO_POINT · (sum of the row's codes): what the zero point adds to a dot product
    const float* factor;          // scale / 127²
    const float* outlier_factor;  // scale / 127
    const float* bias;            // or null
    int64_t rows, width;
    struct WeightSpan* span;      // the weights as what every pass reads (team.h)
    int32_t pooled;               // outlier columns are shared by all tokens of a call
};

enum Activation : int32_t { IDENTITY = 0, RELU = 1, SILU = 2, GELU_TANH = 3, GELU = 4, RELU2 = 5 };
enum Dtype : int32_t { FLOAT32 = 0, BFLOAT16 = 1 };

enum NormKind : int32_t { NO_NORM = 0, RMS_NORM = 1, LAYER_NORM = 2 };

// What a row is normed by (norm.h). native/ops.py holds the same struct: change both together.
struct Norm {
    const float *w, *b;  // gain and bias, or null
    float eps, offset;   // offset: added to w
    NormKind kind;
};

// One call of a layer: residual + activation(product), and where gated activation(first half of the rows) · second
// half, half as wide. With a limit, only where gated: activation(alpha · first) / alpha · (1 + second), the first half
// held below it and the second on both sides.
struct Call {
    const Layer* layer;
    const void* x;         // [tokens, width]
    void* out;             // [tokens, columns]
    const void* residual;  // as out, or null
    int64_t tokens, columns;
    Activation activation;
    bool gated;
    Dtype dtype;
    float limit, alpha;  // 0: none
    Norm norm;
    // Values inside, float32, written where not null: of the norm [tokens], [tokens, width] twice; the product [tokens,
    // columns], where gated of each half; the result once more.
    float *scale, *normalized, *normed, *product, *other_half, *result;
};

// One quantized activation row. Its outliers are in the order of their columns.
struct Token {
    float scale;  // NaN where the row holds NaN or infinity: so is the whole result
    int32_t outliers;
    int32_t* slots;  // first the outliers' columns, later their indices in Tokens::columns
    float* values;
};

// A block of quantized rows, and the columns in which any of them has an outlier.
struct Tokens {
    uint8_t* codes;  // [count, stride], padded with code 0: bytes, or int16 where weights lie in panels
    float* scales;   // [count, groups] there: of each group of columns; NaN where the row holds NaN or infinity
    int64_t stride, first, count;
    Token* rows;
    int32_t* columns;
    int32_t n_columns;
};

// Up to GROUP weight rows times rows of activation codes. An instruction set may rearrange the weights in `panel`:
// [width, GROUP] of two bytes each, with the width rounded up to 64, aligned to 64 bytes.
struct Dots {
    const uint8_t* x;
    int64_t stride, tokens;
    const int8_t* w;
    int64_t width;
    int32_t rows;
    int32_t* out;  // [tokens, GROUP]
    int8_t* panel;
};

// One panel of GROUP weight rows times rows of 16-bit activation codes. Within a group of columns the sum is an exact
// int32; sums[token, row] adds the groups' sums · weight scale · activation scale, one after another.
struct PanelDots {
    const int16_t* x;
    int64_t stride, tokens;
    const float* scales;  // [tokens, groups]
    const int8_t* panel;
    int64_t groups;
    float* sums;  // [tokens, GROUP]
};

// Results of one group of rows before they are finished.
struct Part {
    int64_t row;           // the first weight row
    int32_t rows;          // how many of the GROUP are real
    const void* dots;      // [tokens, GROUP]: float sums of panels, or int32
    const float* columns;  // [n_columns, GROUP]: the weights' codes in the outlier columns
};

// ---- attention -------------------------------------------------------------------------------------------------

// Rows of one text that attend over one key/value head: tokens of one query head, or the query heads of one token.
struct Queries {
    const float* q;  // a row every q_stride
    int64_t q_stride, rows, width, positions;
    const uint8_t* mask;  // bool, a row every mask_stride, or null
    int64_t mask_stride;
    int64_t limit, later;  // row i attends to the first `limit + i · later` positions at most
    float *scores, *pattern;  // [rows, positions], a row every `stride`
    int64_t stride;
};

// ---- rows between the layers -----------------------------------------------------------------------------------

// One row normalized. Values inside are written where not null.
struct Row {
    const float* x;
    Norm norm;
    int64_t width;
    float *scale, *normalized, *out;
};

// Heads of one token that rotate by the same angles.
struct Heads {
    const float *x, *cos, *sin;  // a head every `stride` floats; cos and sin [pairs]
    int64_t pairs, heads, width, stride;
    float* out;  // [heads, width]
    int64_t interleaved;  // a pair is two neighbours
};

// ---- one instruction set's functions ---------------------------------------------------------------------------

struct Kernels {
    const char* name;
    bool (*available)();
    void (*dots)(const Dots&);
    void (*panel_dots)(const PanelDots&);
    void (*widen)(const uint16_t* bfloat16, float* out, int64_t count);
    void (*quantize)(const float* seen, const float* x, int64_t width, int64_t padded, const uint8_t* pooled,
                     uint8_t* codes, Token& token);
    void (*round)(const float* x, int64_t width, int64_t padded, int16_t* codes, float* scales);
    void (*gather)(const Layer& layer, const Tokens& tokens, int64_t row, int32_t rows, float* columns);
    void (*finish)(const Call& call, const Tokens& tokens, const Part& part, const Part* up);
    float (*mean)(const float* x, int64_t width);
    float (*root_mean_square)(const float* x, int64_t width, float eps);
    void (*dot_rows)(const float* x, const float* w, int64_t width, int64_t rows, const float* bias, float* out);
    void (*norm)(const Row& row);
    void (*copy)(const float* x, int64_t count, float* out);
    void (*activate)(Activation activation, const float* x, const float* times, int64_t width, float* out);
    void (*rotate)(const Heads& heads);
    void (*softcap)(const float* x, int64_t count, float cap, float* out);
    void (*softmax)(const float* scores, int64_t count, float sink, float* weights, float* pattern);
    void (*key_panel)(const float* keys, int64_t stride, int64_t count, int64_t width, float* panel);
    void (*scores)(const Queries& o, const float* panel, int64_t first);
    void (*hide)(const Queries& o);
    void (*mix)(const Queries& o, int64_t from, int64_t to, const float* values, int64_t value_stride, int64_t columns,
                float* z, int64_t z_stride);
};

// Every instruction set's table has the same entries, from its own namespace.
#define KERNELS_OF(space, name) \
    {name, space::available, space::dots, space::panel_dots, space::widen, space::quantize, space::round, space::gather, \
     space::finish, \
     space::mean, space::root_mean_square, space::dot_rows, space::norm, space::copy, space::activate, space::rotate, \
     space::softcap, \
     space::softmax, \
     space::key_panel, space::scores, space::hide, space::mix}

extern const Kernels PORTABLE;
#if defined(__x86_64__)
extern const Kernels AVX2, AVX512;
#endif

const Kernels& chosen_kernels();  // the fastest that this machine has, or the one that was asked for
