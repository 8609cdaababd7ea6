# CMake tool chain: Clang of the PyPI package ziglang, which carries the libraries of other platforms.
#
#   cmake --toolchain .ci/zig.cmake -DSEEMORE_ZIG=.../zig -DSEEMORE_TARGET=aarch64-linux-gnu.2.28 ...
#
# SEEMORE_ZIG: the program, python -c "import ziglang, os; print(os.path.dirname(ziglang.__file__))"; SEEMORE_TARGET:
# as Zig writes it, processor-system-ABI and the oldest version of the system's library.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SEEMORE_ZIG SEEMORE_TARGET)

string(REGEX MATCH "^([a-z0-9_]+)-([a-z]+)" matched "${SEEMORE_TARGET}")
set(CMAKE_SYSTEM_PROCESSOR "${CMAKE_MATCH_1}")
if(CMAKE_MATCH_2 STREQUAL "linux")
  set(CMAKE_SYSTEM_NAME Linux)
elseif(CMAKE_MATCH_2 STREQUAL "windows")
  set(CMAKE_SYSTEM_NAME Windows)
elseif(CMAKE_MATCH_2 STREQUAL "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
  set(CMAKE_USER_MAKE_RULES_OVERRIDE_CXX "${CMAKE_CURRENT_LIST_DIR}/zig_macos.cmake")
else()
  message(FATAL_ERROR "SEEMORE_TARGET must be as x86_64-windows-gnu, got '${SEEMORE_TARGET}'")
endif()

set(CMAKE_CXX_COMPILER "${SEEMORE_ZIG}" c++ -target "${SEEMORE_TARGET}")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

# It takes -O3 for -O2, by which T x4 takes a sixth longer on AVX2 (docs/platforms.md).
set(CMAKE_CXX_FLAGS_INIT "-Xclang -O3")

# Zig has names of its own for processors.
set(FLAGS_v2 -mcpu=x86_64_v2)
set(FLAGS_v3 -mcpu=x86_64_v3)
set(FLAGS_v4 -mcpu=x86_64_v4 -mprefer-vector-width=512)
set(FLAGS_v4bf16 -mcpu=x86_64_v4+avx512bf16 -mprefer-vector-width=512)
set(FLAGS_neonbf16 -mcpu=generic+bf16)
