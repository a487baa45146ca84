// Device and pinned memory: allocation, copies, and the check that every range a call touches is live device memory.
// Before: the emitted host code. After: `stream.cpp` orders the copies.
//
// Device memory is memory of the process, filled with a byte of garbage when allocated. Under the address sanitizer it is
// poisoned while host code runs, so that the host can't touch it.
#include <stdlib.h>
#include <string.h>

#include <map>

#include "emu.h"

extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void* start, size_t size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* start, size_t size);
}

namespace knetemu {
namespace {

struct Allocation {
  size_t size;
  bool pinned;  // host memory
};
std::map<const char*, Allocation>& allocations() {
  static std::map<const char*, Allocation> all;
  return all;
}
constexpr size_t kDeviceMemory = size_t(64) << 30;  // what cudaMemGetInfo claims
size_t in_use, peak;
int device_depth;

bool guarded() { return __asan_poison_memory_region && options().guard; }

cudaError_t allocate(void** pointer, size_t size, bool pinned) {
  *pointer = nullptr;
  if (allocation_fails()) return fail(cudaErrorMemoryAllocation);
  if (size == 0) return cudaSuccess;
  void* memory = nullptr;
  if (size > kDeviceMemory - in_use || posix_memalign(&memory, 256, size)) return fail(cudaErrorMemoryAllocation);
  memset(memory, options().fill, size);
  allocations()[static_cast<char*>(memory)] = {size, pinned};
  count_object(1);
  if (!pinned) {
    in_use += size;
    if (in_use > peak) peak = in_use;
    if (guarded() && !device_depth) __asan_poison_memory_region(memory, size);
  }
  *pointer = memory;
  return cudaSuccess;
}

bool release(void* pointer, bool pinned) {
  if (!pointer) return true;
  const auto found = allocations().find(static_cast<char*>(pointer));
  if (found == allocations().end() || found->second.pinned != pinned) return false;
  if (guarded()) __asan_unpoison_memory_region(pointer, found->second.size);
  if (!pinned) in_use -= found->second.size;
  allocations().erase(found);
  count_object(-1);
  free(pointer);
  return true;
}

// What a call that frees returns.
cudaError_t released(bool done, Call& call) {
  return !done ? fail(cudaErrorInvalidValue) : call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}

// The allocation that holds `pointer`, with the bytes left from there; null where there is none.
const Allocation* find(const void* pointer, size_t* left) {
  auto after = allocations().upper_bound(static_cast<const char*>(pointer));
  if (after == allocations().begin()) return nullptr;
  --after;
  const size_t offset = static_cast<size_t>(static_cast<const char*>(pointer) - after->first);
  if (offset >= after->second.size) return nullptr;
  *left = after->second.size - offset;
  return &after->second;
}

void copy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  if (!size) return;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice ||
                         (kind == cudaMemcpyDefault && is_device(to));
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice ||
                           (kind == cudaMemcpyDefault && is_device(from));
  if (to_device) check(to, size, "cudaMemcpy (destination)");
  if (from_device) check(from, size, "cudaMemcpy (source)");
  if ((!to_device && is_device(to)) || (!from_device && is_device(from)))
    die("cudaMemcpy: kind %d with device memory on the host's side", static_cast<int>(kind));
  DeviceMode device;
  memmove(to, from, size);
}
void set(void* pointer, int value, size_t size) {
  check(pointer, size, "cudaMemset");
  DeviceMode device;
  memset(pointer, value, size);
}
bool valid(cudaMemcpyKind kind) { return kind >= cudaMemcpyHostToHost && kind <= cudaMemcpyDefault; }

void guard_all(void (*change)(const volatile void*, size_t)) {
  if (!guarded()) return;
  for (const auto& a : allocations())
    if (!a.second.pinned) change(a.first, a.second.size);
}

}  // namespace

void restart_peak() { peak = in_use; }

bool is_device(const void* pointer) {
  size_t left;
  const Allocation* found = find(pointer, &left);
  return found && !found->pinned;
}

