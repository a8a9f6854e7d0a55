// A guarded run: the operators of one inference lower its level themselves where it would otherwise miss its deadline
// ("rerouting", arXiv:2112.10930). Each, when it starts, knows the time, what is left and the budget; another thread
// would know nothing of the progress and would need a core just when none is free.
#pragma once

#include <cstdint>

namespace nested_sparse {

// Time that passed, and profiled time of what was done in it.
struct Seen {
  double elapsed_ms = 0;
  double done_ms = 0;
};

// One run, with L levels and N operators in the order they run; owned by the caller (guarded_run.py mirrors it) and
// used by the one thread that runs the graph. An inference that comes to more operators than N decides nothing at
// those.
struct GuardedRun {
  int64_t* level;                 // the run's level input
  const double* level_ms;         // (L) a whole run at each level, undisturbed
  const double* remaining_share;  // (L, N) of such a run, what is left when the operator starts
  const double* accuracy;         // (L, L, N) lowered from, to, at; NaN where the level may not fall
  int64_t* started_ns;            // (capacity) out, when each operator started
  const char** layers;            // (capacity) out, the layer of each, the operator's own text
  int32_t capacity;               // of those, 0 where nothing is recorded
  int32_t level_count;
  int32_t operator_count;
  int32_t lowest_level;
  int32_t forced_at;  // lower at this operator, to `forced_level`, and nowhere else; -1: where the rule says
  int32_t forced_level;
  int64_t begun_ns;  // monotonic_ns() from which the budget counts
  double budget_ms;  // may be lessened by another thread while the run is under way
  double slowdown;   // of level_ms, as predicted
  double least_accuracy;
  double margin;  // what is kept in reserve of a whole run, at its start
  // Progress; the caller sets 0, -1, -1, 1, 0 and zeros.
  int32_t position;      // operators that have started
  int32_t lowered_at;    // the operator of the last lowering, or -1
  int32_t lowered_from;  // the level before it, or -1
  double share_left;   // of a run at the level now, what was left when it came to that level
  double done_ms;      // profiled time of what ran before that
  Seen seen;           // lately
  Seen last;           // of the whole run, at the last place where the level might have fallen
};

// Nanoseconds of CLOCK_MONOTONIC.
int64_t monotonic_ns();

// Makes `run` the guarded run of this thread, null ends it; false where the thread has another. ONNX Runtime runs the
// operators of a session without inter-op threads on the thread that called it.
bool guard_this_thread(GuardedRun* run);

// For an operator that starts: the level to run at, read from `level`. If that is the level of this thread's guarded run,
// the run is lowered first where the rule says so. A level that is not guarded is never written.
int64_t arrive(const int64_t* level, const char* layer);

// The same for the next operator of `run`, as if the time were `now_ns`; for tests.
int64_t arrive_at(GuardedRun& run, const char* layer, int64_t now_ns);

}  // namespace nested_sparse
