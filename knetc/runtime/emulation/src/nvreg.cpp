// Lets a library that nvcc itself compiled run here, its kernels taken from a twin built by the C++ compiler: nvcc's start-
// up code registers each kernel by name, and the twin's kernel of that name (KNETEMU_KERNELS=/path/of/the/twin) runs in
// its place. So nvcc's host code is tested without a device. Before: the loader runs the library's start-up code. After:
// `kernel.cpp` finds the kernel by its alias. No header declares these functions: nvcc's output calls them.
#include <dlfcn.h>
#include <stdlib.h>

#include "emu.h"

using namespace knetemu;

namespace {
void* open_twin() {
  const char* path = getenv("KNETEMU_KERNELS");
  if (!path) die("KNETEMU_KERNELS must name a library with the kernels, built by the C++ compiler");
  void* twin = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!twin) die("KNETEMU_KERNELS: %s", dlerror());
  return twin;
}
struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
} configuration;
}  // namespace

extern "C" {
void** __cudaRegisterFatBinary(void*);
void __cudaRegisterFatBinaryEnd(void**);
void __cudaUnregisterFatBinary(void**);
char __cudaInitModule(void**);
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*);
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int);
cudaError_t __cudaGetKernel(void** kernel, const void* stub);
cudaError_t __cudaLaunchKernel(void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream);
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream);

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}  // the twin has its own
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  static void* const twin = open_twin();
  const void* kernel = dlsym(twin, name);
  if (!kernel) die("the library with the kernels has no %s", name);
  alias_kernel(stub, kernel);
}
cudaError_t __cudaGetKernel(void** kernel, const void* stub) {
  *kernel = const_cast<void*>(stub);
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}
}
