#include <cstring>

#include "gather8.h"

namespace nested_sparse {

void gather8_scalar(const Gather8Args& args) {
  uint8_t* row = args.rows;
  for (int64_t channel = args.channel_begin; channel < args.channel_end; ++channel) {
    const uint8_t* const x = args.x + channel * args.channel_step;
    for (int64_t tap = 0; tap < args.taps; ++tap, row += 64) {
      std::memset(row, args.zero, 64);
      for (int32_t r = args.first[tap]; r < args.first[tap + 1]; ++r) {
        const ByteRun run = args.runs[r];
        for (int i = 0; i < run.count; ++i) row[run.to + i] = x[run.source + i * args.step];
      }
    }
  }
}

}  // namespace nested_sparse
