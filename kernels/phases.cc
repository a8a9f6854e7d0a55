#include "phases.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

namespace nested_sparse {
namespace {

constexpr int64_t kMaxPhases = 4096;
constexpr int64_t kMaxPixels = std::numeric_limits<int32_t>::max();

}  // namespace

Window::Window(const ort::Attributes& attributes, const ConvGeometry& geometry, int64_t spatial) : geometry_(geometry) {
  read_sizes(attributes, "output_padding", spatial, 0, 0, {output_padding_});
  int64_t phases = 1;
  for (int axis = 0; axis < 3; ++axis) {
    if (geometry.stride[axis] > kMaxPhases / phases) {
      throw ort::Error("attribute 'strides': expected a product of at most " + std::to_string(kMaxPhases));
    }
    phases *= geometry.stride[axis];
    step_[axis] = geometry.dilation[axis] / std::gcd(geometry.stride[axis], geometry.dilation[axis]);
    residues_[axis] = residues_of(axis);
  }
}

// The taps of a phase in the order in which they read, which is from the last tap to the first.
std::vector<Window::Residue> Window::residues_of(int axis) const {
  const int64_t stride = geometry_.stride[axis];
  const int64_t before = geometry_.pad_before[axis];
  std::vector<Residue> found(static_cast<size_t>(stride), Residue{0, 0, 0});
  for (int64_t tap = 0; tap < geometry_.kernel[axis]; ++tap) {
    const int64_t at = tap * geometry_.dilation[axis] - before;
    const int64_t remainder = (at % stride + stride) % stride;
    Residue& residue = found[static_cast<size_t>(remainder)];
    ++residue.taps;
    residue.first = (remainder - at) / stride;
  }
  for (Residue& residue : found) {
    const auto same = std::find_if(found.begin(), found.end(), [&](const Residue& other) {
      return other.taps == residue.taps && other.first == residue.first;
    });
    residue.same = same - found.begin();
  }
  return found;
}

int64_t Window::residue(int axis, int64_t phase) const {
  if (axis == 1) return phase % residues(1);
  return axis == 0 ? phase / residues(1) % residues(0) : phase / (residues(1) * residues(0));
}

int64_t Window::taps(int64_t phase) const {
  int64_t taps = 1;
  for (int axis = 0; axis < 3; ++axis) taps *= residues_[axis][residue(axis, phase)].taps;
  return taps;
}

int64_t Window::taps() const {
  return geometry_.taps();
}

int64_t Window::same_as(int64_t phase) const {
  int64_t same[3];
  for (int axis = 0; axis < 3; ++axis) same[axis] = residues_[axis][residue(axis, phase)].same;
  return (same[2] * residues(0) + same[0]) * residues(1) + same[1];
}

int64_t Window::output_size(int axis, int64_t size) const {
  const int64_t reach = (geometry_.kernel[axis] - 1) * geometry_.dilation[axis] + 1;
  const int64_t full = geometry_.stride[axis] * (size - 1) + reach + output_padding_[axis];
  const int64_t output = full - geometry_.pad_before[axis] - geometry_.pad_after[axis];
  if (size < 1 || output < 1) {
    constexpr const char* kNames[] = {" rows", " columns", " slices"};
    throw ort::Error("for " + std::to_string(size) + kNames[axis] + " of X there would be " + std::to_string(output) +
                     " of Y");
  }
  return output;
}

ConvGeometry Window::convolution(int64_t phase, const int64_t (&size)[3], const int64_t (&grid)[3]) const {
  ConvGeometry found{};
  for (int axis = 0; axis < 3; ++axis) {
    const Residue& residue = residues_[axis][this->residue(axis, phase)];
    found.kernel[axis] = residue.taps;
    found.stride[axis] = 1;
    found.dilation[axis] = step_[axis];
    found.pad_before[axis] = -residue.first;
    found.pad_after[axis] = grid[axis] - size[axis] + residue.first + (residue.taps - 1) * step_[axis];
  }
  return found;
}

size_t Phases::nbytes() const {
  size_t nbytes = plans_.size() * sizeof(plans_[0]);
  for (size_t phase = 0; phase < plans_.size(); ++phase) {
    const bool shared = std::find(plans_.begin(), plans_.begin() + static_cast<int64_t>(phase), plans_[phase]) !=
                        plans_.begin() + static_cast<int64_t>(phase);
    if (plans_[phase] != nullptr && !shared) nbytes += plans_[phase]->nbytes();
  }
  return nbytes;
}

Phases::Phases(const Window& window, const Image& x, TileShape shape)
    : size_{x.size.height, x.size.width, x.size.depth}, channels_(x.size.channels) {
  for (int axis = 0; axis < 3; ++axis) {
    output_[axis] = window.output_size(axis, size_[axis]);
    grid_[axis] = (output_[axis] + window.residues(axis) - 1) / window.residues(axis);
  }
  if (output_[0] > kMaxPixels / output_[1] || output_[0] * output_[1] > kMaxPixels / output_[2]) {
    throw ort::Error("the output image has more than 2^31 pixels");
  }
  tiling_ = Tiling(grid_[0] * grid_[1] * grid_[2], shape.lanes, shape.vectors);
  check_pieces(tiling_, window.taps());
  for (int64_t phase = 0; phase < window.phases(); ++phase) {
    const int64_t same = window.same_as(phase);
    const bool made = same < phase || window.taps(phase) == 0;
    plans_.push_back(!made ? std::make_shared<const ConvPlan>(window.convolution(phase, size_, grid_), x, shape)
                     : same < phase ? plans_[static_cast<size_t>(same)]
                                    : nullptr);
  }
}

}  // namespace nested_sparse
