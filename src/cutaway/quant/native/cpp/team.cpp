// How a team waits, fetches and ends. It does not know layers or Python.

#include "team.h"

#include "isa.h"

#include <mutex>
#include <new>
#include <pthread.h>
#include <sched.h>
#include <shared_mutex>

namespace {

constexpr int64_t FETCHED = 7 << 17;  // bytes that a thread fetches ahead, at most: most of a second-level cache
constexpr int64_t CHUNK = 1024;       // bytes between two looks at whether there is work
constexpr int PATIENCE = 20000;       // looks without work before the processor is offered to others

thread_local Team* led = nullptr;
std::shared_mutex links;  // shared by readers of what a span leads to, alone for a change

// A forked child has the thread that forked and no other: no team to lead, and no thread to give `links` back.
void begin_again() {
    led = nullptr;
    new (&links) std::shared_mutex;
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, begin_again);

// A load, not a prefetch: processors drop prefetches when many are under way (here, three in four).
void read(const char* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) (void)*(const volatile char*)(from + i);
}

}  // namespace

void WeightSpan::follow(WeightSpan* before, WeightSpan* after) {
    std::unique_lock lock(links);
    if (before->next) before->next->before = nullptr;
    if (after->before) after->before->next = nullptr;
    before->next = after, after->before = before;
}

void WeightSpan::forget(WeightSpan* span) {
    std::unique_lock lock(links);
    if (span->before) span->before->next = nullptr;
    if (span->next) span->next->before = nullptr;
    span->before = span->next = nullptr;
}

Team* Team::mine() { return led; }

void Team::gather(void (*body)(const void*), const void* context, int threads) {
    if (led || threads <= 1 || omp_in_parallel()) return body(context);
    Team* team = nullptr;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        team = new Team(omp_get_num_threads());  // a barrier follows: all see it
        if (omp_get_thread_num() == 0) {
            led = team;
            body(context);
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
    Prefetched ahead;
    for (uint32_t seen = 0;;) {
        for (int idle = 1; !asked(seen); ++idle) {
            pause();
            if (idle % PATIENCE == 0) sched_yield();
        }
        ++seen;
        if (over_) return;
        call_(work_, index, size_);
        std::shared_lock lock(links);  // before the leader goes on, who may forget what it has just read
        const WeightSpan* next = last_ ? last_->next : nullptr;
        left_.fetch_sub(1, std::memory_order_release);
        if (next) fetch(index, seen, *next, ahead);
    }
}

// Until there is work, or the cache is full: of one span after another this thread's share, and, one of the threads,
// the later half of the leader's, who comes to its own share with nothing fetched and leaves that half to others.
void Team::fetch(int index, uint32_t seen, const WeightSpan& next, Prefetched& ahead) const {
    for (int64_t left = FETCHED - ahead.begin(next); left > 0;) {
        Prefetched::Part& part = ahead.last();
        int64_t share = part.span->count / size_ / CHUNK * CHUNK, all = index == 1 ? share + share / 2 : share;
        const char* start = part.span->bytes;
        for (; part.done < all && left > 0; part.done += CHUNK, left -= CHUNK) {
            if (asked(seen)) return;
            read(part.done < share ? start + index * share + part.done : start + 2 * share - part.done - CHUNK, CHUNK);
        }
        if (part.done < all || !part.span->next || !ahead.add(*part.span->next)) return;
    }
}

int64_t Team::Prefetched::begin(const WeightSpan& next) {
    int used = 0;
    while (used < count_ && parts_[used].span != &next) ++used;
    for (int i = used; i < count_; ++i) parts_[i - used] = parts_[i];
    count_ -= used;
    if (!count_) add(next);
    int linked = 1;  // a span that was forgotten meanwhile is no longer linked, and must not be looked at
    while (linked < count_ && parts_[linked - 1].span->next == parts_[linked].span) ++linked;
    count_ = linked;
    int64_t fetched = 0;
    for (int i = 0; i < count_; ++i) fetched += parts_[i].done;
    return fetched;
}

bool Team::Prefetched::add(const WeightSpan& span) {
    if (count_ == MOST) return false;
    parts_[count_++] = {&span, 0};
    return true;
}

extern "C" {

// So many bytes that every pass reads; to be forgotten before they are freed.
EXPORT WeightSpan* cutaway_span(const char* bytes, int64_t count) {
    return new WeightSpan{bytes, count, nullptr, nullptr};
}

EXPORT void cutaway_forget(WeightSpan* span) {
    WeightSpan::forget(span);
    delete span;
}

}  // extern "C"
