// AVX-512 (BW): a row of the matrix is made in registers, run by run, with loads that leave out the bytes of no run.
// The masks of a tap are made once for many channels: made for each row, they took half of the time.
#include <immintrin.h>

#include "gather8.h"

namespace nested_sparse {
namespace {

constexpr int64_t kChannels = 32;  // channels of a tap after another: what they read stays in L1 for the next tap
constexpr int64_t kFewChannels = 8;
constexpr int kMostRuns = 64;

// One load: the bytes of `mask` from x + source on.
struct Load {
  int64_t source;
  uint64_t mask;
};

// Calls each(vector, load) for the loads of a run. At step 1 they make a row. At step 2 the pixels of a row are the
// even bytes of two vectors, which have loads of their own; the odd bytes are never loaded.
template <int Step, class Each>
inline void for_loads(ByteRun run, const Each& each) {
  const uint64_t mask = ~uint64_t{0} >> (64 - run.count) << run.to;
  const int64_t source = run.source - Step * run.to;
  if (Step == 1) return each(0, Load{source, mask});
  constexpr uint64_t kEven = 0x5555555555555555;
  each(0, Load{source, _pdep_u64(mask, kEven)});
  each(Step - 1, Load{source + 64, _pdep_u64(mask >> 32, kEven)});
}

template <int Step>
struct Row {
  __m512i bytes[Step];

  explicit Row(uint8_t zero) {
    for (__m512i& each : bytes) each = Step == 1 ? _mm512_set1_epi8(static_cast<char>(zero)) : _mm512_set1_epi16(zero);
  }
  void add(int vector, const Load& load, const uint8_t* x) {
    bytes[vector] = _mm512_mask_loadu_epi8(bytes[vector], load.mask, x + load.source);
  }
  void store(uint8_t* to) const {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i row =
        Step == 1 ? bytes[0] : _mm512_permutexvar_epi64(order, _mm512_packus_epi16(bytes[0], bytes[Step - 1]));
    _mm512_storeu_si512(to, row);
  }
};

// The loads of a tap.
template <int Step>
struct Loads {
  Load of[Step][kMostRuns];
  int count[Step] = {};

  void add(int vector, const Load& load) {
    if (load.mask != 0) of[vector][count[vector]++] = load;
  }
  // The number of loads of each vector; those that have fewer get loads of nothing.
  int fill() {
    const int most = count[0] > count[Step - 1] ? count[0] : count[Step - 1];
    for (int vector = 0; vector < Step; ++vector) {
      while (count[vector] < most) of[vector][count[vector]++] = {0, 0};
    }
    return most;
  }
};

// Rows of one tap for `channels` channels. N: loads of a vector; 0: `count`.
template <int Step, int N>
void gather_tap(const Gather8Args& args, const Loads<Step>& loads, int count, const uint8_t* x, int64_t channels,
                uint8_t* to) {
  const int64_t x_step = args.channel_step;
  const int64_t to_step = 64 * args.taps;
  const Row<Step> zeros(args.zero);
  for (int64_t channel = 0; channel < channels; ++channel, x += x_step, to += to_step) {
    Row<Step> row = zeros;
    for (int vector = 0; vector < Step; ++vector) {
      for (int i = 0; i < (N > 0 ? N : count); ++i) row.add(vector, loads.of[vector][i], x);
    }
    row.store(to);
  }
}

template <int Step>
using TapKernel = void (*)(const Gather8Args&, const Loads<Step>&, int, const uint8_t*, int64_t, uint8_t*);

template <int Step>
void gather_taps(const Gather8Args& args) {
  constexpr TapKernel<Step> kKernels[] = {gather_tap<Step, 0>, gather_tap<Step, 1>, gather_tap<Step, 2>,
                                          gather_tap<Step, 3>, gather_tap<Step, 4>, gather_tap<Step, 5>};
  constexpr int kMost = sizeof kKernels / sizeof kKernels[0] - 1;
  for (int64_t begin = args.channel_begin; begin < args.channel_end; begin += kChannels) {
    const int64_t left = args.channel_end - begin;
    const int64_t channels = left < kChannels ? left : kChannels;
    const uint8_t* const x = args.x + begin * args.channel_step;
    uint8_t* to = args.rows + 64 * args.taps * (begin - args.channel_begin);
    for (int64_t tap = 0; tap < args.taps; ++tap, to += 64) {
      Loads<Step> loads;
      for (int32_t run = args.first[tap]; run < args.first[tap + 1]; ++run) {
        for_loads<Step>(args.runs[run], [&](int vector, const Load& load) { loads.add(vector, load); });
      }
      const int count = loads.fill();
      kKernels[count <= kMost ? count : 0](args, loads, count, x, channels, to);
    }
  }
}

// The same, row after row: first layers have too few channels to make masks first.
template <int Step>
void gather_rows(const Gather8Args& given) {
  const Gather8Args args = given;  // the stores could change what `given` refers to
  uint8_t* to = args.rows;
  for (int64_t channel = args.channel_begin; channel < args.channel_end; ++channel) {
    const uint8_t* const x = args.x + channel * args.channel_step;
    const ByteRun* run = args.runs + args.first[0];
    for (int64_t tap = 0; tap < args.taps; ++tap, to += 64) {
      Row<Step> row(args.zero);
      for (const ByteRun* const end = args.runs + args.first[tap + 1]; run != end; ++run) {
        for_loads<Step>(*run, [&](int vector, const Load& load) { row.add(vector, load, x); });
      }
      row.store(to);
    }
  }
}

template <int Step>
void gather(const Gather8Args& args) {
  if (args.channel_end - args.channel_begin < kFewChannels) {
    gather_rows<Step>(args);
  } else {
    gather_taps<Step>(args);
  }
}

}  // namespace

void gather8_avx512(const Gather8Args& args) {
  if (args.step == 1) return gather<1>(args);
  if (args.step == 2) return gather<2>(args);
  gather8_scalar(args);
}

}  // namespace nested_sparse
