// Knet model lenet, compiled by knetc to CUDA (f32, fp32).
//
// Source, lenet.knet:
//
//   # LeNet on 28×28 images: two convolution layers with pooling, a hidden layer, a softmax (the manual's lesson 7).
//   # knetc: --input 28,28,1,N
//
//   @knet function lenet(x; cwin1=5, cout1=20, pwin1=2, cwin2=5, cout2=50, pwin2=2, hidden=500, nclass=10)
//       a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
//       b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
//       c = wbf(b; out=hidden, winit=Glorot())
//       return wbf(c; out=nclass, winit=Glorot(), f=:soft)
//   end
//
// Peak memory with a batch of 100: 12.4 MB for 39 buffers
// (without sharing 22.4 MB; lower bound, the largest set live at once, 12.4 MB).
//   input  x           f32[28,28,1,N]   313.6 kB
//   param  a/w         f32[5,5,1,20]      2.0 kB
//   param  a/b         f32[1,1,20,1]        80 B
//   param  b/w         f32[5,5,20,50]   100.0 kB
//   param  b/b         f32[1,1,50,1]       200 B
//   param  c/w         f32[500,800]       1.6 MB
//   param  c/b         f32[500]           2.0 kB
//   param  wbf/w       f32[10,500]       20.0 kB
//   param  wbf/b       f32[10]              40 B
//   value  a/c         f32[24,24,20,N]    4.6 MB
//   value  a@winner    f32[12,12,20,N]    1.2 MB
//   value  a           f32[12,12,20,N]    1.2 MB
//   value  b/c         f32[8,8,50,N]      1.3 MB
//   value  b@winner    f32[4,4,50,N]    320.0 kB
//   value  b           f32[4,4,50,N]    320.0 kB
//   value  c           f32[500,N]       200.0 kB
//   value  wbf/tmp1    f32[10,N]          4.0 kB
//   value  return      f32[10,N]          4.0 kB
//   gold   @gold       f32[10,N]          4.0 kB
//   mask   @mask       f32[N]              400 B
//   loss   @loss       f32[]                 4 B
//   value  d:wbf/tmp2  f32[10,N]          4.0 kB
//   grad   d:wbf/b     f32[10]              40 B
//   grad   d:wbf/w     f32[10,500]       20.0 kB
//   value  d:c         f32[500,N]       200.0 kB
//   value  d:c/tmp2    f32[500,N]       200.0 kB
//   grad   d:c/b       f32[500]           2.0 kB
//   grad   d:c/w       f32[500,800]       1.6 MB
//   value  d:b         f32[4,4,50,N]    320.0 kB
//   value  d:b@pool    f32[4,4,50,N]    320.0 kB
//   value  d:b/tmp1    f32[8,8,50,N]      1.3 MB
//   grad   d:b/b       f32[1,1,50,1]       200 B
//   grad   d:b/w       f32[5,5,20,50]   100.0 kB
//   value  d:a         f32[12,12,20,N]    1.2 MB
//   value  d:a@pool    f32[12,12,20,N]    1.2 MB
//   value  d:a/tmp1    f32[24,24,20,N]    4.6 MB
//   grad   d:a/b       f32[1,1,20,1]        80 B
//   grad   d:a/w       f32[5,5,1,20]      2.0 kB
//   value  d:x         f32[28,28,1,N]   313.6 kB
// d:v is the gradient of v.

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

// What random draws are keyed by besides the array: the model's seed, the number of the call, and where its columns
// begin in the minibatch.
struct knet_clock {
  unsigned long long seed;
  unsigned call, first;
};

// What the update of one parameter depends on; an average that its options do not keep is NULL. It stands on the
// device, so that a captured graph sees what has changed, and counts Adam's steps there. Columns of `rows` elements are
// a pitch apart in the parameter and in its gradient.
struct lenet_training {
  float* w;
  const float* dw;
  int elements, rows, w_pitch, dw_pitch;
  double scale, clip;
  float lr, l1reg, l2reg, momentum_rate, nesterov_rate, mean_bias, square_bias;
  int adam_steps;
  float *adagrad, *rmsprop, *adam_mean, *adam_square, *momentum, *nesterov;
};

// ------------------------------------------------------------------------------------------------ kernels ----
#ifndef KNET_HOST_ONLY

inline __device__ float knet_exp(float x) { return expf(x); }
inline __device__ float knet_log(float x) { return logf(x); }
inline __device__ float knet_sqrt(float x) { return sqrtf(x); }
// The larger; a NaN wins, as it does in the reference interpreter.
inline __device__ float knet_max(float a, float b) { return a > b || a != a ? a : b; }

// Reductions in a fixed order, so that the same input gives the same bits: no atomics. blockDim.x is a multiple of 32,
// and every thread of the block must call them.
template <class T> static inline __device__ T knet_warp_sum(T v) {
  for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
// The sum over the block, in every thread.
template <class T> static inline __device__ T knet_block_sum(T v) {
  KNET_SHARED(T, part, 32);
  v = knet_warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  T total = part[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; warp++) total += part[warp];
  __syncthreads();  // part is free for the next call
  return total;
}
static inline __device__ float knet_warp_max(float v) {
  for (int step = 16; step > 0; step >>= 1) v = knet_max(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}
// The largest value of the block, in every thread.
static inline __device__ float knet_block_max(float v) {
  KNET_SHARED(float, part, 32);
  v = knet_warp_max(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  float top = part[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; warp++) top = knet_max(top, part[warp]);
  __syncthreads();  // part is free for the next call
  return top;
}

// Random numbers that do not depend on order, batch, threads or machine: element i of an array is word i of the stream
// that (seed, stream, call) name. Philox 4x32-10 (Salmon et al., SC11), then float64 by operations that IEEE 754 rounds
// exactly, never fused, so that every machine draws the same bits.
static inline __device__ unsigned knet_random_word(unsigned long long seed, unsigned i, unsigned call,
                                                   unsigned stream) {
  unsigned c0 = i / 4, c1 = 0, c2 = call, c3 = stream;
  unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return i % 4 == 0 ? c0 : i % 4 == 1 ? c1 : i % 4 == 2 ? c2 : c3;
}

// In [0, 1): the upper 24 bits of a word.
static inline __device__ double knet_uniform(unsigned word) { return __dmul_rn((double)(word >> 8), 1.0 / 16777216); }

extern "C" {

// winner = winner(add(c, b); stride=2); y = relu(pool(add(c, b); stride=2))
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_add_pool_winner_relu_24x24_to_12x12_kernel(float* winner, float* y,
    const float* c, const float* b, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int image = i / 144 * 576;
    const int start0 = i % 12 * 2, stop0 = start0 + 2;
    const int start1 = i / 12 % 12 * 2, stop1 = start1 + 2;
    float top = -INFINITY;
    int first = -1;  // the place in the window of the first largest element
    for (int x1 = start1; x1 < stop1; x1++)
      for (int x0 = start0; x0 < stop0; x0++) {
        const int at = image + x0 + x1 * 24;
        const float element = c[at] + b[at / 576 % 20];
        if (element > top || first < 0) first = (x0 - start0) + (x1 - start1) * 2;
        top = knet_max(top, element);
      }
    if (top != top) first = -1;
    winner[i] = first;
    y[i] = top < 0.0f ? 0.0f : top;
  }
}

// winner = winner(add(c, b); stride=2); y = relu(pool(add(c, b); stride=2))
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_add_pool_winner_relu_8x8_to_4x4_kernel(float* winner, float* y,
    const float* c, const float* b, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int image = i / 16 * 64;
    const int start0 = i % 4 * 2, stop0 = start0 + 2;
    const int start1 = i / 4 % 4 * 2, stop1 = start1 + 2;
    float top = -INFINITY;
    int first = -1;  // the place in the window of the first largest element
    for (int x1 = start1; x1 < stop1; x1++)
      for (int x0 = start0; x0 < stop0; x0++) {
        const int at = image + x0 + x1 * 8;
        const float element = c[at] + b[at / 64 % 50];
        if (element > top || first < 0) first = (x0 - start0) + (x1 - start1) * 2;
        top = knet_max(top, element);
      }
    if (top != top) first = -1;
    winner[i] = first;
    y[i] = top < 0.0f ? 0.0f : top;
  }
}

// y = relu(add(tmp1, b))
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
__global__ void __launch_bounds__(256) lenet_add_relu_500xN_kernel(float* y, const float* tmp1, const float* b,
    int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const float tmp2 = tmp1[i] + b[i % 500];
    y[i] = tmp2 < 0.0f ? 0.0f : tmp2;
  }
}

// y = soft(add(tmp1, b))
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
__global__ void __launch_bounds__(256) lenet_add_soft_kernel(float* y, const float* tmp1, const float* b,
    int rows) {
  const int column = blockIdx.x;
  float top = -INFINITY;
  for (int r = threadIdx.x; r < rows; r += blockDim.x) {
    const int i = column * rows + r;
    top = knet_max(top, tmp1[i] + b[r]);
  }
  top = knet_block_max(top);
  float sum = 0;
  for (int r = threadIdx.x; r < rows; r += blockDim.x) {
    const int i = column * rows + r;
    sum += knet_exp((tmp1[i] + b[r]) - top);
  }
  sum = knet_block_sum(sum);
  for (int r = threadIdx.x; r < rows; r += blockDim.x) {
    const int i = column * rows + r;
    y[i] = knet_exp((tmp1[i] + b[r]) - top) / sum;
  }
}

// y = softmax_softloss_back(p, gold, mask); partial sums of -mask * gold * log(p)
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
__global__ void __launch_bounds__(256) lenet_softloss_and_back_kernel(double* partials, float* y, const float* p,
    const float* gold, const float* mask, int columns, int n) {
  const float part = (float)(1.0 / columns);
  double sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const float weight = mask ? mask[i / 10] : 1, share = weight * part;
    const float p_i = p[i];
    const float gold_i = gold[i];
    if (weight != 0) sum += -gold_i * knet_log(knet_max(p_i, 1.1920928955078125e-07f)) * weight;
    y[i] = share != 0.0f ? (p_i - gold_i) * share : 0.0f;
  }
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// y = factor * the sum of the partial sums
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
__global__ void __launch_bounds__(256) lenet_total_kernel(float* __restrict__ y,
    const double* __restrict__ partials, int blocks, double factor) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partials[i];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) *y = (float)(sum * factor);
}

// y = sumto(dy): the sum over all columns, which are a pitch apart
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
__global__ void __launch_bounds__(256) lenet_sum_columns_kernel(float* __restrict__ y, const float* __restrict__ dy,
    int pitch, int columns) {
  const int row = blockIdx.x;
  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) sum += dy[row + c * pitch];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) y[row] = sum;
}

// dx = relu_back(dy, y)
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_relu_back_kernel(float* dx, const float* dy, const float* y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
  }
}

// dx = unpool(dy, winner; stride=2)
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_unpool_8x8_to_4x4_kernel(float* dx, const float* dy,
    const float* winner, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int image = i / 64 * 16, at = i % 64;
    const int x0 = at % 8, low0 = x0 < 2 ? 0 : (x0 - 2) / 2 + 1, high0 = min(x0 / 2, 3);
    const int x1 = at / 8, low1 = x1 < 2 ? 0 : (x1 - 2) / 2 + 1, high1 = min(x1 / 2, 3);
    // Every window that the element won gives it its gradient.
    float sum = 0;
    for (int y1 = low1; y1 <= high1; y1++)
      for (int y0 = low0; y0 <= high0; y0++) {
        const int o = image + y0 + y1 * 4;
        if (winner[o] == (x0 - (y0 * 2)) + (x1 - (y1 * 2)) * 2) sum += dy[o];
      }
    dx[i] = sum;
  }
}

// y = sumto(dy): the sum over dimensions along which a value was repeated
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_sumto_sum16x50xsumN_kernel(float* __restrict__ y,
    const float* __restrict__ dy, int summed) {
  const int o = blockIdx.x;
  float sum = 0;
  for (int r = threadIdx.x; r < summed; r += blockDim.x) sum += dy[o * 16 + r % 16 + (r / 16) * 800];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) y[o] = sum;
}

// dx = unpool(dy, winner; stride=2)
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_unpool_24x24_to_12x12_kernel(float* dx, const float* dy,
    const float* winner, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int image = i / 576 * 144, at = i % 576;
    const int x0 = at % 24, low0 = x0 < 2 ? 0 : (x0 - 2) / 2 + 1, high0 = min(x0 / 2, 11);
    const int x1 = at / 24, low1 = x1 < 2 ? 0 : (x1 - 2) / 2 + 1, high1 = min(x1 / 2, 11);
    // Every window that the element won gives it its gradient.
    float sum = 0;
    for (int y1 = low1; y1 <= high1; y1++)
      for (int y0 = low0; y0 <= high0; y0++) {
        const int o = image + y0 + y1 * 12;
        if (winner[o] == (x0 - (y0 * 2)) + (x1 - (y1 * 2)) * 2) sum += dy[o];
      }
    dx[i] = sum;
  }
}

// y = sumto(dy): the sum over dimensions along which a value was repeated
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
__global__ void __launch_bounds__(256) lenet_sumto_sum144x20xsumN_kernel(float* __restrict__ y,
    const float* __restrict__ dy, int summed) {
  const int o = blockIdx.x;
  float sum = 0;
  for (int r = threadIdx.x; r < summed; r += blockDim.x) sum += dy[o * 144 + r % 144 + (r / 144) * 2880];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) y[o] = sum;
}

// y = uniform in [low, high)
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
__global__ void __launch_bounds__(256) lenet_fill_uniform_kernel(float* __restrict__ y,
    const knet_clock* __restrict__ clock, unsigned stream, unsigned column, double low, double high, int height,
    int pitch, int n) {
  const knet_clock now = *clock;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const double u = knet_uniform(knet_random_word(now.seed, i + column * now.first, now.call, stream));
    const size_t at = i % height + (size_t)(i / height) * pitch;
    y[at] = (float)__dadd_rn(__dmul_rn(u, __dsub_rn(high, low)), low);
  }
}

// y = value
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
__global__ void __launch_bounds__(256) lenet_fill_constant_kernel(float* __restrict__ y, double value, int height,
    int pitch, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const size_t at = i % height + (size_t)(i / height) * pitch;
    y[at] = (float)value;
  }
}

// w -= lr * dw for every parameter, dw by the parameter's options
__global__ void __launch_bounds__(256) lenet_update_kernel(const lenet_training* __restrict__ training,
    const double* __restrict__ squares) {
  const auto t = training[blockIdx.y];
  double factor = t.scale;
  if (t.clip > 0) {
    const double norm = sqrt(*squares);
    if (norm > t.clip) factor *= t.clip / norm;
  }
  const float scale = (float)factor;
  const float epsilon = (float)1e-8;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < t.elements; i += gridDim.x * blockDim.x) {
    const int row = i % t.rows, column = i / t.rows;
    float& w = t.w[row + (size_t)column * t.w_pitch];
    float g = scale * t.dw[row + (size_t)column * t.dw_pitch];
    if (t.l1reg != 0) g += t.l1reg * (float)((w > 0) - (w < 0));
    if (t.l2reg != 0) g += t.l2reg * w;
    if (t.adagrad) {
      t.adagrad[i] += g * g;
      g /= epsilon + knet_sqrt(t.adagrad[i]);
    }
    if (t.rmsprop) {
      t.rmsprop[i] = (float)0.9 * t.rmsprop[i] + (float)(1 - 0.9) * (g * g);
      g /= epsilon + knet_sqrt(t.rmsprop[i]);
    }
    if (t.adam_mean) {
      t.adam_mean[i] = (float)0.9 * t.adam_mean[i] + (float)(1 - 0.9) * g;
      t.adam_square[i] = (float)0.999 * t.adam_square[i] + (float)(1 - 0.999) * (g * g);
      g = t.adam_mean[i] / t.mean_bias / (knet_sqrt(t.adam_square[i] / t.square_bias) + epsilon);
    }
    if (t.momentum) {
      g += t.momentum_rate * t.momentum[i];
      t.momentum[i] = g;
    }
    if (t.nesterov) {
      t.nesterov[i] = t.nesterov_rate * t.nesterov[i] + g;
      g += t.nesterov_rate * t.nesterov[i];
    }
    w -= t.lr * g;
  }
}

// partial sums of dw^2 for every parameter
__global__ void __launch_bounds__(256) lenet_square_sum_kernel(double* __restrict__ partials,
    const lenet_training* __restrict__ training) {
  const auto& t = training[blockIdx.y];
  double sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < t.elements; i += gridDim.x * blockDim.x) {
    const double g = t.dw[i % t.rows + (size_t)(i / t.rows) * t.dw_pitch];
    sum += g * g;
  }
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// squares = the sum of them all
__global__ void __launch_bounds__(256) lenet_all_squares_kernel(double* __restrict__ squares,
    const double* __restrict__ partials, int blocks) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partials[i];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) *squares = sum;
}

