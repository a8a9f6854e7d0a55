#include "values.h"

#include <algorithm>

#include "../scratch.h"

namespace nested_sparse {
namespace {

// Values that are widened at once; a single group may have more. Twice as many are no faster; with half as many
// ResNet-50 takes 1 to 2 % longer. Fetching the halves early gains nothing.
constexpr int64_t kTogether = 2048;

// Blocks of one level in row groups [group, end), within the range of columns that `args` names.
int64_t blocks_of(const SpmmArgs& args, const PackedLevel& level, int64_t group, int64_t end) {
  return int64_t{level.ptr[(end - 1) * args.ptr_stride + 1]} - level.ptr[group * args.ptr_stride];
}

// The same of all levels.
int64_t blocks_between(const SpmmArgs& args, int64_t group, int64_t end) {
  int64_t blocks = 0;
  for (int32_t l = 0; l < args.weight.level_count; ++l) {
    blocks += blocks_of(args, args.weight.levels[l], group, end);
  }
  return blocks;
}

}  // namespace

void spmm_halves(SpmmKernel floats, WidenKernel widen, int64_t values, int64_t units, const SpmmArgs& args,
                 int64_t begin, int64_t end) {
  const PackedWeight& weight = args.weight;
  const int64_t group_rows = weight.per_row == 0 ? values : units;
  PackedLevel levels[kMaxLevels];
  SpmmArgs part = args;
  part.weight.levels = levels;
  for (int64_t first = begin / units, last = first; first * units < end; first = last) {
    int64_t count = values * blocks_between(args, first, ++last);
    // More groups join where all columns are taken at once: only then do the blocks of groups follow one another.
    for (; args.ptr_stride == 1 && last * units < end; ++last) {
      const int64_t more = values * blocks_between(args, last, last + 1);
      if (count + more > kTogether) break;
      count += more;
    }
    // The size that the densest level needs, so that a switch to a denser level allocates nothing.
    float* to = scratch(Purpose::values, std::max({kTogether, group_rows * weight.columns, count}));
    for (int32_t l = 0; l < weight.level_count; ++l) {
      const PackedLevel& level = weight.levels[l];
      const int64_t skipped = values * level.ptr[first * args.ptr_stride];
      const int64_t widened = values * blocks_of(args, level, first, last);
      widen(values_of<uint16_t>(level) + skipped, widened, to);
      levels[l] = PackedLevel{level.ptr, level.col, to - skipped};
      to += widened;
    }
    floats(part, std::max(begin, first * units), std::min(end, last * units));
  }
}

}  // namespace nested_sparse
