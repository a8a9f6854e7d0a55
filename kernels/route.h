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

// For an operator that starts: the level to run at, read from `level`, and lowered first where that address is the
// guarded run's and its rule says so. A level that is not guarded is never written.
int64_t arrive(const int64_t* level, const char* layer);

// What was seen lately of a run at a level of `level_ms`, once it has come from `last` to `now`: a fading sum, of which
// older time counts less and less (memory_ms). The slowdown of the whole run so far would see a neighbour that has just
// begun too late.
Seen fade(const Seen& lately, const Seen& last, const Seen& now, double level_ms);

// The rule: the level from operator n on, `level` or a lower one. With the slowdown that was seen lately, shrunk to the
// forecast and never below it, it stays where what has elapsed and what is left, with a reserve, are within the budget.
// Else, of every place m >= n and level b that are allowed, the most accurate one that is in time (the later one of
// equals); it falls at once where that m is n, and waits for m otherwise. Where none is in time, the soonest one, if
// that is sooner than to stay.
// The reserve has two parts. One is margin × level_ms × the square root of the share that is left when the level no
// longer changes: what the operators take beyond their forecast adds up like the variance of as many independent ones.
// The other, where the core is shared, is a neighbour's turn, for the part of the time that it takes: whether one more
// of them falls into the run is chance.
int32_t decide(const GuardedRun& run, int32_t level, int32_t n, double elapsed_ms, const Seen& lately);

}  // namespace nested_sparse
