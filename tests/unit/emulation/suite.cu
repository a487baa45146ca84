// Correct kernels that use each thing the engine offers: barriers, shared memory of both kinds, shuffles and votes, atomic
// operations, indices in three dimensions, intrinsics, streams, graphs. `suite.py` compares their results with NumPy.
// Each entry takes host arrays, does its work on a stream of its own, and returns the first status that is not success.
#include "launch.h"

#define FULL 0xffffffffu

extern "C" {
__global__ void scale(float* y, const float* x, float a, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i];
}

// One block a row: a tree in static shared memory, declared after a barrier.
__global__ void row_sums(double* sums, const double* x, int columns) {
  double own = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) own += x[blockIdx.x * columns + i];
  __syncthreads();
  KNET_SHARED(double, part, 256);
  part[threadIdx.x] = own;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}

// Reverses each block's stretch through dynamic shared memory, adding a static table.
__global__ void reverse(int* y, const int* x) {
  KNET_DYN_SHARED(int, stretch);
  KNET_SHARED(int, table, 4);
  if (threadIdx.x < 4) table[threadIdx.x] = 1000 * threadIdx.x;
  stretch[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * blockDim.x + threadIdx.x] = stretch[blockDim.x - 1 - threadIdx.x] + table[threadIdx.x % 4];
}

// Row r of y is what lane i gets from the r-th intrinsic; two warps.
__global__ void shuffles(int* y, const int* x) {
  const int i = threadIdx.x, lane = i % 32, v = x[i];
  y[0 * 64 + i] = __shfl_sync(FULL, v, 5);
  y[1 * 64 + i] = __shfl_xor_sync(FULL, v, 3);
  y[2 * 64 + i] = __shfl_down_sync(FULL, v, 7);
  y[3 * 64 + i] = __shfl_up_sync(FULL, v, 9);
  y[4 * 64 + i] = __shfl_xor_sync(FULL, v, 8, 16);
  y[5 * 64 + i] = __shfl_sync(FULL, v, 18, 16);
  y[6 * 64 + i] = static_cast<int>(__ballot_sync(FULL, v % 3 == 0));
  y[7 * 64 + i] = __any_sync(FULL, v == 40) + 2 * __all_sync(FULL, v >= 0);
  int half = 0;
  if (lane < 20) half = __shfl_down_sync(0xfffffu, v, 2);  // a mask of some lanes
  __syncwarp();
  y[8 * 64 + i] = half;
  long long wide = __shfl_sync(FULL, 10000000000ll * v, 31 - lane);
  y[9 * 64 + i] = static_cast<int>(wide / 10000000000ll);
}

__global__ void warp_sums(float* y, const float* x) {
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(FULL, v, step);
  if (threadIdx.x % 32 == 0) y[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = v;
}

__global__ void histogram(int* counts, int* largest, int* smallest, const int* x, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&counts[x[i]], 1);
    atomicMax(largest, x[i]);
    atomicMin(smallest, x[i]);
  }
}

__global__ void indices(int* y) {
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  y[block * threads + thread] = 100000 * block + thread;
}

__global__ void intrinsics(unsigned* words, double* reals, unsigned a, unsigned b, double p, double q) {
  words[0] = __umulhi(a, b);
  words[1] = __float_as_uint(__fadd_rn(1.0f, 0x1p-24f));
  words[2] = __float_as_uint(__fmul_rn(1.1f, 1.3f));
  words[3] = static_cast<unsigned>(__popc(a));
  words[4] = static_cast<unsigned>(__clz(static_cast<int>(b)));
  words[5] = static_cast<unsigned>(max(3, 7)) + static_cast<unsigned>(min(2u, 9u));
  reals[0] = __dadd_rn(p, q);
  reals[1] = __dsub_rn(p, q);
  reals[2] = __dmul_rn(p, q);
  reals[3] = __ddiv_rn(p, q);
  reals[4] = __dsqrt_rn(p);
  reals[5] = __dadd_rn(__dmul_rn(p, q), -__dmul_rn(p, q));  // 0, unless the two are fused
}

__global__ void add_one(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1.0f;
}
}  // extern "C"

[[maybe_unused]] const bool registered = (REGISTER(scale), REGISTER(row_sums), REGISTER(reverse), REGISTER(shuffles), REGISTER(warp_sums),
                         REGISTER(histogram), REGISTER(indices), REGISTER(intrinsics), REGISTER(add_one), true);

namespace {

#define TRY(call)                                \
  do {                                           \
    const cudaError_t status_ = (call);          \
    if (status_ != cudaSuccess) return status_;  \
  } while (0)

// A copy of a host array on the device; comes back when asked.
template <class T> class Array {
 public:
  Array(T* host, size_t count, cudaStream_t stream) : host_(host), bytes_(count * sizeof(T)), stream_(stream) {
    if (cudaMalloc(&device_, bytes_) == cudaSuccess) cudaMemcpyAsync(device_, host, bytes_, cudaMemcpyHostToDevice, stream);
  }
  Array(const T* host, size_t count, cudaStream_t stream) : Array(const_cast<T*>(host), count, stream) {}
  ~Array() { cudaFree(device_); }
  operator T*() { return device_; }
  cudaError_t back() { return cudaMemcpyAsync(host_, device_, bytes_, cudaMemcpyDeviceToHost, stream_); }

 private:
  T *host_, *device_ = nullptr;
  size_t bytes_;
  cudaStream_t stream_;
};

struct Stream {
  cudaStream_t handle = nullptr;
  Stream() { cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking); }
  ~Stream() { cudaStreamDestroy(handle); }
  operator cudaStream_t() { return handle; }
};

}  // namespace

