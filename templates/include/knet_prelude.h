// Three builds of this file. nvcc: all of it. KNET_DEVICE_ONLY: the kernels alone, for a cubin. KNET_HOST_ONLY: the
// host half alone, by a C++ compiler, its kernels taken from a cubin (..._use_cubin). Without nvcc and without either,
// the kernels run on the processor through knet_device_emu.h.
#include <cuda_runtime.h>
#include <math.h>

#if defined(__CUDACC__)
#define KNET_SHARED(T, name, n) __shared__ T name[n]
#elif !defined(KNET_HOST_ONLY)
#include "knet_device_emu.h"
#define KNET_EMULATED 1
#endif
