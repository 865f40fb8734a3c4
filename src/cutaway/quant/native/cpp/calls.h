// What Python calls and a whole block calls too.
#pragma once

#include "isa.h"

// Attention over keys and values [texts, positions, groups, width] at any strides but the last.
// native/ops.py holds the same struct: change both together.
struct AttentionCall {
    const float *q, *keys, *values;  // a token's q every q_token floats, its heads side by side
    const uint8_t* mask;             // bool [texts or 1, tokens, positions], or null
    float *scores, *pattern;         // [texts, groups · heads, tokens, row], or null where not wanted
    float* z;                        // [texts, tokens, groups · heads, width]
    int64_t texts, groups, heads, tokens, positions, width, row;  // heads in one group; row ≥ positions
    int64_t q_text, q_token, key_text, key_group, key_position, value_text, value_group, value_position, mask_text;
    int64_t causal;  // token t attends to positions up to t alone
    // Of one new token a text alone: the scores are capped (norm.h), 0: not; then these are added, or null.
    const float* bias;  // [texts, groups · heads, positions]
    float softcap;
    const float* sinks;  // [groups · heads]: what joins each head's softmax, or null
};

enum Stages : int32_t { SCORES = 1, SOFTMAX = 2, MIX = 4 };

// attention.cpp: the stages asked for; scores and pattern that lie between two of them need not be wanted.
void attention(const Kernels& kernels, const AttentionCall& call, int stages, int threads);

// rows.cpp: out [tokens, rows] = x [tokens, width] · w [rows, width], + bias [rows] where it is not null.
void float_product(const Kernels& kernels, const float* x, const float* w, const float* bias, int64_t tokens,
                   int64_t rows, int64_t width, float* out, int threads);

// rows.cpp: a token's score for each expert: of the `chosen` with the largest logits their softmax, over all experts or,
// normalized, over the chosen; 0 of the others. Of equal ones the first is larger.
void route(const Kernels& kernels, const float* logits, int64_t experts, int64_t chosen, bool normalized,
           float* scores);

// linear.cpp
void linear(const Kernels& kernels, Call call, int threads);
