// What the hand-written CUDA files of these tests need of an emitted file's prelude: the three builds of one source, and a
// launch that nvcc and other compilers read alike.
#pragma once
#include <cuda_runtime.h>
#include <math.h>

#if defined(__CUDACC__)
#define KNET_SHARED(T, name, n) __shared__ T name[n]
#define KNET_DYN_SHARED(T, name)                                        \
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(dynamic_shared_bytes)
#define REGISTER(kernel) ((void)0)
#else
#include "knet_device_emu.h"
#define REGISTER(kernel) knetemu::reg(kernel)
#endif

template <class T> struct identity {
  using type = T;
};
template <class... P>
static cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                          typename identity<P>::type... arguments) {
  REGISTER(kernel);
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared, stream);
}