// *to = t
__global__ void __launch_bounds__(256) lenet_set_training_kernel(lenet_training* __restrict__ to,
    lenet_training t) {
  *to = t;
}

// one step more of each parameter that Adam trains, and the corrections for it
__global__ void __launch_bounds__(256) lenet_count_adam_kernel(lenet_training* __restrict__ training, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    if (!training[i].adam_mean) continue;
    const int steps = ++training[i].adam_steps;
    training[i].mean_bias = (float)(1 - pow(0.9, (double)steps));
    training[i].square_bias = (float)(1 - pow(0.999, (double)steps));
  }
}

// sum += dw
__global__ void __launch_bounds__(256) lenet_accumulate_kernel(float* __restrict__ sum,
    const float* __restrict__ dw, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum[i] += dw[i];
}

// *clock = {seed, call, first}
__global__ void __launch_bounds__(256) lenet_set_clock_kernel(knet_clock* __restrict__ clock,
    unsigned long long seed, unsigned call, unsigned first) {
  *clock = {seed, call, first};
}

}  // extern "C"
#endif  // KNET_HOST_ONLY

// ------------------------------------------------------------------------------------------------ the host half ----
#ifndef KNET_DEVICE_ONLY
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <new>
#include <utility>
#ifdef KNET_NCCL
#include <nccl.h>
#endif
#include <cublas_v2.h>
#include <cublasLt.h>
#include <cudnn.h>

// The interface; `knetc --emit header` writes it for C and C++.
extern "C" {
#ifndef KNET_INTERFACE
#define KNET_INTERFACE /* what all models have in common */
/* What every function but ..._last_error returns. After KNET_ARGUMENT and KNET_ORDER the model is as it was; after
   KNET_MEMORY too, but that the values of the last forward call may be gone. After the others the model can be
   used, but what the call changes (state, gradients, parameters with their averages) may be changed in part. */
enum {
  KNET_OK = 0,
  KNET_ARGUMENT = 1, /* an argument that does not fit */
  KNET_ORDER = 2,    /* a call out of order */
  KNET_MEMORY = 3,   /* no memory left, on the device or the host */
  KNET_CUDA = 4,
  KNET_CUBLAS = 5,
  KNET_CUDNN = 6,
  KNET_NCCL_FAILED = 7
};
enum { KNET_NO_CONDITION = 0 }; /* all conditions are false */
/* Kinds of arrays. */
enum {
  KNET_PARAM = 0,      /* a parameter */
  KNET_GRAD = 1,       /* a parameter's gradient, by the parameter's name */
  KNET_VALUE = 2,      /* a variable of the last forward call; the model's value is "return" */
  KNET_INPUT_GRAD = 3, /* the gradient of an input, by its name, after a backward pass that was asked for it */
  KNET_STATE = 4,      /* what a static variable holds for the next call */
  /* The running averages of training options, by the parameter's name; there is one once its option has been used. */
  KNET_ADAGRAD = 5,
  KNET_RMSPROP = 6,
  KNET_ADAM_MEAN = 7,
  KNET_ADAM_SQUARE = 8,
  KNET_MOMENTUM = 9,
  KNET_NESTEROV = 10
};
/* Where a backward pass starts. */
enum {
  KNET_ZERO = 0,     /* no gradient from the output at all */
  KNET_GRADIENT = 1, /* gold is the gradient of the output itself */
  KNET_QUADLOSS = 2,
  KNET_SOFTLOSS = 3
};
#endif

typedef struct lenet_model lenet_model;
typedef float lenet_real; /* the element type of every array */

/* The reason for this thread's last error. */
const char* lenet_last_error(void);
/* Makes a model with its parameters filled from `seed`. `stream` is the cudaStream_t that everything runs on, NULL for
   a stream of the model's own. Where it fails, *model is NULL and nothing is left behind. */
int lenet_create(lenet_model** model, unsigned long long seed, void* stream);
/* Frees everything; NULL is fine. */
int lenet_destroy(lenet_model* model);

/* Runs the model over `batch` columns. inputs: x [28,28,1,N]; each column-major, the batch last,
   in host or device memory. output: where the value, if any, is copied ([10,N]), in host or device memory,
   or NULL. Waits for the device only where there is an output in host memory: without one, arrays in host memory must
   stay as they are until lenet_synchronize. What is read from device memory must be ready on the model's stream
   (lenet_wait_for), which does not wait for the default one. */
int lenet_forward(lenet_model* model, unsigned conditions, const lenet_real* const* inputs,
    int batch, lenet_real* output);
/* Gradients of the last lenet_forward, by a loss against `gold` (of the shape of the value).
   loss: KNET_SOFTLOSS (knetc's --loss). mask: one number a column, or NULL; without a loss it is not
   read. input_grads: bit i asks for the gradient of input i. loss_value: where the loss goes, 0 without one, in host
   memory, or NULL, and then as above for gold and mask. May be called again, for another loss, as long as the
   parameters have not changed. */
int lenet_backward(lenet_model* model, int loss, const lenet_real* gold,
    const lenet_real* mask, unsigned long long input_grads, lenet_real* loss_value);
/* Changes every parameter by its gradient and its options. Gradients are scaled so that their common L2 norm is at most
   gclip, where that is over 0, and by gscale. */
int lenet_update(lenet_model* model, double gclip, double gscale);
/* Trains on so many columns, in minibatches of `batch` (the last may be smaller): for each what lenet_forward,
   lenet_backward and lenet_update do, as one graph. inputs and gold, in host or device memory,
   hold all columns. losses: where the loss of each minibatch before its update goes, in host memory; the call waits for
   the device then. With NULL it does not, and what was said of arrays in host memory holds. After a failure of CUDA or
   its libraries the steps before it have been made, and perhaps that one. */
int lenet_train(lenet_model* model, unsigned conditions, int loss,
    const lenet_real* const* inputs, const lenet_real* gold, int columns, int batch, double gclip,
    double gscale, lenet_real* losses);
/* Sets an option of one parameter, or of all with NULL: lr, l1reg, l2reg, adagrad, rmsprop, adam (0 or 1), momentum,
   nesterov, gclip, gscale. */
int lenet_set_option(lenet_model* model, const char* parameter, const char* option, double value);
/* As lenet_forward, for a step of a sequence: what its backward pass needs goes on the model's stack. */
int lenet_sforward(lenet_model* model, unsigned conditions, const lenet_real* const* inputs,
    int batch, lenet_real* output);
/* As lenet_backward, for the newest step on the stack, which it takes off; adds to the gradients that there
   are. The state's gradient flows to the step before. KNET_ZERO where no gradient comes from that step's output. */
int lenet_sbackward(lenet_model* model, int loss, const lenet_real* gold,
    const lenet_real* mask, unsigned long long input_grads, lenet_real* loss_value);
/* How a model runs, not what it computes. graphs: 1 (the default) captures each kind of call as a CUDA graph when it
   comes the second time, 2 the first time, 0 never. search: 1 times all algorithms of a convolution once for each batch
   size, 0 (the default) goes by cuDNN's heuristics. deterministic: 1 (the default) takes algorithms that give the same
   bits in every run, where cuDNN has one; 0 takes the fastest. graph_sums: 1 captures backward passes that sum over a
   communicator too; NCCL wants all models to capture such a call or none, so they must then make the same calls with as
   many columns each. 0 (the default) runs these as they are. */
int lenet_configure(lenet_model* model, const char* setting, int value);
/* How many calls have been captured as graphs, and how many could not be; these run as they are. */
int lenet_graphs(lenet_model* model, int* captured, int* refused);
/* What the model is asked for after this waits for all that is on another stream (a cudaStream_t) now. */
int lenet_wait_for(lenet_model* model, void* stream);
/* What is put on another stream after this waits for all that the model has been asked for. */
int lenet_make_wait(lenet_model* model, void* stream);
/* Empties the stack, forgets the gradients, and zeroes the state unless `keepstate`. */
int lenet_reset(lenet_model* model, int keepstate);
/* Empties the stack, forgets the gradients, and frees the memory of all values; the next call takes it anew. */
int lenet_clean(lenet_model* model);
/* Random draws are keyed by `seed` from here on, as if no call had been made; parameters stay. */
int lenet_set_seed(lenet_model* model, unsigned long long seed);

/* Arrays have Knet's names. Parameters: "a/w", "a/b", "b/w", "b/b", "c/w", "c/b", "wbf/w", "wbf/b".
   State: there is none. */
/* The dimensions of an array of a kind (KNET_PARAM, ...), slowest last; `dims` has room for 8. */
int lenet_dims(lenet_model* model, int kind, const char* name, int* count, int* dims);
/* Copies an array to host or device memory; waits for the device where it is host memory. */
int lenet_get(lenet_model* model, int kind, const char* name, lenet_real* array);
/* Overwrites a parameter. */
int lenet_set(lenet_model* model, const char* name, const lenet_real* array);
/* Overwrites a static variable for `batch` columns. */
int lenet_set_state(lenet_model* model, const char* name, const lenet_real* array, int batch);
/* Overwrites a running average; `kind` is one of KNET_ADAGRAD to KNET_NESTEROV. */
int lenet_set_average(lenet_model* model, int kind, const char* parameter,
    const lenet_real* array);
/* How many steps Adam has made on a parameter, by which its averages are corrected. */
int lenet_adam_steps(lenet_model* model, const char* parameter, int* steps);
int lenet_set_adam_steps(lenet_model* model, const char* parameter, int steps);
/* The number of the last forward call, by which random draws are keyed besides the seed; the next call has the next. */
int lenet_calls(lenet_model* model, unsigned* calls);
int lenet_set_calls(lenet_model* model, unsigned calls);
/* From here on the columns of a call are those from column `first` on of a larger minibatch, and random draws are what
   they draw there. */
int lenet_set_columns(lenet_model* model, int first);
#ifdef KNET_NCCL
/* From here on gradients are summed over all models of a communicator (an ncclComm_t that outlives this one; NULL for
   none, as at first): by lenet_backward, bucket by bucket while the rest of it runs, with the losses; in a
   sequence by the lenet_sbackward that empties the stack, else by lenet_update. All models make the
   same calls. A loss is the mean over a model's own columns, so give a mask: for each column their share of the whole
   minibatch; without a column of its own a model is given some column, at 0. Built with -DKNET_NCCL, linked with
   -lnccl.
   lenet_train takes the mean over the models instead, which then have as many columns each. */
int lenet_set_communicator(lenet_model* model, void* communicator);
#endif
/* Writes all parameters to a file, whole or not at all; and reads them from one, which must be of the same model. */
int lenet_save(lenet_model* model, const char* path);
int lenet_load(lenet_model* model, const char* path);
/* Waits for everything that was asked for. */
int lenet_synchronize(lenet_model* model);
}

// c = op(a) * op(b), all column-major: op(a) is m x k, op(b) k x n. The columns of a are lda elements apart, and so on.
inline cublasStatus_t knet_gemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                const float* a, int lda, const float* b, int ldb, float* c, int ldc) {
  const float one = 1, zero = 0;
  return cublasSgemm(handle, ta, tb, m, n, k, &one, a, lda, b, ldb, &zero, c, ldc);
}

