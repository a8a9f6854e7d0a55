#include "route.h"

#include <time.h>

#include <algorithm>
#include <cmath>

namespace nested_sparse {
namespace {

constexpr double kNanosecondsPerMs = 1e6;
// Profiled time that "lately" goes back: this share of a whole run, and this time.
constexpr double kMemoryShare = 0.1;
constexpr double kMemoryMs = 0.5;
// About the time for which a system lets another process run.
constexpr double kTurnMs = 4;

thread_local GuardedRun* this_thread = nullptr;

double share(const GuardedRun& run, int32_t level, int32_t n) {
  return run.remaining_share[static_cast<int64_t>(level) * run.operator_count + n];
}

double rank(const GuardedRun& run, int32_t from, int32_t to, int32_t n) {
  return run.order[(static_cast<int64_t>(from) * run.level_count + to) * run.operator_count + n];
}

// NaN, where the level may not fall, compares false.
bool allowed(const GuardedRun& run, int32_t from, int32_t to, int32_t n) {
  return rank(run, from, to, n) >= run.least_accuracy;
}

bool any_allowed(const GuardedRun& run, int32_t from, int32_t n) {
  for (int32_t to = run.lowest_level; to < from; ++to) {
    if (allowed(run, from, to, n)) return true;
  }
  return false;
}

double memory_ms(double level_ms) {
  return kMemoryShare * level_ms + kMemoryMs;
}

double done_at(const GuardedRun& run, int32_t level, int32_t n) {
  return run.done_ms + run.level_ms[level] * (run.share_left - share(run, level, n));
}

void lower(GuardedRun& run, int32_t from, int32_t to, int32_t n) {
  run.done_ms = done_at(run, from, n);
  run.share_left = share(run, to, n);
  run.lowered_at = n;
  run.lowered_from = from;
  __atomic_store_n(run.level, to, __ATOMIC_RELAXED);
}

void record(GuardedRun& run, int32_t n, const char* layer, int64_t now_ns) {
  run.started_ns[n] = now_ns;
  run.layers[n] = layer;
}

// rule.py: fade.
Seen fade(const Seen& lately, const Seen& last, const Seen& now, double level_ms) {
  const double memory = memory_ms(level_ms);
  const double progress_ms = now.done_ms - last.done_ms;
  const double kept = memory / (memory + progress_ms);
  return Seen{lately.elapsed_ms * kept + (now.elapsed_ms - last.elapsed_ms), lately.done_ms * kept + progress_ms};
}

// rule.py: decide. The level from operator n on. It is not inlined: in its callers the loop took 3 % longer (gcc 12).
[[gnu::noinline]] int32_t decide(const GuardedRun& run, int32_t level, int32_t n, double elapsed_ms,
                                 const Seen& lately) {
  const double level_ms = run.level_ms[level];
  const double forecast_ms = memory_ms(level_ms) / 2;
  const double seen = (lately.elapsed_ms + forecast_ms * run.slowdown) / (lately.done_ms + forecast_ms);
  const double slowdown = std::max(run.slowdown, seen);
  const double left = share(run, level, n);
  double budget_ms = 0;
  __atomic_load(&run.budget_ms, &budget_ms, __ATOMIC_RELAXED);
  const auto with_reserve = [&](double after_ms) { return after_ms + run.margin * std::sqrt(level_ms * after_ms); };
  const double taken_share = std::max(0.0, 1.0 - 1.0 / slowdown);
  const double begun_ms = elapsed_ms + taken_share * std::min(kTurnMs, level_ms * left);
  double soonest_ms = begun_ms + slowdown * with_reserve(level_ms * left);
  if (soonest_ms <= budget_ms) return level;
  double best = -INFINITY;
  int32_t best_level = level, best_at = -1, soonest_level = level, soonest_at = -1;
  for (int32_t m = n; m < run.operator_count; ++m) {
    const double before_ms = level_ms * (left - share(run, level, m));
    for (int32_t to = run.lowest_level; to < level; ++to) {
      if (!allowed(run, level, to, m)) continue;
      const double ends_ms = begun_ms + slowdown * (before_ms + with_reserve(run.level_ms[to] * share(run, to, m)));
      const double value = rank(run, level, to, m);
      if (ends_ms <= budget_ms && value >= best) {
        best = value;
        best_level = to;
        best_at = m;
      }
      if (ends_ms < soonest_ms) {
        soonest_ms = ends_ms;
        soonest_level = to;
        soonest_at = m;
      }
    }
  }
  if (best_at >= 0) return best_at == n ? best_level : level;
  return soonest_at == n ? soonest_level : level;
}

// The level from operator n on, which starts now. Notes what was seen of the run until now.
int32_t next_level(GuardedRun& run, int32_t level, int32_t n, int64_t now_ns) {
  const Seen now{static_cast<double>(now_ns - run.begun_ns) / kNanosecondsPerMs, done_at(run, level, n)};
  run.seen = fade(run.seen, run.last, now, run.level_ms[level]);
  run.last = now;
  return decide(run, level, n, now.elapsed_ms, run.seen);
}

// rule.py: RuledRun.arrive. The level of the run's next operator, which starts now. now_ns: the clock; it is read only
// where the time counts.
template <class Clock>
int64_t arrive(GuardedRun& run, const char* layer, Clock now_ns) {
  const int64_t level = __atomic_load_n(run.level, __ATOMIC_RELAXED);
  const int32_t n = run.position++;
  const bool known = n < run.operator_count && level > 0 && level < run.level_count;
  const auto from = static_cast<int32_t>(level);
  const bool by_rule = known && run.forced_at < 0 && any_allowed(run, from, n);
  const bool recorded = n < run.capacity;
  const int64_t now = by_rule || recorded ? now_ns() : 0;
  if (recorded) record(run, n, layer, now);
  int32_t to = from;
  if (by_rule) to = next_level(run, from, n, now);
  if (known && n == run.forced_at) to = std::min(from, run.forced_level);
  if (to < from) lower(run, from, to, n);
  return known ? to : level;
}

GuardedRun* guarded(const int64_t* level) {
  return this_thread != nullptr && this_thread->level == level ? this_thread : nullptr;
}

}  // namespace

int64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

bool guard_this_thread(GuardedRun* run) {
  if (run != nullptr && this_thread != nullptr) return false;
  this_thread = run;
  return true;
}

int64_t arrive(const int64_t* level, const char* layer) {
  GuardedRun* const run = guarded(level);
  return run == nullptr ? __atomic_load_n(level, __ATOMIC_RELAXED) : arrive(*run, layer, monotonic_ns);
}

int64_t arrive_at(GuardedRun& run, const char* layer, int64_t now_ns) {
  return arrive(run, layer, [now_ns] { return now_ns; });
}

}  // namespace nested_sparse