extern "C" {
int run_scale(float* y, const float* x, float a, int n, int blocks) {
  Stream s;
  Array<float> dx(x, n, s), dy(y, n, s);
  TRY(launch(scale, blocks, 128, 0, s, dy, dx, a, n));
  TRY(dy.back());
  return cudaStreamSynchronize(s);
}
int run_row_sums(double* sums, const double* x, int rows, int columns) {
  Stream s;
  Array<double> dx(x, rows * columns, s), dy(sums, rows, s);
  TRY(launch(row_sums, rows, 256, 0, s, dy, dx, columns));
  TRY(dy.back());
  return cudaStreamSynchronize(s);
}
int run_reverse(int* y, const int* x, int blocks, int threads) {
  Stream s;
  Array<int> dx(x, blocks * threads, s), dy(y, blocks * threads, s);
  TRY(launch(reverse, blocks, threads, threads * sizeof(int), s, dy, dx));
  TRY(dy.back());
  return cudaStreamSynchronize(s);
}
int run_shuffles(int* y, const int* x) {
  Stream s;
  Array<int> dx(x, 64, s), dy(y, 640, s);
  TRY(launch(shuffles, 1, 64, 0, s, dy, dx));
  TRY(dy.back());
  return cudaStreamSynchronize(s);
}
int run_warp_sums(float* y, const float* x, int blocks) {
  Stream s;
  Array<float> dx(x, blocks * 128, s), dy(y, blocks * 4, s);
  TRY(launch(warp_sums, blocks, 128, 0, s, dy, dx));
  TRY(dy.back());
  return cudaStreamSynchronize(s);
}
int run_histogram(int* counts, int bins, int* largest, int* smallest, const int* x, int n) {
  Stream s;
  Array<int> dx(x, n, s), dc(counts, bins, s), dl(largest, 1, s), ds(smallest, 1, s);
  TRY(launch(histogram, 3, 64, 0, s, dc, dl, ds, dx, n));
  TRY(dc.back());
  TRY(dl.back());
  TRY(ds.back());
  return cudaStreamSynchronize(s);
}
int run_indices(int* y, int n) {
  Stream s;
  Array<int> dy(y, n, s);
  TRY(launch(indices, dim3(3, 2, 2), dim3(5, 4, 3), 0, s, dy));
  TRY(dy.back());
  return cudaStreamSynchronize(s);
}
int run_intrinsics(unsigned* words, double* reals, unsigned a, unsigned b, double p, double q) {
  Stream s;
  Array<unsigned> dw(words, 6, s);
  Array<double> dr(reals, 6, s);
  TRY(launch(intrinsics, 1, 1, 0, s, dw, dr, a, b, p, q));
  TRY(dw.back());
  TRY(dr.back());
  return cudaStreamSynchronize(s);
}
// x + 3, then doubled: the second stream waits for the first by an event.
int run_two_streams(float* y, const float* x, int n) {
  Stream first, second;
  cudaEvent_t ready;
  TRY(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
  Array<float> dx(x, n, first), dy(y, n, first);
  for (int i = 0; i < 3; i++) TRY(launch(add_one, (n + 63) / 64, 64, 0, first, dx, n));
  TRY(cudaEventRecord(ready, first));
  TRY(cudaStreamWaitEvent(second, ready, 0));
  TRY(launch(scale, 2, 64, 0, second, dy, dx, 2.0f, n));
  TRY(cudaMemcpyAsync(y, dy, n * sizeof(float), cudaMemcpyDeviceToHost, second));
  TRY(cudaStreamSynchronize(second));
  TRY(cudaStreamSynchronize(first));
  return cudaEventDestroy(ready);
}
// A graph that adds 1, replayed `times` times; the launch's argument n is kept from the capture.
int run_graph(float* x, int n, int times) {
  Stream s;
  Array<float> dx(x, n, s);
  TRY(cudaStreamSynchronize(s));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  int captured = n;
  TRY(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
  TRY(launch(add_one, (n + 63) / 64, 64, 0, s, dx, captured));
  captured = 0;
  TRY(cudaStreamEndCapture(s, &graph));
  TRY(cudaGraphInstantiate(&exec, graph, 0));
  TRY(cudaGraphDestroy(graph));
  for (int i = 0; i < times; i++) TRY(cudaGraphLaunch(exec, s));
  TRY(dx.back());
  TRY(cudaStreamSynchronize(s));
  return cudaGraphExecDestroy(exec);
}
}
