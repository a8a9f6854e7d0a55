#include "attention_operator.h"

#include <algorithm>
#include <string>

#include "round_up.h"
#include "scratch.h"

namespace nested_sparse {
namespace {

constexpr double kGrain = 1 << 18;  // multiplications of a task
// Up to as many queries of a head read the keys as they lie; to transpose these takes as long as three queries do.
constexpr int64_t kFew = 3;
enum AttentionInput : size_t { kQ = 0, kK = 1, kV = 2, kMask = 3 };
enum Axis : size_t { kBatch = 0, kHead = 1, kPosition = 2 };

[[noreturn]] void fail(const std::string& message) {
  throw ort::Error("ScaledDotProductAttention: " + message);
}

// A tensor as (batch, head, position, values of a head), which are contiguous. Sizes and steps are by Axis; steps count
// floats.
struct View {
  const float* data;
  int64_t size[3];
  int64_t step[3];
  int64_t width;

  const float* head(int64_t batch, int64_t head) const { return data + batch * step[kBatch] + head * step[kHead]; }
};

View view_of(const char* name, const ort::Tensor<const float>& tensor, const HeadAxes& axes) {
  const ort::Shape& shape = tensor.shape;
  if (shape.rank != 4 && shape.rank != 5) fail(std::string(name) + " must be of rank 4 or 5, got " + shape.text());
  const auto outer = static_cast<int64_t>(shape.rank) - 1;
  int64_t steps[4];
  int64_t step = shape.size[outer];
  for (int64_t axis = outer - 1; axis >= 0; --axis) {
    steps[axis] = step;
    step *= shape.size[axis];
  }
  View view{tensor.data, {}, {}, shape.size[outer]};
  int64_t rest = outer * (outer - 1) / 2;  // the sum of all axes, less those below
  for (size_t i = 0; i < 3; ++i) {
    const int64_t axis = axes.at[i];
    if (axis >= outer) {
      fail(std::string(name) + ": axis " + std::to_string(axis) + " is beyond the outer ones of " + shape.text());
    }
    view.size[i] = shape.size[axis];
    view.step[i] = steps[axis];
    rest -= axis;
  }
  if (outer == 3) return view;
  if (axes.place >= shape.size[rest]) {
    fail(std::string(name) + ": place " + std::to_string(axes.place) + " is beyond axis " + std::to_string(rest) +
         " of " + shape.text());
  }
  view.data += axes.place * steps[rest];
  return view;
}

// The mask of a head, with steps of 0 along dimensions that it does not have.
struct Mask {
  const float* data = nullptr;
  int64_t step[4] = {};
};

Mask mask_of(const ort::Tensor<const float>& tensor, const int64_t (&sizes)[4]) {
  Mask mask;
  if (tensor.data == nullptr && tensor.shape.elements() != 0) return mask;
  const ort::Shape& shape = tensor.shape;
  bool fits = shape.rank <= 4;
  int64_t step = 1;
  for (size_t i = 0; fits && i < shape.rank; ++i) {
    const int64_t size = shape.size[shape.rank - 1 - i];
    fits = size == 1 || size == sizes[3 - i];
    if (size != 1) mask.step[3 - i] = step;
    step *= size;
  }
  if (!fits) {
    std::string text;
    for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
    fail("mask must be broadcast to [" + text + "], got " + shape.text());
  }
  mask.data = tensor.data;
  return mask;
}

void check_sizes(const View& q, const View& k, const View& v) {
  const auto same = [](const char* what, const char* first, int64_t a, const char* second, int64_t b) {
    if (a == b) return;
    fail(std::string(what) + " must be equal, got " + std::to_string(a) + " of " + first + " and " + std::to_string(b) +
         " of " + second);
  };
  same("batches", "Q", q.size[kBatch], "K", k.size[kBatch]);
  same("batches", "Q", q.size[kBatch], "V", v.size[kBatch]);
  same("heads", "K", k.size[kHead], "V", v.size[kHead]);
  same("positions", "K", k.size[kPosition], "V", v.size[kPosition]);
  same("widths", "Q", q.width, "K", k.width);
  if (q.size[kHead] != 0 && (k.size[kHead] == 0 || q.size[kHead] % k.size[kHead] != 0)) {
    fail("heads of Q must be a multiple of those of K, got " + std::to_string(q.size[kHead]) + " and " +
         std::to_string(k.size[kHead]));
  }
}

// The keys of a head in panels.
const float* panels_of(const HeadArgs& args, int64_t panel, const TransposeLoops& transposition) {
  const int64_t padded = round_up(args.keys, panel);
  float* const panels = scratch(Purpose::input, padded * args.width);
  const int64_t last = (padded - panel) * args.width;
  if (padded != args.keys) std::fill(panels + last, panels + padded * args.width, 0.0F);
  for (int64_t key = 0; key < args.keys; key += panel) {
    transposition.pack({args.k + key * args.k_pitch, args.k_pitch, std::min(panel, args.keys - key), args.width,
                        panels + key * args.width, panel});
  }
  return panels;
}

// Sets the values of a head: `v` itself where its rows are whole vectors, else a copy with zeros behind each.
void set_values(HeadArgs& args, const float* v, int64_t pitch, int64_t lanes) {
  args.v = v;
  args.v_pitch = pitch;
  if (args.value_width % lanes == 0) return;
  args.v_pitch = round_up(args.value_width, lanes);
  float* const values = scratch(Purpose::values, args.keys * args.v_pitch);
  for (int64_t i = 0; i < args.keys; ++i) {
    float* const to = values + i * args.v_pitch;
    std::copy_n(v + i * pitch, args.value_width, to);
    std::fill(to + args.value_width, to + args.v_pitch, 0.0F);
  }
  args.v = values;
}

}  // namespace

ScaledDotProductAttention::ScaledDotProductAttention(const ort::Attributes& attributes)
    : q_(attributes, "q_axes", "q_place"),
      k_(attributes, "k_axes", "k_place"),
      v_(attributes, "v_axes", "v_place"),
      y_(attributes, "y_axes", nullptr),
      scale_(attributes.real("scale")),
      causal_(read_choice(attributes, "causal", 0, 1, 0) == 1),
      loops_(find_attention(isa_choice().isa)),
      transposition_(find_transpose(isa_choice().isa)) {}

HeadAxes::HeadAxes(const ort::Attributes& attributes, const char* axes, const char* place)
    : place(place == nullptr ? 0 : read_choice(attributes, place, 0, kMostPlaces, 0)) {
  const std::vector<int64_t> given = attributes.integers(axes, 3);
  const int64_t most = place == nullptr ? 2 : 3;
  std::copy(given.begin(), given.end(), at);
  const bool within = *std::min_element(at, at + 3) >= 0 && *std::max_element(at, at + 3) <= most;
  if (within && at[0] != at[1] && at[0] != at[2] && at[1] != at[2]) return;
  throw ort::Error("attribute '" + std::string(axes) + "': expected three different axes from 0 to " +
                   std::to_string(most) + ", got " + std::to_string(at[0]) + ", " + std::to_string(at[1]) + ", " +
                   std::to_string(at[2]));
}

void ScaledDotProductAttention::compute(const ort::Context& context) const {
  const View q = view_of("Q", context.input<float>(kQ), q_);
  const View k = view_of("K", context.input<float>(kK), k_);
  const View v = view_of("V", context.input<float>(kV), v_);
  check_sizes(q, k, v);
  const int64_t queries = q.size[kPosition];
  const int64_t keys = k.size[kPosition];
  const int64_t heads = q.size[kHead];
  Mask mask;
  if (context.input_count() > kMask) {
    mask = mask_of(context.input<float>(kMask), {q.size[kBatch], heads, queries, keys});
  }
  ort::Shape shape;
  shape.rank = 4;
  for (size_t i = 0; i < 3; ++i) shape.size[y_.at[i]] = q.size[i];
  shape.size[3] = v.width;
  float* const y = context.output(shape);
  if (shape.elements() == 0) return;
  if (keys == 0) {
    std::fill(y, y + shape.elements(), 0.0F);
    return;
  }
  const View out = view_of("Y", ort::Tensor<const float>{y, shape}, y_);

  const bool packed = queries > kFew;
  const int64_t strip = packed ? loops_.strip : 1;
  const int64_t strips = (queries + strip - 1) / strip;
  const int64_t units = q.size[kBatch] * heads * strips;
  const int64_t shared = heads / k.size[kHead];  // queries' heads with the same keys
  const double cost = static_cast<double>(q.size[kBatch] * heads * queries) * static_cast<double>(keys) *
                      static_cast<double>(q.width + v.width);
  const int64_t tasks = task_count(units, cost, kGrain);
  context.parallel_for(tasks, [&](int64_t task) {
    const Part part = part_of(units, tasks, task);
    HeadArgs args{};
    args.q_pitch = q.step[kPosition];
    args.k_pitch = k.step[kPosition];
    args.y_pitch = out.step[kPosition];
    args.keys = keys;
    args.width = q.width;
    args.value_width = v.width;
    args.scale = scale_;
    args.causal = causal_;
    args.mask_pitch = mask.step[2];
    args.mask_step = mask.step[3];
    args.scores = scratch(Purpose::sums, strip * round_up(keys, loops_.panel));
    for (int64_t begin = part.begin; begin < part.end;) {
      const int64_t index = begin / strips;
      const int64_t end = std::min(part.end, (index + 1) * strips);
      const int64_t batch = index / heads;
      const int64_t head = index % heads;
      args.q = q.head(batch, head);
      args.y = const_cast<float*>(out.head(batch, head));
      if (mask.data != nullptr) args.mask = mask.data + batch * mask.step[0] + head * mask.step[1];
      const float* const k_head = k.head(batch, head / shared);
      if (k_head != args.k) {
        args.k = k_head;
        if (packed) args.panels = panels_of(args, loops_.panel, transposition_);
        set_values(args, v.head(batch, head / shared), v.step[kPosition], loops_.lanes);
      }
      const auto& run = packed ? loops_.packed : loops_.single;
      run(args, (begin - index * strips) * strip, std::min(queries, (end - index * strips) * strip));
      begin = end;
    }
  });
}

}  // namespace nested_sparse
