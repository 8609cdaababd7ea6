// Chooses the instruction set at run time.
#include "cpu/isa/dispatch.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/isa/features.h"

#if defined(__x86_64__)
#define SM_EACH_ISA(X) X(v2) X(v3) X(v4) X(v4bf16)
#elif defined(__aarch64__)
#define SM_EACH_ISA(X) X(neon) X(neonbf16)
#else
#define SM_EACH_ISA(X) X(portable)
#endif

namespace seemore {

#define SM_DECLARE(isa)                                              \
  namespace isa {                                                    \
  namespace ops {                                                    \
  extern const seemore::ops::OpsTable* table();                      \
  }                                                                  \
  namespace engine {                                                 \
  extern const seemore::engine::EngineTable* table();                \
  extern const seemore::engine::MicrobenchTable* microbench_table(); \
  }                                                                  \
  }
SM_EACH_ISA(SM_DECLARE)
#undef SM_DECLARE

namespace {

struct Isa {
  const char* name;
  bool (*usable)();
  IsaTables tables;
};

#if defined(__x86_64__)
bool usable_v2() { return x86_level() >= X86Level::kV2; }
bool usable_v3() { return x86_level() >= X86Level::kV3; }
bool usable_v4() { return x86_level() >= X86Level::kV4; }
bool usable_v4bf16() { return x86_level() >= X86Level::kV4Bf16; }
#elif defined(__aarch64__)
bool usable_neon() { return true; }
bool usable_neonbf16() { return arm_has_bf16(); }
#else
bool usable_portable() { return true; }
#endif

#define SM_ENTRY(isa) \
  {#isa, usable_##isa, {isa::ops::table(), isa::engine::table(), isa::engine::microbench_table()}},
const Isa* isas() {
  static const Isa all[] = {SM_EACH_ISA(SM_ENTRY)};
  return all;
}
#undef SM_ENTRY

#define SM_ONE(isa) +1
constexpr int kIsas = SM_EACH_ISA(SM_ONE);
#undef SM_ONE

std::atomic<const Isa*> current{nullptr};

const Isa* find(const char* name) {
  for (int i = 0; i < kIsas; ++i) {
    if (strcmp(isas()[i].name, name) == 0 && isas()[i].usable()) return &isas()[i];
  }
  return nullptr;
}

sm_status refuse(const char* source, const char* name) {
  char list[64] = "";
  for (int i = 0; sm_usable_isa(i); ++i) {
    const size_t used = strlen(list);
    snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", sm_usable_isa(i));
  }
  return fail(SM_ERROR_UNSUPPORTED, "%s '%.32s' is unknown or not supported by this CPU; usable here: %s",
              source, name, list[0] ? list : "none (seemore-fast needs at least x86-64-v2)");
}

const Isa* choose() {
  const char* wanted = getenv("SEEMORE_ISA");
  if (wanted && *wanted) {
    const Isa* isa = find(wanted);
    if (!isa) refuse("SEEMORE_ISA", wanted);
    return isa;
  }
  for (int i = kIsas; i-- > 0;) {
    if (isas()[i].usable()) return &isas()[i];
  }
  fail(SM_ERROR_UNSUPPORTED, "this CPU is older than x86-64-v2, the least that seemore-fast runs on");
  return nullptr;
}

// Two threads that race here choose the same, unless sm_set_isa() comes between: then its choice stays.
const Isa* chosen() {
  const Isa* isa = current.load(std::memory_order_acquire);
  if (isa) return isa;
  const Isa* mine = choose();
  const Isa* none = nullptr;
  if (mine && !current.compare_exchange_strong(none, mine)) return none;
  return mine;
}

}  // namespace

const IsaTables* tables() {
  const Isa* isa = chosen();
  return isa ? &isa->tables : nullptr;
}

}  // namespace seemore

using namespace seemore;

const char* sm_isa(void) {
  const Isa* isa = chosen();
  return isa ? isa->name : nullptr;
}

const char* sm_usable_isa(int i) {
  for (int j = 0; j < kIsas; ++j) {
    if (isas()[j].usable() && i-- == 0) return isas()[j].name;
  }
  return nullptr;
}

sm_status sm_set_isa(const char* name) {
  const Isa* isa = nullptr;
  if (name) {
    isa = find(name);
    if (!isa) return refuse("instruction set", name);
  }
  current.store(isa, std::memory_order_release);
  return SM_OK;
}