namespace {

// Short for what is spelled with the model's name.
using knet_model = lenet_model;
using knet_real = lenet_real;
using knet_training = lenet_training;

// Errors: every function below returns 0, or one of the codes of the interface with the reason in knet_error_text.
static thread_local char knet_error_text[512];

static int knet_fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(knet_error_text, sizeof knet_error_text, format, arguments);
  va_end(arguments);
  return code;
}
static inline int knet_check(int code, const char*, int) { return code; }  // the text is already set
static inline int knet_check(cudaError_t status, const char* call, int line) {
  if (status == cudaSuccess) return 0;
  cudaGetLastError();  // an error that can be cleared must not come back at the next call
  return knet_fail(status == cudaErrorMemoryAllocation ? KNET_MEMORY : KNET_CUDA, "%s: %s (line %d: %s)",
                   cudaGetErrorName(status), cudaGetErrorString(status), line, call);
}
// Returns from the enclosing function where the call fails.
#define TRY(...)                                                        \
  do {                                                                  \
    int code_ = knet_check((__VA_ARGS__), #__VA_ARGS__, __LINE__);      \
    if (code_) return code_;                                            \
  } while (0)

// For what goes on past failures: *code keeps the first, and knet_error_text its reason.
#define NOTE(code, ...)                                                   \
  do {                                                                    \
    const auto status_ = (__VA_ARGS__);                                   \
    if (*(code)) cudaGetLastError();                                      \
    else *(code) = knet_check(status_, #__VA_ARGS__, __LINE__);           \
  } while (0)

// A kernel: its name, and its entry, which is its address or, where the kernels come from a cubin, a handle.
struct knet_entry {
  const char* name;
  const void* address;
};
template <class Signature> struct knet_kernel : knet_entry {};
#ifdef KNET_HOST_ONLY
#define KNET_MEMBER(member, name, signature) knet_kernel<void signature> member = {{#name, nullptr}};
#else
#define KNET_MEMBER(member, name, signature) \
  knet_kernel<void signature> member = {{#name, (const void*)static_cast<void(*) signature>(name)}};
#endif
#define KNET_ENTRY(member, name, signature) &kernels.member,
#define KNET_REGISTER(member, name, signature) knetemu::reg(name),

// So many elements, rounded up so that what follows them is aligned to 16 bytes.
static inline size_t knet_round(size_t elements) { return (elements + 3) / 4 * 4; }

template <class T> struct knet_identity { typedef T type; };
// Launches a kernel; the arguments are converted to its parameters' types.
template <class... P>
static cudaError_t knet_launch(const knet_kernel<void(P...)>& kernel, dim3 grid, dim3 block, size_t shared,
                               cudaStream_t stream, typename knet_identity<P>::type... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  return cudaLaunchKernel(kernel.address, grid, block, pointers, shared, stream);
}
// Launches a kernel over n elements, which it takes as its last parameter; its threads stride over them.
template <class... P, class... A>
static cudaError_t knet_launch_each(const knet_kernel<void(P...)>& kernel, int n, cudaStream_t stream, A... arguments) {
  const int blocks = (n + 255) / 256;
  return knet_launch(kernel, blocks < 65536 ? blocks : 65536, 256, 0, stream, arguments..., n);
}

// The blocks of a kernel that sums over n elements, each block to a partial sum.
enum { KNET_BLOCKS = 256 };
static inline int knet_blocks(int n) { return n < 256 * KNET_BLOCKS ? (n + 255) / 256 : (int)KNET_BLOCKS; }

static inline int knet_check(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return 0;
  return knet_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? KNET_MEMORY : KNET_CUBLAS, "%s (line %d: %s)",
                   cublasGetStatusString(status), line, call);
}
// The workspace that cuBLAS uses, given to it before anything is captured: bytes as NVIDIA recommends for the device.
static inline int knet_blas_workspace(int device, size_t* bytes) {
#ifdef KNET_EMULATED
  (void)device;
  *bytes = 1024;
#else
  int major = 0;
  TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  *bytes = (size_t)(major >= 9 ? 32 : 4) << 20;
#endif
  return 0;
}

// Matrix products with an epilogue, by cuBLASLt: what it is told of a call of certain sizes, and the algorithm that it
// chose for it, if it has one.
struct knet_product_plan {
  int m, n, k;         // m is 0 where there is no plan
  unsigned alignment;  // bytes by which the addresses of all arrays can be divided
  cublasLtMatmulDesc_t call;
  cublasLtMatrixLayout_t a, b, d;
  cublasLtMatmulAlgo_t algorithm;
  bool fused;  // whether there is an algorithm
};
// A product of this file: its plans of the last sizes, which of them the next sizes take, and whether the epilogue was
// computed when it last ran.
struct knet_product {
  knet_product_plan plans[4];
  int next;
  bool fused;
};
// A number that all addresses can be divided by: a power of two, at most the 256 that an algorithm may ask for.
template <class... P> static unsigned knet_alignment(P... addresses) {
  const uintptr_t bits = ((uintptr_t)addresses | ... | (uintptr_t)256);
  return (unsigned)(bits & (~bits + 1));
}
template <class T>
static cublasStatus_t knet_set(cublasLtMatmulDesc_t call, cublasLtMatmulDescAttributes_t attribute, T value) {
  return cublasLtMatmulDescSetAttribute(call, attribute, &value, sizeof value);
}
template <class T>
static cublasStatus_t knet_set(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  return cublasLtMatmulPreferenceSetAttribute(p, attribute, &value, sizeof value);
}
static inline void knet_product_release(knet_product_plan* p, int* code) {
  if (p->call) NOTE(code, cublasLtMatmulDescDestroy(p->call));
  for (cublasLtMatrixLayout_t layout : {p->a, p->b, p->d})
    if (layout) NOTE(code, cublasLtMatrixLayoutDestroy(layout));
  *p = {};
}
// Asks cuBLASLt for an algorithm, the best by its heuristics, that needs no more than so many bytes of workspace. That
// there is none is no error.
static inline int knet_product_choose(cublasLtHandle_t lt, knet_product_plan* p, cublasLtMatmulPreference_t preference,
                                      size_t workspace) {
  TRY(knet_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)workspace));
  for (cublasLtMatmulPreferenceAttributes_t attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    TRY(knet_set(preference, attribute, (uint32_t)p->alignment));
  cublasLtMatmulHeuristicResult_t best = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(lt, p->call, p->a, p->b, p->d, p->d, preference, 1, &best, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) TRY(status);
  p->fused = !status && count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
  p->algorithm = best.algo;
  return 0;
}

static inline int knet_check(cudnnStatus_t status, const char* call, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return 0;
  return knet_fail(KNET_CUDNN, "%s (line %d: %s)", cudnnGetErrorString(status), line, call);
}
// A dense tensor of nd sizes, slowest first; a first size of 0 stands for the batch.
static inline cudnnStatus_t knet_describe(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int nd,
                                          const int* sizes, int batch) {
  int size[5], stride[5];
  for (int i = nd - 1, step = 1; i >= 0; step *= size[i--]) {
    size[i] = sizes[i] ? sizes[i] : batch;
    stride[i] = step;
  }
  return cudnnSetTensorNdDescriptor(tensor, type, nd, size, stride);
}

// A convolution's sizes, slowest first: x (batch, channels, spatial), w (outputs, channels, spatial), y as x.
struct knet_conv_shape {
  int nd, x[5], w[5], y[5], padding[3], stride[3], upscale[3];
  cudnnConvolutionMode_t mode;
};
enum { KNET_CHOICES = 3, KNET_PLANS = 4, KNET_FOUND = 16 };
const size_t KNET_WORKSPACE_LIMIT = (size_t)256 << 20;  // bytes; an algorithm that needs more is passed over
const size_t KNET_SEARCH_WORKSPACE = (size_t)32 << 20;  // what a timed search may use

// The algorithms of one call, the best first, and which of them is in use: the next one takes over where cuDNN does not
// support it after all.
struct knet_choice {
  int count, at, algorithm[KNET_CHOICES];
  bool searched;
};
// What has been chosen for a batch, and the workspace that it needs.
struct knet_conv_plan {
  int batch;
  knet_choice forward, back_x, back_w;
  size_t bytes;
};
struct knet_conv {
  cudnnTensorDescriptor_t x, y;
  cudnnFilterDescriptor_t w;
  cudnnConvolutionDescriptor_t conv;
  knet_conv_plan plans[KNET_PLANS], *plan;  // of the last batches; and the one in use
  int next;                                 // which of them the next batch takes
};

static inline bool knet_unsupported(cudnnStatus_t status) {
  return status >= CUDNN_STATUS_NOT_SUPPORTED && status < CUDNN_STATUS_NOT_SUPPORTED + 1000;
}
// Whether a call is to be made again with the next algorithm: cuDNN does not support the one in use.
static inline bool knet_conv_again(cudnnStatus_t status, knet_choice* choice) {
  if (!knet_unsupported(status) || choice->at + 1 >= choice->count) return false;
  choice->at++;
  return true;
}
// Adds an algorithm to a choice if cuDNN supports it within the limit of memory; raises *bytes to what it needs.
template <class Bytes> static int knet_conv_add(knet_choice* choice, int algorithm, Bytes bytes_of, size_t* bytes) {
  for (int i = 0; i < choice->count; i++)
    if (choice->algorithm[i] == algorithm) return 0;
  if (choice->count == KNET_CHOICES) return 0;
  size_t needed = 0;
  const cudnnStatus_t status = bytes_of(algorithm, &needed);
  if (knet_unsupported(status) || needed > KNET_WORKSPACE_LIMIT) return 0;
  TRY(status);
  choice->algorithm[choice->count++] = algorithm;
  if (needed > *bytes) *bytes = needed;
  return 0;
}
// Takes the best of the algorithms that cuDNN lists, the best first. Where only deterministic ones are wanted, the
// others stand behind them: better than none.
template <class Found, class Bytes>
static int knet_conv_choose(knet_choice* choice, const Found* found, int count, bool deterministic, Bytes bytes_of,
                            size_t* bytes) {
  choice->count = choice->at = 0;
  for (int i = 0; i < count; i++)
    if (!found[i].status && (!deterministic || found[i].determinism == CUDNN_DETERMINISTIC) &&
        choice->count < KNET_CHOICES - 1)
      TRY(knet_conv_add(choice, found[i].algo, bytes_of, bytes));
  for (int i = 0; i < count; i++)
    if (!found[i].status) TRY(knet_conv_add(choice, found[i].algo, bytes_of, bytes));
  return choice->count ? 0 : knet_fail(KNET_CUDNN, "cuDNN has no algorithm for a convolution of this shape");
}

static inline auto knet_forward_bytes(cudnnHandle_t dnn, const knet_conv* c) {
  return [=](int algorithm, size_t* bytes) {
    return cudnnGetConvolutionForwardWorkspaceSize(dnn, c->x, c->w, c->conv, c->y,
                                                   (cudnnConvolutionFwdAlgo_t)algorithm, bytes);
  };
}
static inline auto knet_back_x_bytes(cudnnHandle_t dnn, const knet_conv* c) {
  return [=](int algorithm, size_t* bytes) {
    return cudnnGetConvolutionBackwardDataWorkspaceSize(dnn, c->w, c->y, c->conv, c->x,
                                                        (cudnnConvolutionBwdDataAlgo_t)algorithm, bytes);
  };
}
static inline auto knet_back_w_bytes(cudnnHandle_t dnn, const knet_conv* c) {
  return [=](int algorithm, size_t* bytes) {
    return cudnnGetConvolutionBackwardFilterWorkspaceSize(dnn, c->x, c->y, c->conv, c->w,
                                                          (cudnnConvolutionBwdFilterAlgo_t)algorithm, bytes);
  };
}
// Chooses the algorithms for a batch by cuDNN's heuristics.
static inline int knet_conv_heuristics(cudnnHandle_t dnn, const knet_conv* c, bool deterministic,
                                       knet_conv_plan* plan) {
  int count = 0;
  cudnnConvolutionFwdAlgoPerf_t forward[KNET_FOUND];
  TRY(cudnnGetConvolutionForwardAlgorithm_v7(dnn, c->x, c->w, c->conv, c->y, KNET_FOUND, &count, forward));
  TRY(knet_conv_choose(&plan->forward, forward, count, deterministic, knet_forward_bytes(dnn, c), &plan->bytes));
  cudnnConvolutionBwdDataAlgoPerf_t back_x[KNET_FOUND];
  TRY(cudnnGetConvolutionBackwardDataAlgorithm_v7(dnn, c->w, c->y, c->conv, c->x, KNET_FOUND, &count, back_x));
  TRY(knet_conv_choose(&plan->back_x, back_x, count, deterministic, knet_back_x_bytes(dnn, c), &plan->bytes));
  cudnnConvolutionBwdFilterAlgoPerf_t back_w[KNET_FOUND];
  TRY(cudnnGetConvolutionBackwardFilterAlgorithm_v7(dnn, c->x, c->y, c->conv, c->w, KNET_FOUND, &count, back_w));
  TRY(knet_conv_choose(&plan->back_w, back_w, count, deterministic, knet_back_w_bytes(dnn, c), &plan->bytes));
  return 0;
}
// Describes a convolution for a batch and chooses its algorithms, once for each batch; raises *workspace to the bytes
// that they need.
static inline int knet_conv_prepare(cudnnHandle_t dnn, knet_conv* c, const knet_conv_shape& s, int batch,
                                    cudnnDataType_t type, cudnnMathType_t math, bool deterministic,
                                    size_t* workspace) {
  if (!c->x) TRY(cudnnCreateTensorDescriptor(&c->x));
  if (!c->y) TRY(cudnnCreateTensorDescriptor(&c->y));
  if (!c->w) TRY(cudnnCreateFilterDescriptor(&c->w));
  if (!c->conv) TRY(cudnnCreateConvolutionDescriptor(&c->conv));
  TRY(knet_describe(c->x, type, s.nd, s.x, batch));
  TRY(knet_describe(c->y, type, s.nd, s.y, batch));
  TRY(cudnnSetFilterNdDescriptor(c->w, type, CUDNN_TENSOR_NCHW, s.nd, s.w));
  TRY(cudnnSetConvolutionNdDescriptor(c->conv, s.nd - 2, s.padding, s.stride, s.upscale, s.mode, type));
  TRY(cudnnSetConvolutionMathType(c->conv, math));
  c->plan = nullptr;
  for (knet_conv_plan& plan : c->plans)
    if (plan.batch == batch) c->plan = &plan;
  if (!c->plan) {
    knet_conv_plan* const plan = &c->plans[c->next];
    *plan = {};
    TRY(knet_conv_heuristics(dnn, c, deterministic, plan));
    plan->batch = batch;
    c->plan = plan;
    c->next = (c->next + 1) % KNET_PLANS;
  }
  if (c->plan->bytes > *workspace) *workspace = c->plan->bytes;
  return 0;
}
static inline void knet_conv_release(knet_conv* c, int* code) {
  if (c->x) NOTE(code, cudnnDestroyTensorDescriptor(c->x));
  if (c->y) NOTE(code, cudnnDestroyTensorDescriptor(c->y));
  if (c->w) NOTE(code, cudnnDestroyFilterDescriptor(c->w));
  if (c->conv) NOTE(code, cudnnDestroyConvolutionDescriptor(c->conv));
}

// Every kernel: how this file calls it, its name, its parameters.
#define KNET_KERNELS(K) \
  K(add_pool_winner_relu_24x24_to_12x12, lenet_add_pool_winner_relu_24x24_to_12x12_kernel, (float* winner, \
    float* y, const float* c, const float* b, int n)) \
  K(add_pool_winner_relu_8x8_to_4x4, lenet_add_pool_winner_relu_8x8_to_4x4_kernel, (float* winner, float* y, \
    const float* c, const float* b, int n)) \
  K(add_relu_500xN, lenet_add_relu_500xN_kernel, (float* y, const float* tmp1, const float* b, int n)) \
  K(add_soft, lenet_add_soft_kernel, (float* y, const float* tmp1, const float* b, int rows)) \
  K(softloss_and_back, lenet_softloss_and_back_kernel, (double* partials, float* y, const float* p, \
    const float* gold, const float* mask, int columns, int n)) \
  K(total, lenet_total_kernel, (float* y, const double* partials, int blocks, double factor)) \
  K(sum_columns, lenet_sum_columns_kernel, (float* y, const float* dy, int pitch, int columns)) \
  K(relu_back, lenet_relu_back_kernel, (float* dx, const float* dy, const float* y, int n)) \
  K(unpool_8x8_to_4x4, lenet_unpool_8x8_to_4x4_kernel, (float* dx, const float* dy, const float* winner, int n)) \
  K(sumto_sum16x50xsumN, lenet_sumto_sum16x50xsumN_kernel, (float* y, const float* dy, int summed)) \
  K(unpool_24x24_to_12x12, lenet_unpool_24x24_to_12x12_kernel, (float* dx, const float* dy, const float* winner, \
    int n)) \
  K(sumto_sum144x20xsumN, lenet_sumto_sum144x20xsumN_kernel, (float* y, const float* dy, int summed)) \
  K(fill_uniform, lenet_fill_uniform_kernel, (float* y, const knet_clock* clock, unsigned stream, unsigned column, \
    double low, double high, int height, int pitch, int n)) \
  K(fill_constant, lenet_fill_constant_kernel, (float* y, double value, int height, int pitch, int n)) \
  K(update, lenet_update_kernel, (const lenet_training* training, const double* squares)) \
  K(square_sum, lenet_square_sum_kernel, (double* partials, const lenet_training* training)) \
  K(all_squares, lenet_all_squares_kernel, (double* squares, const double* partials, int blocks)) \
  K(set_training, lenet_set_training_kernel, (lenet_training* to, lenet_training t)) \
  K(count_adam, lenet_count_adam_kernel, (lenet_training* training, int n)) \
  K(accumulate, lenet_accumulate_kernel, (float* sum, const float* dw, int n)) \
  K(set_clock, lenet_set_clock_kernel, (knet_clock* clock, unsigned long long seed, unsigned call, \
    unsigned first))

struct knet_kernels {
  KNET_KERNELS(KNET_MEMBER)
} kernels;
#if defined(KNET_HOST_ONLY)
knet_entry* const kernel_entries[] = {KNET_KERNELS(KNET_ENTRY)};
#elif defined(KNET_EMULATED)
const bool kernels_registered = (KNET_KERNELS(KNET_REGISTER) true);
#endif

// The convolutions: the number of sizes, then the sizes of x, w and y (slowest first, 0 is the batch), padding, stride,
// upscale, mode.
const knet_conv_shape conv_shapes[2] = {
    // x f32[28,28,1,N], w f32[5,5,1,20], y f32[24,24,20,N]
    {4, {0, 1, 28, 28}, {20, 1, 5, 5}, {0, 20, 24, 24}, {0, 0}, {1, 1}, {1, 1}, CUDNN_CONVOLUTION},
    // x f32[12,12,20,N], w f32[5,5,20,50], y f32[8,8,50,N]
    {4, {0, 20, 12, 12}, {50, 20, 5, 5}, {0, 50, 8, 8}, {0, 0}, {1, 1}, {1, 1}, CUDNN_CONVOLUTION},
};

enum { PARAMETERS = 8, INPUTS = 1, CONDITIONS = 0 };

// The training options of a parameter with their defaults, how many steps Adam has made, and the running averages,
// which are allocated when an option first needs them.
struct knet_options {
  double lr = 1, l1reg = 0, l2reg = 0, momentum = 0, nesterov = 0, gclip = 0, gscale = 1;
  bool adagrad = false, rmsprop = false, adam = false;
  int adam_steps = 0;
  float *adagrad_squares = nullptr, *rmsprop_squares = nullptr, *adam_mean = nullptr, *adam_square = nullptr;
  float *momentum_average = nullptr, *nesterov_average = nullptr;
};

// What the work of a call depends on besides the frame.
struct knet_call {
  int batch, loss;
  unsigned flags;           // of the kinds below
  unsigned memory;          // which allocations there were: `memory` of the model
  unsigned long long want;  // bit i: the gradient of input i
};
enum { KNET_MASKED = 1, KNET_ADDING = 2 };  // of a backward pass
enum { KNET_SUMMING = 16, KNET_LOSSES = 32 };  // and which sums over ranks it makes
enum { KNET_CLIPPING = 64, KNET_ADAM = 128 };  // of an update
enum { KNET_TRAINING = 256 };  // of a training step: forward, back and update

// The work of a call that has been seen before, captured as a CUDA graph.
struct knet_graph {
  knet_graph* next;
  knet_call call;
  bool refused;  // it cannot be captured
  cudaGraphExec_t exec;
  const float* input_gradients[INPUTS + 1];  // where it leaves them
};

// What a forward call leaves for its backward pass: the memory of the values that backward passes read, with room for
// `room` columns; and the graphs of the calls that run in it. `below` is the step before on the stack, or the next one
// that waits to be used again. A call that is not of a sequence has its values in the arena.
struct knet_frame {
  knet_frame* below;
  int variant, batch, room;
  knet_graph* graphs;
  float* values[7];
  bool pushed;  // whether it has memory of its own
  bool spent;   // whether a backward pass has overwritten values in the arena
};

}  // namespace

// A model: its settings, then a buffer for every value, by Knet's name.
struct lenet_model {
  cudaStream_t stream = nullptr;
  bool own_stream = false;
  cudaEvent_t event = nullptr;  // by which streams wait for each other
  int device = 0;
  int graphs = 1;  // 0: no graphs; 1: a call is captured when it is seen again; 2: at once
  int captured = 0, refused = 0;
  bool graph_sums = false;  // whether calls that sum over ranks are captured
  unsigned memory = 0;  // counts whenever memory is freed or moved that captured work refers to
  cublasHandle_t blas = nullptr;
  char* blas_workspace = nullptr;
  cublasLtHandle_t blas_lt = nullptr;
  size_t blas_workspace_bytes = 0;
  knet_product product[3] = {};
  cudnnHandle_t dnn = nullptr;
  knet_conv conv[2] = {};
  char* workspace = nullptr;
  size_t workspace_bytes = 0;
  bool search = false, deterministic = true;  // how the algorithms of convolutions are chosen
  unsigned long long seed = 0;
  unsigned call = 0;  // the number of the last forward call
  int columns_before = 0;  // how many of the minibatch that random draws are of come before those of a call
  knet_clock* clock = nullptr;  // the same on the device
  // The frames: of the last forward call; of the one that a backward pass outside a sequence goes back through; of the
  // steps of a sequence, the newest first; and those that wait to be used again.
  knet_frame *last = nullptr, *record = nullptr, *stack = nullptr, *spare = nullptr;
  int variant = 0, batch = 0;  // the forward function and the columns of the frame in use
  int described = 0;  // the columns that cuDNN's descriptors are made for
  int capacity = 0;  // the columns that the buffers have room for
  float* arena = nullptr;  // the memory of what does not outlive a call and its backward pass
  bool gradients = false;  // whether there are gradients
  bool changed = false;  // whether the parameters have changed since the last forward call
  float* sums[8] = {};  // what they are added to while a step of a sequence computes its own
  void* communicator = nullptr;  // an ncclComm_t, over whose ranks gradients are summed; NULL for none
  int rank = 0;  // of this model there
  cudaStream_t sum_stream = nullptr;
  bool by_bucket = false;  // whether the call at hand begins the sum of a bucket when that is final
  bool summed = false;  // whether the gradients are the sum over all ranks
  bool training_step = false;  // whether the call at hand is one
  const float* input_gradients[INPUTS + 1] = {};
  int input_batch = 0;  // the columns of those
  knet_options training[PARAMETERS + 1];
  knet_training *updates = nullptr, *sent = nullptr;  // what they come to, on the device; and a copy of that
  knet_graph* update_graphs = nullptr;
  float* losses = nullptr;  // of the steps of a call that trains
  int losses_room = 0;
  double* partials = nullptr;  // sums of blocks, on their way to one total
  double* squares = nullptr;  // the sum of all gradients' squares

  // parameters
  float* a_w = nullptr;  // a/w f32[5,5,1,20]
  float* a_b = nullptr;  // a/b f32[1,1,20,1]
  float* b_w = nullptr;  // b/w f32[5,5,20,50]
  float* b_b = nullptr;  // b/b f32[1,1,50,1]
  float* c_w = nullptr;  // c/w f32[500,800]
  float* c_b = nullptr;  // c/b f32[500]
  float* wbf_w = nullptr;  // wbf/w f32[10,500]
  float* wbf_b = nullptr;  // wbf/b f32[10]

  // their gradients
  float* d_wbf_b = nullptr;  // f32[10]
  float* d_wbf_w = nullptr;  // f32[10,500]
  float* d_c_b = nullptr;  // f32[500]
  float* d_c_w = nullptr;  // f32[500,800]
  float* d_b_b = nullptr;  // f32[1,1,50,1]
  float* d_b_w = nullptr;  // f32[5,5,20,50]
  float* d_a_b = nullptr;  // f32[1,1,20,1]
  float* d_a_w = nullptr;  // f32[5,5,1,20]

  // inputs
  float* x = nullptr;  // x f32[28,28,1,N]

  // values, forward and backward
  float* a_c = nullptr;  // a/c f32[24,24,20,N]
  float* a_winner = nullptr;  // a@winner f32[12,12,20,N]
  float* a = nullptr;  // a f32[12,12,20,N]
  float* b_c = nullptr;  // b/c f32[8,8,50,N]
  float* b_winner = nullptr;  // b@winner f32[4,4,50,N]
  float* b = nullptr;  // b f32[4,4,50,N]
  float* c = nullptr;  // c f32[500,N]
  float* wbf_tmp1 = nullptr;  // wbf/tmp1 f32[10,N]
  float* return_ = nullptr;  // return f32[10,N]
  float* d_wbf_tmp2 = nullptr;  // d:wbf/tmp2 f32[10,N]
  float* d_c = nullptr;  // d:c f32[500,N]
  float* d_c_tmp2 = nullptr;  // d:c/tmp2 f32[500,N]
  float* d_b = nullptr;  // d:b f32[4,4,50,N]
  float* d_b_pool = nullptr;  // d:b@pool f32[4,4,50,N]
  float* d_b_tmp1 = nullptr;  // d:b/tmp1 f32[8,8,50,N]
  float* d_a = nullptr;  // d:a f32[12,12,20,N]
  float* d_a_pool = nullptr;  // d:a@pool f32[12,12,20,N]
  float* d_a_tmp1 = nullptr;  // d:a/tmp1 f32[24,24,20,N]
  float* d_x = nullptr;  // d:x f32[28,28,1,N]

  // the desired output, the mask, the loss
  float* gold = nullptr;  // f32[10,N]
  float* mask = nullptr;  // f32[N]
  float* loss = nullptr;  // f32[]
};

namespace {

using knet_place = float* knet_model::*;
// A buffer's member in the model, and its elements: a fixed number, or so many a column. In a table of places the two
// say where it begins in the arena.
struct knet_buffer {
  knet_place place;
  size_t fixed, column;
};
const knet_buffer buffers[] = {
    {&knet_model::a_w, 500, 0},
    {&knet_model::a_b, 20, 0},
    {&knet_model::b_w, 25000, 0},
    {&knet_model::b_b, 50, 0},
    {&knet_model::c_w, 400000, 0},
    {&knet_model::c_b, 500, 0},
    {&knet_model::wbf_w, 5000, 0},
    {&knet_model::wbf_b, 10, 0},
    {&knet_model::loss, 1, 0},
    {&knet_model::d_wbf_b, 10, 0},
    {&knet_model::d_wbf_w, 5000, 0},
    {&knet_model::d_c_b, 500, 0},
    {&knet_model::d_c_w, 400000, 0},
    {&knet_model::d_b_b, 50, 0},
    {&knet_model::d_b_w, 25000, 0},
    {&knet_model::d_a_b, 20, 0},
    {&knet_model::d_a_w, 500, 0},
    {nullptr, 0, 11520},  // the end, and the elements a column of the largest buffer
};

// What the frame of each forward function holds, in order.
const knet_buffer frame_0[] = {
    {&knet_model::x, 0, 784},
    {&knet_model::a_winner, 0, 2880},
    {&knet_model::a, 0, 2880},
    {&knet_model::b_winner, 0, 800},
    {&knet_model::b, 0, 800},
    {&knet_model::c, 0, 500},
    {&knet_model::return_, 0, 10},
    {nullptr, 0, 0},
};
// Where each buffer of a function stands in the arena: so many elements from its start, plus so many for each column.
// Buffers whose values are not needed at the same time share memory.
size_t arena_elements(int batch) {
  return 22254 * (size_t)batch;
}
const knet_buffer places_0[] = {
    {&knet_model::x, 0, 20960},
    {&knet_model::a_c, 0, 0},
    {&knet_model::a_winner, 0, 14400},
    {&knet_model::a, 0, 11520},
    {&knet_model::b_c, 0, 0},
    {&knet_model::b_winner, 0, 3200},
    {&knet_model::b, 0, 20160},
    {&knet_model::c, 0, 21744},
    {&knet_model::wbf_tmp1, 0, 22244},
    {&knet_model::return_, 0, 22244},
    {nullptr, 0, 0},
};
const knet_buffer places_0_softloss[] = {
    {&knet_model::x, 0, 20960},
    {&knet_model::a_c, 0, 0},
    {&knet_model::a_winner, 0, 14400},
    {&knet_model::a, 0, 11520},
    {&knet_model::b_c, 0, 0},
    {&knet_model::b_winner, 0, 3200},
    {&knet_model::b, 0, 20160},
    {&knet_model::c, 0, 21744},
    {&knet_model::wbf_tmp1, 0, 22244},
    {&knet_model::return_, 0, 22244},
    {&knet_model::gold, 0, 17280},
    {&knet_model::mask, 0, 0},
    {&knet_model::d_wbf_tmp2, 0, 17280},
    {&knet_model::d_c, 0, 0},
    {&knet_model::d_c_tmp2, 0, 0},
    {&knet_model::d_b, 0, 4000},
    {&knet_model::d_b_pool, 0, 4000},
    {&knet_model::d_b_tmp1, 0, 0},
    {&knet_model::d_a, 0, 17280},
    {&knet_model::d_a_pool, 0, 17280},
    {&knet_model::d_a_tmp1, 0, 0},
    {&knet_model::d_x, 0, 14400},
    {nullptr, 0, 0},
};
const knet_buffer* const frames[] = {frame_0};

// An array by its Knet name: its place in the model, and its dimensions, fastest first, -1 for the batch. Rows of a
// block begin at an offset from there, and their columns are a pitch apart; that is 0 where they follow each other.
struct knet_array {
  const char* name;
  knet_place place;
  int offset, pitch, count, dims[8];
};
const knet_array parameters[] = {
    {"a/w", &knet_model::a_w, 0, 0, 4, {5, 5, 1, 20}},
    {"a/b", &knet_model::a_b, 0, 0, 4, {1, 1, 20, 1}},
    {"b/w", &knet_model::b_w, 0, 0, 4, {5, 5, 20, 50}},
    {"b/b", &knet_model::b_b, 0, 0, 4, {1, 1, 50, 1}},
    {"c/w", &knet_model::c_w, 0, 0, 2, {500, 800}},
    {"c/b", &knet_model::c_b, 0, 0, 1, {500}},
    {"wbf/w", &knet_model::wbf_w, 0, 0, 2, {10, 500}},
    {"wbf/b", &knet_model::wbf_b, 0, 0, 1, {10}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array gradients[] = {
    {"a/w", &knet_model::d_a_w, 0, 0, 4, {5, 5, 1, 20}},
    {"a/b", &knet_model::d_a_b, 0, 0, 4, {1, 1, 20, 1}},
    {"b/w", &knet_model::d_b_w, 0, 0, 4, {5, 5, 20, 50}},
    {"b/b", &knet_model::d_b_b, 0, 0, 4, {1, 1, 50, 1}},
    {"c/w", &knet_model::d_c_w, 0, 0, 2, {500, 800}},
    {"c/b", &knet_model::d_c_b, 0, 0, 1, {500}},
    {"wbf/w", &knet_model::d_wbf_w, 0, 0, 2, {10, 500}},
    {"wbf/b", &knet_model::d_wbf_b, 0, 0, 1, {10}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array states[] = {
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array inputs[] = {
    {"x", &knet_model::x, 0, 0, 4, {28, 28, 1, -1}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array values_0[] = {
    {"return", &knet_model::return_, 0, 0, 2, {10, -1}},
    {"a/w", &knet_model::a_w, 0, 0, 4, {5, 5, 1, 20}},
    {"a/b", &knet_model::a_b, 0, 0, 4, {1, 1, 20, 1}},
    {"a", &knet_model::a, 0, 0, 4, {12, 12, 20, -1}},
    {"b/w", &knet_model::b_w, 0, 0, 4, {5, 5, 20, 50}},
    {"b/b", &knet_model::b_b, 0, 0, 4, {1, 1, 50, 1}},
    {"b", &knet_model::b, 0, 0, 4, {4, 4, 50, -1}},
    {"c/w", &knet_model::c_w, 0, 0, 2, {500, 800}},
    {"c/b", &knet_model::c_b, 0, 0, 1, {500}},
    {"c", &knet_model::c, 0, 0, 2, {500, -1}},
    {"wbf/w", &knet_model::wbf_w, 0, 0, 2, {10, 500}},
    {"wbf/b", &knet_model::wbf_b, 0, 0, 1, {10}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
// Every gradient, those that stand in one block together, in the order in which a backward pass finishes them.
const knet_buffer gradient_buffers[] = {
    {&knet_model::d_wbf_w, 5000, 0},
    {&knet_model::d_wbf_b, 10, 0},
    {&knet_model::d_c_w, 400000, 0},
    {&knet_model::d_c_b, 500, 0},
    {&knet_model::d_b_b, 50, 0},
    {&knet_model::d_b_w, 25000, 0},
    {&knet_model::d_a_b, 20, 0},
    {&knet_model::d_a_w, 500, 0},
    {nullptr, 0, 0},
};
const knet_array* const values[] = {values_0};

// The elements of an array with so many columns.
size_t elements(const knet_array& a, int batch) {
  size_t n = 1;
  for (int i = 0; i < a.count; i++) n *= a.dims[i] < 0 ? batch : a.dims[i];
  return n;
}
// Whether its size depends on the batch.
bool batched(const knet_array& a) { return a.count && a.dims[a.count - 1] < 0; }
// Where column c of it begins.
size_t from_column(const knet_array& a, size_t c) { return batched(a) ? elements(a, 1) * c : 0; }
// Copies an array to one without pitch (`out`), or from there.
cudaError_t copy_array(knet_model* m, const knet_array& a, float* data, float* plain, int batch, bool out) {
  const size_t size = elements(a, batch) * sizeof(float), row = a.pitch ? a.dims[0] * sizeof(float) : size;
  const size_t pitch = a.pitch ? a.pitch * sizeof(float) : size;
  return out ? cudaMemcpy2DAsync(plain, row, data, pitch, row, size / row, cudaMemcpyDefault, m->stream)
             : cudaMemcpy2DAsync(data, pitch, plain, row, row, size / row, cudaMemcpyDefault, m->stream);
}
float* data_of(knet_model* m, const knet_array& a) { return m->*a.place + a.offset; }
// The array of that name, NULL where there is none.
const knet_array* find(const knet_array* table, const char* name) {
  for (; table->name; table++)
    if (!strcmp(table->name, name)) return table;
  return nullptr;
}

// Device memory.
template <class T> int allocate(T** place, size_t elements) {
  TRY(cudaMalloc((void**)place, elements * sizeof(T)));
  return 0;
}
template <class T> void release(T** place, int* code) {
  NOTE(code, cudaFree(*place));
  *place = nullptr;
}

// ---- sums over ranks. With a communicator, a bucket of gradients is summed over its ranks on a stream of its own as
// soon as the backward pass has finished it, while the rest of the pass runs; what follows on the model's stream waits
// for all of them. Where gradients add up over the steps of a sequence, that is after the last step.
#ifdef KNET_NCCL
#define TRY_NCCL(call)                                                                                \
  do {                                                                                                \
    const ncclResult_t result = (call);                                                               \
    if (result) return knet_fail(KNET_NCCL_FAILED, #call ": %s", ncclGetErrorString(result));         \
  } while (0)

// Where in gradient_buffers each of the buckets ends in which they are summed.
enum { BUCKETS = 2 };
const int bucket_ends[BUCKETS] = {4, 8};

// Steps of training take the mean over the ranks; where the calls are made one by one a mask makes it.
ncclRedOp_t sum_of(const knet_model* m) { return m->training_step ? ncclAvg : ncclSum; }
// Sums a bucket of gradient_buffers, when all that is on the model's stream now has been done.
int sum_bucket(knet_model* m, int bucket) {
  TRY(cudaEventRecord(m->event, m->stream));
  TRY(cudaStreamWaitEvent(m->sum_stream, m->event, 0));
  TRY_NCCL(ncclGroupStart());
  const ncclComm_t comm = (ncclComm_t)m->communicator;
  ncclResult_t result = ncclSuccess;
  for (int i = bucket ? bucket_ends[bucket - 1] : 0; i < bucket_ends[bucket] && !result; i++) {
    float* const sum = m->*gradient_buffers[i].place;
    result = ncclAllReduce(sum, sum, gradient_buffers[i].fixed, ncclFloat, sum_of(m), comm, m->sum_stream);
  }
  const ncclResult_t ended = ncclGroupEnd();
  if (!result) result = ended;
  return result ? knet_fail(KNET_NCCL_FAILED, "ncclAllReduce: %s", ncclGetErrorString(result)) : 0;
}
// Ends the sums that a call has begun, and with `all` makes them; with `loss` that of the losses too. The model's
// stream waits for them.
int end_sums(knet_model* m, bool all, bool loss) {
  for (int i = 0; i < BUCKETS && all; i++) TRY(sum_bucket(m, i));
  const ncclComm_t comm = (ncclComm_t)m->communicator;
  if (loss) TRY_NCCL(ncclAllReduce(m->loss, m->loss, 1, ncclFloat, sum_of(m), comm, m->sum_stream));
  TRY(cudaEventRecord(m->event, m->sum_stream));
  TRY(cudaStreamWaitEvent(m->stream, m->event, 0));
  return 0;
}
#else
int sum_bucket(knet_model*, int) { return 0; }
int end_sums(knet_model*, bool, bool) { return 0; }
#endif
// A bucket is final: begins its sum if this call sums bucket by bucket.
int finish_bucket(knet_model* m, int bucket) { return m->by_bucket ? sum_bucket(m, bucket) : 0; }
// Gradients that have been summed and are to be added to stay with rank 0 alone, so that they count once.
int divide_sum(knet_model* m) {
  for (const knet_buffer* g = gradient_buffers; g->place && m->summed && m->rank; g++)
    TRY(cudaMemsetAsync(m->*g->place, 0, g->fixed * sizeof(float), m->stream));
  return 0;
}

// Makes the plan of a product whose plan is empty; on failure it is in part made.
int plan_product(knet_model* m, knet_product_plan* p, cublasLtEpilogue_t epilogue, float* vector,
                 cublasOperation_t ta, cublasOperation_t tb, int rows, int columns, int depth, int lda, int ldb,
                 int ldd) {
  const cudaDataType_t type = CUDA_R_32F;
  TRY(cublasLtMatmulDescCreate(&p->call, CUBLAS_COMPUTE_32F, type));
  TRY(knet_set(p->call, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)ta));
  TRY(knet_set(p->call, CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)tb));
  TRY(knet_set(p->call, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)epilogue));
  TRY(knet_set(p->call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (void*)vector));  // for the heuristics, its alignment
  const bool at = ta != CUBLAS_OP_N, bt = tb != CUBLAS_OP_N;
  TRY(cublasLtMatrixLayoutCreate(&p->a, type, at ? depth : rows, at ? rows : depth, lda));
  TRY(cublasLtMatrixLayoutCreate(&p->b, type, bt ? columns : depth, bt ? depth : columns, ldb));
  TRY(cublasLtMatrixLayoutCreate(&p->d, type, rows, columns, ldd));
  cublasLtMatmulPreference_t preference = nullptr;
  TRY(cublasLtMatmulPreferenceCreate(&preference));
  int code = knet_product_choose(m->blas_lt, p, preference, m->blas_workspace_bytes);
  NOTE(&code, cublasLtMatmulPreferenceDestroy(preference));
  return code;
}
// The plan of a product for these sizes and arrays of this alignment: one that there is, or a new one.
int find_plan(knet_model* m, knet_product* product, knet_product_plan** plan, cublasLtEpilogue_t epilogue,
              float* vector, cublasOperation_t ta, cublasOperation_t tb, int rows, int columns, int depth, int lda,
              int ldb, int ldd, unsigned alignment) {
  for (knet_product_plan& p : product->plans)
    if (p.m == rows && p.n == columns && p.k == depth && p.alignment == alignment) {
      *plan = &p;
      return 0;
    }
  knet_product_plan* const p = *plan = &product->plans[product->next];
  int code = 0;
  knet_product_release(p, &code);
  p->alignment = alignment;
  if (!code) code = plan_product(m, p, epilogue, vector, ta, tb, rows, columns, depth, lda, ldb, ldd);
  if (code) return code;
  p->m = rows, p->n = columns, p->k = depth;
  product->next = (product->next + 1) % (int)(sizeof product->plans / sizeof *product->plans);
  return 0;
}
// d = op(a) * op(b) with an epilogue, as knet_gemm otherwise; `vector`: the bias, or where a bias's gradient goes.
// Where cuBLASLt has no algorithm for it this is the product alone, product->fused is false, and the rest comes after.
int multiply(knet_model* m, knet_product* product, cublasLtEpilogue_t epilogue, float* vector,
             cublasOperation_t ta, cublasOperation_t tb, int rows, int columns, int depth, const float* a, int lda,
             const float* b, int ldb, float* d, int ldd) {
  knet_product_plan* p = nullptr;
  const unsigned alignment = knet_alignment(a, b, d, vector);
  TRY(find_plan(m, product, &p, epilogue, vector, ta, tb, rows, columns, depth, lda, ldb, ldd, alignment));
  if (p->fused) {
    const float one = 1, zero = 0;
    TRY(knet_set(p->call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (void*)vector));
    const cublasStatus_t status = cublasLtMatmul(m->blas_lt, p->call, &one, a, p->a, b, p->b, &zero, d, p->d, d, p->d,
                                                 &p->algorithm, m->blas_workspace, m->blas_workspace_bytes, m->stream);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) TRY(status);
    p->fused = !status;
  }
  product->fused = p->fused;
  if (!p->fused) TRY(knet_gemm(m->blas, ta, tb, rows, columns, depth, a, lda, b, ldb, d, ldd));
  return 0;
}

// Makes the workspace of convolutions so large.
int grow_workspace(knet_model* m, size_t bytes) {
  if (bytes <= m->workspace_bytes) return 0;
  m->memory++;
  m->workspace_bytes = 0;
  int code = 0;
  release(&m->workspace, &code);
  if (code) return code;
  TRY(allocate(&m->workspace, bytes));
  m->workspace_bytes = bytes;
  return 0;
}
// Runs a convolution by `run`, which takes an algorithm; where the user wants it, `find` times them all before.
template <class Found, class Bytes, class Find, class Run>
int run_conv(knet_model* m, knet_conv* c, knet_choice* choice, Bytes bytes_of, Find find, Run run) {
  if (m->search && !choice->searched) {
    TRY(grow_workspace(m, KNET_SEARCH_WORKSPACE));
    Found found[KNET_FOUND];
    int count = 0;
    TRY(find(found, &count));
    TRY(knet_conv_choose(choice, found, count, m->deterministic, bytes_of, &c->plan->bytes));
    TRY(grow_workspace(m, c->plan->bytes));
    choice->searched = true;
  }
  cudnnStatus_t status;
  do status = run(choice->algorithm[choice->at]);
  while (knet_conv_again(status, choice));
  TRY(status);
  return 0;
}
int conv_forward(knet_model* m, knet_conv* c, const float* w, const float* x, float* y) {
  const float one = 1, zero = 0;
  const auto find = [=](cudnnConvolutionFwdAlgoPerf_t* found, int* count) {
    return cudnnFindConvolutionForwardAlgorithmEx(m->dnn, c->x, x, c->w, w, c->conv, c->y, y, KNET_FOUND, count, found,
                                                  m->workspace, m->workspace_bytes);
  };
  const auto run = [&](int algorithm) {
    return cudnnConvolutionForward(m->dnn, &one, c->x, x, c->w, w, c->conv, (cudnnConvolutionFwdAlgo_t)algorithm,
                                   m->workspace, m->workspace_bytes, &zero, c->y, y);
  };
  return run_conv<cudnnConvolutionFwdAlgoPerf_t>(m, c, &c->plan->forward, knet_forward_bytes(m->dnn, c), find, run);
}
int conv_back_w(knet_model* m, knet_conv* c, const float* x, const float* dy, float* dw) {
  const float one = 1, zero = 0;
  const auto find = [=](cudnnConvolutionBwdFilterAlgoPerf_t* found, int* count) {
    return cudnnFindConvolutionBackwardFilterAlgorithmEx(m->dnn, c->x, x, c->y, dy, c->conv, c->w, dw, KNET_FOUND,
                                                         count, found, m->workspace, m->workspace_bytes);
  };
  const auto run = [&](int algorithm) {
    return cudnnConvolutionBackwardFilter(m->dnn, &one, c->x, x, c->y, dy, c->conv,
                                          (cudnnConvolutionBwdFilterAlgo_t)algorithm, m->workspace,
                                          m->workspace_bytes, &zero, c->w, dw);
  };
  return run_conv<cudnnConvolutionBwdFilterAlgoPerf_t>(m, c, &c->plan->back_w, knet_back_w_bytes(m->dnn, c), find,
                                                       run);
}
int conv_back_x(knet_model* m, knet_conv* c, const float* w, const float* dy, float* dx) {
  const float one = 1, zero = 0;
  const auto find = [=](cudnnConvolutionBwdDataAlgoPerf_t* found, int* count) {
    return cudnnFindConvolutionBackwardDataAlgorithmEx(m->dnn, c->w, w, c->y, dy, c->conv, c->x, dx, KNET_FOUND, count,
                                                       found, m->workspace, m->workspace_bytes);
  };
  const auto run = [&](int algorithm) {
    return cudnnConvolutionBackwardData(m->dnn, &one, c->w, w, c->y, dy, c->conv,
                                        (cudnnConvolutionBwdDataAlgo_t)algorithm, m->workspace, m->workspace_bytes,
                                        &zero, c->x, dx);
  };
  return run_conv<cudnnConvolutionBwdDataAlgoPerf_t>(m, c, &c->plan->back_x, knet_back_x_bytes(m->dnn, c), find, run);
}

// The forward pass.
int forward(knet_model* m) {
  const int N = m->batch;
  // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
  TRY(conv_forward(m, &m->conv[0], m->a_w, m->x, m->a_c));  // a/c f32[24,24,20,N]
  // a f32[12,12,20,N]
  TRY(knet_launch_each(kernels.add_pool_winner_relu_24x24_to_12x12, 2880 * N, m->stream, m->a_winner, m->a,
      m->a_c, m->a_b));
  // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
  TRY(conv_forward(m, &m->conv[1], m->b_w, m->a, m->b_c));  // b/c f32[8,8,50,N]
  // b f32[4,4,50,N]
  TRY(knet_launch_each(kernels.add_pool_winner_relu_8x8_to_4x4, 800 * N, m->stream, m->b_winner, m->b, m->b_c,
      m->b_b));
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  // c f32[500,N]
  TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_RELU_BIAS, m->c_b, CUBLAS_OP_N, CUBLAS_OP_N, 500, N, 800,
      m->c_w, 500, m->b, 800, m->c, 500));
  if (!m->product[0].fused) TRY(knet_launch_each(kernels.add_relu_500xN, 500 * N, m->stream, m->c, m->c, m->c_b));
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  // wbf/tmp1 f32[10,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 10, N, 500, m->wbf_w, 10, m->c, 500, m->wbf_tmp1, 10));
  TRY(knet_launch(kernels.add_soft, N, 32, 0, m->stream, m->return_, m->wbf_tmp1, m->wbf_b, 10));  // return f32[10,N]
  return 0;
}

// The backward pass from softloss.
int backward_softloss(knet_model* m, const float* mask, unsigned long long want) {
  const int N = m->batch;
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  // d:wbf/tmp2 f32[10,N]
  TRY(knet_launch(kernels.softloss_and_back, knet_blocks(10 * N), 256, 0, m->stream, m->partials, m->d_wbf_tmp2,
      m->return_, m->gold, mask, N, 10 * N));
  // @loss f32[]
  TRY(knet_launch(kernels.total, 1, 256, 0, m->stream, m->loss, m->partials, knet_blocks(10 * N), 1.0 / N));
  // d:wbf/w f32[10,500], d:wbf/b f32[10]
  TRY(multiply(m, &m->product[1], CUBLASLT_EPILOGUE_BGRADA, m->d_wbf_b, CUBLAS_OP_N, CUBLAS_OP_T, 10, 500, N,
      m->d_wbf_tmp2, 10, m->c, 500, m->d_wbf_w, 10));
  if (!m->product[1].fused) TRY(knet_launch(kernels.sum_columns, 10, 128, 0, m->stream, m->d_wbf_b, m->d_wbf_tmp2,
      10, N));
  // d:c f32[500,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 500, N, 10, m->wbf_w, 10, m->d_wbf_tmp2, 10, m->d_c, 500));
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  TRY(knet_launch_each(kernels.relu_back, 500 * N, m->stream, m->d_c_tmp2, m->d_c, m->c));  // d:c/tmp2 f32[500,N]
  // d:c/w f32[500,800], d:c/b f32[500]
  TRY(multiply(m, &m->product[2], CUBLASLT_EPILOGUE_BGRADA, m->d_c_b, CUBLAS_OP_N, CUBLAS_OP_T, 500, 800, N,
      m->d_c_tmp2, 500, m->b, 800, m->d_c_w, 500));
  if (!m->product[2].fused) TRY(knet_launch(kernels.sum_columns, 500, 128, 0, m->stream, m->d_c_b, m->d_c_tmp2,
      500, N));
  TRY(finish_bucket(m, 0));
  // d:b f32[4,4,50,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 800, N, 500, m->c_w, 500, m->d_c_tmp2, 500, m->d_b, 800));
  // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
  TRY(knet_launch_each(kernels.relu_back, 800 * N, m->stream, m->d_b_pool, m->d_b, m->b));  // d:b@pool f32[4,4,50,N]
  // d:b/tmp1 f32[8,8,50,N]
  TRY(knet_launch_each(kernels.unpool_8x8_to_4x4, 3200 * N, m->stream, m->d_b_tmp1, m->d_b_pool, m->b_winner));
  // d:b/b f32[1,1,50,1]
  TRY(knet_launch(kernels.sumto_sum16x50xsumN, 50, 128, 0, m->stream, m->d_b_b, m->d_b_pool, 16 * N));
  TRY(conv_back_w(m, &m->conv[1], m->a, m->d_b_tmp1, m->d_b_w));  // d:b/w f32[5,5,20,50]
  TRY(conv_back_x(m, &m->conv[1], m->b_w, m->d_b_tmp1, m->d_a));  // d:a f32[12,12,20,N]
  // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
  // d:a@pool f32[12,12,20,N]
  TRY(knet_launch_each(kernels.relu_back, 2880 * N, m->stream, m->d_a_pool, m->d_a, m->a));
  // d:a/tmp1 f32[24,24,20,N]
  TRY(knet_launch_each(kernels.unpool_24x24_to_12x12, 11520 * N, m->stream, m->d_a_tmp1, m->d_a_pool,
      m->a_winner));
  // d:a/b f32[1,1,20,1]
  TRY(knet_launch(kernels.sumto_sum144x20xsumN, 20, 128, 0, m->stream, m->d_a_b, m->d_a_pool, 144 * N));
  TRY(conv_back_w(m, &m->conv[0], m->x, m->d_a_tmp1, m->d_a_w));  // d:a/w f32[5,5,1,20]
  TRY(finish_bucket(m, 1));
  if (want & 1) {
    TRY(conv_back_x(m, &m->conv[0], m->a_w, m->d_a_tmp1, m->d_x));  // d:x f32[28,28,1,N]
    m->input_gradients[0] = m->d_x;
  }
  return 0;
}

// Keys the draws of the call at hand.
int set_clock(knet_model* m) {
  TRY(knet_launch(kernels.set_clock, 1, 1, 0, m->stream, m->clock, m->seed, m->call, m->columns_before));
  return 0;
}

// Parameters and constants as they are at the start.
int initialize(knet_model* m) {
  TRY(set_clock(m));
  // a/w f32[5,5,1,20], GlorotUniform()
  TRY(knet_launch_each(kernels.fill_uniform, 500, m->stream, m->a_w, m->clock, 0u, 0u, (-0.10690449676496976),
      0.10690449676496976, 500, 0));
  // a/b f32[1,1,20,1], Constant(0.0)
  TRY(knet_launch_each(kernels.fill_constant, 20, m->stream, m->a_b, 0.0, 20, 0));
  // b/w f32[5,5,20,50], GlorotUniform()
  TRY(knet_launch_each(kernels.fill_uniform, 25000, m->stream, m->b_w, m->clock, 2u, 0u, (-0.05855400437691199),
      0.05855400437691199, 25000, 0));
  // b/b f32[1,1,50,1], Constant(0.0)
  TRY(knet_launch_each(kernels.fill_constant, 50, m->stream, m->b_b, 0.0, 50, 0));
  // c/w f32[500,800], GlorotUniform()
  TRY(knet_launch_each(kernels.fill_uniform, 400000, m->stream, m->c_w, m->clock, 4u, 0u, (-0.06793662204867575),
      0.06793662204867575, 400000, 0));
  TRY(knet_launch_each(kernels.fill_constant, 500, m->stream, m->c_b, 0.0, 500, 0));  // c/b f32[500], Constant(0.0)
  // wbf/w f32[10,500], GlorotUniform()
  TRY(knet_launch_each(kernels.fill_uniform, 5000, m->stream, m->wbf_w, m->clock, 6u, 0u, (-0.10846522890932808),
      0.10846522890932808, 5000, 0));
  TRY(knet_launch_each(kernels.fill_constant, 10, m->stream, m->wbf_b, 0.0, 10, 0));  // wbf/b f32[10], Constant(0.0)
  return 0;
}

// The forward function of each variant.
struct knet_forward_function {
  int (*run)(knet_model* m);
  const knet_buffer* places;
};
const knet_forward_function forwards[] = {
    {forward, places_0},
};
// A backward function: the forward function and the loss that it belongs to, and where it reads what was wanted.
struct knet_backward_function {
  int variant, loss;
  int (*run)(knet_model* m, const float* mask, unsigned long long want);
  knet_buffer gold;
  bool masked;  // whether it reads the mask
  const knet_buffer* places;
};
const knet_backward_function backwards[] = {
    {0, KNET_SOFTLOSS, backward_softloss, {&knet_model::gold, 0, 10}, true, places_0_softloss},
    {0, 0, nullptr, {nullptr, 0, 0}, false, nullptr},
};

}  // namespace

// ------------------------------------------------------------------------------------------------ the interface ----
namespace {

// After a failure: waits, so that nothing reads or writes the caller's arrays any more.
void settle(knet_model* m, int* code) {
  if (m->sum_stream) NOTE(code, cudaStreamSynchronize(m->sum_stream));
  NOTE(code, cudaStreamSynchronize(m->stream));
}

void free_graphs(knet_graph** list, int* code);

// ---- frames
void free_frame(knet_model* m, knet_frame* f, int* code) {
  if (m->last == f) m->last = nullptr;
  free_graphs(&f->graphs, code);
  if (f->pushed) release(f->values, code);  // the first begins their memory
  delete f;
}
void free_frames(knet_model* m, knet_frame** list, int* code) {
  while (knet_frame* f = *list) {
    *list = f->below;
    free_frame(m, f, code);
  }
}
// Gives a frame memory for `room` columns.
int make_frame(knet_frame* f, int room) {
  size_t size = 0;
  for (const knet_buffer* b = frames[f->variant]; b->place; b++) size += knet_round(b->fixed + b->column * room);
  float* at = nullptr;
  TRY(allocate(&at, size));
  f->pushed = true;
  float** value = f->values;
  for (const knet_buffer* b = frames[f->variant]; b->place; b++) {
    *value++ = at;
    at += knet_round(b->fixed + b->column * room);
  }
  return 0;
}
// A frame for a call of a forward function: one that waits, or a new one; `push`: for one with memory of its own.
int take_frame(knet_model* m, int variant, int batch, bool push, knet_frame** frame) {
  knet_frame** place = &m->spare;
  while (*place && ((*place)->variant != variant || (*place)->pushed != push)) place = &(*place)->below;
  knet_frame* f = *place;
  if (f) {
    *place = f->below;
  } else {
    f = new (std::nothrow) knet_frame();
    if (!f) return knet_fail(KNET_MEMORY, "no memory for a step");
    f->variant = variant;
    f->room = m->capacity;
    int code = push ? make_frame(f, f->room) : 0;
    if (code) {
      free_frame(m, f, &code);
      return code;
    }
  }
  f->below = nullptr;
  f->batch = batch;
  f->spent = false;
  *frame = f;
  return 0;
}
// Gives a frame back; it keeps what it holds until the next call takes it.
void give_frame(knet_model* m, knet_frame* f, int* code) {
  if (f->room < m->capacity) {
    free_frame(m, f, code);
    return;
  }
  f->below = m->spare;
  m->spare = f;
}
// Points the model at the buffers of a function: those in the frame, and the others at their places in the arena.
void use_frame(knet_model* m, const knet_frame* f, const knet_buffer* places) {
  for (const knet_buffer* b = places; b->place; b++) m->*b->place = m->arena + b->fixed + b->column * f->batch;
  float* const* value = f->values;
  for (const knet_buffer* b = frames[f->variant]; b->place && f->pushed; b++) m->*b->place = *value++;
  m->variant = f->variant;
  m->batch = f->batch;
}
void forget_record(knet_model* m, int* code) {
  if (m->record) give_frame(m, m->record, code);
  m->record = nullptr;
}
void forget_input_gradients(knet_model* m) {
  for (int i = 0; i <= INPUTS; i++) m->input_gradients[i] = nullptr;
}

// ---- memory that depends on the batch
void release_columns(knet_model* m, int* code) {
  m->memory++;
  forget_record(m, code);
  free_frames(m, &m->spare, code);
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->column) release(&(m->*b->place), code);
  release(&m->arena, code);
  m->capacity = 0;
  m->last = nullptr;
  forget_input_gradients(m);
}
// Tells cuDNN of a batch.
int describe(knet_model* m, int batch) {
  if (batch == m->described) return 0;
  m->described = 0;
  size_t bytes = 0;
  for (int i = 0; i < 2; i++)
    TRY(knet_conv_prepare(m->dnn, &m->conv[i], conv_shapes[i], batch, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH,
                          m->deterministic, &bytes));
  TRY(grow_workspace(m, bytes));
  m->described = batch;
  return 0;
}
// Makes room for `batch` columns; on failure the model has no room for values at all, but its parameters, state and
// stack.
int reserve(knet_model* m, int batch) {
  const int end = sizeof buffers / sizeof *buffers - 1;
  // Kernels count elements in int, and their strides must not run over.
  if ((double)batch * (double)buffers[end].column > 2130706432.0)
    return knet_fail(KNET_ARGUMENT, "a batch of %d columns is too large: an array would have over 2130706432 elements",
                     batch);
  if (batch > m->capacity) {
    int code = 0;
    release_columns(m, &code);
    for (const knet_buffer* b = buffers; b->place && !code; b++)
      if (b->column) code = allocate(&(m->*b->place), batch * b->column);
    if (!code) code = allocate(&m->arena, arena_elements(batch));
    if (code) {
      release_columns(m, &code);
      return code;
    }
    m->capacity = batch;
  }
  return 0;
}

// ---- graphs. The work of a call (forward, backward, update) is a fixed list of launches, copies and library calls,
// once the frame and the knet_call are given: so it is captured as a CUDA graph when it is seen again, and launched as
// one from then on. What changes from call to call without being a part of these stands on the device, where the
// captured work finds it: inputs, desired output and mask are copied to buffers of the model before; the numbers of
// calls and steps and the training options are kept there. The first time a call runs as it is, which also lets cuBLAS
// and cuDNN load and choose what they need. Where something cannot be captured it runs as it is, too.
enum { KNET_GRAPHS = 8 };  // the most that are kept for a frame

bool same_call(const knet_call& a, const knet_call& b) {
  return a.batch == b.batch && a.loss == b.loss && a.flags == b.flags && a.memory == b.memory && a.want == b.want;
}
void drop_graph(knet_graph* g, int* code) {
  if (!g->exec) return;
  NOTE(code, cudaGraphExecDestroy(g->exec));
  g->exec = nullptr;
}
void free_graphs(knet_graph** list, int* code) {
  while (knet_graph* g = *list) {
    *list = g->next;
    drop_graph(g, code);
    delete g;
  }
}
// The entry of a call, which comes to the front of its list; a new one where it has not been seen, NULL without memory.
// The entries whose memory is gone go, and the longest unused of too many.
knet_graph* find_graph(knet_graph** list, const knet_call& call, bool* seen) {
  knet_graph* found = nullptr;
  int kept = 1;
  for (knet_graph** place = list; knet_graph* g = *place;) {
    const bool here = same_call(g->call, call);
    if (!here && g->call.memory == call.memory && kept++ < KNET_GRAPHS) {
      place = &g->next;
      continue;
    }
    *place = g->next;
    if (here) {
      found = g;
      continue;
    }
    int ignored = 0;
    drop_graph(g, &ignored);
    delete g;
  }
  *seen = found != nullptr;
  if (!found) found = new (std::nothrow) knet_graph();
  if (!found) return nullptr;
  found->call = call;
  found->next = *list;
  return *list = found;
}
// Captures the work of a call, which is not done by this; where that fails the entry is refused from then on.
template <class Work> void capture(knet_model* m, knet_graph* g, Work work) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
  if (cudaStreamIsCapturing(m->stream, &status) || status != cudaStreamCaptureStatusNone) return;  // by our user
  g->refused = true;
  if (cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
    const int code = work();
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(m->stream, &graph);
    g->refused = code || ended || !graph || cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (g->refused) g->exec = nullptr;
    memcpy(g->input_gradients, m->input_gradients, sizeof g->input_gradients);
  }
  (g->refused ? m->refused : m->captured)++;
  cudaGetLastError();  // a failure here is none of the call
}
// Runs the work of a call: by its graph if there is one or it can be had, else as it is.
template <class Work> int run_call(knet_model* m, knet_graph** list, knet_call call, Work work) {
  bool seen = false;
  call.memory = m->memory;
  const bool graphs = m->graphs && (!(call.flags & KNET_SUMMING) || m->graph_sums);
  knet_graph* g = graphs ? find_graph(list, call, &seen) : nullptr;
  if ((!g || !g->exec) && call.batch) TRY(describe(m, call.batch));
  if (g) g->call.memory = m->memory;  // that may have made room
  if (g && !g->exec && !g->refused && (seen || (m->graphs == 2 && !m->search)))
    capture(m, g, work);
  if (g && g->exec) {
    if (cudaGraphLaunch(g->exec, m->stream) == cudaSuccess) {
      memcpy(m->input_gradients, g->input_gradients, sizeof g->input_gradients);
      return 0;
    }
    int ignored = 0;
    drop_graph(g, &ignored);
    g->refused = true;
    cudaGetLastError();
    if (call.batch) TRY(describe(m, call.batch));
  }
  return work();
}

// Makes room for an average that an option needs, zero at first.
int keep_average(knet_model* m, bool needed, float** average, size_t elements) {
  if (!needed || *average) return 0;
  TRY(allocate(average, elements));
  int code = 0;
  NOTE(&code, cudaMemsetAsync(*average, 0, elements * sizeof(float), m->stream));
  if (code) release(average, &code);
  return code;
}
int keep_averages(knet_model* m, knet_options* o, size_t elements) {
  TRY(keep_average(m, o->adagrad, &o->adagrad_squares, elements));
  TRY(keep_average(m, o->rmsprop, &o->rmsprop_squares, elements));
  TRY(keep_average(m, o->adam, &o->adam_mean, elements));
  TRY(keep_average(m, o->adam, &o->adam_square, elements));
  TRY(keep_average(m, o->momentum != 0, &o->momentum_average, elements));
  TRY(keep_average(m, o->nesterov != 0, &o->nesterov_average, elements));
  return 0;
}
// Sends what the options of a parameter come to, where the device has something else; this call's gclip takes the place
// of the parameter's own.
int send_training(knet_model* m, int i, double gclip, double gscale) {
  const knet_options& o = m->training[i];
  knet_training t;
  memset(&t, 0, sizeof t);  // padding too: it is compared
  t.w = data_of(m, parameters[i]);
  t.dw = data_of(m, gradients[i]);
  t.elements = (int)elements(parameters[i], 1);
  t.rows = parameters[i].pitch || gradients[i].pitch ? parameters[i].dims[0] : t.elements;
  t.w_pitch = parameters[i].pitch ? parameters[i].pitch : t.rows;
  t.dw_pitch = gradients[i].pitch ? gradients[i].pitch : t.rows;
  t.scale = gscale * o.gscale;
  t.clip = gclip > 0 ? gclip : o.gclip;
  t.lr = (float)o.lr;
  t.l1reg = (float)o.l1reg;
  t.l2reg = (float)o.l2reg;
  t.adagrad = o.adagrad ? o.adagrad_squares : nullptr;
  t.rmsprop = o.rmsprop ? o.rmsprop_squares : nullptr;
  t.adam_mean = o.adam ? o.adam_mean : nullptr;
  t.adam_square = o.adam ? o.adam_square : nullptr;
  t.adam_steps = o.adam_steps;
  t.momentum = o.momentum != 0 ? o.momentum_average : nullptr;
  t.momentum_rate = (float)o.momentum;
  t.nesterov = o.nesterov != 0 ? o.nesterov_average : nullptr;
  t.nesterov_rate = (float)o.nesterov;
  if (!memcmp(&t, &m->sent[i], sizeof t)) return 0;
  TRY(knet_launch(kernels.set_training, 1, 1, 0, m->stream, m->updates + i, t));
  memcpy(&m->sent[i], &t, sizeof t);
  return 0;
}
// The work of an update: every parameter that has a gradient changes.
int run_update(knet_model* m, unsigned flags) {
  const dim3 squares(32, PARAMETERS), blocks(1024, PARAMETERS);
  if (flags & KNET_CLIPPING) {
    TRY(knet_launch(kernels.square_sum, squares, 256, 0, m->stream, m->partials, m->updates));
    TRY(knet_launch(kernels.all_squares, 1, 256, 0, m->stream, m->squares, m->partials, squares.x * PARAMETERS));
  }
  if (flags & KNET_ADAM) TRY(knet_launch_each(kernels.count_adam, PARAMETERS, m->stream, m->updates));
  TRY(knet_launch(kernels.update, blocks, 256, 0, m->stream, m->updates, m->squares));
  return 0;
}
// Makes ready for an update, and says by its flags what there is to do.
int begin_update(knet_model* m, double gclip, double gscale, unsigned* flags) {
  if (gclip > 0) *flags |= KNET_CLIPPING;
  for (int i = 0; i < PARAMETERS; i++) {
    const knet_options& o = m->training[i];
    if (!gradients[i].place) continue;
    TRY(keep_averages(m, &m->training[i], elements(parameters[i], 1)));
    TRY(send_training(m, i, gclip, gscale));
    *flags |= (o.gclip > 0 ? KNET_CLIPPING : 0) | (o.adam ? KNET_ADAM : 0);
  }
  return 0;
}
// After it, with its code: the device has counted Adam's steps, or no one knows what it has done.
int end_update(knet_model* m, int code) {
  if (code) memset((void*)m->sent, 0xff, PARAMETERS * sizeof *m->sent);
  for (int i = 0; i < PARAMETERS && !code; i++)
    if (gradients[i].place && m->training[i].adam) m->sent[i].adam_steps = ++m->training[i].adam_steps;
  return code;
}
int update(knet_model* m, double gclip, double gscale) {
  if (m->communicator && !m->summed) TRY(end_sums(m, true, false));
  m->summed = m->communicator;
  knet_call call = {};
  TRY(begin_update(m, gclip, gscale, &call.flags));
  return end_update(m, run_call(m, &m->update_graphs, call, [=] { return run_update(m, call.flags); }));
}

// Makes room for the gradients that are set aside while a step of a sequence computes its own.
int make_sums(knet_model* m) {
  float** sum = m->sums;
  for (const knet_buffer* g = gradient_buffers; g->place; g++, sum++)
    if (!*sum) TRY(allocate(sum, g->fixed));
  return 0;
}
// Sets the gradients that there are aside, so that the next backward pass does not overwrite them; and back.
void swap_gradients(knet_model* m) {
  float** sum = m->sums;
  for (const knet_buffer* g = gradient_buffers; g->place; g++) std::swap(m->*g->place, *sum++);
}
// Adds what that pass computed, which stands in m->sums then.
int add_gradients(knet_model* m) {
  float** sum = m->sums;
  for (const knet_buffer* g = gradient_buffers; g->place; g++)
    TRY(knet_launch_each(kernels.accumulate, g->fixed, m->stream, m->*g->place, *sum++));
  return 0;
}

int open_model(knet_model* m, unsigned long long seed, cudaStream_t stream) {
  m->seed = seed;
  TRY(cudaGetDevice(&m->device));
  m->stream = stream;
  if (!stream) {
    TRY(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    m->own_stream = true;
  }
  TRY(cudaEventCreateWithFlags(&m->event, cudaEventDisableTiming));
  TRY(cublasCreate(&m->blas));
  TRY(cublasSetStream(m->blas, m->stream));
  TRY(cublasSetMathMode(m->blas, CUBLAS_DEFAULT_MATH));
  size_t bytes = 0;
  TRY(knet_blas_workspace(m->device, &bytes));
  TRY(allocate(&m->blas_workspace, bytes));
  TRY(cublasSetWorkspace(m->blas, m->blas_workspace, bytes));
  TRY(cublasLtCreate(&m->blas_lt));
  m->blas_workspace_bytes = bytes;
  TRY(cudnnCreate(&m->dnn));
  TRY(cudnnSetStream(m->dnn, m->stream));
  TRY(allocate(&m->partials, 256));
  TRY(allocate(&m->squares, 1));
  TRY(allocate(&m->updates, PARAMETERS));
  m->sent = new (std::nothrow) knet_training[PARAMETERS];
  if (!m->sent) return knet_fail(KNET_MEMORY, "no memory for a model");
  memset((void*)m->sent, 0xff, PARAMETERS * sizeof *m->sent);  // what no options come to
  TRY(allocate(&m->clock, 1));
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->fixed) TRY(allocate(&(m->*b->place), b->fixed));
  TRY(initialize(m));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}
// Frees everything that there is, past failures.
void close_model(knet_model* m, int* code) {
  if (m->stream) settle(m, code);
  free_frames(m, &m->stack, code);
  release_columns(m, code);
  for (const knet_buffer* b = buffers; b->place; b++) release(&(m->*b->place), code);
  for (float*& sum : m->sums) release(&sum, code);
  for (knet_options& o : m->training)
    for (float** average : {&o.adagrad_squares, &o.rmsprop_squares, &o.adam_mean, &o.adam_square,
                             &o.momentum_average, &o.nesterov_average})
      release(average, code);
  release(&m->partials, code);
  release(&m->losses, code);
  free_graphs(&m->update_graphs, code);
  release(&m->squares, code);
  release(&m->updates, code);
  delete[] m->sent;
  release(&m->clock, code);
  release(&m->workspace, code);
  for (knet_conv& c : m->conv) knet_conv_release(&c, code);
  if (m->dnn) NOTE(code, cudnnDestroy(m->dnn));
  for (knet_product& product : m->product)
    for (knet_product_plan& p : product.plans) knet_product_release(&p, code);
  if (m->blas_lt) NOTE(code, cublasLtDestroy(m->blas_lt));
  if (m->blas) NOTE(code, cublasDestroy(m->blas));
  release(&m->blas_workspace, code);
  if (m->event) NOTE(code, cudaEventDestroy(m->event));
  if (m->sum_stream) NOTE(code, cudaStreamDestroy(m->sum_stream));
  if (m->own_stream) NOTE(code, cudaStreamDestroy(m->stream));
  delete m;
}

int check_model(const knet_model* m) {
  if (!m) return knet_fail(KNET_ARGUMENT, "the model is NULL");
  int device = 0;
  TRY(cudaGetDevice(&device));
  if (device != m->device)
    return knet_fail(KNET_ARGUMENT, "the model was made on device %d, and device %d is current", m->device, device);
  return 0;
}

// The place of a running average; NULL where the kind is none.
float** average_place(knet_options* o, int kind) {
  switch (kind) {
    case KNET_ADAGRAD: return &o->adagrad_squares;
    case KNET_RMSPROP: return &o->rmsprop_squares;
    case KNET_ADAM_MEAN: return &o->adam_mean;
    case KNET_ADAM_SQUARE: return &o->adam_square;
    case KNET_MOMENTUM: return &o->momentum_average;
    case KNET_NESTEROV: return &o->nesterov_average;
  }
  return nullptr;
}
// The training options of a parameter by its name.
int find_options(knet_model* m, const char* parameter, knet_options** options) {
  TRY(check_model(m));
  if (!parameter) return knet_fail(KNET_ARGUMENT, "the parameter's name is NULL");
  const knet_array* a = find(parameters, parameter);
  if (!a) return knet_fail(KNET_ARGUMENT, "there is no parameter %s", parameter);
  *options = &m->training[a - parameters];
  return 0;
}

// An array by kind and name, the pointer to it, and the columns that it has.
int find_array(knet_model* m, int kind, const char* name, const knet_array** array, float** data, int* batch) {
  TRY(check_model(m));
  if (!name) return knet_fail(KNET_ARGUMENT, "the name is NULL");
  if (kind == KNET_GRAD && !m->gradients) return knet_fail(KNET_ORDER, "no gradient has been computed");
  if (kind == KNET_VALUE && !m->last) return knet_fail(KNET_ORDER, "no value: there was no forward call");
  const bool of_parameter = kind == KNET_PARAM || average_place(m->training, kind);
  const knet_array* const table = of_parameter         ? parameters
                                  : kind == KNET_GRAD  ? gradients
                                  : kind == KNET_VALUE ? values[m->last->variant]
                                  : kind == KNET_STATE ? states
                                  : kind == KNET_INPUT_GRAD ? inputs
                                                            : nullptr;
  if (!table) return knet_fail(KNET_ARGUMENT, "there is no kind %d of arrays", kind);
  *array = find(table, name);
  if (!*array || !(*array)->place)
    return knet_fail(KNET_ARGUMENT, "there is no array of that kind called %s", name);
  if (kind == KNET_VALUE) use_frame(m, m->last, forwards[m->last->variant].places);
  *batch = m->batch;
  *data = data_of(m, **array);
  if (kind == KNET_INPUT_GRAD) {
    *batch = m->input_batch;
    *data = const_cast<float*>(m->input_gradients[*array - inputs]);
    if (!*data) return knet_fail(KNET_ORDER, "the last backward pass did not compute the gradient of input %s", name);
  }
  if (of_parameter && kind != KNET_PARAM) {
    *data = *average_place(&m->training[*array - parameters], kind);
    if (!*data) return knet_fail(KNET_ORDER, "parameter %s has no such average: its option has not been used", name);
  }
  return 0;
}

// Copies a parameter to host memory (`out`), or from there, and waits.
int copy_parameter(knet_model* m, const knet_array& a, float* plain, bool out) {
  TRY(copy_array(m, a, data_of(m, a), plain, 1, out));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}
// A file of parameters: the text knetpar1, the size of an element, the number of parameters; for each the length of its
// name, the name, the number of its dimensions, the dimensions, its elements; at the end the CRC-32 of what stands
// before. Numbers are unsigned 64-bit, in the machine's order.
static const char knet_file_mark[9] = "knetpar1";

struct knet_file {
  char* data;
  size_t size, at;
};
inline void knet_file_put(knet_file* f, const void* from, size_t size) {
  memcpy(f->data + f->at, from, size);
  f->at += size;
}
inline void knet_file_put(knet_file* f, unsigned long long number) { knet_file_put(f, &number, sizeof number); }
// Whether the next bytes of the file are these; steps over them.
inline bool knet_file_has(knet_file* f, const void* wanted, size_t size) {
  if (f->size - f->at < size || memcmp(f->data + f->at, wanted, size)) return false;
  f->at += size;
  return true;
}
inline bool knet_file_has(knet_file* f, unsigned long long number) { return knet_file_has(f, &number, sizeof number); }
inline unsigned knet_file_sum(const knet_file* f, size_t size) {
  static const unsigned table[16] = {  // the remainders of the sixteen half bytes
      0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
      0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  unsigned sum = ~0u;
  for (size_t i = 0; i < size; i++) {
    sum ^= (unsigned char)f->data[i];
    sum = sum >> 4 ^ table[sum & 15];
    sum = sum >> 4 ^ table[sum & 15];
  }
  return ~sum;
}
// The size of the file of a model's parameters.
inline size_t knet_file_size() {
  size_t size = 8 + 3 * sizeof(unsigned long long);
  for (int i = 0; i < PARAMETERS; i++)
    size += strlen(parameters[i].name) + (2 + parameters[i].count) * sizeof(unsigned long long) +
            elements(parameters[i], 1) * sizeof(knet_real);
  return size;
}
inline int knet_file_fill(knet_model* m, knet_file* f) {
  knet_file_put(f, knet_file_mark, 8);
  knet_file_put(f, sizeof(knet_real));
  knet_file_put(f, PARAMETERS);
  for (int i = 0; i < PARAMETERS; i++) {
    const knet_array& a = parameters[i];
    knet_file_put(f, strlen(a.name));
    knet_file_put(f, a.name, strlen(a.name));
    knet_file_put(f, a.count);
    for (int k = 0; k < a.count; k++) knet_file_put(f, a.dims[k]);
    const size_t size = elements(a, 1) * sizeof(knet_real);
    TRY(copy_parameter(m, a, (knet_real*)(f->data + f->at), true));
    f->at += size;
  }
  knet_file_put(f, knet_file_sum(f, f->at));
  return 0;
}
// Writes beside the place and renames, so that a file is whole or not there.
inline int knet_file_write(const knet_file* f, const char* path) {
  char beside[4096];
  if ((size_t)snprintf(beside, sizeof beside, "%s.part", path) >= sizeof beside)
    return knet_fail(KNET_ARGUMENT, "the path is too long: %s", path);
  FILE* file = fopen(beside, "wb");
  if (!file) return knet_fail(KNET_ARGUMENT, "cannot write %s: %s", beside, strerror(errno));
  const bool written = fwrite(f->data, 1, f->size, file) == f->size;
  const bool closed = fclose(file) == 0;
  if (written && closed && rename(beside, path) == 0) return 0;
  const int code = knet_fail(KNET_ARGUMENT, "cannot write %s: %s", path, strerror(errno));
  remove(beside);
  return code;
}
inline int knet_file_read(knet_file* f, const char* path) {
  FILE* file = fopen(path, "rb");
  if (!file) return knet_fail(KNET_ARGUMENT, "cannot read %s: %s", path, strerror(errno));
  const size_t got = fread(f->data, 1, f->size, file);
  const bool more = fgetc(file) != EOF;
  fclose(file);
  return got == f->size && !more ? 0 : knet_fail(KNET_ARGUMENT, "%s does not hold this model's parameters", path);
}
// Checks a whole file before anything is taken from it; then copies its parameters.
inline int knet_file_take(knet_model* m, knet_file* f, const char* path) {
  const size_t body = f->size - sizeof(unsigned long long);
  for (int copying = 0; copying < 2; copying++) {
    f->at = 0;
    bool fits = knet_file_has(f, knet_file_mark, 8);
    fits = fits && knet_file_has(f, sizeof(knet_real)) && knet_file_has(f, PARAMETERS);
    for (int i = 0; i < PARAMETERS && fits; i++) {
      const knet_array& a = parameters[i];
      fits = knet_file_has(f, strlen(a.name)) && knet_file_has(f, a.name, strlen(a.name)) && knet_file_has(f, a.count);
      for (int k = 0; k < a.count && fits; k++) fits = knet_file_has(f, a.dims[k]);
      const size_t size = elements(a, 1) * sizeof(knet_real);
      if (fits && copying) TRY(copy_parameter(m, a, (knet_real*)(f->data + f->at), false));
      f->at += size;
    }
    fits = fits && f->at == body && knet_file_has(f, knet_file_sum(f, body));
    if (!fits) return knet_fail(KNET_ARGUMENT, "%s does not hold this model's parameters, or is damaged", path);
  }
  return 0;
}

int in_host_memory(const void* pointer, bool* yes) {
  cudaPointerAttributes attributes = {};
  TRY(cudaPointerGetAttributes(&attributes, pointer));
  *yes = attributes.type != cudaMemoryTypeDevice;
  return 0;
}
// Copies what a forward function is given, from a column on, to the frame in use, and keys its draws.
int give_inputs(knet_model* m, const knet_real* const* arrays, size_t first) {
  for (int i = 0; i < INPUTS; i++) {
    const size_t bytes = elements(inputs[i], m->batch) * sizeof(float);
    const float* const from = arrays[i] + from_column(inputs[i], first);
    TRY(cudaMemcpyAsync(m->*inputs[i].place, from, bytes, cudaMemcpyDefault, m->stream));
  }
  return 0;
}
// Runs a forward function in a frame and copies what the model returns.
int run_in(knet_model* m, knet_frame* f, const knet_real* const* arrays, knet_real* output) {
  bool wait = false;
  if (output) TRY(in_host_memory(output, &wait));
  use_frame(m, f, forwards[f->variant].places);
  TRY(give_inputs(m, arrays, 0));
  knet_call call = {};
  call.batch = m->batch;
  call.loss = -1;
  TRY(run_call(m, &f->graphs, call, [=] { return forwards[m->variant].run(m); }));
  if (!output) return 0;
  const knet_array* value = find(values[m->variant], "return");
  if (value) TRY(copy_array(m, *value, data_of(m, *value), output, m->batch, true));
  if (wait) TRY(cudaStreamSynchronize(m->stream));
  return 0;
}
// Whether a forward call can run; *variant: the forward function for the conditions.
int check_step(const knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, int* variant) {
  // For every setting of the conditions: which forward function it runs.
  static const unsigned short variant_of[1 << CONDITIONS] = {0};
  TRY(check_model(m));
  if (conditions >> CONDITIONS) return knet_fail(KNET_ARGUMENT, "there is no such condition");
  *variant = variant_of[conditions];
  if (*variant >= int(sizeof values / sizeof *values))
    return knet_fail(KNET_ARGUMENT, "there is no such setting of the conditions");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  for (int i = 0; i < INPUTS; i++)
    if (!arrays || !arrays[i]) return knet_fail(KNET_ARGUMENT, "input %s is NULL", inputs[i].name);
  return 0;
}
// Makes ready for a forward call: a frame for it, and state where there is none yet.
int begin_step(knet_model* m, int variant, int batch, bool push, knet_frame** frame) {
  TRY(reserve(m, batch));
  int code = 0;
  m->last = nullptr;
  m->changed = false;
  forget_record(m, &code);
  forget_input_gradients(m);
  if (!code) code = take_frame(m, variant, batch, push, frame);
  return code;
}
// After a failure: nothing is under way, and the frame is free. Without memory, what a smaller batch has no use for is
// given back.
int give_up_step(knet_model* m, knet_frame* f, int code) {
  settle(m, &code);
  if (f) give_frame(m, f, &code);
  if (code == KNET_MEMORY) release_columns(m, &code);
  return code;
}
// A forward call; with `push`, a step of a sequence.
int step_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output,
                 bool push) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, batch, &variant));
  knet_frame* f = nullptr;
  // In mid-sequence it has memory of its own, as a step has: the steps back use the arena.
  int code = begin_step(m, variant, batch, push || m->stack, &f);
  if (!code) {
    m->call++;
    code = run_in(m, f, arrays, output);
    if (code) m->call--;
  }
  if (code) return give_up_step(m, f, code);
  m->last = f;
  if (!push) {
    m->record = f;
    return 0;
  }
  f->below = m->stack;
  m->stack = f;
  return 0;
}

// Runs a backward function in the frame in use; `add` to the gradients that there are, and `sum` them over all ranks,
// outside a sequence with the losses.
int run_back(knet_model* m, knet_frame* f, const knet_backward_function* b, const knet_real* gold,
             const knet_real* mask, unsigned long long input_grads, bool add, bool sum,
             bool pop) {
  knet_call call = {};
  call.batch = m->batch;
  call.loss = b->loss;
  call.want = input_grads;
  if (b->gold.place) {
    const size_t bytes = (b->gold.fixed + b->gold.column * m->batch) * sizeof(float);
    TRY(cudaMemcpyAsync(m->*b->gold.place, gold, bytes, cudaMemcpyDefault, m->stream));
  }
  if (!b->masked) mask = nullptr;
  if (mask) {
    TRY(cudaMemcpyAsync(m->mask, mask, m->batch * sizeof(float), cudaMemcpyDefault, m->stream));
    mask = m->mask;
    call.flags |= KNET_MASKED;
  }
  if (add) {
    TRY(make_sums(m));
    TRY(divide_sum(m));
    call.flags |= KNET_ADDING;
  }
  m->summed = false;
  m->by_bucket = sum && !add;
  const bool loss = sum && !pop && (b->loss == KNET_QUADLOSS || b->loss == KNET_SOFTLOSS);
  call.flags |= (sum ? KNET_SUMMING : 0) | (loss ? KNET_LOSSES : 0);
  TRY(run_call(m, &f->graphs, call, [=] {
    if (add) swap_gradients(m);
    int code = b->run(m, mask, input_grads);
    if (add) swap_gradients(m);
    if (!code && add) code = add_gradients(m);
    return code || !sum ? code : end_sums(m, add, loss);
  }));
  m->summed = sum;
  return 0;
}
// The loss of the backward pass that has run, 0 where it started from none.
int copy_loss(knet_model* m, int loss, knet_real* value) {
  *value = 0;
  if (loss == KNET_QUADLOSS || loss == KNET_SOFTLOSS)
    TRY(cudaMemcpyAsync(value, m->loss, sizeof(float), cudaMemcpyDefault, m->stream));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}
// Whether a backward pass can start from a loss, against `gold`.
int check_loss(int loss, const knet_real* gold) {
  if (loss < KNET_ZERO || loss > KNET_SOFTLOSS) return knet_fail(KNET_ARGUMENT, "there is no loss %d", loss);
  if (loss != KNET_ZERO && !gold) return knet_fail(KNET_ARGUMENT, "gold is NULL");
  return 0;
}
// The backward function from a loss for a forward function.
int find_way_back(int variant, int loss, const knet_backward_function** found) {
  const knet_backward_function* b = backwards;
  while (b->run && (b->variant != variant || b->loss != loss)) b++;
  if (!b->run)
    return knet_fail(KNET_ARGUMENT,
                     "there is no backward pass from that loss for the last forward call; --loss says from which");
  *found = b;
  return 0;
}
// A backward pass through the last forward call; with `pop`, through the newest step of the sequence.
int step_backward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
                  unsigned long long input_grads, knet_real* loss_value, bool pop) {
  TRY(check_model(m));
  knet_frame* const f = pop ? m->stack : m->record;
  if (!f)
    return knet_fail(KNET_ORDER, pop ? "the stack is empty: each sbackward goes back through one sforward"
                                     : "backward comes after forward");
  TRY(check_loss(loss, gold));
  for (int i = INPUTS; i < 64; i++)
    if (input_grads >> i & 1) return knet_fail(KNET_ARGUMENT, "there is no input %d", i);
  const knet_backward_function* b = nullptr;
  TRY(find_way_back(f->variant, loss, &b));
  TRY(reserve(m, f->batch));
  if (f->spent && m->changed)
    return knet_fail(KNET_ORDER, "the parameters have changed since forward, which comes before another backward");
  if (f->spent) {  // values that it needs have been overwritten, so the forward call is repeated
    use_frame(m, f, forwards[f->variant].places);
    TRY(forwards[f->variant].run(m));
  }
  f->spent = !f->pushed;
  use_frame(m, f, b->places);
  forget_input_gradients(m);
  const bool add = pop && m->gradients;
  m->gradients = add;
  // Over all ranks, where no step of the sequence is left that adds to them.
  const bool sum = m->communicator && !(pop && f->below);
  int code = run_back(m, f, b, gold, mask, input_grads, add, sum, pop);
  if (!code && loss_value) code = copy_loss(m, loss, loss_value);
  if (code) {
    settle(m, &code);
    return code;
  }
  m->gradients = true;
  m->input_batch = f->batch;
  if (pop) {
    m->stack = f->below;
    give_frame(m, f, &code);
  }
  return code;
}

