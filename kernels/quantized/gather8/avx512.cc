// AVX-512 (BW): a row of the matrix is made in registers, run by run, with loads that leave out the bytes of no run.
#include <immintrin.h>

#include "gather8.h"

namespace nested_sparse {
namespace {

uint64_t mask_of(ByteRun run) {
  return ~uint64_t{0} >> (64 - run.count) << run.to;
}

struct Adjacent {
  __m512i bytes;
  explicit Adjacent(uint8_t zero) : bytes(_mm512_set1_epi8(static_cast<char>(zero))) {}
  void add(ByteRun run, const uint8_t* x) {
    bytes = _mm512_mask_loadu_epi8(bytes, mask_of(run), x + run.source - run.to);
  }
  __m512i row() const { return bytes; }
};

// The pixels of a row are the even bytes of two vectors. The odd bytes are never loaded.
struct EverySecond {
  __m512i low, high;
  explicit EverySecond(uint8_t zero) : low(_mm512_set1_epi16(zero)), high(low) {}
  void add(ByteRun run, const uint8_t* x) {
    const uint64_t mask = mask_of(run);
    const uint8_t* const from = x + run.source - 2 * run.to;
    low = _mm512_mask_loadu_epi8(low, _pdep_u64(mask, 0x5555555555555555), from);
    high = _mm512_mask_loadu_epi8(high, _pdep_u64(mask >> 32, 0x5555555555555555), from + 64);
  }
  __m512i row() const {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi16(low, high));
  }
};

template <class Row>
void gather(const Gather8Args& given) {
  const Gather8Args args = given;  // the stores could change what `given` refers to
  uint8_t* to = args.rows;
  for (int64_t channel = args.channel_begin; channel < args.channel_end; ++channel) {
    const uint8_t* const x = args.x + channel * args.channel_step;
    const ByteRun* run = args.runs + args.first[0];
    for (int64_t tap = 0; tap < args.taps; ++tap, to += 64) {
      Row row(args.zero);
      for (const ByteRun* const end = args.runs + args.first[tap + 1]; run != end; ++run) row.add(*run, x);
      _mm512_storeu_si512(to, row.row());
    }
  }
}

}  // namespace

void gather8_avx512(const Gather8Args& args) {
  if (args.step == 1) return gather<Adjacent>(args);
  if (args.step == 2) return gather<EverySecond>(args);
  gather8_scalar(args);
}

}  // namespace nested_sparse
