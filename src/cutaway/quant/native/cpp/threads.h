// The parts of threads, and scratch memory that outlives a call. It does not know what is computed.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

struct Share {
    int64_t from, to;
};

// Part `index` of `parts` of `count` things: contiguous, and as even as whole things allow.
inline Share share(int64_t count, int index, int parts) { return {count * index / parts, count * (index + 1) / parts}; }

// How many threads for so many floats: below these, a second one costs more than it brings.
inline int for_work(int64_t floats, int threads) { return floats < 1 << 15 ? 1 : threads; }

// Before another thread may read what stream_store wrote (vectors.h): such stores keep no order by themselves.
inline void store_fence() {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

// Memory that grows to the largest request and is never given back while its thread lives.
class Scratch {
  public:
    ~Scratch() { free(memory_); }

    void reserve(size_t bytes) {
        bytes = (bytes + 63) / 64 * 64;
        used_ = 0;
        if (bytes <= size_) return;
        free(memory_);
        memory_ = (char*)aligned_alloc(64, bytes);
        size_ = memory_ ? bytes : 0;
        if (!memory_) throw std::bad_alloc();
    }

    template <class T>
    T* take(int64_t count) {  // 64-byte aligned; bytes(count) of what was reserved
        T* start = (T*)(memory_ + used_);
        used_ += bytes<T>(count);
        return start;
    }

    template <class T>
    static size_t bytes(int64_t count) {
        return (size_t(count) * sizeof(T) + 63) / 64 * 64;
    }

  private:
    char* memory_ = nullptr;
    size_t size_ = 0, used_ = 0;
};