// Empties the stack and forgets the gradients.
void forget_sequence(knet_model* m, int* code) {
  while (knet_frame* f = m->stack) {
    m->stack = f->below;
    give_frame(m, f, code);
  }
  m->gradients = false;
  forget_input_gradients(m);
}

// ---- training. A step, that is forward, back and update for a minibatch, is one graph: between two of them the host
// copies the next columns and launches it.

// The work of a step in a frame.
int run_training(knet_model* m, const knet_frame* f, const knet_backward_function* b, unsigned flags) {
  use_frame(m, f, forwards[f->variant].places);
  TRY(forwards[f->variant].run(m));
  use_frame(m, f, b->places);
  TRY(b->run(m, nullptr, 0));
  if (flags & KNET_SUMMING) TRY(end_sums(m, false, true));
  return run_update(m, flags);
}
// Copies the columns of a step, from `first` on, to where its frame has places for them.
int give_columns(knet_model* m, const knet_frame* f, const knet_backward_function* b, const knet_real* const* arrays,
                 const knet_real* gold, size_t first) {
  use_frame(m, f, b->places);
  if (b->gold.place) {
    const size_t columns = m->batch;
    const size_t bytes = (b->gold.fixed + b->gold.column * columns) * sizeof(float);
    const float* const from = gold + b->gold.column * first;
    TRY(cudaMemcpyAsync(m->*b->gold.place, from, bytes, cudaMemcpyDefault, m->stream));
  }
  use_frame(m, f, forwards[f->variant].places);
  return give_inputs(m, arrays, first);
}
// A step for so many columns from `first` on; `loss`: where on the device its loss goes, or NULL.
int step_training(knet_model* m, const knet_backward_function* b, const knet_real* const* arrays, const knet_real* gold,
                  size_t first, int batch, double gclip, double gscale, float* loss) {
  knet_frame* f = nullptr;
  int code = begin_step(m, b->variant, batch, m->stack, &f);
  knet_call call = {};
  call.batch = batch;
  call.loss = b->loss;
  call.flags = KNET_TRAINING | (m->communicator ? KNET_SUMMING | KNET_LOSSES : 0);
  m->by_bucket = m->communicator;
  m->training_step = true;
  m->call++;
  if (!code) code = give_columns(m, f, b, arrays, gold, first);
  if (!code) code = begin_update(m, gclip, gscale, &call.flags);
  if (!code)
    code = end_update(m, run_call(m, &f->graphs, call, [=] { return run_training(m, f, b, call.flags); }));
  m->training_step = false;
  if (!code && loss) NOTE(&code, cudaMemcpyAsync(loss, m->loss, sizeof *loss, cudaMemcpyDefault, m->stream));
  if (code) {
    m->call--;
    return give_up_step(m, f, code);
  }
  f->spent = !f->pushed;
  m->changed = true;
  m->last = m->record = f;
  m->gradients = true;
  m->summed = m->communicator;
  m->input_batch = batch;
  return 0;
}
// Makes room for the losses of so many steps.
int make_losses(knet_model* m, int steps) {
  if (steps <= m->losses_room) return 0;
  int code = 0;
  m->losses_room = 0;
  release(&m->losses, &code);
  if (!code) code = allocate(&m->losses, steps);
  if (!code) m->losses_room = steps;
  return code;
}
// Copies them to host memory, and waits.
int copy_losses(knet_model* m, int steps, knet_real* losses) {
  int code = 0;
  NOTE(&code, cudaMemcpyAsync(losses, m->losses, steps * sizeof *losses, cudaMemcpyDefault, m->stream));
  NOTE(&code, cudaStreamSynchronize(m->stream));
  if (code) settle(m, &code);
  return code;
}
// Steps for all columns, in minibatches of `batch`; waits for them where the losses are wanted.
int train(knet_model* m, const knet_backward_function* b, const knet_real* const* arrays, const knet_real* gold,
          int columns, int batch, double gclip, double gscale, knet_real* losses) {
  const int steps = (columns - 1) / batch + 1;
  if (losses) TRY(make_losses(m, steps));
  for (int k = 0; k < steps; k++) {
    const int first = k * batch, left = columns - first;
    TRY(step_training(m, b, arrays, gold, first, left < batch ? left : batch, gclip, gscale,
                      losses ? m->losses + k : nullptr));
  }
  return losses ? copy_losses(m, steps, losses) : 0;
}

