#include <arm_neon.h>

#include "copies.h"

namespace nested_sparse {
namespace {

struct Neon {
  static void copy(uint8_t* to, const uint8_t* from) { vst1q_u8(to, vld1q_u8(from)); }
  static uint8x8_t even(const uint8_t* p) { return vmovn_u16(vreinterpretq_u16_u8(vld1q_u8(p))); }
  static uint8x8_t odd(const uint8_t* p) { return vshrn_n_u16(vreinterpretq_u16_u8(vld1q_u8(p)), 8); }
  // The second load ends with the last byte of the run.
  static void every_second16(uint8_t* to, const uint8_t* from) {
    vst1q_u8(to, vcombine_u8(even(from), odd(from + 15)));
  }
  static void every_second8(uint8_t* to, const uint8_t* from) {
    vst1_u8(to, vuzp1_u8(vld1_u8(from), vext_u8(vld1_u8(from + 7), vld1_u8(from + 7), 1)));
  }
};

}  // namespace

void gather8_neon(const Gather8Args& args) {
  gather_copies<Neon>(args);
}

}  // namespace nested_sparse
