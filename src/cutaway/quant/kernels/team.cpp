// How a team waits, fetches and ends. It does not know layers or Python.

#include "team.h"

#include "paths.h"

#include <mutex>
#include <sched.h>
#include <shared_mutex>

namespace {

constexpr int64_t FETCHED = 1 << 20;  // bytes that a thread fetches ahead, at most: a second-level cache
constexpr int64_t CHUNK = 1024;       // bytes between two looks at whether there is work
constexpr int PATIENCE = 20000;       // looks without work before the processor is offered to others

thread_local Team* led = nullptr;
std::shared_mutex links;  // held by whoever reads what a stretch leads to, alone by whoever changes it

// A load, not a prefetch: processors drop prefetches when many are under way (here, three in four).
void read(const char* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) (void)*(const volatile char*)(from + i);
}

}  // namespace

void Stretch::follow(Stretch* before, Stretch* after) {
    std::unique_lock lock(links);
    if (before->next) before->next->before = nullptr;
    if (after->before) after->before->next = nullptr;
    before->next = after, after->before = before;
}

void Stretch::forget(Stretch* stretch) {
    std::unique_lock lock(links);
    if (stretch->before) stretch->before->next = nullptr;
    if (stretch->next) stretch->next->before = nullptr;
    stretch->before = stretch->next = nullptr;
}

Team* Team::mine() { return led; }

void Team::gather(void (*body)(), int threads) {
    if (led || threads <= 1 || omp_in_parallel()) return body();
    Team* team = nullptr;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        team = new Team(omp_get_num_threads());  // a barrier follows: all see it
        if (omp_get_thread_num() == 0) {
            led = team;
            body();
            led = nullptr;
            team->over_ = true;
            team->turn_.fetch_add(1, std::memory_order_release);
        } else {
            team->serve(omp_get_thread_num());
        }
    }
    delete team;
}

void Team::serve(int index) {
    for (uint32_t seen = 0;;) {
        for (int idle = 1; !asked(seen); ++idle) {
            pause();
            if (idle % PATIENCE == 0) sched_yield();
        }
        ++seen;
        if (over_) return;
        call_(work_, index, size_);
        std::shared_lock lock(links);  // before the leader goes on, who may forget what it has just read
        const Stretch* next = last_ ? last_->next : nullptr;
        left_.fetch_sub(1, std::memory_order_release);
        if (next) fetch(index, seen, *next);
    }
}

// Until there is work: this thread's share; then, one of the threads, the end of the leader's, who comes to its own
// share with nothing fetched and leaves that end to others.
void Team::fetch(int index, uint32_t seen, const Stretch& next) const {
    int64_t share = next.count / size_ / CHUNK * CHUNK, own = share < FETCHED ? share : FETCHED;
    const char* start = next.bytes + index * share;
    for (int64_t place = 0; place < own; place += CHUNK) {
        if (asked(seen)) return;
        read(start + place, CHUNK);
    }
    for (int64_t place = CHUNK; index == 1 && place <= share && own + place <= FETCHED; place += CHUNK) {
        if (asked(seen)) return;
        read(start - place, CHUNK);
    }
}

extern "C" {

EXPORT void cutaway_together(void (*body)(), int32_t threads) { Team::gather(body, threads); }

// So many bytes that every pass reads; to be forgotten before they are freed.
EXPORT Stretch* cutaway_stretch(const char* bytes, int64_t count) { return new Stretch{bytes, count, nullptr, nullptr}; }

EXPORT void cutaway_forget(Stretch* stretch) {
    Stretch::forget(stretch);
    delete stretch;
}

}  // extern "C"
