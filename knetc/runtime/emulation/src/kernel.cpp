// Launching: which kernels there are, whether a launch is legal on a device, and a copy of its arguments. Before: an
// emitted library registers its kernels (`knetemu::reg`). After: `stream.cpp` says when, `engine.cpp` runs the grid.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emu.h"
#include "knet_device_emu.h"

namespace knetemu {
namespace {

std::unordered_map<const void*, Kernel>& kernels() {
  static std::unordered_map<const void*, Kernel> all;
  return all;
}
std::unordered_map<const void*, const void*>& aliases() {
  static std::unordered_map<const void*, const void*> all;
  return all;
}
// Bytes of dynamic shared memory that cudaFuncSetAttribute has allowed.
std::unordered_map<const void*, size_t>& shared_limits() {
  static std::unordered_map<const void*, size_t> all;
  return all;
}

const Kernel* find_kernel(const void* address) {
  const auto alias = aliases().find(address);
  const auto found = kernels().find(alias == aliases().end() ? address : alias->second);
  return found == kernels().end() ? nullptr : &found->second;
}

std::string name_of(const void* kernel) {
  Dl_info info;
  if (dladdr(kernel, &info) && info.dli_sname) return info.dli_sname;
  char text[32];
  snprintf(text, sizeof text, "at %p", kernel);
  return text;
}

// The limits of every device since sm_75.
bool legal(dim3 grid, dim3 block, size_t shared, size_t shared_limit) {
  const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
  return threads > 0 && threads <= 1024 && block.z <= 64 && grid.x > 0 && grid.x <= 0x7fffffffu && grid.y > 0 &&
         grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 && shared <= shared_limit;
}

// The values of a launch's parameters, copied as CUDA does, so that the caller's may change.
class Arguments {
 public:
  Arguments(const Kernel& kernel, void** values) {
    for (int i = 0; i < kernel.parameters; i++) {
      const size_t size = kernel.sizes[i] & ~KNETEMU_POINTER;
      copies_.emplace_back(new char[size]);
      memcpy(copies_.back().get(), values[i], size);
      pointers_.push_back(copies_.back().get());
    }
    pointers_.push_back(nullptr);
  }
  void** pointers() { return pointers_.data(); }

 private:
  std::vector<std::unique_ptr<char[]>> copies_;
  std::vector<void*> pointers_;
};

void check_pointers(const Kernel& kernel, void** values) {
  for (int i = 0; i < kernel.parameters; i++) {
    if (!(kernel.sizes[i] & KNETEMU_POINTER)) continue;
    const void* pointer = *static_cast<void**>(values[i]);
    if (pointer && !is_device(pointer))
      die("kernel %s: argument %d (%p) is not live device memory", name_of(kernel.address).c_str(), i, pointer);
  }
}

}  // namespace

void alias_kernel(const void* stub, const void* address) { aliases()[stub] = address; }

}  // namespace knetemu

using namespace knetemu;
extern "C" {
// The newest registration holds: a library may have been unloaded and another one loaded at its address.
void knetemu_register(const void* address, knetemu_caller caller, int parameters, const size_t* sizes) {
  Call call;
  kernels()[address] = Kernel{address, caller, parameters, sizes};
}

cudaError_t cudaFuncSetAttribute(const void* kernel, enum cudaFuncAttribute attribute, int value) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (!find_kernel(kernel)) return fail(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kSharedMemoryOptIn) return fail(cudaErrorInvalidValue);
  shared_limits()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* address, dim3 grid, dim3 block, void** values, size_t shared,
                             cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorLaunchFailure);
  const auto limit = shared_limits().find(address);
  if (!legal(grid, block, shared, limit == shared_limits().end() ? kSharedMemory : limit->second))
    return fail(cudaErrorInvalidConfiguration);
  const Kernel* found = find_kernel(address);
  if (!found) return fail(cudaErrorInvalidDeviceFunction);
  const Kernel kernel = *found;
  const auto arguments = std::make_shared<Arguments>(kernel, values);
  submit(stream, [=] {
    check_pointers(kernel, arguments->pointers());
    DeviceMode device;
    run_grid(kernel, grid, block, shared, arguments->pointers());
  });
  return cudaSuccess;
}
}
