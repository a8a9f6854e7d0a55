#include "isa.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace nested_sparse {
namespace {

constexpr Isa kAll[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon};
constexpr Isa kBestFirst[] = {Isa::avx512, Isa::avx2, Isa::scalar};

void explain(char (&error)[256], const char* value, const char* why) {
  char usable[64] = "";
  for (Isa isa : kAll) {
    if (!isa_supported(isa)) continue;
    if (usable[0] != '\0') std::strcat(usable, ", ");
    std::strcat(usable, isa_name(isa));
  }
  std::snprintf(error, sizeof error, "NESTED_SPARSE_FORCE_ISA is '%.32s': %s; usable here: %s", value, why, usable);
}

IsaChoice forced(const char* value) {
  IsaChoice choice{Isa::scalar, ""};
  for (Isa isa : kAll) {
    if (std::strcmp(value, isa_name(isa)) != 0) continue;
    choice.isa = isa;
    if (isa == Isa::neon) {
      explain(choice.error, value, "there are no NEON kernels in this build");
    } else if (!isa_supported(isa)) {
      explain(choice.error, value, "this CPU or build does not support it");
    }
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
  // The compiler's runtime also asks the operating system (xgetbv) before it reports AVX features.
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
  }
#endif
  return isa == Isa::scalar;
}

const IsaChoice& isa_choice() {
  static const IsaChoice choice = choose();
  return choice;
}

}  // namespace nested_sparse