int check_update(double gclip, double gscale) {
  if (!isfinite(gclip) || gclip < 0) return knet_fail(KNET_ARGUMENT, "gclip cannot be %g", gclip);
  if (!isfinite(gscale)) return knet_fail(KNET_ARGUMENT, "gscale cannot be %g", gscale);
  return 0;
}
// Whether steps of training can run; *found: their backward function.
int check_training(const knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
                   const knet_real* gold, int batch, double gclip, double gscale,
                   const knet_backward_function** found) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, batch, &variant));
  TRY(check_loss(loss, gold));
  if (loss != KNET_QUADLOSS && loss != KNET_SOFTLOSS)
    return knet_fail(KNET_ARGUMENT, "there is no training from loss %d", loss);
  TRY(check_update(gclip, gscale));
  return find_way_back(variant, loss, found);
}
// Sets an option if it has that name.
bool set_number(const char* option, const char* name, double value, double* place) {
  if (strcmp(option, name)) return false;
  *place = value;
  return true;
}
bool set_switch(const char* option, const char* name, double value, bool* place) {
  if (strcmp(option, name)) return false;
  *place = value != 0;
  return true;
}

}  // namespace

extern "C" {

const char* lenet_last_error(void) { return knet_error_text; }

int lenet_create(knet_model** model, unsigned long long seed, void* stream) {
  if (!model) return knet_fail(KNET_ARGUMENT, "the place for the model is NULL");
  *model = nullptr;
  knet_model* m = new (std::nothrow) knet_model();
  if (!m) return knet_fail(KNET_MEMORY, "no memory for a model");
  int code = open_model(m, seed, (cudaStream_t)stream);
  if (code)
    close_model(m, &code);
  else
    *model = m;
  return code;
}

int lenet_destroy(knet_model* m) {
  int code = 0;
  if (m) close_model(m, &code);
  return code;
}

int lenet_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch,
    knet_real* output) {
  return step_forward(m, conditions, arrays, batch, output, false);
}
int lenet_sforward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch,
    knet_real* output) {
  return step_forward(m, conditions, arrays, batch, output, true);
}
int lenet_backward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
    unsigned long long input_grads, knet_real* loss_value) {
  return step_backward(m, loss, gold, mask, input_grads, loss_value, false);
}
int lenet_sbackward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
    unsigned long long input_grads, knet_real* loss_value) {
  return step_backward(m, loss, gold, mask, input_grads, loss_value, true);
}

