// What the drivers of the C API do where something is not as it must be: say so, with the library's own
// reason.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "seemore.h"

#define EXPECT(condition)                                                                \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, sm_last_error()); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (0)
