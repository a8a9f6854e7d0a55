// Switches a thread's arithmetic so that denormal numbers (magnitudes below 1.2e-38) count as zero. On x86 an operation
// on a denormal number takes a hundred times as long as others (decision 027). Each number that is taken for zero
// changes a sum by at most its own magnitude.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace nested_sparse {

// The floating-point control register of a thread. On x86 it also holds the exception flags raised so far.
using FloatControl = uint64_t;

#if defined(__x86_64__)
inline void set_float_control(FloatControl control) {
  _mm_setcsr(static_cast<uint32_t>(control));
}
// Denormal results and operands on this thread count as zero from now on. Returns the control as it was before.
inline FloatControl flush_denormals() {
  constexpr uint32_t kResults = 0x8000, kOperands = 0x0040;
  const uint32_t before = _mm_getcsr();
  _mm_setcsr(before | kResults | kOperands);
  return before;
}
#elif defined(__aarch64__)
inline void set_float_control(FloatControl control) {
  asm volatile("msr fpcr, %0" ::"r"(control) : "memory");
}
inline FloatControl flush_denormals() {
  constexpr FloatControl kBoth = FloatControl{1} << 24;
  FloatControl before;
  asm volatile("mrs %0, fpcr" : "=r"(before)::"memory");
  set_float_control(before | kBoth);
  return before;
}
#else
inline void set_float_control(FloatControl) {}
inline FloatControl flush_denormals() {
  return 0;
}
#endif

// While an object of this class lives, denormal numbers count as zero on the thread that made it. Its end restores the
// thread's control.
class FlushDenormals {
 public:
  FlushDenormals() : before_(flush_denormals()) {}
  ~FlushDenormals() { set_float_control(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  const FloatControl before_;
};

}  // namespace nested_sparse