int lenet_update(knet_model* m, double gclip, double gscale) {
  TRY(check_model(m));
  if (!m->gradients) return knet_fail(KNET_ORDER, "update comes after backward");
  TRY(check_update(gclip, gscale));
  m->changed = true;
  TRY(update(m, gclip, gscale));
  return 0;
}

int lenet_train(knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
    const knet_real* gold, int columns, int batch, double gclip, double gscale, knet_real* losses) {
  TRY(check_model(m));
  if (columns < 1) return knet_fail(KNET_ARGUMENT, "%d columns", columns);
  const knet_backward_function* b = nullptr;
  TRY(check_training(m, conditions, loss, arrays, gold, batch < columns ? batch : columns, gclip, gscale, &b));
  return train(m, b, arrays, gold, columns, batch, gclip, gscale, losses);
}

int lenet_set_option(knet_model* m, const char* parameter, const char* option, double value) {
  TRY(check_model(m));
  if (!option) return knet_fail(KNET_ARGUMENT, "the option is NULL");
  if (parameter && !find(parameters, parameter)) return knet_fail(KNET_ARGUMENT, "there is no parameter %s", parameter);
  if (!isfinite(value) || (value < 0 && strcmp(option, "lr") && strcmp(option, "gscale")))
    return knet_fail(KNET_ARGUMENT, "option %s cannot be %g", option, value);
  bool known = false;
  for (int i = 0; i <= PARAMETERS; i++) {
    if (parameter && (i == PARAMETERS || strcmp(parameter, parameters[i].name))) continue;
    knet_options& o = m->training[i];
    known = set_number(option, "lr", value, &o.lr) || set_number(option, "l1reg", value, &o.l1reg) ||
            set_number(option, "l2reg", value, &o.l2reg) || set_number(option, "momentum", value, &o.momentum) ||
            set_number(option, "nesterov", value, &o.nesterov) || set_number(option, "gclip", value, &o.gclip) ||
            set_number(option, "gscale", value, &o.gscale) || set_switch(option, "adagrad", value, &o.adagrad) ||
            set_switch(option, "rmsprop", value, &o.rmsprop) || set_switch(option, "adam", value, &o.adam);
  }
  return known ? 0 : knet_fail(KNET_ARGUMENT, "there is no training option %s", option);
}

