// How a team begins, waits and fetches. It does not know layers or Python.

#include "team.h"

#include "isa.h"

#include <chrono>
#include <csignal>
#include <mutex>
#include <new>
#include <pthread.h>
#include <shared_mutex>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <condition_variable>
#endif

namespace {

constexpr int64_t FETCHED = 7 << 17;  // bytes that a thread fetches ahead, at most: most of a second-level cache
constexpr int64_t CHUNK = 1024;       // bytes between two looks at whether there is work
constexpr auto PATIENCE = std::chrono::microseconds(50);  // of a wait, before it sleeps

alignas(Team) char team_memory[sizeof(Team)];  // never destroyed: its threads may outlive what ends at exit
Team* team = new (team_memory) Team;
thread_local Team* led = nullptr;
std::shared_mutex links;  // shared by readers of what a span leads to, alone for a change

// A forked child has the thread that forked and no other: nobody in its team, and no thread to give `links` back.
void begin_again() {
    led = nullptr;
    new (team_memory) Team;
    new (&links) std::shared_mutex;
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, begin_again);

// Sleeps while the word is `value`, until `wake`; it may return early.
#if defined(__linux__)
void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }
#else
std::mutex& sleep_lock = *new std::mutex;
std::condition_variable& changed = *new std::condition_variable;

void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
    std::unique_lock lock(sleep_lock);
    if (word.load() == value) changed.wait(lock);
}

void wake(std::atomic<uint32_t>&) {
    std::unique_lock lock(sleep_lock);
    changed.notify_all();
}
#endif

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Looks until done() or PATIENCE is over; whether it was done.
template <class Done>
bool spin(const Done& done) {
    for (auto end = std::chrono::steady_clock::now() + PATIENCE;;) {
        for (int i = 0; i < 32; ++i) {
            if (done()) return true;
            pause();
        }
        if (std::chrono::steady_clock::now() > end) return false;
    }
}

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

Team* Team::take(int threads) {
    if (led || threads <= 1 || team->taken_.exchange(true, std::memory_order_acquire)) return nullptr;
    team->grow(threads < MOST ? threads : MOST);
    team->last_ = nullptr;
    return led = team;
}

void Team::release() {
    led = nullptr;
    taken_.store(false, std::memory_order_release);
}

// To so many threads, or as many as the system gives. Those that a smaller team does not need sleep until it grows.
void Team::grow(int threads) {
    sigset_t all, before;
    if (started_ < threads) {
        sigfillset(&all);  // signals are the business of other threads: these inherit the mask
        pthread_sigmask(SIG_SETMASK, &all, &before);
        struct Start {
            Team* team;
            int index;
        };
        auto serve = [](void* given) -> void* {
            Start start = *(Start*)given;
            delete (Start*)given;
            start.team->serve(start.index);
            return nullptr;
        };
        for (pthread_t thread; started_ < threads; ++started_) {
            Start* start = new Start{this, started_};
            if (pthread_create(&thread, nullptr, serve, start)) {
                delete start;
                break;
            }
            pthread_detach(thread);
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    uint32_t size = uint32_t(threads < started_ ? threads : started_);
    if (size_.exchange(size) < size) wake(size_);
}

void Team::begin(void (*call)(const void*, int, int), const void* work, WeightSpan* reads) {
    if (reads && last_ && last_->next != reads) WeightSpan::follow(last_, reads);
    if (reads) last_ = reads;
    call_ = call, work_ = work;
    led = nullptr;  // a call inside the work is not led
    state_.store(OPEN, std::memory_order_release);
    turn_.fetch_add(1);  // before the look at sleeping_, as next_turn counts itself there before its last look at turn_
    if (sleeping_.load()) wake(turn_);
}

// Nobody may join any more, and those who have are waited for.
void Team::finish() {
    led = this;
    if (state_.fetch_and(~OPEN, std::memory_order_acq_rel) == OPEN) return;
    if (spin([&] { return !state_.load(std::memory_order_acquire); })) return;
    for (uint32_t state = state_.fetch_or(LEADER_SLEEPS) | LEADER_SLEEPS; state & MEMBERS; state = state_.load())
        sleep_while(state_, state);
}

bool Team::join() {
    uint32_t state = state_.load(std::memory_order_relaxed);
    while (state & OPEN)
        if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
    return false;
}

void Team::leave() {
    if (state_.fetch_sub(1, std::memory_order_acq_rel) == (LEADER_SLEEPS | 1)) wake(state_);
}

void Team::serve(int index) {
    Prefetched ahead;
    for (uint32_t seen = 0;;) {
        seen = next_turn(index, seen);
        if (!join()) continue;
        int size = int(size_.load(std::memory_order_relaxed));
        if (index < size) call_(work_, index, size);
        std::shared_lock lock(links);  // before the leader goes on, who may forget what it has just read
        const WeightSpan* next = last_ && index < size ? last_->next : nullptr;
        leave();
        if (next) fetch(index, seen, *next, ahead);
    }
}

// The count of the next work for this thread, once there is one that it has not seen.
uint32_t Team::next_turn(int index, uint32_t seen) {
    for (;;) {
        uint32_t size = size_.load();
        if (index >= int(size)) {
            sleep_while(size_, size);
        } else if (spin([&] { return asked(seen); })) {
            return turn_.load(std::memory_order_acquire);
        } else {
            sleeping_.fetch_add(1);
            sleep_while(turn_, seen);
            sleeping_.fetch_sub(1);
        }
    }
}

// Until there is work, or the cache is full: of one span after another this thread's share, and, one of the threads,
// the later half of the leader's, who comes to its own share with nothing fetched and leaves that half to others.
void Team::fetch(int index, uint32_t seen, const WeightSpan& next, Prefetched& ahead) const {
    int size = int(size_.load(std::memory_order_relaxed));
    for (int64_t left = FETCHED - ahead.begin(next); left > 0;) {
        Prefetched::Part& part = ahead.last();
        int64_t share = part.span->count / size / CHUNK * CHUNK, all = index == 1 ? share + share / 2 : share;
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
    if (count_ == MANY) return false;
    parts_[count_++] = {&span, 0};
    return true;
}

extern "C" {

// How many threads OpenMP gives the regions that the calling thread opens from now on; until now.
EXPORT int32_t cutaway_openmp_threads(int32_t threads) {
    int32_t before = omp_get_max_threads();
    omp_set_num_threads(threads);
    return before;
}

// So many bytes that every pass reads; to be forgotten before they are freed.
EXPORT WeightSpan* cutaway_span(const char* bytes, int64_t count) {
    return new WeightSpan{bytes, count, nullptr, nullptr};
}

EXPORT void cutaway_forget(WeightSpan* span) {
    WeightSpan::forget(span);
    delete span;
}

}  // extern "C"
