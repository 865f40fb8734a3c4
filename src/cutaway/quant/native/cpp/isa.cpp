// Which instruction path runs: the fastest that this machine has, unless one is forced. It does not know what they do.

#include "isa.h"

#include <atomic>
#include <cstring>

namespace {

const Path* const ALL[] = {
#if defined(__x86_64__)
    &AVX512_PATH,
    &AVX2_PATH,
#endif
    &PORTABLE_PATH,
};
constexpr int COUNT = sizeof ALL / sizeof *ALL;

const Path* fastest() {
    int i = 0;
    while (!ALL[i]->available()) ++i;  // the portable one always is
    return ALL[i];
}

std::atomic<const Path*> forced{nullptr};

}  // namespace

const Path& chosen_path() {
    static const Path* const best = fastest();
    const Path* path = forced.load(std::memory_order_relaxed);
    return path ? *path : *best;
}

extern "C" {

// The name of path `index`, fastest first; "" where this machine has not its instructions; null past the last.
EXPORT const char* cutaway_path_name(int32_t index) {
    if (index < 0 || index >= COUNT) return nullptr;
    return ALL[index]->available() ? ALL[index]->name : "";
}

EXPORT const char* cutaway_path() { return chosen_path().name; }

// Use this path from now on, or the fastest one for null. 0 where there is no such path here.
EXPORT int32_t cutaway_force(const char* name) {
    if (!name) forced = nullptr;
    for (const Path* path : ALL) {
        if (!name || strcmp(name, path->name) || !path->available()) continue;
        forced = path;
        return 1;
    }
    return !name;
}

}  // extern "C"