int lenet_configure(knet_model* m, const char* setting, int value) {
  TRY(check_model(m));
  if (!setting) return knet_fail(KNET_ARGUMENT, "the setting is NULL");
  const bool graphs = !strcmp(setting, "graphs"), sums = !strcmp(setting, "graph_sums");
  if (!graphs && !sums && strcmp(setting, "search") && strcmp(setting, "deterministic"))
    return knet_fail(KNET_ARGUMENT, "there is no setting %s", setting);
  if (value < 0 || value > (graphs ? 2 : 1)) return knet_fail(KNET_ARGUMENT, "setting %s cannot be %d", setting, value);
  if (graphs) m->graphs = value;
  if (sums) m->graph_sums = value;
  if (graphs || sums) return 0;
  (*setting == 's' ? m->search : m->deterministic) = value;
  m->described = 0;  // algorithms are chosen anew
  m->memory++;
  for (knet_conv& c : m->conv)
    for (knet_conv_plan& plan : c.plans) plan.batch = 0;
  return 0;
}

int lenet_graphs(knet_model* m, int* captured, int* refused) {
  TRY(check_model(m));
  if (!captured || !refused) return knet_fail(KNET_ARGUMENT, "the place for the numbers is NULL");
  *captured = m->captured;
  *refused = m->refused;
  return 0;
}

