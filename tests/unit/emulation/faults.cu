// Planted faults: run(name) makes one, and prints what the result's bits are, so that ways of running can be compared.
// `test_emulation_faults.py` says which way must show which.
#include "launch.h"

#include <cublas_v2.h>
#include <stdio.h>
#include <string.h>

namespace {

constexpr unsigned kFull = 0xffffffffu;

// --- kernels with a fault --------------------------------------------------------------------------------------------

__global__ void past_the_end(float* y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i <= n; i += gridDim.x * blockDim.x) y[i] = 1.0f;
}
__global__ void before_the_start(float* y) { y[static_cast<int>(threadIdx.x) - 1] = 1.0f; }
__global__ void past_static_shared(float* y) {
  KNET_SHARED(float, s, 32);
  KNET_SHARED(float, t, 32);
  float* const next = s + 1;  // a pointer: the compiler no longer knows the array's end
  t[threadIdx.x] = 0.0f;
  next[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x] + t[threadIdx.x];
}
__global__ void past_dynamic_shared(float* y) {
  KNET_DYN_SHARED(float, s);
  s[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void no_barrier_before_read(float* y) {
  KNET_SHARED(float, s, 64);
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void no_barrier_in_tree(float* y) {
  KNET_DYN_SHARED(float, s);
  s[threadIdx.x] = 1.0f + static_cast<float>(threadIdx.x);
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2)
    if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
  __syncthreads();
  y[threadIdx.x] = s[0];
}
__global__ void no_barrier_before_reuse(float* y) {
  KNET_SHARED(float, s, 1);
  if (threadIdx.x == 0) s[0] = 1.0f;
  __syncthreads();
  const float first = s[0];
  if (threadIdx.x == 0) s[0] = 2.0f;
  __syncthreads();
  y[threadIdx.x] = first + s[0];
}
__global__ void plain_update_in_block(float* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i % 8] += 1.0f;
}
__global__ void plain_update_between_blocks(float* y) {
  if (threadIdx.x == 0) y[0] += 1.0f;
}
__global__ void copy(float* y, const float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i];
}
__global__ void relu(float* y, const float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = fmaxf(x[i], 0.0f);
}
__global__ void unwritten_shared(float* y) {
  KNET_SHARED(float, s, 64);
  if (threadIdx.x < 60) s[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void return_before_barrier(float* y, int n) {
  KNET_SHARED(float, s, 64);
  if (static_cast<int>(threadIdx.x) >= n) return;
  s[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[0];
}
__global__ void divergent_barrier(float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();
    y[0] = 1.0f;
  } else {
    __syncthreads();
    y[1] = 1.0f;
  }
}
__global__ void lanes_missing(float* y) {
  float v = 1.0f;
  if (threadIdx.x < 20) v += __shfl_xor_sync(kFull, v, 1);
  y[threadIdx.x] = v;
}
__global__ void not_in_own_mask(float* y) { y[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1); }
__global__ void mask_past_the_block(float* y) { y[threadIdx.x] = __shfl_xor_sync(kFull, 1.0f, 1); }
__global__ void different_intrinsics(float* y) {
  if (threadIdx.x % 2)
    y[threadIdx.x] = __shfl_xor_sync(kFull, 1.0f, 1);
  else
    y[threadIdx.x] = __shfl_xor_sync(kFull, 2.0f, 1);
}
__global__ void overflow(float* y, int n) {
  const int i = 2000000000;
  y[threadIdx.x] = static_cast<float>(i + n);
}
__global__ void misaligned(float* y) {
  float4* p = reinterpret_cast<float4*>(y + 1);
  p->x = 1.0f;
}
struct Inside {
  const float* pointer;
};
__global__ void through_struct(float* y, Inside x) { y[threadIdx.x] = x.pointer[threadIdx.x]; }
__global__ void correct(float* y) {
  KNET_SHARED(float, s, 64);
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  if (blockIdx.x == 0) y[threadIdx.x] = s[63 - threadIdx.x];
}

// --- host code with a fault ------------------------------------------------------------------------------------------

constexpr int n = 64;

struct State {
  float *x, *y;
  cudaStream_t stream, other;
  int shown = n;  // results to print
};

int say(const char* text) {
  printf("%s\n", text);
  return 0;
}
bool is(const char* name, const char* wanted) { return !strcmp(name, wanted); }

cudaError_t kernel_fault(const char* name, State& s) {
  if (is(name, "past_the_end")) return launch(past_the_end, 1, n, 0, s.stream, s.y, n);
  if (is(name, "before_the_start")) return launch(before_the_start, 1, n, 0, s.stream, s.y);
  if (is(name, "past_static_shared")) return launch(past_static_shared, 2, 32, 0, s.stream, s.y);
  if (is(name, "past_dynamic_shared")) return launch(past_dynamic_shared, 1, n, n * 4, s.stream, s.y);
  if (is(name, "no_dynamic_shared")) return launch(past_dynamic_shared, 1, n, 0, s.stream, s.y);
  if (is(name, "no_barrier_before_read")) return launch(no_barrier_before_read, 1, n, 0, s.stream, s.y);
  if (is(name, "no_barrier_in_tree")) return launch(no_barrier_in_tree, 1, n, n * 4, s.stream, s.y);
  if (is(name, "no_barrier_before_reuse")) return launch(no_barrier_before_reuse, 1, n, 0, s.stream, s.y);
  if (is(name, "unwritten")) return launch(copy, 1, n, 0, s.stream, s.y, s.x, n);
  if (is(name, "unwritten_behind_max")) return launch(relu, 1, n, 0, s.stream, s.y, s.x, n);
  if (is(name, "unwritten_shared")) return launch(unwritten_shared, 1, n, 0, s.stream, s.y);
  if (is(name, "return_before_barrier")) return launch(return_before_barrier, 1, n, 0, s.stream, s.y, 60);
  if (is(name, "divergent_barrier")) return launch(divergent_barrier, 1, n, 0, s.stream, s.y);
  if (is(name, "lanes_missing")) return launch(lanes_missing, 1, 32, 0, s.stream, s.y);
  if (is(name, "not_in_own_mask")) return launch(not_in_own_mask, 1, 32, 0, s.stream, s.y);
  if (is(name, "mask_past_the_block")) return launch(mask_past_the_block, 1, 24, 0, s.stream, s.y);
  if (is(name, "different_intrinsics")) return launch(different_intrinsics, 1, 32, 0, s.stream, s.y);
  if (is(name, "overflow")) return launch(overflow, 1, n, 0, s.stream, s.y, 2000000000);
  if (is(name, "misaligned")) return launch(misaligned, 1, 1, 0, s.stream, s.y);
  if (is(name, "correct")) return launch(correct, 3, n, 0, s.stream, s.y);
  if (is(name, "plain_update_in_block") || is(name, "plain_update_between_blocks")) {
    cudaMemsetAsync(s.y, 0, n * 4, s.stream);
    return is(name, "plain_update_in_block") ? launch(plain_update_in_block, 1, n, 0, s.stream, s.y, n)
                                             : launch(plain_update_between_blocks, n, 32, 0, s.stream, s.y);
  }
  return cudaErrorSymbolNotFound;
}

// Faults that end with a line of their own; -1: not one of them.
int host_fault(const char* name, State& s) {
  static float host[n];
  if (is(name, "host_reads_device")) return say(s.y[0] == 1.0f ? "one" : "other");
  if (is(name, "host_pointer_to_kernel")) return launch(copy, 1, n, 0, s.stream, s.y, static_cast<const float*>(host), n);
  if (is(name, "freed_pointer_to_kernel")) {
    cudaFreeAsync(s.x, s.stream);
    return launch(copy, 1, n, 0, s.stream, s.y, s.x, n);
  }
  if (is(name, "freed_pointer_in_struct")) {
    cudaFree(s.x);
    return launch(through_struct, 1, n, 0, s.stream, s.y, Inside{s.x});
  }
  if (is(name, "host_pointer_as_destination"))
    return cudaMemcpy(host, host + 8, 4, cudaMemcpyHostToDevice);
  if (is(name, "copy_past_the_end")) return cudaMemcpy(host, s.x, n * 4 + 4, cudaMemcpyDeviceToHost);
  if (is(name, "wrong_direction")) return cudaMemcpy(s.x, s.y, 4, cudaMemcpyDeviceToHost);
  if (is(name, "no_wait_before_read")) {
    host[0] = 5.0f;
    cudaMemsetAsync(s.y, 0, n * 4, s.stream);
    cudaMemcpyAsync(host, s.y, n * 4, cudaMemcpyDeviceToHost, s.stream);
    say(host[0] == 0.0f ? "the copy was done" : "the copy was not done");
    return cudaStreamSynchronize(s.stream);
  }
  if (is(name, "allocation_during_capture") || is(name, "wait_during_capture")) {
    cudaGraph_t graph;
    float* more;
    cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal);
    say(cudaGetErrorName(is(name, "wait_during_capture") ? cudaStreamSynchronize(s.stream) : cudaMalloc(&more, 4)));
    return say(cudaGetErrorName(cudaStreamEndCapture(s.stream, &graph)));
  }
  if (is(name, "small_ld") || is(name, "large_ld")) {
    cublasHandle_t blas;
    cublasCreate(&blas);
    const float one = 1.0f, zero = 0.0f;
    const int ld = is(name, "small_ld") ? 7 : 9;
    return say(cublasGetStatusName(
        cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, s.x, ld, s.x, 8, &zero, s.y, 8)));
  }
  if (is(name, "too_many_threads")) return say(cudaGetErrorName(launch(correct, 1, 1025, 0, s.stream, s.y)));
  if (is(name, "too_much_shared")) return say(cudaGetErrorName(launch(correct, 1, n, 49153, s.stream, s.y)));
  if (is(name, "freed_twice")) {
    cudaFree(s.x);
    return say(cudaGetErrorName(cudaFree(s.x)));
  }
  if (is(name, "stream_used_after_destroy")) {
    cudaStreamDestroy(s.other);
    return cudaStreamSynchronize(s.other);
  }
  return -1;
}

