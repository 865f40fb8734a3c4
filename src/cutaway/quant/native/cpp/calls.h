// What Python calls and a whole block calls too.
#pragma once

#include "isa.h"

// What stays the same from token to token: the shapes of a cache and of the heads that use it. native/steps.py holds
// the same struct: change both together.
struct StepShape {
    int64_t texts, groups, heads, width, pairs;  // heads in one group; pairs that turn, 0 where none do
    int64_t text_stride, group_stride, place_stride;
    int64_t mask_stride, mask_step;
};

extern "C" {

// int8.cpp
EXPORT void cutaway_linear(const Layer* layer, const void* x, void* out, int64_t tokens, const void* residual,
                           int32_t epilogue, int32_t dtype, const float* w, const float* b, float eps, const Room* room,
                           int32_t threads);

// steps.cpp
EXPORT void cutaway_attention_step(const StepShape* shape, const float* qkv, const float* cos, const float* sin,
                                   float* keys, float* values, const uint8_t* mask, int64_t places, const Room* room,
                                   float* z, int32_t threads);

}  // extern "C"
