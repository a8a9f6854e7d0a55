// A guarded run: the operators of one inference lower its level themselves where the inference would otherwise miss its
// deadline ("rerouting", arXiv:2112.10930). An operator that starts knows the time, the work that is left, and the
// budget. Another thread would not know the progress, and would need a core just when none is free.
//
// runtime/rerouting/rule.py states the rule with its formula; the tests compare this code with it.
#pragma once

#include <cstdint>

namespace nested_sparse {

// Time that passed, and profiled time of the work that was done in it.
struct Seen {
  double elapsed_ms = 0;
  double done_ms = 0;
};

// One run, with L levels and N operators in the order they run. The caller owns it (structs.py mirrors it), and the one
// thread that runs the graph uses it. The operators of an inference that come after the first N decide nothing.
struct GuardedRun {
  int64_t* level;                 // the run's level input
  const double* level_ms;         // (L) profiled time of a whole run at each level, undisturbed
  const double* remaining_share;  // (L, N) share of such a run that is left when the operator starts
  const double* order;            // (L, L, N) rank of a fall, lowered from, to, at; NaN where the level may not fall
  int64_t* started_ns;            // (capacity) output: when each operator started
  const char** layers;            // (capacity) output: the layer of each operator; the operator owns the text
  int32_t capacity;               // length of these two, 0 where nothing is recorded
  int32_t level_count;            // L
  int32_t operator_count;         // N
  int32_t lowest_level;           // lowest level that the run may fall to
  int32_t forced_at;              // operator at which the run falls to `forced_level`, by force; -1: the rule decides
  int32_t forced_level;
  int64_t begun_ns;       // monotonic_ns() from which the budget counts
  double budget_ms;       // time that the run may take; another thread may lessen it while the run is under way
  double slowdown;        // forecast factor on level_ms
  double least_accuracy;  // lowest rank of a fall that the run may make; a rank is an expected accuracy if one is known
  double margin;          // reserve at the start of the run, as a share of the whole run
  // Progress. The caller sets 0, -1, -1, 1, 0 and zeros.
  int32_t position;      // number of operators that have started
  int32_t lowered_at;    // number of the operator of the last fall, or -1
  int32_t lowered_from;  // level before that fall, or -1
  double share_left;     // share of a run at the present level that was left when the run came to that level
  double done_ms;        // profiled time of what ran before that
  Seen seen;             // what was seen lately
  Seen last;             // what was seen of the whole run, at the last operator where a fall was allowed
};

// Nanoseconds of CLOCK_MONOTONIC.
int64_t monotonic_ns();

// Makes `run` the guarded run of this thread; null ends it. False where the thread has another one. ONNX Runtime runs
// the operators of a session without inter-op threads on the thread that called it.
bool guard_this_thread(GuardedRun* run);

// For an operator that starts: the level to run at, read from `level`. Where that is the level of this thread's guarded
// run, the run is lowered first if the rule says so. A level that is not guarded is never written.
int64_t arrive(const int64_t* level, const char* layer);

// The same for the next operator of `run`, as if the time were `now_ns`; for tests.
int64_t arrive_at(GuardedRun& run, const char* layer, int64_t now_ns);

}  // namespace nested_sparse
