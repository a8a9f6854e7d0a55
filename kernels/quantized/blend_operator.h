// The parts that QuantizedAdd and QuantizedMultiply share.
#pragma once

#include "image_operator.h"

namespace nested_sparse {

constexpr int32_t kBlendOne = 1 << 11;  // a gain of 1

class BlendOperator : public RangedOperator {
 protected:
  BlendOperator(const char* name, const ort::Attributes& attributes);
  // A blend that is clamped to the clip's bytes in `range`; its gains and offset are 0.
  Blend limited_to(ByteRange range) const;
  // Channel c of image n of y, from those of a and b, which have y's size. They may be the same image.
  void blend_channel(const Blend& blend, const QuantizedImage& a, const QuantizedImage& b, const QuantizedImage& y,
                     int64_t n, int64_t c) const;

 private:
  Clip clip_;
};

}  // namespace nested_sparse
