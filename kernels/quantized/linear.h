// QuantizedLinear: X [..., K] -> Y [..., O] of floats, any rank of 1 or more, by a weight of int8.
//
// Attributes beside those of NestedLinear: `activations`.
// - "static": X is quantised to bytes, with the range x_scale, x_zero of the level.
// - "dynamic": the same, with a range for each row: that of its values and zero.
// - "float32": X stays as it is, for layers whose time goes into reading weights.
//
// With bytes, output r of a row of range s_x, z_x is
//
//   y = clip(fl(fl(fl(acc) * fl(s_x * fl(s_w[r] * scale[r]))) + shift[r]) [+ residual])
//
// where acc = sum of weight * (byte - z_x), and fl is one rounding to float32. So every instruction set gives the same
// bits. tests/integer_reference.py is the same arithmetic in Python.
#pragma once

#include <vector>

#include "../linear_layer.h"
#include "gemv8/gemv8.h"
#include "image.h"
#include "kernels.h"
#include "pixels8/pixels8.h"
#include "recent.h"

namespace nested_sparse {

// From this many rows of X on, it is faster to transpose their bytes and to run the kernel of convolutions (measured
// with AVX-512 VNNI: 2, 2, 3, 4 and 6 rows for V = 1, 2, 4, 8 and 16; without dot products, more).
constexpr int64_t tile_from(int32_t block_rows) {
  return 3 + block_rows / 4;
}

// The same of rows of floats, whose weights are widened.
constexpr int64_t kWidenFrom = 4;

class QuantizedLinear : public LinearLayer {
 public:
  explicit QuantizedLinear(const ort::Attributes& attributes);
  void compute(const ort::Context& context) const override;

 private:
  enum class Activations { in_range, of_each_row, floats };
  // The values that every task of one run reads.
  struct Run {
    const ort::Context& context;
    const WeightView& view;
    const QuadLevel* levels;
    const int32_t* row_sums;  // of packed rows; null with floats
    double cost;              // weights that a row of X is multiplied by
  };
  struct Tile;
  static Activations read_activations(const ort::Attributes& attributes);
  ByteRange quantise_row(const Run& run, const float* x, uint8_t* bytes) const;

  // For few rows: multiplies the sparse matrix by one row after the other.
  void run_floats(const Run& run, const Rows& rows) const;
  void run_bytes(const Run& run, const Rows& rows) const;
  template <class Sum>
  void finish(const Run& run, Part groups, const Sum* sums, float x_scale, const Rows& row) const;
  void store(const Run& run, Part packed, const float* values, const Rows& row) const;

  // For many rows of bytes: transposes up to 64 of them, so that they are the pixels of a 1 x 1 convolution.
  void run_tiles(const Run& run, const Rows& rows) const;
  void multiply(const Run& run, const Tile& tile, Part groups, const Rows& rows) const;

  // For many rows of floats: the kernel of convolutions of floats.
  void multiply_group(const Run& run, const SpmmArgs& all, int64_t group) const;

  Activations activations_;
  std::vector<ByteRange> x_ranges_;  // of each level, where they are static
  Sums8Kernel sums_;
  Gemv8Kernel gemv_;
  Gemv8FloatKernel float_gemv_;
  const KernelInfo& float_spmm_;
  const PixelLoops& loops_;
  Recent<const float*, std::vector<int32_t>> row_sums_;  // by the norm, which names the level
};

}  // namespace nested_sparse
