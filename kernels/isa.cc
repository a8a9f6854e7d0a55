#include "isa.h"

#if NESTED_SPARSE_X86
#include <cpuid.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#if NESTED_SPARSE_ARM64 && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace nested_sparse {
namespace {

struct Named {
  Isa isa;
  bool dot;
  const char* name;
};

// Of each architecture, the best one last.
constexpr Named kAll[] = {
    {Isa::scalar, false, "scalar"}, {Isa::avx2, false, "avx2"},        {Isa::avx2, true, "avxvnni"},
    {Isa::avx512, false, "avx512"}, {Isa::avx512, true, "avx512vnni"}, {Isa::neon, false, "neon"},
    {Isa::neon, true, "neondot"},
};
constexpr Isa kBestFirst[] = {Isa::avx512, Isa::avx2, Isa::neon, Isa::scalar};

std::string names(bool usable_only) {
  std::string text;
  for (const Named& each : kAll) {
    if (usable_only && !isa_supported(each.isa, each.dot)) continue;
    text += (text.empty() ? "" : ", ") + std::string(each.name);
  }
  return text;
}

void explain(char (&error)[256], const char* value, const std::string& why) {
  std::snprintf(error, sizeof error, "NESTED_SPARSE_FORCE_ISA is '%.32s': %s; usable here: %s", value, why.c_str(),
                names(true).c_str());
}

#if NESTED_SPARSE_X86
struct X86 {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, DQ, BW and VL
  bool avx_vnni = false;
  bool avx512_vnni = false;
  bool avx512_vbmi = false;
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

X86 detect_all() {
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
  found.avx512_vnni = found.avx512 && bit(c, 11);
  found.avx512_vbmi = found.avx512 && bit(c, 1);
  const bool has_more = a > 0;  // a: the last of the leaf's parts
  if (has_more && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) found.avx_vnni = found.avx2 && bit(a, 4);
  return found;
}

const X86& detected() {
  static const X86 cpu = detect_all();
  return cpu;
}
#endif

#if NESTED_SPARSE_ARM64
bool has_dotprod() {
#if defined(__linux__)
  constexpr unsigned long kAsimdDotProduct = 1UL << 20;  // HWCAP_ASIMDDP, which old headers lack
  return (getauxval(AT_HWCAP) & kAsimdDotProduct) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
  return true;
#else
  return false;
#endif
}
#endif

IsaChoice forced(const char* value) {
  IsaChoice choice{Isa::scalar, false, ""};
  for (const Named& each : kAll) {
    if (std::strcmp(value, each.name) != 0) continue;
    choice.isa = each.isa;
    choice.dot = each.dot;
    if (!isa_supported(each.isa, each.dot)) explain(choice.error, value, "this CPU or build does not support it");
    return choice;
  }
  explain(choice.error, value, "no such instruction set (" + names(false) + ")");
  return choice;
}

IsaChoice choose() {
  const char* value = std::getenv("NESTED_SPARSE_FORCE_ISA");
  if (value != nullptr && value[0] != '\0') return forced(value);
  for (Isa isa : kBestFirst) {
    if (isa_supported(isa)) return IsaChoice{isa, isa_supported(isa, true), ""};
  }
  return IsaChoice{Isa::scalar, false, ""};
}

}  // namespace

const char* isa_name(Isa isa, bool dot) {
  for (const Named& each : kAll) {
    if (each.isa == isa && each.dot == dot) return each.name;
  }
  return "scalar";
}

bool isa_supported(Isa isa, bool dot) {
#if NESTED_SPARSE_X86
  if (isa == Isa::avx2) return dot ? NESTED_SPARSE_AVXVNNI && detected().avx_vnni : detected().avx2;
  if (isa == Isa::avx512) return dot ? detected().avx512_vnni : detected().avx512;
#endif
#if NESTED_SPARSE_ARM64
  if (isa == Isa::neon) return !dot || has_dotprod();  // the rest is part of the architecture
#endif
  return isa == Isa::scalar && !dot;
}

bool has_vbmi() {
#if NESTED_SPARSE_X86
  return detected().avx512_vbmi;
#else
  return false;
#endif
}

const IsaChoice& isa_choice() {
  static const IsaChoice choice = choose();
  return choice;
}

}  // namespace nested_sparse