void check(const void* pointer, size_t bytes, const char* who) {
  if (!bytes) return;
  size_t left;
  const Allocation* found = find(pointer, &left);
  if (!found || found->pinned) die("%s: %p is not live device memory", who, pointer);
  if (left < bytes) die("%s: needs %zu bytes at %p, the allocation has %zu left", who, bytes, pointer, left);
}

DeviceMode::DeviceMode() {
  if (!device_depth++) guard_all(__asan_unpoison_memory_region);
}
DeviceMode::~DeviceMode() {
  if (!--device_depth) guard_all(__asan_poison_memory_region);
}

}  // namespace knetemu

using namespace knetemu;
extern "C" {
long long knetemu_live_bytes() { return static_cast<long long>(in_use); }
long long knetemu_peak_bytes() { return static_cast<long long>(peak); }

cudaError_t cudaMalloc(void** pointer, size_t size) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (const cudaError_t e = waits_for_all()) return e;
  return allocate(pointer, size, false);
}
cudaError_t cudaMallocAsync(void** pointer, size_t size, cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (is_capturing(stream)) return fail(cudaErrorStreamCaptureUnsupported);  // memory nodes are not emulated
  return allocate(pointer, size, false);
}
cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned int) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  return allocate(pointer, size, true);
}
cudaError_t cudaMallocHost(void** pointer, size_t size) { return cudaHostAlloc(pointer, size, cudaHostAllocDefault); }
cudaError_t cudaFree(void* pointer) {
  Call call;
  if (const cudaError_t e = waits_for_all()) return e;
  drain_all();
  return released(release(pointer, false), call);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  Call call;
  if (is_capturing(stream)) return fail(cudaErrorStreamCaptureUnsupported);
  submit(stream, [=] {
    if (!release(pointer, false)) die("cudaFreeAsync: %p is not live device memory", pointer);
  });
  return released(true, call);
}
cudaError_t cudaFreeHost(void* pointer) {
  Call call;
  drain_all();
  return released(release(pointer, true), call);
}
// Host memory that CUDA did not allocate is no error: it is unregistered.
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* attributes, const void* pointer) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  size_t left;
  const Allocation* found = find(pointer, &left);
  *attributes = {};
  attributes->type = !found ? cudaMemoryTypeUnregistered : found->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = found ? 0 : -1;
  attributes->devicePointer = found ? const_cast<void*>(pointer) : nullptr;
  attributes->hostPointer = found && !found->pinned ? nullptr : const_cast<void*>(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  *total = kDeviceMemory;
  *free_bytes = kDeviceMemory - in_use;
  return cudaSuccess;
}

// On the default stream: streams that do not block are not waited for.
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (!valid(kind)) return fail(cudaErrorInvalidMemcpyDirection);
  if (const cudaError_t e = waits_for_all()) return e;
  submit(nullptr, [=] { copy(to, from, size, kind); });
  return cudaStreamSynchronize(nullptr);
}
// The host's side must be left alone until the stream has been waited for: stricter than a device, which copies pageable
// memory at once.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (!valid(kind)) return fail(cudaErrorInvalidMemcpyDirection);
  submit(stream, [=] { copy(to, from, size, kind); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t size, cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  submit(stream, [=] { set(pointer, value, size); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (!valid(kind)) return fail(cudaErrorInvalidMemcpyDirection);
  if (width > to_pitch || width > from_pitch) return fail(cudaErrorInvalidPitchValue);
  submit(stream, [=] {
    for (size_t row = 0; row < height; row++)
      copy((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width, kind);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset2DAsync(void* pointer, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (width > pitch) return fail(cudaErrorInvalidPitchValue);
  submit(stream, [=] {
    for (size_t row = 0; row < height; row++) set((char*)pointer + row * pitch, value, width);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* pointer, int value, size_t size) { return cudaMemsetAsync(pointer, value, size, nullptr); }
}
