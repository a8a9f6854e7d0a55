#include "linear.h"

#include <algorithm>
#include <cmath>

#include "../kernels.h"
#include "../round_up.h"
#include "../scratch.h"
#include "transpose.h"

namespace nested_sparse {
namespace {

constexpr double kRowGrain = 200000;    // weights that a task multiplies by one row: they are read from far away
constexpr double kTileGrain = 1600000;  // multiply-adds of a task with many rows
constexpr double kCopyGrain = 16384;    // values that a task quantises or transposes

// The range that holds zero and all values; a NaN counts for none.
ByteRange range_of(float lo, float hi) {
  float scale = (hi - lo) / 255.0F;
  if (!is_scale(scale)) scale = 1;
  return {scale, static_cast<uint8_t>(std::clamp(std::rint(-lo / scale), 0.0F, 255.0F))};
}

WeightKind as_floats(const WeightKind& kind) {
  WeightKind floats = kind;
  floats.value_type = ValueType::float32;
  return floats;
}

// Calls body(part) for parts of `units` units of work that cost `cost` in all.
template <class Body>
void for_parts(const ort::Context& context, int64_t units, double cost, double grain, const Body& body) {
  const int64_t tasks = task_count(units, cost, grain);
  context.parallel_for(tasks, [&](int64_t task) { body(part_of(units, tasks, task)); });
}

}  // namespace

// Up to 64 rows of X, as the pixels of a tile.
struct QuantizedLinear::Tile {
  const uint8_t* bytes;      // [columns][64]
  float scales[kTileBytes];  // of the range of each row
  int32_t zeros[kTileBytes];
  int32_t pixels;  // 16, 32 or 64
};

QuantizedLinear::QuantizedLinear(const ort::Attributes& attributes)
    : LinearLayer(attributes),
      activations_(read_activations(attributes)),
      sums_(find_spmm8(isa_choice(), weight_.block_rows()).sums),
      gemv_(find_gemv8(isa_choice(), weight_.block_rows()).bytes),
      float_gemv_(find_float_gemv8(isa_choice(), weight_.block_rows()).floats),
      float_spmm_(find_spmm(isa_choice().isa, as_floats(weight_.kind()))),
      loops_(find_pixel_loops(isa_choice().isa)) {
  if (weight_.kind().value_type != ValueType::int8) fail("value_bytes must be 1 (int8)");
  if (activations_ == Activations::in_range) {
    x_ranges_ = read_ranges(attributes, "x_scale", "x_zero", static_cast<size_t>(weight_.level_count()));
  }
}

QuantizedLinear::Activations QuantizedLinear::read_activations(const ort::Attributes& attributes) {
  const std::string text = attributes.text("activations");
  if (text == "static") return Activations::in_range;
  if (text == "dynamic") return Activations::of_each_row;
  if (text == "float32") return Activations::floats;
  throw ort::Error("attribute 'activations' must be static, dynamic or float32, got '" + text + "'");
}

void QuantizedLinear::compute(const ort::Context& context) const {
  WeightView view;
  this->view(context, view);
  const Rows rows = read_rows(context);
  if (rows.count == 0) return;
  QuadLevel levels[kMaxLevels];
  view.quads(levels);
  const double cost = static_cast<double>(view.blocks * weight_.block_rows());
  if (activations_ == Activations::floats) {
    const Run run{context, view, levels, nullptr, cost};
    if (rows.count >= kWidenFrom) {
      const auto multiply = [&](const SpmmArgs& args, int64_t begin, int64_t end) {
        for (int64_t group = begin; group < end; ++group) multiply_group(run, args, group);
      };
      return run_transposed(context, rows, float_spmm_,
                            {view.weight, weight_.groups(), weight_.block_rows(), cost, multiply, nullptr});
    }
    run_floats(run, rows);
    return activate(context, rows);
  }
  const auto row_sums = row_sums_.get(view.weight.scale, [&] { return view.row_sums(); });
  const Run run{context, view, levels, row_sums->data(), cost};
  rows.count < tile_from(weight_.block_rows()) ? run_bytes(run, rows) : run_tiles(run, rows);
  activate(context, rows);
}

void QuantizedLinear::run_floats(const Run& run, const Rows& rows) const {
  float* const sums = scratch(Purpose::sums, weight_.packed_rows());
  const double cost = run.cost * static_cast<double>(rows.count);
  for_parts(run.context, weight_.groups(), cost, kRowGrain, [&](Part groups) {
    for (int64_t row = 0; row < rows.count; ++row) {
      const float* const x = rows.x + row * weight_.columns();
      float_gemv_({run.levels, run.view.weight.level_count, x, sums}, groups.begin, groups.end);
      finish(run, groups, sums, 1, rows_from(rows, row, 1));
    }
  });
}

void QuantizedLinear::run_bytes(const Run& run, const Rows& rows) const {
  const int64_t columns = weight_.columns();
  ByteRange ranges[tile_from(16)];
  uint8_t* const bytes = byte_scratch(Purpose::input, rows.count * columns);
  for (int64_t row = 0; row < rows.count; ++row) {
    ranges[row] = quantise_row(run, rows.x + row * columns, bytes + row * columns);
  }
  auto* const sums = reinterpret_cast<int32_t*>(scratch(Purpose::sums, weight_.packed_rows()));
  const double cost = run.cost * static_cast<double>(rows.count);
  for_parts(run.context, weight_.groups(), cost, kRowGrain, [&](Part groups) {
    for (int64_t row = 0; row < rows.count; ++row) {
      const Gemv8Args args{
          run.levels, run.view.weight.level_count, bytes + row * columns, ranges[row].zero, run.row_sums, sums};
      gemv_(args, groups.begin, groups.end);
      finish(run, groups, sums, ranges[row].scale, rows_from(rows, row, 1));
    }
  });
}

// Writes the outputs of row groups `groups` of one row of X.
template <class Sum>
void QuantizedLinear::finish(const Run& run, Part groups, const Sum* sums, float x_scale, const Rows& row) const {
  constexpr int64_t kTogether = 256;
  float values[kTogether];
  const int64_t end = groups.end * weight_.block_rows();
  for (int64_t first = groups.begin * weight_.block_rows(); first < end; first += kTogether) {
    const int64_t count = std::min(kTogether, end - first);
    const Sum* const from = sums + first;
    const float* const row_scale = run.view.row_scale + first;
    const float* const scale = run.view.weight.scale + first;
    const float* const shift = run.view.weight.shift + first;
    for (int64_t i = 0; i < count; ++i) {
      values[i] = static_cast<float>(from[i]) * (x_scale * (row_scale[i] * scale[i])) + shift[i];
    }
    store(run, Part{first, first + count}, values, row);
  }
}

// Writes the outputs of packed rows `packed` of one row of X.
void QuantizedLinear::store(const Run& run, Part packed, const float* values, const Rows& row) const {
  const PackedWeight& weight = run.view.weight;
  const Clip bounds = clip_;
  if (weight.perm == nullptr && row.residual == nullptr) {
    const int64_t count = std::min(packed.end, weight.rows) - packed.begin;
    float* const y = row.y + packed.begin;
    for (int64_t i = 0; i < count; ++i) y[i] = clip(values[i], bounds);
    return;
  }
  for (int64_t r = packed.begin; r < packed.end; ++r) {
    const int64_t output = output_of(weight, r);
    if (output < 0) continue;
    const float value = values[r - packed.begin];
    row.y[output] = clip(row.residual == nullptr ? value : value + row.residual[output], bounds);
  }
}

// Quantises one row of X.
ByteRange QuantizedLinear::quantise_row(const Run& run, const float* x, uint8_t* bytes) const {
  const int64_t columns = weight_.columns();
  ByteRange range;
  if (activations_ == Activations::in_range) {
    range = x_ranges_[static_cast<size_t>(run.view.level())];
  } else {
    const Bounds bounds = loops_.bounds(x, columns);
    range = range_of(bounds.lo, bounds.hi);
  }
  loops_.quantise(x, columns, range.scale, range.zero, bytes);
  return range;
}

void QuantizedLinear::run_tiles(const Run& run, const Rows& rows) const {
  const int64_t pitch = round_up(weight_.columns(), 8);
  uint8_t* const bytes = byte_scratch(Purpose::output, kTileBytes * pitch);
  uint8_t* const transposed = byte_scratch(Purpose::input, kTileBytes * pitch);
  Tile tile{transposed, {}, {}, 0};
  for (int64_t first = 0; first < rows.count; first += kTileBytes) {
    const Rows part = rows_from(rows, first, std::min(kTileBytes, rows.count - first));
    tile.pixels = part.count <= 16 ? 16 : part.count <= 32 ? 32 : 64;
    for_parts(run.context, part.count, part.count * pitch, kCopyGrain, [&](Part some) {
      for (int64_t row = some.begin; row < some.end; ++row) {
        const ByteRange range = quantise_row(run, part.x + row * weight_.columns(), bytes + row * pitch);
        tile.scales[row] = range.scale;
        tile.zeros[row] = range.zero;
      }
    });
    for_parts(run.context, pitch / 8, tile.pixels * pitch, kCopyGrain, [&](Part some) {
      transpose_bytes(bytes, part.count, pitch, 8 * some.begin, 8 * some.end, tile.pixels, transposed);
    });
    const double cost = run.cost * tile.pixels;
    for_parts(run.context, weight_.groups(), cost, kTileGrain, [&](Part groups) { multiply(run, tile, groups, part); });
  }
}

// Computes the outputs of row groups `groups`, some at a time, so that their sums stay in L1.
void QuantizedLinear::multiply(const Run& run, const Tile& tile, Part groups, const Rows& rows) const {
  constexpr int64_t kTogether = 32;  // packed rows
  alignas(64) int32_t sums[kTogether * kTileBytes];
  alignas(64) float values[kTogether * kTileBytes];
  const int64_t block_rows = weight_.block_rows();
  for (int64_t begin = groups.begin; begin < groups.end; begin += kTogether / block_rows) {
    const int64_t end = std::min(begin + kTogether / block_rows, groups.end);
    const Part packed{begin * block_rows, end * block_rows};
    sums_({run.levels, run.view.weight.level_count, tile.bytes, nullptr, sums - packed.begin * kTileBytes, kTileBytes,
           tile.pixels},
          begin, end);
    for (int64_t r = packed.begin; r < packed.end; ++r) {
      const int64_t at = (r - packed.begin) * kTileBytes;
      loops_.dequantise_sums({sums + at, tile.zeros, tile.scales, run.row_sums[r],
                              run.view.row_scale[r] * run.view.weight.scale[r], run.view.weight.shift[r]},
                             tile.pixels, values + at);
    }
    for (int64_t row = 0; row < rows.count; ++row) {
      float of_row[kTogether];
      for (int64_t i = 0; i < packed.end - packed.begin; ++i) of_row[i] = values[i * kTileBytes + row];
      store(run, packed, of_row, rows_from(rows, row, 1));
    }
  }
}

// The kernel for floats reads blocks of one column each. So the weights of one row group after the other are widened,
// from all levels, into such blocks.
void QuantizedLinear::multiply_group(const Run& run, const SpmmArgs& all, int64_t group) const {
  const int64_t block_rows = weight_.block_rows();
  const int64_t first = group * block_rows;
  // The size that the densest level needs, so that a switch to a denser level allocates nothing.
  const int64_t most = weight_.columns() + 3 * weight_.level_count();
  float* const values = scratch(Purpose::values, most * (block_rows + 1));
  auto* const columns = reinterpret_cast<uint16_t*>(values + most * block_rows);
  uint32_t ptr[2] = {};
  for (int32_t l = 0; l < run.view.weight.level_count; ++l) {
    const QuadLevel& level = run.levels[l];
    for (int64_t i = int64_t{4} * level.ptr[group]; i < int64_t{4} * level.ptr[group + 1]; ++i) {
      float* const block = values + ptr[1] * block_rows;
      const int8_t* const quad = level.val + i / 4 * 4 * block_rows + i % 4;
      for (int64_t v = 0; v < block_rows; ++v) block[v] = quad[4 * v];
      columns[ptr[1]++] = level.col[i];
    }
  }
  float scale[16];
  for (int64_t v = 0; v < block_rows; ++v) scale[v] = run.view.row_scale[first + v] * run.view.weight.scale[first + v];
  const PackedLevel level{ptr, columns, values};
  const PackedWeight& weight = run.view.weight;
  SpmmArgs args = all;
  args.weight =
      PackedWeight{&level, 1, scale, weight.shift + first, nullptr, weight.rows - first, 0, weight.columns, 0};
  if (weight.perm != nullptr) {
    args.weight.perm = weight.perm + first;
  } else {
    args.y += first * args.y_pitch;
  }
  float_spmm_.spmm(args, 0, 1);
}

}  // namespace nested_sparse