int lenet_wait_for(knet_model* m, void* stream) {
  TRY(check_model(m));
  TRY(cudaEventRecord(m->event, (cudaStream_t)stream));
  TRY(cudaStreamWaitEvent(m->stream, m->event, 0));
  return 0;
}
int lenet_make_wait(knet_model* m, void* stream) {
  TRY(check_model(m));
  TRY(cudaEventRecord(m->event, m->stream));
  TRY(cudaStreamWaitEvent((cudaStream_t)stream, m->event, 0));
  return 0;
}

int lenet_reset(knet_model* m, int keepstate) {
  TRY(check_model(m));
  int code = 0;
  forget_sequence(m, &code);
  (void)keepstate;  // the model has no state
  return code;
}

int lenet_clean(knet_model* m) {
  TRY(check_model(m));
  TRY(cudaStreamSynchronize(m->stream));
  int code = 0;
  forget_sequence(m, &code);
  release_columns(m, &code);
  for (float*& sum : m->sums) release(&sum, &code);
  return code;
}

int lenet_set_seed(knet_model* m, unsigned long long seed) {
  TRY(check_model(m));
  m->seed = seed;
  m->call = 0;
  return 0;
}

int lenet_dims(knet_model* m, int kind, const char* name, int* count, int* dims) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, kind, name, &a, &data, &batch));
  if (!count || !dims) return knet_fail(KNET_ARGUMENT, "the place for the dimensions is NULL");
  *count = a->count;
  for (int i = 0; i < a->count; i++) dims[i] = a->dims[i] < 0 ? batch : a->dims[i];
  return 0;
}

int lenet_get(knet_model* m, int kind, const char* name, knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, kind, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the place for the array is NULL");
  bool wait = true;
  TRY(in_host_memory(array, &wait));
  knet_array layout = *a;
  if (average_place(m->training, kind)) layout.pitch = 0;  // an average is no part of a block
  TRY(copy_array(m, layout, data, array, batch, true));
  if (wait) TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

int lenet_set(knet_model* m, const char* name, const knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, KNET_PARAM, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  m->changed = true;
  TRY(copy_array(m, *a, data, const_cast<float*>(array), batch, false));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

int lenet_set_state(knet_model* m, const char* name, const knet_real* array, int batch) {
  TRY(check_model(m));
  if (!name) return knet_fail(KNET_ARGUMENT, "the name is NULL");
  const knet_array* a = find(states, name);
  if (!a) return knet_fail(KNET_ARGUMENT, "there is no state called %s", name);
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  TRY(cudaMemcpyAsync(m->*a->place, array, elements(*a, batch) * sizeof(float), cudaMemcpyDefault, m->stream));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

int lenet_set_average(knet_model* m, int kind, const char* parameter, const knet_real* array) {
  knet_options* o = nullptr;
  TRY(find_options(m, parameter, &o));
  float** place = average_place(o, kind);
  if (!place) return knet_fail(KNET_ARGUMENT, "there is no kind %d of averages", kind);
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  const size_t n = elements(*find(parameters, parameter), 1);
  const bool made = !*place;
  if (made) TRY(allocate(place, n));
  int code = 0;
  NOTE(&code, cudaMemcpyAsync(*place, array, n * sizeof(float), cudaMemcpyDefault, m->stream));
  settle(m, &code);
  if (code && made) release(place, &code);  // there was none
  return code;
}

int lenet_adam_steps(knet_model* m, const char* parameter, int* steps) {
  knet_options* o = nullptr;
  TRY(find_options(m, parameter, &o));
  if (!steps) return knet_fail(KNET_ARGUMENT, "the place for the steps is NULL");
  *steps = o->adam_steps;
  return 0;
}

int lenet_set_adam_steps(knet_model* m, const char* parameter, int steps) {
  knet_options* o = nullptr;
  TRY(find_options(m, parameter, &o));
  if (steps < 0) return knet_fail(KNET_ARGUMENT, "%d steps of Adam", steps);
  o->adam_steps = steps;
  return 0;
}

int lenet_calls(knet_model* m, unsigned* calls) {
  TRY(check_model(m));
  if (!calls) return knet_fail(KNET_ARGUMENT, "the place for the number of calls is NULL");
  *calls = m->call;
  return 0;
}

int lenet_set_calls(knet_model* m, unsigned calls) {
  TRY(check_model(m));
  m->call = calls;
  return 0;
}

int lenet_set_columns(knet_model* m, int first) {
  TRY(check_model(m));
  if (first < 0) return knet_fail(KNET_ARGUMENT, "a first column %d", first);
  m->columns_before = first;
  return 0;
}

#ifdef KNET_NCCL
int lenet_set_communicator(knet_model* m, void* communicator) {
  TRY(check_model(m));
  int rank = 0;
  if (communicator) TRY_NCCL(ncclCommUserRank((ncclComm_t)communicator, &rank));
  if (!m->sum_stream) TRY(cudaStreamCreateWithFlags(&m->sum_stream, cudaStreamNonBlocking));
  m->communicator = communicator;
  m->rank = rank;
  m->summed = false;
  m->memory++;  // captured work sums by the one before
  return 0;
}
#endif

int lenet_save(knet_model* m, const char* path) {
  TRY(check_model(m));
  if (!path) return knet_fail(KNET_ARGUMENT, "the path is NULL");
  knet_file f = {nullptr, knet_file_size(), 0};
  f.data = new (std::nothrow) char[f.size];
  if (!f.data) return knet_fail(KNET_MEMORY, "no memory for %zu bytes of parameters", f.size);
  int code = knet_file_fill(m, &f);
  if (code) settle(m, &code);
  if (!code) code = knet_file_write(&f, path);
  delete[] f.data;
  return code;
}

int lenet_load(knet_model* m, const char* path) {
  TRY(check_model(m));
  if (!path) return knet_fail(KNET_ARGUMENT, "the path is NULL");
  knet_file f = {nullptr, knet_file_size(), 0};
  f.data = new (std::nothrow) char[f.size];
  if (!f.data) return knet_fail(KNET_MEMORY, "no memory for %zu bytes of parameters", f.size);
  int code = knet_file_read(&f, path);
  m->changed = true;
  if (!code) code = knet_file_take(m, &f, path);
  if (code) settle(m, &code);
  delete[] f.data;
  return code;
}

int lenet_synchronize(knet_model* m) {
  TRY(check_model(m));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

#ifdef KNET_HOST_ONLY
int lenet_use_cubin(const void* image) {
  static cudaLibrary_t library = nullptr;
  if (library) return 0;
  cudaLibrary_t loaded = nullptr;
  TRY(cudaLibraryLoadData(&loaded, image, nullptr, nullptr, 0, nullptr, nullptr, 0));
  for (knet_entry* entry : kernel_entries) {
    cudaKernel_t kernel = nullptr;
    const int code = knet_check(cudaLibraryGetKernel(&kernel, loaded, entry->name), entry->name, __LINE__);
    if (code) {
      cudaLibraryUnload(loaded);
      return code;
    }
    entry->address = (const void*)kernel;
  }
  library = loaded;
  return 0;
}
#endif

}  // extern "C"
#endif  // KNET_DEVICE_ONLY