// The second stream fills x, the first copies it to y; with or without the wait between them.
cudaError_t between_streams(State& s, bool wait) {
  cudaEvent_t filled;
  cudaEventCreate(&filled);
  cudaMemsetAsync(s.x, 0, n * 4, s.other);
  cudaEventRecord(filled, s.other);
  if (wait) cudaStreamWaitEvent(s.stream, filled, 0);
  launch(copy, 1, n, 0, s.stream, s.y, s.x, n);
  cudaStreamSynchronize(s.stream);
  return cudaStreamSynchronize(s.other);
}

}  // namespace

extern "C" int run(const char* name) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  State s;
  cudaMalloc(&s.x, n * 4);
  cudaMalloc(&s.y, n * 4);
  cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&s.other, cudaStreamNonBlocking);
  const int done = host_fault(name, s);
  if (done >= 0) return done;
  const cudaError_t status = is(name, "no_wait_between_streams") ? between_streams(s, false)
                             : is(name, "wait_between_streams")  ? between_streams(s, true)
                                                                 : kernel_fault(name, s);
  if (status != cudaSuccess) return say(cudaGetErrorName(status));
  float host[n];
  cudaStreamSynchronize(s.stream);
  cudaMemcpy(host, s.y, sizeof host, cudaMemcpyDeviceToHost);
  const int shown = strstr(name, "plain_update") ? 1 : strstr(name, "lanes") ? 32 : n;
  for (int i = 0; i < shown; i++) printf("%g ", host[i]);
  return say("");
}
