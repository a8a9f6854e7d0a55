#include "isa.h"

#if NESTED_SPARSE_X86
#include <cpuid.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace nested_sparse {
namespace {

constexpr Isa kAll[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon};
constexpr Isa kBestFirst[] = {Isa::avx512, Isa::avx2, Isa::neon, Isa::scalar};

void explain(char (&error)[256], const char* value, const char* why) {
  char usable[64] = "";
  for (Isa isa : kAll) {
    if (!isa_supported(isa)) continue;
    if (usable[0] != '\0') std::strcat(usable, ", ");
    std::strcat(usable, isa_name(isa));
  }
  std::snprintf(error, sizeof error, "NESTED_SPARSE_FORCE_ISA is '%.32s': %s; usable here: %s", value, why, usable);
}

#if NESTED_SPARSE_X86
struct X86 {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, DQ, BW and VL
};

bool bit(uint32_t word, int index) {
  return (word >> index & 1U) != 0;
}

// Registers that the operating system saves (XCR0).
uint64_t saved_registers() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

X86 detect() {
  X86 found;
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !bit(c, 27)) return found;  // OSXSAVE
  const bool fma_f16c = bit(c, 12) && bit(c, 29);
  const uint64_t saved = saved_registers();
  constexpr uint64_t kYmm = 0x6;
  constexpr uint64_t kZmm = 0xe6;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  found.avx2 = fma_f16c && bit(b, 5) && (saved & kYmm) == kYmm;
  found.avx512 = found.avx2 && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31) && (saved & kZmm) == kZmm;
  return found;
}
#endif

IsaChoice forced(const char* value) {
  IsaChoice choice{Isa::scalar, ""};
  for (Isa isa : kAll) {
    if (std::strcmp(value, isa_name(isa)) != 0) continue;
    choice.isa = isa;
    if (!isa_supported(isa)) explain(choice.error, value, "this CPU or build does not support it");
    return choice;
  }
  explain(choice.error, value, "no such instruction set (scalar, avx2, avx512, neon)");
  return choice;
}

IsaChoice choose() {
  const char* value = std::getenv("NESTED_SPARSE_FORCE_ISA");
  if (value != nullptr && value[0] != '\0') return forced(value);
  for (Isa isa : kBestFirst) {
    if (isa_supported(isa)) return IsaChoice{isa, ""};
  }
  return IsaChoice{Isa::scalar, ""};
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::neon:
      return "neon";
    case Isa::scalar:
      break;
  }
  return "scalar";
}

bool isa_supported(Isa isa) {
#if NESTED_SPARSE_X86
  static const X86 cpu = detect();
  if (isa == Isa::avx2) return cpu.avx2;
  if (isa == Isa::avx512) return cpu.avx512;
#endif
#if NESTED_SPARSE_ARM64
  if (isa == Isa::neon) return true;  // part of the architecture: the compiler uses it everywhere
#endif
  return isa == Isa::scalar;
}

const IsaChoice& isa_choice() {
  static const IsaChoice choice = choose();
  return choice;
}

}  // namespace nested_sparse
