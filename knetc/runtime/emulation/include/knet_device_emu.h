// The device half of CUDA C++ for g++ and clang++: with it an emitted .cu is an ordinary C++ file whose kernels the
// engine (`src/engine.cpp`) runs on the processor. Before: the emitted file's prelude includes <cuda_runtime.h>, ours
// (`cuda/`) or NVIDIA's, and then this file wherever nvcc is not the compiler. After: `knetemu::reg` tells the engine
// of a kernel, and `cudaLaunchKernel` runs it.
//
// Shared memory is declared by KNET_SHARED and KNET_DYN_SHARED. Each is a heap block per CUDA block, so that the address
// sanitizer sees its ends, the thread sanitizer sees no history, and it starts filled with garbage, as on a device.
#pragma once
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "shared memory is declared with KNET_SHARED or KNET_DYN_SHARED");
#define __constant__ static_assert(false, "constant memory is not emulated");

#define KNET_SHARED(T, name, n)             \
  static struct knetemu_shared name##_shared; \
  T(&name)[n] = *static_cast<T(*)[n]>(knetemu::shared(&name##_shared, sizeof(T) * (n)))
#define KNET_DYN_SHARED(T, name) T* const name = static_cast<T*>(knetemu_dynamic_shared(__FILE__, __LINE__))

// --- the engine's side -----------------------------------------------------------------------------------------------

#define KNETEMU_POINTER (size_t(1) << 63)  // in a parameter's size: it is a pointer, and must point to device memory

extern "C" {
extern uint3 threadIdx, blockIdx;  // rewritten by the engine whenever another CUDA thread runs
extern dim3 blockDim, gridDim;
extern uint64_t knetemu_block_number;  // counts the blocks run so far
static const int warpSize __attribute__((unused)) = 32;

// One KNET_SHARED array: the memory that block number `block` has for it.
struct knetemu_shared {
  uint64_t block;
  void* memory;
};
void knetemu_static_shared(struct knetemu_shared* array, size_t size);
void* knetemu_dynamic_shared(const char* file, int line);
void knetemu_barrier(const char* file, int line);
// The lanes of `mask` meet, each leaving 8 bytes; returns the board of 32 values, and the caller's lane.
const uint64_t* knetemu_exchange(unsigned mask, uint64_t value, const char* file, int line, unsigned* lane);
typedef void (*knetemu_caller)(const void* kernel, void** arguments);
void knetemu_register(const void* kernel, knetemu_caller caller, int parameters, const size_t* sizes);
}

#define __syncthreads() knetemu_barrier(__FILE__, __LINE__)

#if defined(__SANITIZE_THREAD__)
#define KNETEMU_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KNETEMU_TSAN 1
#endif
#endif
#ifdef KNETEMU_TSAN
#define KNETEMU_NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define KNETEMU_TSAN 0
#define KNETEMU_NO_TSAN
#endif

// Hidden: each emitted library has its own copy, and can be unloaded.
namespace knetemu __attribute__((visibility("hidden"))) {

// The running block's memory for an array. The thread sanitizer has to be told at every use who filled it.
KNETEMU_NO_TSAN inline void* shared(knetemu_shared* array, size_t size) {
  if (KNETEMU_TSAN || array->block != knetemu_block_number) knetemu_static_shared(array, size);
  return array->memory;
}

template <class... P, size_t... I>
void apply(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<P>*>(arguments[I])...);
}
template <class... P> void caller(const void* kernel, void** arguments) {
  apply(reinterpret_cast<void (*)(P...)>(const_cast<void*>(kernel)), arguments, std::index_sequence_for<P...>{});
}
// Tells the engine how `kernel` is called, and which of its parameters are pointers.
template <class... P> void reg(void (*kernel)(P...)) {
  static const size_t sizes[] = {(sizeof(P) | (std::is_pointer<P>::value ? KNETEMU_POINTER : 0))..., 0};
  knetemu_register(reinterpret_cast<const void*>(kernel), &caller<P...>, static_cast<int>(sizeof...(P)), sizes);
}

}  // namespace knetemu

#include "knet_device_math.h"
#include "knet_device_warp.h"
