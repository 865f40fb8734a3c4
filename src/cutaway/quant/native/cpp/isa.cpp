// Which instruction set runs: the fastest that this machine has, unless one is asked for. It does not know what its
// functions compute.

#include "isa.h"

#include <atomic>
#include <cstring>

namespace {

const Kernels* const ALL[] = {
#if defined(__x86_64__)
    &AVX512,
    &AVX2,
#endif
    &PORTABLE,
};
constexpr int COUNT = sizeof ALL / sizeof *ALL;

const Kernels* fastest() {
    int i = 0;
    while (!ALL[i]->available()) ++i;  // the portable one always is
    return ALL[i];
}

std::atomic<const Kernels*> asked{nullptr};

}  // namespace

const Kernels& chosen_kernels() {
    static const Kernels* const best = fastest();
    const Kernels* kernels = asked.load(std::memory_order_relaxed);
    return kernels ? *kernels : *best;
}

extern "C" {

// The name of instruction set `index`, fastest first; "" where this machine has not its instructions; null past the
// last.
EXPORT const char* cutaway_isa_name(int32_t index) {
    if (index < 0 || index >= COUNT) return nullptr;
    return ALL[index]->available() ? ALL[index]->name : "";
}

EXPORT const char* cutaway_isa() { return chosen_kernels().name; }

// Run this instruction set from now on, or the fastest one for null. 0 where this machine does not have it.
EXPORT int32_t cutaway_use_isa(const char* name) {
    if (!name) asked = nullptr;
    for (const Kernels* kernels : ALL) {
        if (!name || strcmp(name, kernels->name) || !kernels->available()) continue;
        asked = kernels;
        return 1;
    }
    return !name;
}

}  // extern "C"
