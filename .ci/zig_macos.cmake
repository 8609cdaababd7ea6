# CMake's rules for a module on macOS, after its own: the linker of ziglang 0.17 crashes on -bundle, and would
# name the library by its path on this machine.
set(CMAKE_SHARED_MODULE_CREATE_CXX_FLAGS "-shared -Xlinker -install_name -Xlinker @rpath/_C.so")
