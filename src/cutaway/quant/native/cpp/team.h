// A team: threads of the library's own that compute parts of one work after another together with the thread that leads
// them. Parts are claimed: the leader computes all that no thread has begun, and waits for begun ones alone. Every wait
// spins for some microseconds, then sleeps. Between two works they read weights ahead, so that memory does not idle
// while one thread works alone. Work over many tokens is done by OpenMP's threads instead, which torch uses too: between
// two torch ops these spin for milliseconds, and others would compete with them. It does not know what the work is.
#pragma once

#include "threads.h"

#include <atomic>
#include <cstdint>
#include <omp.h>

constexpr int64_t TORCH_GRAIN = 1 << 15;  // numbers from which on torch computes an op on several threads

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
    static constexpr int MOST = 64;  // threads of a team, the leader's included

    // While this lives, the calling thread leads so many threads, if it does not already: the team of the process, or
    // none where that serves another leader, or threads is 1.
    class Lead {
      public:
        explicit Lead(int threads) : own_(Team::take(threads)) {}
        ~Lead() {
            if (own_) own_->release();
        }
        Lead(const Lead&) = delete;
        void operator=(const Lead&) = delete;

      private:
        Team* own_;
    };

    static Team* mine();  // the team that the calling thread leads, or null

    // work(index, size) on the calling thread and on every other that comes before the first has returned: work must
    // claim its parts. reads: what the work reads of what every pass reads, or null.
    template <class Work>
    void run(const Work& work, WeightSpan* reads) {
        begin([](const void* w, int index, int size) { (*(const Work*)w)(index, size); }, &work, reads);
        work(0, int(size_.load(std::memory_order_relaxed)));
        finish();
    }

  private:
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
        static constexpr int MANY = 8;
        Part parts_[MANY];
        int count_ = 0;
    };

    enum State : uint32_t { MEMBERS = 0xffff, OPEN = 1 << 16, LEADER_SLEEPS = 1 << 17 };  // MEMBERS: how many work

    static Team* take(int threads);
    void release();
    void grow(int threads);
    void begin(void (*call)(const void*, int, int), const void* work, WeightSpan* reads);
    void finish();
    void serve(int index);
    uint32_t next_turn(int index, uint32_t seen);
    bool join();
    void leave();
    bool asked(uint32_t seen) const { return turn_.load(std::memory_order_acquire) != seen; }
    void fetch(int index, uint32_t seen, const WeightSpan& next, Prefetched& ahead) const;

    void (*call_)(const void*, int, int) = nullptr;
    const void* work_ = nullptr;
    WeightSpan* last_ = nullptr;
    int started_ = 1;  // threads there are, a leader counted
    std::atomic<bool> taken_{false};
    std::atomic<uint32_t> size_{1};             // threads of this leader's team
    alignas(64) std::atomic<uint32_t> turn_{0};  // counts the works
    std::atomic<int> sleeping_{0};              // threads that wait for the next turn in their sleep
    alignas(64) std::atomic<uint32_t> state_{0};  // of the work of this turn: State
};

// body(threads) on the calling thread, which leads a team of so many threads meanwhile; of 1 where the team of the
// process leads another thread's work.
template <class Body>
void in_thread_team(int threads, const Body& body) {
    Team::Lead lead(threads);
    body(Team::mine() ? threads : 1);
}

// The same for an input of so many floats, if it is small: on a larger one torch's own ops are parallel, too.
template <class Body>
void in_thread_team_if_small(int64_t floats, int threads, const Body& body) {
    if (floats < TORCH_GRAIN) return in_thread_team(threads, body);
    body(threads);
}

// work(index, size) on the threads of the caller's team, or of an OpenMP region of so many. Of a team not every index
// need come: work must claim its parts.
template <class Work>
void on_each(int threads, const Work& work, WeightSpan* reads = nullptr) {
    if (threads <= 1) return work(0, 1);
    if (Team* team = Team::mine()) return team->run(work, reads);
#pragma omp parallel num_threads(threads < Team::MOST ? threads : Team::MOST)
    work(omp_get_thread_num(), omp_get_num_threads());
}

// Things that threads take a portion at a time: their own share from its start, then what others have left of theirs
// from its end. No thread waits for one that is late (its memory is slower, its processor was taken away), or absent.
class WorkStealing {
  public:
    WorkStealing(int64_t count, int64_t portion) : count_(count), portion_(portion) {}

    template <class Work>
    void each(int index, int size, const Work& work) {
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
    struct alignas(64) Taken {  // of one share: by its owner from the start, by others from the end
        std::atomic<int64_t> all{0}, last{0};
        int64_t first = 0;
    };
    int64_t count_, portion_;
    Taken taken_[Team::MOST];
};

// work(from, to) for contiguous parts of `count` things, several for each thread.
template <class Work>
void split(int64_t count, int threads, const Work& work) {
    if (threads <= 1) return work(0, count);
    WorkStealing parts(count, count / (threads * 4) + 1);
    on_each(threads, [&](int index, int size) {
        parts.each(index, size, [&](Share part) { work(part.from, part.to); });
    });
}
