// A team: the threads of one OpenMP region that stay together over many layers. Between two of them they read weights
// ahead, so that memory does not idle while one thread works alone. It does not know what the work is.
#pragma once

#include "threads.h"

#include <atomic>
#include <cstdint>
#include <omp.h>

// Bytes that are read in every pass, and those that were read after them in the last one. It is an error to free the
// bytes before `forget`.
struct WeightSpan {
    const char* bytes;
    int64_t count;
    WeightSpan *before, *next;  // only `follow` and `forget` write these, under a lock

    static void follow(WeightSpan* before, WeightSpan* after);  // from now on
    static void forget(WeightSpan* span);                 // no thread reads it when this returns
};

class Team {
  public:
    explicit Team(int size) : size_(size) {}

    // The team that the calling thread leads, or null.
    static Team* mine();

    // body(context) runs on the calling thread, which leads; the others of the region serve until it is over.
    static void gather(void (*body)(const void* context), const void* context, int threads);

    // work(index, size) on every thread, the leader's own part included. reads: what the work reads of what every pass
    // reads, or null.
    template <class Work>
    void run(const Work& work, WeightSpan* reads) {
        if (reads && last_ && last_->next != reads) WeightSpan::follow(last_, reads);
        if (reads) last_ = reads;
        call_ = [](const void* w, int index, int size) { (*(const Work*)w)(index, size); };
        work_ = &work;
        left_.store(size_ - 1, std::memory_order_relaxed);
        turn_.fetch_add(1, std::memory_order_release);
        work(0, size_);
        while (left_.load(std::memory_order_acquire)) pause();
    }

  private:
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // What one thread has fetched and not yet worked on, in the order of the work.
    class Prefetched {
      public:
        struct Part {
            const WeightSpan* span;
            int64_t done;  // bytes, in the order in which `fetch` takes them
        };

        int64_t begin(const WeightSpan& next);  // the work that comes next; the bytes fetched from there on
        bool add(const WeightSpan& span);    // false where there are too many
        Part& last() { return parts_[count_ - 1]; }

      private:
        static constexpr int MOST = 8;
        Part parts_[MOST];
        int count_ = 0;
    };

    void serve(int index);
    bool asked(uint32_t seen) const { return turn_.load(std::memory_order_acquire) != seen; }
    void fetch(int index, uint32_t seen, const WeightSpan& next, Prefetched& ahead) const;

    int size_;
    void (*call_)(const void*, int, int) = nullptr;
    const void* work_ = nullptr;
    WeightSpan* last_ = nullptr;
    bool over_ = false;
    alignas(64) std::atomic<uint32_t> turn_{0};
    alignas(64) std::atomic<int> left_{0};
};

// body() on the calling thread, which leads a team of so many threads meanwhile.
template <class Body>
void in_thread_team(int threads, const Body& body) {
    Team::gather([](const void* context) { (*(const Body*)context)(); }, &body, threads);
}

// work(index, size) on every thread of the caller's team, or of a region of so many threads; alone where threads is 1.
template <class Work>
void on_each(int threads, const Work& work, WeightSpan* reads = nullptr) {
    if (threads <= 1) return work(0, 1);
    if (Team* team = Team::mine()) return team->run(work, reads);
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num(), omp_get_num_threads());
}

// work(from, to) for contiguous parts of `count` things.
template <class Work>
void split(int64_t count, int threads, const Work& work) {
    on_each(threads, [&](int index, int size) {
        Share part = share(count, index, size);
        work(part.from, part.to);
    });
}

// Things that threads take a portion at a time: their own share from its start, then what others have left of theirs
// from its end. No thread waits for one that is late (its memory is slower, its processor was taken away).
class WorkStealing {
  public:
    WorkStealing(int64_t count, int64_t portion) : count_(count), portion_(portion) {}

    template <class Work>
    void each(int index, int size, const Work& work) {
        if (size > MOST) return work(share(count_, index, size));
        for (int i = 0; i < size; ++i) {
            int owner = (index + i) % size;
            Taken& taken = taken_[owner];
            Share own = share(count_, owner, size);
            int64_t portions = (own.to - own.from + portion_ - 1) / portion_;
            while (taken.all.fetch_add(1, std::memory_order_relaxed) < portions) {
                int64_t at = i ? portions - 1 - taken.last.fetch_add(1, std::memory_order_relaxed) : taken.first++;
                int64_t from = own.from + at * portion_;
                work({from, from + portion_ < own.to ? from + portion_ : own.to});
            }
        }
    }

  private:
    static constexpr int MOST = 64;
    struct alignas(64) Taken {  // of one share: by its owner from the start, by others from the end
        std::atomic<int64_t> all{0}, last{0};
        int64_t first = 0;
    };
    int64_t count_, portion_;
    Taken taken_[MOST];
};
