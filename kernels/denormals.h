// Denormal numbers (below 1.2e-38) as zero, for a while and on one thread. Arithmetic with one takes a hundred times as
// long on x86 (decision 027), and a sum of products loses at most that much where it is taken for zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace nested_sparse {

// The floating-point control of a thread: on x86 with the exception flags raised so far.
using FloatControl = uint64_t;

#if defined(__x86_64__)
inline void set_float_control(FloatControl control) {
  _mm_setcsr(static_cast<uint32_t>(control));
}
// From now on results and operands are flushed to zero; returns what was.
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

// Flushed while it lives, on the thread that made it; then the thread's control is what it was.
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
