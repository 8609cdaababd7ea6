// The last error of each thread.
#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace {

thread_local char last_error[512] = "";

}  // namespace

sm_status seemore::fail(sm_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

const char* sm_last_error(void) { return last_error; }
