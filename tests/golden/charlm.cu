// Knet model charlm, compiled by knetc to CUDA (f32, fp32).
//
// Source, charlm.knet:
//
//   # A character model: an embedding, an LSTM, dropout, and a softmax over the next character.
//   # knetc: --input 65,N
//
//   @knet function charlm(x; embedding=32, hidden=64, nchar=65, pdrop=0.2)
//       a = wdot(x; out=embedding)
//       b = lstm(a; out=hidden)
//       c = drop(b; pdrop=pdrop)
//       return wbf(c; out=nchar, f=:soft)
//   end
//
// Peak memory with a batch of 100: 928.7 kB for 49 buffers
// (without sharing 1.3 MB; lower bound, the largest set live at once, 902.7 kB).
//   state   b/h                   f32[64,N]     25.6 kB
//   state   b/cell                f32[64,N]     25.6 kB
//   input   x                     f32[65,N]     26.0 kB
//   param   b/input/a@block       f32[256,32]   32.8 kB
//   param   b/input/b@block       f32[256,64]   65.5 kB
//   param   a/w                   f32[32,65]     8.3 kB
//   param   b/input/c             f32[64]         256 B
//   param   b/forget/c            f32[64]         256 B
//   param   b/output/c            f32[64]         256 B
//   param   b/newmem/c            f32[64]         256 B
//   param   wbf/w                 f32[65,64]    16.6 kB
//   param   wbf/b                 f32[65]         260 B
//   value   b/h@prev              f32[64,N]     25.6 kB
//   value   b/cell@prev           f32[64,N]     25.6 kB
//   value   a                     f32[32,N]     12.8 kB
//   value   b/input/tmp1@block    f32[256,N]   102.4 kB
//   value   b/input/tmp2@block    f32[256,N]   102.4 kB
//   value   b/output              f32[64,N]     25.6 kB
//   value   b/forget              f32[64,N]     25.6 kB
//   value   b/input               f32[64,N]     25.6 kB
//   value   b/newmem              f32[64,N]     25.6 kB
//   value   b/cell                f32[64,N]     25.6 kB
//   value   b/tmp3                f32[64,N]     25.6 kB
//   value   b/h                   f32[64,N]     25.6 kB
//   value   wbf/tmp1              f32[65,N]     26.0 kB
//   value   return                f32[65,N]     26.0 kB
//   gold    @gold                 f32[65,N]     26.0 kB
//   mask    @mask                 f32[N]          400 B
//   value   d:b/h@next            f32[64,N]     25.6 kB
//   dstate  d:b/h                 f32[64,N]     25.6 kB
//   value   d:b/cell@next         f32[64,N]     25.6 kB
//   dstate  d:b/cell              f32[64,N]     25.6 kB
//   value   d:b/cell@prev         f32[64,N]     25.6 kB
//   value   d:b/input/tmp4@block  f32[256,N]   102.4 kB
//   value   d:b/h@prev            f32[64,N]     25.6 kB
//   value   d:a                   f32[32,N]     12.8 kB
//   grad    d:b/input/c@block     f32[256]       1.0 kB
//   grad    d:b/input/b@block     f32[256,64]   65.5 kB
//   grad    d:b/input/a@block     f32[256,32]   32.8 kB
//   grad    d:a/w                 f32[32,65]     8.3 kB
//   and 9 more
// d:v is the gradient of v; v@prev what v was in the call before; d:v@next the gradient that the step after
// hands back; v@block several values, one above the other, from v on.
// Each step on the stack takes 320.8 kB more.
// A sequence that runs at once takes 450.4 kB for each of its steps; lower bound 449.2 kB.

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
struct charlm_training {
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
inline __device__ float knet_tanh(float x) { return tanhf(x); }
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

// output, forget, input, newmem, cell, tmp3, h in one pass: 9 add, 3 sigm, 2 tanh, 3 mul
//   charlm.knet:6: b = lstm(a; out=hidden)
__global__ void __launch_bounds__(256) charlm_fused_h_64xN_kernel(float* output, float* forget, float* input,
    float* newmem, float* cell, float* tmp3, float* h, const float* output_tmp1, const float* output_tmp2,
    const float* output_c, const float* forget_tmp1, const float* forget_tmp2, const float* forget_c,
    const float* input_tmp1, const float* input_tmp2, const float* input_c, const float* newmem_tmp1,
    const float* newmem_tmp2, const float* newmem_c, const float* cell_prev, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int row = i % 64;
    const int at = row + (i / 64) * 256;
    const float output_tmp3 = output_tmp1[at] + output_tmp2[at];
    const float output_tmp4 = output_tmp3 + output_c[row];
    const float output_i = 1.0f / (1.0f + knet_exp(-output_tmp4));
    output[i] = output_i;
    const float forget_tmp3 = forget_tmp1[at] + forget_tmp2[at];
    const float forget_tmp4 = forget_tmp3 + forget_c[row];
    const float forget_i = 1.0f / (1.0f + knet_exp(-forget_tmp4));
    forget[i] = forget_i;
    const float input_tmp3 = input_tmp1[at] + input_tmp2[at];
    const float input_tmp4 = input_tmp3 + input_c[row];
    const float input_i = 1.0f / (1.0f + knet_exp(-input_tmp4));
    input[i] = input_i;
    const float newmem_tmp3 = newmem_tmp1[at] + newmem_tmp2[at];
    const float newmem_tmp4 = newmem_tmp3 + newmem_c[row];
    const float newmem_i = knet_tanh(newmem_tmp4);
    newmem[i] = newmem_i;
    const float tmp1 = input_i * newmem_i;
    const float tmp2 = cell_prev[i] * forget_i;
    const float cell_i = tmp1 + tmp2;
    cell[i] = cell_i;
    const float tmp3_i = knet_tanh(cell_i);
    tmp3[i] = tmp3_i;
    h[i] = tmp3_i * output_i;
  }
}

// y = soft(add(tmp1, b))
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
__global__ void __launch_bounds__(256) charlm_add_soft_kernel(float* y, const float* tmp1, const float* b,
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

// y = scale with probability p, else 0
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
__global__ void __launch_bounds__(256) charlm_fill_bernoulli_kernel(float* __restrict__ y,
    const knet_clock* __restrict__ clock, unsigned stream, unsigned column, double p, double scale, int height,
    int pitch, int n) {
  const knet_clock now = *clock;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const size_t at = i % height + (size_t)(i / height) * pitch;
    y[at] = knet_uniform(knet_random_word(now.seed, i + column * now.first, now.call, stream)) < p ? (float)scale : 0;
  }
}

// output, forget, input, newmem, cell, tmp3, h, return_ in one pass: 9 add, 3 sigm, 2 tanh, 4 mul
//   charlm.knet:6: b = lstm(a; out=hidden)
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
__global__ void __launch_bounds__(256) charlm_fused_return_64xN_kernel(float* output, float* forget, float* input,
    float* newmem, float* cell, float* tmp3, float* h, float* return_, const float* output_tmp1,
    const float* output_tmp2, const float* output_c, const float* forget_tmp1, const float* forget_tmp2,
    const float* forget_c, const float* input_tmp1, const float* input_tmp2, const float* input_c,
    const float* newmem_tmp1, const float* newmem_tmp2, const float* newmem_c, const float* cell_prev,
    const float* tmp1, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int row = i % 64;
    const int at = row + (i / 64) * 256;
    const float output_tmp3 = output_tmp1[at] + output_tmp2[at];
    const float output_tmp4 = output_tmp3 + output_c[row];
    const float output_i = 1.0f / (1.0f + knet_exp(-output_tmp4));
    output[i] = output_i;
    const float forget_tmp3 = forget_tmp1[at] + forget_tmp2[at];
    const float forget_tmp4 = forget_tmp3 + forget_c[row];
    const float forget_i = 1.0f / (1.0f + knet_exp(-forget_tmp4));
    forget[i] = forget_i;
    const float input_tmp3 = input_tmp1[at] + input_tmp2[at];
    const float input_tmp4 = input_tmp3 + input_c[row];
    const float input_i = 1.0f / (1.0f + knet_exp(-input_tmp4));
    input[i] = input_i;
    const float newmem_tmp3 = newmem_tmp1[at] + newmem_tmp2[at];
    const float newmem_tmp4 = newmem_tmp3 + newmem_c[row];
    const float newmem_i = knet_tanh(newmem_tmp4);
    newmem[i] = newmem_i;
    const float tmp1_2 = input_i * newmem_i;
    const float tmp2 = cell_prev[i] * forget_i;
    const float cell_i = tmp1_2 + tmp2;
    cell[i] = cell_i;
    const float tmp3_i = knet_tanh(cell_i);
    tmp3[i] = tmp3_i;
    const float h_i = tmp3_i * output_i;
    h[i] = h_i;
    return_[i] = h_i * tmp1[i];
  }
}

// y = scale with probability p, else 0; a step has `step` elements
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
__global__ void __launch_bounds__(256) charlm_fill_bernoulli_ahead_kernel(float* __restrict__ y,
    const knet_clock* __restrict__ clock, unsigned stream, unsigned column, unsigned step, double p, double scale,
    int height, int pitch, int n) {
  const knet_clock now = *clock;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const unsigned word = knet_random_word(now.seed, i % step + column * now.first, now.call + i / step, stream);
    const size_t at = i % height + (size_t)(i / height) * pitch;
    y[at] = knet_uniform(word) < p ? (float)scale : 0;
  }
}

// y = mul(a, b)
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
__global__ void __launch_bounds__(256) charlm_mul_kernel(float* y, const float* a, const float* b, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    y[i] = a[i] * b[i];
  }
}

// d_cell_prev, d_newmem_tmp4, d_output_tmp4, d_forget_tmp4, d_input_tmp4 in one pass: 6 mul, 2 tanh_back, add, 3
// sigm_back
//   charlm.knet:6: b = lstm(a; out=hidden)
__global__ void __launch_bounds__(256) charlm_fused_d_input_tmp4_kernel(float* d_cell_prev, float* d_newmem_tmp4,
    float* d_output_tmp4, float* d_forget_tmp4, float* d_input_tmp4, const float* d_h_next, const float* output,
    const float* tmp3, const float* d_cell_next, const float* forget, const float* cell_prev, const float* newmem,
    const float* input, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int row = i % 64;
    const int at = row + (i / 64) * 256;
    const float d_h_next_i = d_h_next[i];
    const float output_i = output[i];
    const float tmp3_i = tmp3[i];
    const float forget_i = forget[i];
    const float newmem_i = newmem[i];
    const float input_i = input[i];
    const float d_tmp3 = d_h_next_i * output_i;
    const float d_output = d_h_next_i * tmp3_i;
    const float d_cell = d_tmp3 * ((1.0f - tmp3_i) * (1.0f + tmp3_i));
    const float d_cell_2 = d_cell_next[i] + d_cell;
    d_cell_prev[i] = d_cell_2 * forget_i;
    const float d_forget = d_cell_2 * cell_prev[i];
    const float d_input = d_cell_2 * newmem_i;
    const float d_newmem = d_cell_2 * input_i;
    d_newmem_tmp4[at] = d_newmem * ((1.0f - newmem_i) * (1.0f + newmem_i));
    d_output_tmp4[at] = d_output * (output_i * (1.0f - output_i));
    d_forget_tmp4[at] = d_forget * (forget_i * (1.0f - forget_i));
    d_input_tmp4[at] = d_input * (input_i * (1.0f - input_i));
  }
}

// y = sumto(dy): the sum over all columns, which are a pitch apart
//   charlm.knet:6: b = lstm(a; out=hidden)
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
__global__ void __launch_bounds__(256) charlm_sum_columns_kernel(float* __restrict__ y,
    const float* __restrict__ dy, int pitch, int columns) {
  const int row = blockIdx.x;
  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) sum += dy[row + c * pitch];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) y[row] = sum;
}

// y = softmax_softloss_back(p, gold, mask); partial sums of -mask * gold * log(p)
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
__global__ void __launch_bounds__(256) charlm_softloss_and_back_kernel(double* partials, float* y, const float* p,
    const float* gold, const float* mask, int columns, int n) {
  const float part = (float)(1.0 / columns);
  double sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const float weight = mask ? mask[i / 65] : 1, share = weight * part;
    const float p_i = p[i];
    const float gold_i = gold[i];
    if (weight != 0) sum += -gold_i * knet_log(knet_max(p_i, 1.1920928955078125e-07f)) * weight;
    y[i] = share != 0.0f ? (p_i - gold_i) * share : 0.0f;
  }
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// y = factor * the sum of the partial sums
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
__global__ void __launch_bounds__(256) charlm_total_kernel(float* __restrict__ y,
    const double* __restrict__ partials, int blocks, double factor) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partials[i];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) *y = (float)(sum * factor);
}

// d_cell_prev, d_newmem_tmp4, d_output_tmp4, d_forget_tmp4, d_input_tmp4 in one pass: 2 add, 6 mul, 2 tanh_back, 3
// sigm_back
//   charlm.knet:6: b = lstm(a; out=hidden)
__global__ void __launch_bounds__(256) charlm_fused_d_input_tmp4_2_kernel(float* d_cell_prev, float* d_newmem_tmp4,
    float* d_output_tmp4, float* d_forget_tmp4, float* d_input_tmp4, const float* d_h_next, const float* d_h,
    const float* output, const float* tmp3, const float* d_cell_next, const float* forget, const float* cell_prev,
    const float* newmem, const float* input, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int row = i % 64;
    const int at = row + (i / 64) * 256;
    const float output_i = output[i];
    const float tmp3_i = tmp3[i];
    const float forget_i = forget[i];
    const float newmem_i = newmem[i];
    const float input_i = input[i];
    const float d_h_2 = d_h_next[i] + d_h[i];
    const float d_tmp3 = d_h_2 * output_i;
    const float d_output = d_h_2 * tmp3_i;
    const float d_cell = d_tmp3 * ((1.0f - tmp3_i) * (1.0f + tmp3_i));
    const float d_cell_2 = d_cell_next[i] + d_cell;
    d_cell_prev[i] = d_cell_2 * forget_i;
    const float d_forget = d_cell_2 * cell_prev[i];
    const float d_input = d_cell_2 * newmem_i;
    const float d_newmem = d_cell_2 * input_i;
    d_newmem_tmp4[at] = d_newmem * ((1.0f - newmem_i) * (1.0f + newmem_i));
    d_output_tmp4[at] = d_output * (output_i * (1.0f - output_i));
    d_forget_tmp4[at] = d_forget * (forget_i * (1.0f - forget_i));
    d_input_tmp4[at] = d_input * (input_i * (1.0f - input_i));
  }
}

// d_cell_prev, d_newmem_tmp4, d_output_tmp4, d_forget_tmp4, d_input_tmp4 in one pass: 7 mul, 2 add, 2 tanh_back, 3
// sigm_back
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
//   charlm.knet:6: b = lstm(a; out=hidden)
__global__ void __launch_bounds__(256) charlm_fused_d_input_tmp4_3_kernel(float* d_cell_prev, float* d_newmem_tmp4,
    float* d_output_tmp4, float* d_forget_tmp4, float* d_input_tmp4, const float* d_return, const float* tmp1,
    const float* d_h_next, const float* output, const float* tmp3, const float* d_cell_next, const float* forget,
    const float* cell_prev, const float* newmem, const float* input, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const int row = i % 64;
    const int at = row + (i / 64) * 256;
    const float output_i = output[i];
    const float tmp3_i = tmp3[i];
    const float forget_i = forget[i];
    const float newmem_i = newmem[i];
    const float input_i = input[i];
    const float d_h = d_return[i] * tmp1[i];
    const float d_h_2 = d_h_next[i] + d_h;
    const float d_tmp3 = d_h_2 * output_i;
    const float d_output = d_h_2 * tmp3_i;
    const float d_cell = d_tmp3 * ((1.0f - tmp3_i) * (1.0f + tmp3_i));
    const float d_cell_2 = d_cell_next[i] + d_cell;
    d_cell_prev[i] = d_cell_2 * forget_i;
    const float d_forget = d_cell_2 * cell_prev[i];
    const float d_input = d_cell_2 * newmem_i;
    const float d_newmem = d_cell_2 * input_i;
    d_newmem_tmp4[at] = d_newmem * ((1.0f - newmem_i) * (1.0f + newmem_i));
    d_output_tmp4[at] = d_output * (output_i * (1.0f - output_i));
    d_forget_tmp4[at] = d_forget * (forget_i * (1.0f - forget_i));
    d_input_tmp4[at] = d_input * (input_i * (1.0f - input_i));
  }
}

// y = uniform in [low, high)
//   charlm.knet:5: a = wdot(x; out=embedding)
//   charlm.knet:6: b = lstm(a; out=hidden)
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
__global__ void __launch_bounds__(256) charlm_fill_uniform_kernel(float* __restrict__ y,
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
//   charlm.knet:6: b = lstm(a; out=hidden)
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
__global__ void __launch_bounds__(256) charlm_fill_constant_kernel(float* __restrict__ y, double value, int height,
    int pitch, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const size_t at = i % height + (size_t)(i / height) * pitch;
    y[at] = (float)value;
  }
}

// w -= lr * dw for every parameter, dw by the parameter's options
__global__ void __launch_bounds__(256) charlm_update_kernel(const charlm_training* __restrict__ training,
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
__global__ void __launch_bounds__(256) charlm_square_sum_kernel(double* __restrict__ partials,
    const charlm_training* __restrict__ training) {
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
__global__ void __launch_bounds__(256) charlm_all_squares_kernel(double* __restrict__ squares,
    const double* __restrict__ partials, int blocks) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partials[i];
  sum = knet_block_sum(sum);
  if (threadIdx.x == 0) *squares = sum;
}

// *to = t
__global__ void __launch_bounds__(256) charlm_set_training_kernel(charlm_training* __restrict__ to,
    charlm_training t) {
  *to = t;
}

// one step more of each parameter that Adam trains, and the corrections for it
__global__ void __launch_bounds__(256) charlm_count_adam_kernel(charlm_training* __restrict__ training, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    if (!training[i].adam_mean) continue;
    const int steps = ++training[i].adam_steps;
    training[i].mean_bias = (float)(1 - pow(0.9, (double)steps));
    training[i].square_bias = (float)(1 - pow(0.999, (double)steps));
  }
}

// sum += dw
__global__ void __launch_bounds__(256) charlm_accumulate_kernel(float* __restrict__ sum,
    const float* __restrict__ dw, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum[i] += dw[i];
}

// *clock = {seed, call, first}
__global__ void __launch_bounds__(256) charlm_set_clock_kernel(knet_clock* __restrict__ clock,
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

typedef struct charlm_model charlm_model;
typedef float charlm_real; /* the element type of every array */
/* Conditions, to be added up; what is not named is false. */
enum {
  CHARLM_DROPOUT = 1 /* dropout */
};

/* The reason for this thread's last error. */
const char* charlm_last_error(void);
/* Makes a model with its parameters filled from `seed`. `stream` is the cudaStream_t that everything runs on, NULL for
   a stream of the model's own. Where it fails, *model is NULL and nothing is left behind. */
int charlm_create(charlm_model** model, unsigned long long seed, void* stream);
/* Frees everything; NULL is fine. */
int charlm_destroy(charlm_model* model);

/* Runs the model over `batch` columns. inputs: x [65,N]; each column-major, the batch last,
   in host or device memory. output: where the value, if any, is copied ([65,N]), in host or device memory,
   or NULL. Waits for the device only where there is an output in host memory: without one, arrays in host memory must
   stay as they are until charlm_synchronize. What is read from device memory must be ready on the model's stream
   (charlm_wait_for), which does not wait for the default one. */
int charlm_forward(charlm_model* model, unsigned conditions, const charlm_real* const* inputs,
    int batch, charlm_real* output);
/* Gradients of the last charlm_forward, by a loss against `gold` (of the shape of the value).
   loss: KNET_ZERO or KNET_SOFTLOSS (knetc's --loss). mask: one number a column, or NULL; without a loss it is not
   read. input_grads: bit i asks for the gradient of input i. loss_value: where the loss goes, 0 without one, in host
   memory, or NULL, and then as above for gold and mask. May be called again, for another loss, as long as the
   parameters have not changed. */
int charlm_backward(charlm_model* model, int loss, const charlm_real* gold,
    const charlm_real* mask, unsigned long long input_grads, charlm_real* loss_value);
/* Changes every parameter by its gradient and its options. Gradients are scaled so that their common L2 norm is at most
   gclip, where that is over 0, and by gscale. */
int charlm_update(charlm_model* model, double gclip, double gscale);
/* Trains on so many columns, in minibatches of `batch` (the last may be smaller): for each what charlm_forward,
   charlm_backward and charlm_update do, as one graph. inputs and gold, in host or device memory,
   hold all columns. losses: where the loss of each minibatch before its update goes, in host memory; the call waits for
   the device then. With NULL it does not, and what was said of arrays in host memory holds. After a failure of CUDA or
   its libraries the steps before it have been made, and perhaps that one. */
int charlm_train(charlm_model* model, unsigned conditions, int loss,
    const charlm_real* const* inputs, const charlm_real* gold, int columns, int batch, double gclip,
    double gscale, charlm_real* losses);
/* Sets an option of one parameter, or of all with NULL: lr, l1reg, l2reg, adagrad, rmsprop, adam (0 or 1), momentum,
   nesterov, gclip, gscale. */
int charlm_set_option(charlm_model* model, const char* parameter, const char* option, double value);
/* As charlm_forward, for a step of a sequence: what its backward pass needs goes on the model's stack. */
int charlm_sforward(charlm_model* model, unsigned conditions, const charlm_real* const* inputs,
    int batch, charlm_real* output);
/* As charlm_backward, for the newest step on the stack, which it takes off; adds to the gradients that there
   are. The state's gradient flows to the step before. KNET_ZERO where no gradient comes from that step's output. */
int charlm_sbackward(charlm_model* model, int loss, const charlm_real* gold,
    const charlm_real* mask, unsigned long long input_grads, charlm_real* loss_value);
/* As so many calls of charlm_sforward: each input, and output, has the columns of all steps side by side, the
   first step's first. What the state does not stand between is computed for all steps at once. Memory is taken before
   the first step. */
int charlm_forwseq(charlm_model* model, unsigned conditions, const charlm_real* const* inputs,
    int batch, int steps, charlm_real* output);
/* As charlm_sbackward for so many of the newest steps on the stack; gold and mask have the columns of all of
   them, the oldest step's first. loss_value: where the mean of the steps' losses goes, 0 without one, in host memory,
   or NULL. Steps that ran in one charlm_forwseq are gone back through at once, if all of them are. After a failure
   of CUDA or its libraries the steps behind it are off the stack, their gradients added: charlm_reset, then. */
int charlm_backseq(charlm_model* model, int loss, const charlm_real* gold,
    const charlm_real* mask, int steps, charlm_real* loss_value);
/* Trains over so many steps of a sequence, in segments of `length` steps (the last may be shorter): for each what
   charlm_forwseq, charlm_backseq, charlm_update and charlm_reset, keeping the state, do, as one
   graph where the steps run at once. It begins as after such a reset; the stack must be empty. inputs and gold, in host
   or device memory, have the columns of all steps side by side. losses: where the loss of each segment before its
   update goes, as for charlm_train, which says too what holds of waiting and of failures. */
int charlm_trainseq(charlm_model* model, unsigned conditions, int loss,
    const charlm_real* const* inputs, const charlm_real* gold, int batch, int steps, int length,
    double gclip, double gscale, charlm_real* losses);
/* How a model runs, not what it computes. graphs: 1 (the default) captures each kind of call as a CUDA graph when it
   comes the second time, 2 the first time, 0 never. search: 1 times all algorithms of a convolution once for each batch
   size, 0 (the default) goes by cuDNN's heuristics. deterministic: 1 (the default) takes algorithms that give the same
   bits in every run, where cuDNN has one; 0 takes the fastest. graph_sums: 1 captures backward passes that sum over a
   communicator too; NCCL wants all models to capture such a call or none, so they must then make the same calls with as
   many columns each. 0 (the default) runs these as they are. */
int charlm_configure(charlm_model* model, const char* setting, int value);
/* How many calls have been captured as graphs, and how many could not be; these run as they are. */
int charlm_graphs(charlm_model* model, int* captured, int* refused);
/* What the model is asked for after this waits for all that is on another stream (a cudaStream_t) now. */
int charlm_wait_for(charlm_model* model, void* stream);
/* What is put on another stream after this waits for all that the model has been asked for. */
int charlm_make_wait(charlm_model* model, void* stream);
/* Empties the stack, forgets the gradients, and zeroes the state unless `keepstate`. */
int charlm_reset(charlm_model* model, int keepstate);
/* Empties the stack, forgets the gradients, and frees the memory of all values; the next call takes it anew. */
int charlm_clean(charlm_model* model);
/* Random draws are keyed by `seed` from here on, as if no call had been made; parameters stay. */
int charlm_set_seed(charlm_model* model, unsigned long long seed);

/* Arrays have Knet's names. Parameters: "a/w", "b/input/a", "b/input/b", "b/input/c" and 11 more.
   State: b/h, b/cell. */
/* The dimensions of an array of a kind (KNET_PARAM, ...), slowest last; `dims` has room for 8. */
int charlm_dims(charlm_model* model, int kind, const char* name, int* count, int* dims);
/* Copies an array to host or device memory; waits for the device where it is host memory. */
int charlm_get(charlm_model* model, int kind, const char* name, charlm_real* array);
/* Overwrites a parameter. */
int charlm_set(charlm_model* model, const char* name, const charlm_real* array);
/* Overwrites a static variable for `batch` columns. */
int charlm_set_state(charlm_model* model, const char* name, const charlm_real* array, int batch);
/* Overwrites a running average; `kind` is one of KNET_ADAGRAD to KNET_NESTEROV. */
int charlm_set_average(charlm_model* model, int kind, const char* parameter,
    const charlm_real* array);
/* How many steps Adam has made on a parameter, by which its averages are corrected. */
int charlm_adam_steps(charlm_model* model, const char* parameter, int* steps);
int charlm_set_adam_steps(charlm_model* model, const char* parameter, int steps);
/* The number of the last forward call, by which random draws are keyed besides the seed; the next call has the next. */
int charlm_calls(charlm_model* model, unsigned* calls);
int charlm_set_calls(charlm_model* model, unsigned calls);
/* From here on the columns of a call are those from column `first` on of a larger minibatch, and random draws are what
   they draw there. */
int charlm_set_columns(charlm_model* model, int first);
#ifdef KNET_NCCL
/* From here on gradients are summed over all models of a communicator (an ncclComm_t that outlives this one; NULL for
   none, as at first): by charlm_backward, bucket by bucket while the rest of it runs, with the losses; in a
   sequence by the charlm_sbackward that empties the stack, else by charlm_update. All models make the
   same calls. A loss is the mean over a model's own columns, so give a mask: for each column their share of the whole
   minibatch; without a column of its own a model is given some column, at 0. Built with -DKNET_NCCL, linked with
   -lnccl.
   charlm_train takes the mean over the models instead, which then have as many columns each.
   So does charlm_trainseq. */
int charlm_set_communicator(charlm_model* model, void* communicator);
#endif
/* Writes all parameters to a file, whole or not at all; and reads them from one, which must be of the same model. */
int charlm_save(charlm_model* model, const char* path);
int charlm_load(charlm_model* model, const char* path);
/* Waits for everything that was asked for. */
int charlm_synchronize(charlm_model* model);
}

// c = op(a) * op(b), all column-major: op(a) is m x k, op(b) k x n. The columns of a are lda elements apart, and so on.
inline cublasStatus_t knet_gemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                const float* a, int lda, const float* b, int ldb, float* c, int ldc) {
  const float one = 1, zero = 0;
  return cublasSgemm(handle, ta, tb, m, n, k, &one, a, lda, b, ldb, &zero, c, ldc);
}

namespace {

// Short for what is spelled with the model's name.
using knet_model = charlm_model;
using knet_real = charlm_real;
using knet_training = charlm_training;

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
template <class T>
static inline void knet_swap(T*& a, T*& b) {
  T* const c = a;
  a = b, b = c;
}
// Zeroes rows x columns elements, the columns a pitch apart.
template <class T> static cudaError_t knet_zero(T* data, size_t rows, size_t columns, size_t pitch, cudaStream_t s) {
  return cudaMemset2DAsync(data, pitch * sizeof(T), 0, rows * sizeof(T), columns, s);
}

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

// Every kernel: how this file calls it, its name, its parameters.
#define KNET_KERNELS(K) \
  K(fused_h_64xN, charlm_fused_h_64xN_kernel, (float* output, float* forget, float* input, float* newmem, \
    float* cell, float* tmp3, float* h, const float* output_tmp1, const float* output_tmp2, const float* output_c, \
    const float* forget_tmp1, const float* forget_tmp2, const float* forget_c, const float* input_tmp1, \
    const float* input_tmp2, const float* input_c, const float* newmem_tmp1, const float* newmem_tmp2, \
    const float* newmem_c, const float* cell_prev, int n)) \
  K(add_soft, charlm_add_soft_kernel, (float* y, const float* tmp1, const float* b, int rows)) \
  K(fill_bernoulli, charlm_fill_bernoulli_kernel, (float* y, const knet_clock* clock, unsigned stream, \
    unsigned column, double p, double scale, int height, int pitch, int n)) \
  K(fused_return_64xN, charlm_fused_return_64xN_kernel, (float* output, float* forget, float* input, \
    float* newmem, float* cell, float* tmp3, float* h, float* return_, const float* output_tmp1, \
    const float* output_tmp2, const float* output_c, const float* forget_tmp1, const float* forget_tmp2, \
    const float* forget_c, const float* input_tmp1, const float* input_tmp2, const float* input_c, \
    const float* newmem_tmp1, const float* newmem_tmp2, const float* newmem_c, const float* cell_prev, \
    const float* tmp1, int n)) \
  K(fill_bernoulli_ahead, charlm_fill_bernoulli_ahead_kernel, (float* y, const knet_clock* clock, unsigned stream, \
    unsigned column, unsigned step, double p, double scale, int height, int pitch, int n)) \
  K(mul, charlm_mul_kernel, (float* y, const float* a, const float* b, int n)) \
  K(fused_d_input_tmp4, charlm_fused_d_input_tmp4_kernel, (float* d_cell_prev, float* d_newmem_tmp4, \
    float* d_output_tmp4, float* d_forget_tmp4, float* d_input_tmp4, const float* d_h_next, const float* output, \
    const float* tmp3, const float* d_cell_next, const float* forget, const float* cell_prev, const float* newmem, \
    const float* input, int n)) \
  K(sum_columns, charlm_sum_columns_kernel, (float* y, const float* dy, int pitch, int columns)) \
  K(softloss_and_back, charlm_softloss_and_back_kernel, (double* partials, float* y, const float* p, \
    const float* gold, const float* mask, int columns, int n)) \
  K(total, charlm_total_kernel, (float* y, const double* partials, int blocks, double factor)) \
  K(fused_d_input_tmp4_2, charlm_fused_d_input_tmp4_2_kernel, (float* d_cell_prev, float* d_newmem_tmp4, \
    float* d_output_tmp4, float* d_forget_tmp4, float* d_input_tmp4, const float* d_h_next, const float* d_h, \
    const float* output, const float* tmp3, const float* d_cell_next, const float* forget, const float* cell_prev, \
    const float* newmem, const float* input, int n)) \
  K(fused_d_input_tmp4_3, charlm_fused_d_input_tmp4_3_kernel, (float* d_cell_prev, float* d_newmem_tmp4, \
    float* d_output_tmp4, float* d_forget_tmp4, float* d_input_tmp4, const float* d_return, const float* tmp1, \
    const float* d_h_next, const float* output, const float* tmp3, const float* d_cell_next, const float* forget, \
    const float* cell_prev, const float* newmem, const float* input, int n)) \
  K(fill_uniform, charlm_fill_uniform_kernel, (float* y, const knet_clock* clock, unsigned stream, \
    unsigned column, double low, double high, int height, int pitch, int n)) \
  K(fill_constant, charlm_fill_constant_kernel, (float* y, double value, int height, int pitch, int n)) \
  K(update, charlm_update_kernel, (const charlm_training* training, const double* squares)) \
  K(square_sum, charlm_square_sum_kernel, (double* partials, const charlm_training* training)) \
  K(all_squares, charlm_all_squares_kernel, (double* squares, const double* partials, int blocks)) \
  K(set_training, charlm_set_training_kernel, (charlm_training* to, charlm_training t)) \
  K(count_adam, charlm_count_adam_kernel, (charlm_training* training, int n)) \
  K(accumulate, charlm_accumulate_kernel, (float* sum, const float* dw, int n)) \
  K(set_clock, charlm_set_clock_kernel, (knet_clock* clock, unsigned long long seed, unsigned call, \
    unsigned first))

struct knet_kernels {
  KNET_KERNELS(KNET_MEMBER)
} kernels;
#if defined(KNET_HOST_ONLY)
knet_entry* const kernel_entries[] = {KNET_KERNELS(KNET_ENTRY)};
#elif defined(KNET_EMULATED)
const bool kernels_registered = (KNET_KERNELS(KNET_REGISTER) true);
#endif

enum { PARAMETERS = 15, INPUTS = 1, CONDITIONS = 1 };

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
  int first, steps;         // of the frame's steps, those from `first` on
  unsigned flags;           // of the kinds below
  unsigned memory;          // which allocations there were: `memory` of the model
  unsigned long long want;  // bit i: the gradient of input i
};
enum { KNET_MASKED = 1, KNET_ADDING = 2, KNET_UNWINDING = 4, KNET_LATER = 8 };  // of a backward pass
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
// that waits to be used again.
// Steps that ran at once have one frame, with the columns of all `steps` side by side, the first step's first; the way
// back has still to go through `left` of them.
struct knet_frame {
  knet_frame* below;
  int variant, batch, room;
  int steps, left;
  knet_graph* graphs;
  float* values[13];
};

}  // namespace

// A model: its settings, then a buffer for every value, by Knet's name.
struct charlm_model {
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
  unsigned long long seed = 0;
  unsigned call = 0;  // the number of the last forward call
  int columns_before = 0;  // how many of the minibatch that random draws are of come before those of a call
  knet_clock* clock = nullptr;  // the same on the device
  // The frames: of the last forward call; of the one that a backward pass outside a sequence goes back through; of the
  // steps of a sequence, the newest first; and those that wait to be used again.
  knet_frame *last = nullptr, *record = nullptr, *stack = nullptr, *spare = nullptr;
  int variant = 0, batch = 0;  // the forward function and the columns of the frame in use
  int steps = 1;               // and its steps, each with so many columns
  int capacity = 0;  // the columns that the buffers have room for
  float* arena = nullptr;  // the memory of what does not outlive a call
  size_t arena_room = 0;  // and its elements
  int state_batch = 0, state_room = 0;  // the columns of the state, 0 where it is zero; and those it has room for
  bool unwinding = false;  // whether the backward pass is of a step on the stack
  bool later = false;  // whether a later step of the sequence hands gradients to the state
  bool gradients = false;  // whether there are gradients
  float* sums[6] = {};  // what they are added to while a step of a sequence computes its own
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
  float* b_input_a_block = nullptr;  // b/input/a@block f32[256,32]: b/input/a, b/forget/a, b/output/a, b/newmem/a
  float* b_input_b_block = nullptr;  // b/input/b@block f32[256,64]: b/input/b, b/forget/b, b/output/b, b/newmem/b
  float* a_w = nullptr;  // a/w f32[32,65]
  float* b_input_c = nullptr;  // b/input/c f32[64]
  float* b_forget_c = nullptr;  // b/forget/c f32[64]
  float* b_output_c = nullptr;  // b/output/c f32[64]
  float* b_newmem_c = nullptr;  // b/newmem/c f32[64]
  float* wbf_w = nullptr;  // wbf/w f32[65,64]
  float* wbf_b = nullptr;  // wbf/b f32[65]

  // their gradients
  float* d_b_input_c_block = nullptr;  // f32[256]: d:b/input/c, d:b/forget/c, d:b/output/c, d:b/newmem/c
  float* d_b_input_b_block = nullptr;  // f32[256,64]: d:b/input/b, d:b/forget/b, d:b/output/b, d:b/newmem/b
  float* d_b_input_a_block = nullptr;  // f32[256,32]: d:b/input/a, d:b/forget/a, d:b/output/a, d:b/newmem/a
  float* d_a_w = nullptr;  // f32[32,65]
  float* d_wbf_b = nullptr;  // f32[65]
  float* d_wbf_w = nullptr;  // f32[65,64]

  // state, from call to call, and its gradient, from step to step
  float* b_h_state = nullptr;  // b/h f32[64,N]
  float* b_cell_state = nullptr;  // b/cell f32[64,N]
  float* d_b_h_state = nullptr;  // f32[64,N]
  float* d_b_cell_state = nullptr;  // f32[64,N]

  // inputs
  float* x = nullptr;  // x f32[65,N]

  // values, forward and backward
  float* b_h_prev = nullptr;  // b/h@prev f32[64,N]
  float* b_cell_prev = nullptr;  // b/cell@prev f32[64,N]
  float* a = nullptr;  // a f32[32,N]
  float* b_input_tmp1_block = nullptr;  // b/input/tmp1@block f32[256,N]: b/input/tmp1, b/forget/tmp1 and 2 more
  float* b_input_tmp2_block = nullptr;  // b/input/tmp2@block f32[256,N]: b/input/tmp2, b/forget/tmp2 and 2 more
  float* b_output = nullptr;  // b/output f32[64,N]
  float* b_forget = nullptr;  // b/forget f32[64,N]
  float* b_input = nullptr;  // b/input f32[64,N]
  float* b_newmem = nullptr;  // b/newmem f32[64,N]
  float* b_cell = nullptr;  // b/cell f32[64,N]
  float* b_tmp3 = nullptr;  // b/tmp3 f32[64,N]
  float* b_h = nullptr;  // b/h f32[64,N]
  float* wbf_tmp1 = nullptr;  // wbf/tmp1 f32[65,N]
  float* return_ = nullptr;  // return f32[65,N]
  float* d_b_h_next = nullptr;  // d:b/h@next f32[64,N]
  float* d_b_cell_next = nullptr;  // d:b/cell@next f32[64,N]
  float* d_b_cell_prev = nullptr;  // d:b/cell@prev f32[64,N]
  float* d_b_input_tmp4_block = nullptr;  // d:b/input/tmp4@block f32[256,N]: d:b/input/tmp4, d:b/forget/tmp4 and 2 more
  float* d_b_h_prev = nullptr;  // d:b/h@prev f32[64,N]
  float* d_a = nullptr;  // d:a f32[32,N]
  float* d_x = nullptr;  // d:x f32[65,N]
  float* d_wbf_tmp2 = nullptr;  // d:wbf/tmp2 f32[65,N]
  float* d_b_h = nullptr;  // d:b/h f32[64,N]
  float* c_tmp1 = nullptr;  // c/tmp1 f32[64,N]
  float* c_return = nullptr;  // c/return f32[64,N]
  float* d_c_return = nullptr;  // d:c/return f32[64,N]

  // the desired output, the mask, the loss
  float* gold = nullptr;  // f32[65,N]
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
  size_t later = 0;  // in a sequence, so many for each column of the further steps
};
const knet_buffer buffers[] = {
    {&knet_model::b_input_a_block, 8192, 0},
    {&knet_model::b_input_b_block, 16384, 0},
    {&knet_model::a_w, 2080, 0},
    {&knet_model::b_input_c, 64, 0},
    {&knet_model::b_forget_c, 64, 0},
    {&knet_model::b_output_c, 64, 0},
    {&knet_model::b_newmem_c, 64, 0},
    {&knet_model::wbf_w, 4160, 0},
    {&knet_model::wbf_b, 65, 0},
    {&knet_model::d_b_h_state, 0, 64},
    {&knet_model::d_b_cell_state, 0, 64},
    {&knet_model::d_b_input_c_block, 256, 0},
    {&knet_model::d_b_input_b_block, 16384, 0},
    {&knet_model::d_b_input_a_block, 8192, 0},
    {&knet_model::d_a_w, 2080, 0},
    {&knet_model::loss, 1, 0},
    {&knet_model::d_wbf_b, 65, 0},
    {&knet_model::d_wbf_w, 4160, 0},
    {nullptr, 0, 256},  // the end, and the elements a column of the largest buffer
};

// What the frame of each forward function holds, in order.
const knet_buffer frame_0[] = {  // under no condition
    {&knet_model::x, 0, 65},
    {&knet_model::b_h_prev, 0, 64},
    {&knet_model::b_cell_prev, 0, 64},
    {&knet_model::a, 0, 32},
    {&knet_model::b_output, 0, 64},
    {&knet_model::b_forget, 0, 64},
    {&knet_model::b_input, 0, 64},
    {&knet_model::b_newmem, 0, 64},
    {&knet_model::b_tmp3, 0, 64},
    {&knet_model::b_h, 0, 64},
    {&knet_model::return_, 0, 65},
    {nullptr, 0, 0},
};
const knet_buffer frame_1[] = {  // under dropout
    {&knet_model::x, 0, 65},
    {&knet_model::b_h_prev, 0, 64},
    {&knet_model::b_cell_prev, 0, 64},
    {&knet_model::a, 0, 32},
    {&knet_model::c_tmp1, 0, 64},
    {&knet_model::b_output, 0, 64},
    {&knet_model::b_forget, 0, 64},
    {&knet_model::b_input, 0, 64},
    {&knet_model::b_newmem, 0, 64},
    {&knet_model::b_tmp3, 0, 64},
    {&knet_model::b_h, 0, 64},
    {&knet_model::c_return, 0, 64},
    {&knet_model::return_, 0, 65},
    {nullptr, 0, 0},
};
// Where each buffer of a function stands in the arena: so many elements from its start, plus so many for each column.
// In a sequence come so many for each column of the further steps. What stands in a frame is not here.
// Buffers whose values are not needed at the same time share memory.
size_t arena_elements(int batch, int steps) {
  if (steps > 1) {
    const size_t later = (size_t)batch * (steps - 1);  // the columns of the further steps
    return 644 * (size_t)batch + 324 * later;
  }
  return 641 * (size_t)batch;
}
const knet_buffer places_0[] = {
    {&knet_model::b_input_tmp1_block, 0, 0},
    {&knet_model::b_input_tmp2_block, 0, 256},
    {&knet_model::b_cell, 0, 577},
    {&knet_model::wbf_tmp1, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer sequence_places_0[] = {
    {&knet_model::b_input_tmp1_block, 0, 68, 68},
    {&knet_model::b_input_tmp2_block, 0, 388, 324},
    {&knet_model::b_cell, 0, 324, 324},
    {&knet_model::wbf_tmp1, 0, 65, 65},
    {nullptr, 0, 0},
};
const knet_buffer places_0_zero[] = {
    {&knet_model::d_b_h_next, 0, 256},
    {&knet_model::d_b_cell_next, 0, 320},
    {&knet_model::d_b_cell_prev, 0, 256},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 320},
    {&knet_model::d_a, 0, 384},
    {&knet_model::d_x, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer sequence_places_0_zero[] = {
    {&knet_model::d_b_h_next, 0, 448, 320},
    {&knet_model::d_b_cell_next, 0, 320, 320},
    {&knet_model::d_b_cell_prev, 0, 384, 320},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 512, 320},
    {&knet_model::d_a, 0, 256, 256},
    {nullptr, 0, 0},
};
const knet_buffer places_0_softloss[] = {
    {&knet_model::gold, 0, 512},
    {&knet_model::mask, 0, 0},
    {&knet_model::d_wbf_tmp2, 0, 512},
    {&knet_model::d_b_h_next, 0, 256},
    {&knet_model::d_b_cell_next, 0, 320},
    {&knet_model::d_b_h, 0, 384},
    {&knet_model::d_b_cell_prev, 0, 256},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 320},
    {&knet_model::d_a, 0, 384},
    {&knet_model::d_x, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer sequence_places_0_softloss[] = {
    {&knet_model::gold, 0, 0},
    {&knet_model::mask, 0, 65, 65},
    {&knet_model::d_wbf_tmp2, 0, 0},
    {&knet_model::d_b_h, 0, 256, 256},
    {&knet_model::d_b_h_next, 0, 448, 320},
    {&knet_model::d_b_cell_next, 0, 320, 320},
    {&knet_model::d_b_cell_prev, 0, 384, 320},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 512, 320},
    {&knet_model::d_a, 0, 256, 256},
    {nullptr, 0, 0},
};
const knet_buffer places_1[] = {
    {&knet_model::b_input_tmp1_block, 0, 0},
    {&knet_model::b_input_tmp2_block, 0, 256},
    {&knet_model::b_cell, 0, 577},
    {&knet_model::wbf_tmp1, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer sequence_places_1[] = {
    {&knet_model::b_input_tmp1_block, 0, 320},
    {&knet_model::b_input_tmp2_block, 0, 0},
    {&knet_model::b_cell, 0, 256},
    {&knet_model::wbf_tmp1, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer places_1_zero[] = {
    {&knet_model::d_b_h_next, 0, 320},
    {&knet_model::d_b_cell_next, 0, 384},
    {&knet_model::d_b_cell_prev, 0, 256},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 320},
    {&knet_model::d_a, 0, 384},
    {&knet_model::d_x, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer sequence_places_1_zero[] = {
    {&knet_model::d_b_h_next, 0, 448, 320},
    {&knet_model::d_b_cell_next, 0, 320, 320},
    {&knet_model::d_b_cell_prev, 0, 384, 320},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 512, 320},
    {&knet_model::d_a, 0, 256, 256},
    {nullptr, 0, 0},
};
const knet_buffer places_1_softloss[] = {
    {&knet_model::gold, 0, 512},
    {&knet_model::mask, 0, 0},
    {&knet_model::d_wbf_tmp2, 0, 512},
    {&knet_model::d_b_h_next, 0, 320},
    {&knet_model::d_b_cell_next, 0, 384},
    {&knet_model::d_c_return, 0, 256},
    {&knet_model::d_b_cell_prev, 0, 256},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 320},
    {&knet_model::d_a, 0, 384},
    {&knet_model::d_x, 0, 0},
    {nullptr, 0, 0},
};
const knet_buffer sequence_places_1_softloss[] = {
    {&knet_model::gold, 0, 576, 256},
    {&knet_model::mask, 0, 0},
    {&knet_model::d_wbf_tmp2, 0, 576, 256},
    {&knet_model::d_c_return, 0, 0},
    {&knet_model::d_b_h, 0, 256, 256},
    {&knet_model::d_b_h_next, 0, 448, 320},
    {&knet_model::d_b_cell_next, 0, 320, 320},
    {&knet_model::d_b_cell_prev, 0, 384, 320},
    {&knet_model::d_b_input_tmp4_block, 0, 0},
    {&knet_model::d_b_h_prev, 0, 512, 320},
    {&knet_model::d_a, 0, 256, 256},
    {nullptr, 0, 0},
};
const knet_buffer* const frames[] = {frame_0, frame_1};

// An array by its Knet name: its place in the model, and its dimensions, fastest first, -1 for the batch. Rows of a
// block begin at an offset from there, and their columns are a pitch apart; that is 0 where they follow each other.
struct knet_array {
  const char* name;
  knet_place place;
  int offset, pitch, count, dims[8];
};
const knet_array parameters[] = {
    {"a/w", &knet_model::a_w, 0, 0, 2, {32, 65}},
    {"b/input/a", &knet_model::b_input_a_block, 0, 256, 2, {64, 32}},
    {"b/input/b", &knet_model::b_input_b_block, 0, 256, 2, {64, 64}},
    {"b/input/c", &knet_model::b_input_c, 0, 0, 1, {64}},
    {"b/forget/a", &knet_model::b_input_a_block, 64, 256, 2, {64, 32}},
    {"b/forget/b", &knet_model::b_input_b_block, 64, 256, 2, {64, 64}},
    {"b/forget/c", &knet_model::b_forget_c, 0, 0, 1, {64}},
    {"b/output/a", &knet_model::b_input_a_block, 128, 256, 2, {64, 32}},
    {"b/output/b", &knet_model::b_input_b_block, 128, 256, 2, {64, 64}},
    {"b/output/c", &knet_model::b_output_c, 0, 0, 1, {64}},
    {"b/newmem/a", &knet_model::b_input_a_block, 192, 256, 2, {64, 32}},
    {"b/newmem/b", &knet_model::b_input_b_block, 192, 256, 2, {64, 64}},
    {"b/newmem/c", &knet_model::b_newmem_c, 0, 0, 1, {64}},
    {"wbf/w", &knet_model::wbf_w, 0, 0, 2, {65, 64}},
    {"wbf/b", &knet_model::wbf_b, 0, 0, 1, {65}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array gradients[] = {
    {"a/w", &knet_model::d_a_w, 0, 0, 2, {32, 65}},
    {"b/input/a", &knet_model::d_b_input_a_block, 0, 256, 2, {64, 32}},
    {"b/input/b", &knet_model::d_b_input_b_block, 0, 256, 2, {64, 64}},
    {"b/input/c", &knet_model::d_b_input_c_block, 0, 0, 1, {64}},
    {"b/forget/a", &knet_model::d_b_input_a_block, 64, 256, 2, {64, 32}},
    {"b/forget/b", &knet_model::d_b_input_b_block, 64, 256, 2, {64, 64}},
    {"b/forget/c", &knet_model::d_b_input_c_block, 64, 0, 1, {64}},
    {"b/output/a", &knet_model::d_b_input_a_block, 128, 256, 2, {64, 32}},
    {"b/output/b", &knet_model::d_b_input_b_block, 128, 256, 2, {64, 64}},
    {"b/output/c", &knet_model::d_b_input_c_block, 128, 0, 1, {64}},
    {"b/newmem/a", &knet_model::d_b_input_a_block, 192, 256, 2, {64, 32}},
    {"b/newmem/b", &knet_model::d_b_input_b_block, 192, 256, 2, {64, 64}},
    {"b/newmem/c", &knet_model::d_b_input_c_block, 192, 0, 1, {64}},
    {"wbf/w", &knet_model::d_wbf_w, 0, 0, 2, {65, 64}},
    {"wbf/b", &knet_model::d_wbf_b, 0, 0, 1, {65}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array states[] = {
    {"b/h", &knet_model::b_h_state, 0, 0, 2, {64, -1}},
    {"b/cell", &knet_model::b_cell_state, 0, 0, 2, {64, -1}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array inputs[] = {
    {"x", &knet_model::x, 0, 0, 2, {65, -1}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array values_0[] = {
    {"return", &knet_model::return_, 0, 0, 2, {65, -1}},
    {"a/w", &knet_model::a_w, 0, 0, 2, {32, 65}},
    {"a", &knet_model::a, 0, 0, 2, {32, -1}},
    {"b/input/a", &knet_model::b_input_a_block, 0, 256, 2, {64, 32}},
    {"b/input/b", &knet_model::b_input_b_block, 0, 256, 2, {64, 64}},
    {"b/input/c", &knet_model::b_input_c, 0, 0, 1, {64}},
    {"b/forget/a", &knet_model::b_input_a_block, 64, 256, 2, {64, 32}},
    {"b/forget/b", &knet_model::b_input_b_block, 64, 256, 2, {64, 64}},
    {"b/forget/c", &knet_model::b_forget_c, 0, 0, 1, {64}},
    {"b/output/a", &knet_model::b_input_a_block, 128, 256, 2, {64, 32}},
    {"b/output/b", &knet_model::b_input_b_block, 128, 256, 2, {64, 64}},
    {"b/output/c", &knet_model::b_output_c, 0, 0, 1, {64}},
    {"b/newmem/a", &knet_model::b_input_a_block, 192, 256, 2, {64, 32}},
    {"b/newmem/b", &knet_model::b_input_b_block, 192, 256, 2, {64, 64}},
    {"b/newmem/c", &knet_model::b_newmem_c, 0, 0, 1, {64}},
    {"b/h", &knet_model::b_h, 0, 0, 2, {64, -1}},
    {"b", &knet_model::b_h, 0, 0, 2, {64, -1}},
    {"c", &knet_model::b_h, 0, 0, 2, {64, -1}},
    {"wbf/w", &knet_model::wbf_w, 0, 0, 2, {65, 64}},
    {"wbf/b", &knet_model::wbf_b, 0, 0, 1, {65}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
const knet_array values_1[] = {
    {"return", &knet_model::return_, 0, 0, 2, {65, -1}},
    {"a/w", &knet_model::a_w, 0, 0, 2, {32, 65}},
    {"a", &knet_model::a, 0, 0, 2, {32, -1}},
    {"b/input/a", &knet_model::b_input_a_block, 0, 256, 2, {64, 32}},
    {"b/input/b", &knet_model::b_input_b_block, 0, 256, 2, {64, 64}},
    {"b/input/c", &knet_model::b_input_c, 0, 0, 1, {64}},
    {"b/forget/a", &knet_model::b_input_a_block, 64, 256, 2, {64, 32}},
    {"b/forget/b", &knet_model::b_input_b_block, 64, 256, 2, {64, 64}},
    {"b/forget/c", &knet_model::b_forget_c, 0, 0, 1, {64}},
    {"b/output/a", &knet_model::b_input_a_block, 128, 256, 2, {64, 32}},
    {"b/output/b", &knet_model::b_input_b_block, 128, 256, 2, {64, 64}},
    {"b/output/c", &knet_model::b_output_c, 0, 0, 1, {64}},
    {"b/newmem/a", &knet_model::b_input_a_block, 192, 256, 2, {64, 32}},
    {"b/newmem/b", &knet_model::b_input_b_block, 192, 256, 2, {64, 64}},
    {"b/newmem/c", &knet_model::b_newmem_c, 0, 0, 1, {64}},
    {"b/h", &knet_model::b_h, 0, 0, 2, {64, -1}},
    {"b", &knet_model::b_h, 0, 0, 2, {64, -1}},
    {"c", &knet_model::c_return, 0, 0, 2, {64, -1}},
    {"wbf/w", &knet_model::wbf_w, 0, 0, 2, {65, 64}},
    {"wbf/b", &knet_model::wbf_b, 0, 0, 1, {65}},
    {nullptr, nullptr, 0, 0, 0, {}},
};
// Every gradient, those that stand in one block together, in the order in which a backward pass finishes them.
const knet_buffer gradient_buffers[] = {
    {&knet_model::d_wbf_w, 4160, 0},
    {&knet_model::d_wbf_b, 65, 0},
    {&knet_model::d_b_input_b_block, 16384, 0},
    {&knet_model::d_b_input_c_block, 256, 0},
    {&knet_model::d_b_input_a_block, 8192, 0},
    {&knet_model::d_a_w, 2080, 0},
    {nullptr, 0, 0},
};
const knet_array* const values[] = {values_0, values_1};

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
enum { BUCKETS = 1 };
const int bucket_ends[BUCKETS] = {6};

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

// A state's gradient from the step after: zero where there is no later one, at the last step and outside a sequence.
int take_state_gradient(knet_model* m, bool later, float* to, const float* from, size_t bytes) {
  if (later)
    TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, m->stream));
  else
    TRY(cudaMemsetAsync(to, 0, bytes, m->stream));
  return 0;
}
// A state's gradient for the step before.
int hand_state_gradient(knet_model* m, float* to, const float* from, size_t bytes) {
  if (m->unwinding) TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, m->stream));
  return 0;
}

// The forward pass, under no condition.
int forward(knet_model* m) {
  const int N = m->batch;
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/h f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_h_prev, m->b_h_state, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice, m->stream));
  // b/cell f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_cell_prev, m->b_cell_state, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice,
      m->stream));
  // charlm.knet:5: a = wdot(x; out=embedding)
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 32, N, 65, m->a_w, 32, m->x, 65, m->a, 32));  // a f32[32,N]
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/input/tmp1@block f32[256,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 32, m->b_input_a_block, 256, m->a, 32,
      m->b_input_tmp1_block, 256));
  // b/input/tmp2@block f32[256,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 64, m->b_input_b_block, 256, m->b_h_prev, 64,
      m->b_input_tmp2_block, 256));
  // b/h f32[64,N]
  TRY(knet_launch_each(kernels.fused_h_64xN, 64 * N, m->stream, m->b_output, m->b_forget, m->b_input, m->b_newmem,
      m->b_cell, m->b_tmp3, m->b_h, m->b_input_tmp1_block + 128, m->b_input_tmp2_block + 128, m->b_output_c,
      m->b_input_tmp1_block + 64, m->b_input_tmp2_block + 64, m->b_forget_c, m->b_input_tmp1_block,
      m->b_input_tmp2_block, m->b_input_c, m->b_input_tmp1_block + 192, m->b_input_tmp2_block + 192, m->b_newmem_c,
      m->b_cell_prev));
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // wbf/tmp1 f32[65,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 65, N, 64, m->wbf_w, 65, m->b_h, 64, m->wbf_tmp1, 65));
  TRY(knet_launch(kernels.add_soft, N, 96, 0, m->stream, m->return_, m->wbf_tmp1, m->wbf_b, 65));  // return f32[65,N]
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/h f32[64,N], for the next call
  TRY(cudaMemcpyAsync(m->b_h_state, m->b_h, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice, m->stream));
  // b/cell f32[64,N], for the next call
  TRY(cudaMemcpyAsync(m->b_cell_state, m->b_cell, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice, m->stream));
  return 0;
}

// The forward pass, under dropout.
int forward_dropout(knet_model* m) {
  const int N = m->batch;
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/h f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_h_prev, m->b_h_state, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice, m->stream));
  // b/cell f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_cell_prev, m->b_cell_state, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice,
      m->stream));
  // charlm.knet:5: a = wdot(x; out=embedding)
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 32, N, 65, m->a_w, 32, m->x, 65, m->a, 32));  // a f32[32,N]
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/input/tmp1@block f32[256,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 32, m->b_input_a_block, 256, m->a, 32,
      m->b_input_tmp1_block, 256));
  // b/input/tmp2@block f32[256,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 64, m->b_input_b_block, 256, m->b_h_prev, 64,
      m->b_input_tmp2_block, 256));
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  // c/tmp1 f32[64,N], Bernoulli(0.8, 1.25)
  TRY(knet_launch_each(kernels.fill_bernoulli, 64 * N, m->stream, m->c_tmp1, m->clock, 13u, 64u, 0.8, 1.25,
      64 * N, 0));
  // charlm.knet:6: b = lstm(a; out=hidden)
  // c/return f32[64,N]
  TRY(knet_launch_each(kernels.fused_return_64xN, 64 * N, m->stream, m->b_output, m->b_forget, m->b_input,
      m->b_newmem, m->b_cell, m->b_tmp3, m->b_h, m->c_return, m->b_input_tmp1_block + 128,
      m->b_input_tmp2_block + 128, m->b_output_c, m->b_input_tmp1_block + 64, m->b_input_tmp2_block + 64,
      m->b_forget_c, m->b_input_tmp1_block, m->b_input_tmp2_block, m->b_input_c, m->b_input_tmp1_block + 192,
      m->b_input_tmp2_block + 192, m->b_newmem_c, m->b_cell_prev, m->c_tmp1));
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // wbf/tmp1 f32[65,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 65, N, 64, m->wbf_w, 65, m->c_return, 64, m->wbf_tmp1, 65));
  TRY(knet_launch(kernels.add_soft, N, 96, 0, m->stream, m->return_, m->wbf_tmp1, m->wbf_b, 65));  // return f32[65,N]
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/h f32[64,N], for the next call
  TRY(cudaMemcpyAsync(m->b_h_state, m->b_h, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice, m->stream));
  // b/cell f32[64,N], for the next call
  TRY(cudaMemcpyAsync(m->b_cell_state, m->b_cell, 64 * N * sizeof(float), cudaMemcpyDeviceToDevice, m->stream));
  return 0;
}

// The forward pass through a whole sequence, under no condition.
int forwseq(knet_model* m) {
  // Before the loop over time: the columns of all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:5: a = wdot(x; out=embedding)
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 32, N, 65, m->a_w, 32, m->x, 65, m->a, 32));  // a f32[32,N]
    // charlm.knet:6: b = lstm(a; out=hidden)
    // b/input/tmp1@block f32[256,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 32, m->b_input_a_block, 256, m->a, 32,
        m->b_input_tmp1_block, 256));
  }
  // b/cell f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_cell_prev, m->b_cell_state, 64 * m->batch * sizeof(float), cudaMemcpyDeviceToDevice,
      m->stream));
  for (int step = 0; step < m->steps; step++) {
    const int N = m->batch, at = N * step;
    const float* const b_h_prev_here = step > 0 ? m->b_h + 64 * (at - N) : m->b_h_state;
    float* const b_cell_here = step + 1 < m->steps ? m->b_cell_prev + 64 * (at + N) : m->b_cell_state;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // b/input/tmp2@block f32[256,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 64, m->b_input_b_block, 256, b_h_prev_here, 64,
        m->b_input_tmp2_block, 256));
    // b/h f32[64,N]
    TRY(knet_launch_each(kernels.fused_h_64xN, 64 * N, m->stream, m->b_output + 64 * at, m->b_forget + 64 * at,
        m->b_input + 64 * at, m->b_newmem + 64 * at, b_cell_here, m->b_tmp3 + 64 * at, m->b_h + 64 * at,
        m->b_input_tmp1_block + 128 + 256 * at, m->b_input_tmp2_block + 128, m->b_output_c,
        m->b_input_tmp1_block + 64 + 256 * at, m->b_input_tmp2_block + 64, m->b_forget_c,
        m->b_input_tmp1_block + 256 * at, m->b_input_tmp2_block, m->b_input_c, m->b_input_tmp1_block + 192 + 256 * at,
        m->b_input_tmp2_block + 192, m->b_newmem_c, m->b_cell_prev + 64 * at));
  }
  // b/h f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_h_prev, m->b_h_state, 64 * m->batch * sizeof(float), cudaMemcpyDeviceToDevice,
      m->stream));
  // b/h f32[64,N], as the step before left it
  TRY(cudaMemcpyAsync(m->b_h_prev + 64 * m->batch, m->b_h, 64 * m->batch * (m->steps - 1) * sizeof(float),
      cudaMemcpyDeviceToDevice, m->stream));
  // b/h f32[64,N], for the next call
  TRY(cudaMemcpyAsync(m->b_h_state, m->b_h + 64 * m->batch * (m->steps - 1), 64 * m->batch * sizeof(float),
      cudaMemcpyDeviceToDevice, m->stream));
  // After the loop: again all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
    // wbf/tmp1 f32[65,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 65, N, 64, m->wbf_w, 65, m->b_h, 64, m->wbf_tmp1, 65));
    TRY(knet_launch(kernels.add_soft, N, 96, 0, m->stream, m->return_, m->wbf_tmp1, m->wbf_b, 65));  // return f32[65,N]
  }
  return 0;
}

// The forward pass through a whole sequence, under dropout.
int forwseq_dropout(knet_model* m) {
  // Before the loop over time: the columns of all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:5: a = wdot(x; out=embedding)
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 32, N, 65, m->a_w, 32, m->x, 65, m->a, 32));  // a f32[32,N]
    // charlm.knet:6: b = lstm(a; out=hidden)
    // b/input/tmp1@block f32[256,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 32, m->b_input_a_block, 256, m->a, 32,
        m->b_input_tmp1_block, 256));
    // charlm.knet:7: c = drop(b; pdrop=pdrop)
    // c/tmp1 f32[64,N], Bernoulli(0.8, 1.25)
    TRY(knet_launch_each(kernels.fill_bernoulli_ahead, 64 * N, m->stream, m->c_tmp1, m->clock, 13u, 64u,
        64 * m->batch, 0.8, 1.25, 64 * N, 0));
  }
  // b/cell f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_cell_prev, m->b_cell_state, 64 * m->batch * sizeof(float), cudaMemcpyDeviceToDevice,
      m->stream));
  for (int step = 0; step < m->steps; step++) {
    const int N = m->batch, at = N * step;
    const float* const b_h_prev_here = step > 0 ? m->b_h + 64 * (at - N) : m->b_h_state;
    float* const b_cell_here = step + 1 < m->steps ? m->b_cell_prev + 64 * (at + N) : m->b_cell_state;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // b/input/tmp2@block f32[256,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 256, N, 64, m->b_input_b_block, 256, b_h_prev_here, 64,
        m->b_input_tmp2_block, 256));
    // b/h f32[64,N]
    TRY(knet_launch_each(kernels.fused_h_64xN, 64 * N, m->stream, m->b_output + 64 * at, m->b_forget + 64 * at,
        m->b_input + 64 * at, m->b_newmem + 64 * at, b_cell_here, m->b_tmp3 + 64 * at, m->b_h + 64 * at,
        m->b_input_tmp1_block + 128 + 256 * at, m->b_input_tmp2_block + 128, m->b_output_c,
        m->b_input_tmp1_block + 64 + 256 * at, m->b_input_tmp2_block + 64, m->b_forget_c,
        m->b_input_tmp1_block + 256 * at, m->b_input_tmp2_block, m->b_input_c, m->b_input_tmp1_block + 192 + 256 * at,
        m->b_input_tmp2_block + 192, m->b_newmem_c, m->b_cell_prev + 64 * at));
  }
  // b/h f32[64,N], as the call before left it
  TRY(cudaMemcpyAsync(m->b_h_prev, m->b_h_state, 64 * m->batch * sizeof(float), cudaMemcpyDeviceToDevice,
      m->stream));
  // b/h f32[64,N], as the step before left it
  TRY(cudaMemcpyAsync(m->b_h_prev + 64 * m->batch, m->b_h, 64 * m->batch * (m->steps - 1) * sizeof(float),
      cudaMemcpyDeviceToDevice, m->stream));
  // b/h f32[64,N], for the next call
  TRY(cudaMemcpyAsync(m->b_h_state, m->b_h + 64 * m->batch * (m->steps - 1), 64 * m->batch * sizeof(float),
      cudaMemcpyDeviceToDevice, m->stream));
  // After the loop: again all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:7: c = drop(b; pdrop=pdrop)
    TRY(knet_launch_each(kernels.mul, 64 * N, m->stream, m->c_return, m->b_h, m->c_tmp1));  // c/return f32[64,N]
    // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
    // wbf/tmp1 f32[65,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_N, 65, N, 64, m->wbf_w, 65, m->c_return, 64, m->wbf_tmp1, 65));
    TRY(knet_launch(kernels.add_soft, N, 96, 0, m->stream, m->return_, m->wbf_tmp1, m->wbf_b, 65));  // return f32[65,N]
  }
  return 0;
}

// The backward pass from a zero gradient of the output, under no condition, and under dropout.
int backward_zero(knet_model* m, const float*, unsigned long long want) {
  const int N = m->batch;
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h f32[64,N], from the step after
  TRY(take_state_gradient(m, m->unwinding && m->later, m->d_b_h_next, m->d_b_h_state, 64 * N * sizeof(float)));
  // d:b/cell f32[64,N], from the step after
  TRY(take_state_gradient(m, m->unwinding && m->later, m->d_b_cell_next, m->d_b_cell_state,
      64 * N * sizeof(float)));
  // d:b/input/tmp4 f32[64,N]
  TRY(knet_launch_each(kernels.fused_d_input_tmp4, 64 * N, m->stream, m->d_b_cell_prev,
      m->d_b_input_tmp4_block + 192, m->d_b_input_tmp4_block + 128, m->d_b_input_tmp4_block + 64,
      m->d_b_input_tmp4_block, m->d_b_h_next, m->b_output, m->b_tmp3, m->d_b_cell_next, m->b_forget, m->b_cell_prev,
      m->b_newmem, m->b_input));
  // d:b/h@prev f32[64,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block,
      256, m->d_b_h_prev, 64));
  // d:a f32[32,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 32, N, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block,
      256, m->d_a, 32));
  // d:b/input/b@block f32[256,64], d:b/input/c@block f32[256]
  TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_BGRADA, m->d_b_input_c_block, CUBLAS_OP_N, CUBLAS_OP_T, 256,
      64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->d_b_input_b_block, 256));
  if (!m->product[0].fused) TRY(knet_launch(kernels.sum_columns, 256, 128, 0, m->stream, m->d_b_input_c_block,
      m->d_b_input_tmp4_block, 256, N));
  // d:b/input/a@block f32[256,32]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 256, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32,
      m->d_b_input_a_block, 256));
  // charlm.knet:5: a = wdot(x; out=embedding)
  // d:a/w f32[32,65]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 32, 65, N, m->d_a, 32, m->x, 65, m->d_a_w, 32));
  if (want & 1) {
    // d:x f32[65,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 65, N, 32, m->a_w, 32, m->d_a, 32, m->d_x, 65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_h_state, m->d_b_h_prev, 64 * N * sizeof(float)));
  // d:b/cell f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_cell_state, m->d_b_cell_prev, 64 * N * sizeof(float)));
  if (want & 1) m->input_gradients[0] = m->d_x;
  TRY(knet_zero(m->d_wbf_w, 65, 64, 65, m->stream));  // not reached
  TRY(knet_zero(m->d_wbf_b, 65, 1, 65, m->stream));  // not reached
  TRY(finish_bucket(m, 0));
  return 0;
}

// The backward pass through a whole sequence from a zero gradient of the output, under no condition, and under dropout.
int backseq_zero(knet_model* m, const float*, unsigned long long) {
  float *d_b_h_next_here = m->d_b_h_next, *d_b_h_prev_here = m->d_b_h_prev;
  // d:b/h f32[64,N], from the step after
  TRY(take_state_gradient(m, m->later, d_b_h_next_here, m->d_b_h_state, 64 * m->batch * sizeof(float)));
  float *d_b_cell_next_here = m->d_b_cell_next, *d_b_cell_prev_here = m->d_b_cell_prev;
  // d:b/cell f32[64,N], from the step after
  TRY(take_state_gradient(m, m->later, d_b_cell_next_here, m->d_b_cell_state, 64 * m->batch * sizeof(float)));
  for (int step = m->steps - 1; step >= 0; step--) {
    const int N = m->batch, at = N * step;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // d:b/input/tmp4 f32[64,N]
    TRY(knet_launch_each(kernels.fused_d_input_tmp4, 64 * N, m->stream, d_b_cell_prev_here,
        m->d_b_input_tmp4_block + 192 + 256 * at, m->d_b_input_tmp4_block + 128 + 256 * at,
        m->d_b_input_tmp4_block + 64 + 256 * at, m->d_b_input_tmp4_block + 256 * at, d_b_h_next_here,
        m->b_output + 64 * at, m->b_tmp3 + 64 * at, d_b_cell_next_here, m->b_forget + 64 * at, m->b_cell_prev + 64 * at,
        m->b_newmem + 64 * at, m->b_input + 64 * at));
    // d:b/h@prev f32[64,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 256, m->b_input_b_block, 256,
        m->d_b_input_tmp4_block + 256 * at, 256, d_b_h_prev_here, 64));
    knet_swap(d_b_h_next_here, d_b_h_prev_here);
    knet_swap(d_b_cell_next_here, d_b_cell_prev_here);
  }
  // d:b/h f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_h_state, d_b_h_next_here, 64 * m->batch * sizeof(float)));
  // d:b/cell f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_cell_state, d_b_cell_next_here, 64 * m->batch * sizeof(float)));
  // After the loop: again all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // d:a f32[32,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 32, N, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block,
        256, m->d_a, 32));
    // d:b/input/b@block f32[256,64], d:b/input/c@block f32[256]
    TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_BGRADA, m->d_b_input_c_block, CUBLAS_OP_N, CUBLAS_OP_T, 256,
        64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->d_b_input_b_block, 256));
    if (!m->product[0].fused) TRY(knet_launch(kernels.sum_columns, 256, 128, 0, m->stream, m->d_b_input_c_block,
        m->d_b_input_tmp4_block, 256, N));
    // d:b/input/a@block f32[256,32]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 256, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32,
        m->d_b_input_a_block, 256));
    // charlm.knet:5: a = wdot(x; out=embedding)
    // d:a/w f32[32,65]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 32, 65, N, m->d_a, 32, m->x, 65, m->d_a_w, 32));
    TRY(knet_zero(m->d_wbf_w, 65, 64, 65, m->stream));  // not reached
    TRY(knet_zero(m->d_wbf_b, 65, 1, 65, m->stream));  // not reached
    TRY(finish_bucket(m, 0));
  }
  return 0;
}

// The backward pass from softloss, under no condition.
int backward_softloss(knet_model* m, const float* mask, unsigned long long want) {
  const int N = m->batch;
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // d:wbf/tmp2 f32[65,N]
  TRY(knet_launch(kernels.softloss_and_back, knet_blocks(65 * N), 256, 0, m->stream, m->partials, m->d_wbf_tmp2,
      m->return_, m->gold, mask, N, 65 * N));
  // @loss f32[]
  TRY(knet_launch(kernels.total, 1, 256, 0, m->stream, m->loss, m->partials, knet_blocks(65 * N), 1.0 / N));
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h f32[64,N], from the step after
  TRY(take_state_gradient(m, m->unwinding && m->later, m->d_b_h_next, m->d_b_h_state, 64 * N * sizeof(float)));
  // d:b/cell f32[64,N], from the step after
  TRY(take_state_gradient(m, m->unwinding && m->later, m->d_b_cell_next, m->d_b_cell_state,
      64 * N * sizeof(float)));
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // d:wbf/w f32[65,64], d:wbf/b f32[65]
  TRY(multiply(m, &m->product[1], CUBLASLT_EPILOGUE_BGRADA, m->d_wbf_b, CUBLAS_OP_N, CUBLAS_OP_T, 65, 64, N,
      m->d_wbf_tmp2, 65, m->b_h, 64, m->d_wbf_w, 65));
  if (!m->product[1].fused) TRY(knet_launch(kernels.sum_columns, 65, 128, 0, m->stream, m->d_wbf_b, m->d_wbf_tmp2,
      65, N));
  // d:b/h f32[64,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 65, m->wbf_w, 65, m->d_wbf_tmp2, 65, m->d_b_h, 64));
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/input/tmp4 f32[64,N]
  TRY(knet_launch_each(kernels.fused_d_input_tmp4_2, 64 * N, m->stream, m->d_b_cell_prev,
      m->d_b_input_tmp4_block + 192, m->d_b_input_tmp4_block + 128, m->d_b_input_tmp4_block + 64,
      m->d_b_input_tmp4_block, m->d_b_h_next, m->d_b_h, m->b_output, m->b_tmp3, m->d_b_cell_next, m->b_forget,
      m->b_cell_prev, m->b_newmem, m->b_input));
  // d:b/h@prev f32[64,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block,
      256, m->d_b_h_prev, 64));
  // d:a f32[32,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 32, N, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block,
      256, m->d_a, 32));
  // d:b/input/b@block f32[256,64], d:b/input/c@block f32[256]
  TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_BGRADA, m->d_b_input_c_block, CUBLAS_OP_N, CUBLAS_OP_T, 256,
      64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->d_b_input_b_block, 256));
  if (!m->product[0].fused) TRY(knet_launch(kernels.sum_columns, 256, 128, 0, m->stream, m->d_b_input_c_block,
      m->d_b_input_tmp4_block, 256, N));
  // d:b/input/a@block f32[256,32]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 256, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32,
      m->d_b_input_a_block, 256));
  // charlm.knet:5: a = wdot(x; out=embedding)
  // d:a/w f32[32,65]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 32, 65, N, m->d_a, 32, m->x, 65, m->d_a_w, 32));
  TRY(finish_bucket(m, 0));
  if (want & 1) {
    // d:x f32[65,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 65, N, 32, m->a_w, 32, m->d_a, 32, m->d_x, 65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_h_state, m->d_b_h_prev, 64 * N * sizeof(float)));
  // d:b/cell f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_cell_state, m->d_b_cell_prev, 64 * N * sizeof(float)));
  if (want & 1) m->input_gradients[0] = m->d_x;
  return 0;
}

// The backward pass through a whole sequence from softloss, under no condition.
int backseq_softloss(knet_model* m, const float* mask, unsigned long long) {
  // Before the loop over time: the columns of all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
    // d:wbf/tmp2 f32[65,N]
    TRY(knet_launch(kernels.softloss_and_back, knet_blocks(65 * N), 256, 0, m->stream, m->partials, m->d_wbf_tmp2,
        m->return_, m->gold, mask, m->batch, 65 * N));
    // @loss f32[]
    TRY(knet_launch(kernels.total, 1, 256, 0, m->stream, m->loss, m->partials, knet_blocks(65 * N), 1.0 / N));
    // d:wbf/w f32[65,64], d:wbf/b f32[65]
    TRY(multiply(m, &m->product[1], CUBLASLT_EPILOGUE_BGRADA, m->d_wbf_b, CUBLAS_OP_N, CUBLAS_OP_T, 65, 64, N,
        m->d_wbf_tmp2, 65, m->b_h, 64, m->d_wbf_w, 65));
    if (!m->product[1].fused) TRY(knet_launch(kernels.sum_columns, 65, 128, 0, m->stream, m->d_wbf_b, m->d_wbf_tmp2,
        65, N));
    // d:b/h f32[64,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 65, m->wbf_w, 65, m->d_wbf_tmp2, 65, m->d_b_h, 64));
  }
  float *d_b_h_next_here = m->d_b_h_next, *d_b_h_prev_here = m->d_b_h_prev;
  // d:b/h f32[64,N], from the step after
  TRY(take_state_gradient(m, m->later, d_b_h_next_here, m->d_b_h_state, 64 * m->batch * sizeof(float)));
  float *d_b_cell_next_here = m->d_b_cell_next, *d_b_cell_prev_here = m->d_b_cell_prev;
  // d:b/cell f32[64,N], from the step after
  TRY(take_state_gradient(m, m->later, d_b_cell_next_here, m->d_b_cell_state, 64 * m->batch * sizeof(float)));
  for (int step = m->steps - 1; step >= 0; step--) {
    const int N = m->batch, at = N * step;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // d:b/input/tmp4 f32[64,N]
    TRY(knet_launch_each(kernels.fused_d_input_tmp4_2, 64 * N, m->stream, d_b_cell_prev_here,
        m->d_b_input_tmp4_block + 192 + 256 * at, m->d_b_input_tmp4_block + 128 + 256 * at,
        m->d_b_input_tmp4_block + 64 + 256 * at, m->d_b_input_tmp4_block + 256 * at, d_b_h_next_here,
        m->d_b_h + 64 * at, m->b_output + 64 * at, m->b_tmp3 + 64 * at, d_b_cell_next_here, m->b_forget + 64 * at,
        m->b_cell_prev + 64 * at, m->b_newmem + 64 * at, m->b_input + 64 * at));
    // d:b/h@prev f32[64,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 256, m->b_input_b_block, 256,
        m->d_b_input_tmp4_block + 256 * at, 256, d_b_h_prev_here, 64));
    knet_swap(d_b_h_next_here, d_b_h_prev_here);
    knet_swap(d_b_cell_next_here, d_b_cell_prev_here);
  }
  // d:b/h f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_h_state, d_b_h_next_here, 64 * m->batch * sizeof(float)));
  // d:b/cell f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_cell_state, d_b_cell_next_here, 64 * m->batch * sizeof(float)));
  // After the loop: again all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // d:a f32[32,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 32, N, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block,
        256, m->d_a, 32));
    // d:b/input/b@block f32[256,64], d:b/input/c@block f32[256]
    TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_BGRADA, m->d_b_input_c_block, CUBLAS_OP_N, CUBLAS_OP_T, 256,
        64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->d_b_input_b_block, 256));
    if (!m->product[0].fused) TRY(knet_launch(kernels.sum_columns, 256, 128, 0, m->stream, m->d_b_input_c_block,
        m->d_b_input_tmp4_block, 256, N));
    // d:b/input/a@block f32[256,32]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 256, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32,
        m->d_b_input_a_block, 256));
    // charlm.knet:5: a = wdot(x; out=embedding)
    // d:a/w f32[32,65]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 32, 65, N, m->d_a, 32, m->x, 65, m->d_a_w, 32));
    TRY(finish_bucket(m, 0));
  }
  return 0;
}

// The backward pass from softloss, under dropout.
int backward_softloss_dropout(knet_model* m, const float* mask, unsigned long long want) {
  const int N = m->batch;
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // d:wbf/tmp2 f32[65,N]
  TRY(knet_launch(kernels.softloss_and_back, knet_blocks(65 * N), 256, 0, m->stream, m->partials, m->d_wbf_tmp2,
      m->return_, m->gold, mask, N, 65 * N));
  // @loss f32[]
  TRY(knet_launch(kernels.total, 1, 256, 0, m->stream, m->loss, m->partials, knet_blocks(65 * N), 1.0 / N));
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h f32[64,N], from the step after
  TRY(take_state_gradient(m, m->unwinding && m->later, m->d_b_h_next, m->d_b_h_state, 64 * N * sizeof(float)));
  // d:b/cell f32[64,N], from the step after
  TRY(take_state_gradient(m, m->unwinding && m->later, m->d_b_cell_next, m->d_b_cell_state,
      64 * N * sizeof(float)));
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // d:wbf/w f32[65,64], d:wbf/b f32[65]
  TRY(multiply(m, &m->product[2], CUBLASLT_EPILOGUE_BGRADA, m->d_wbf_b, CUBLAS_OP_N, CUBLAS_OP_T, 65, 64, N,
      m->d_wbf_tmp2, 65, m->c_return, 64, m->d_wbf_w, 65));
  if (!m->product[2].fused) TRY(knet_launch(kernels.sum_columns, 65, 128, 0, m->stream, m->d_wbf_b, m->d_wbf_tmp2,
      65, N));
  // d:c/return f32[64,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 65, m->wbf_w, 65, m->d_wbf_tmp2, 65, m->d_c_return,
      64));
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/input/tmp4 f32[64,N]
  TRY(knet_launch_each(kernels.fused_d_input_tmp4_3, 64 * N, m->stream, m->d_b_cell_prev,
      m->d_b_input_tmp4_block + 192, m->d_b_input_tmp4_block + 128, m->d_b_input_tmp4_block + 64,
      m->d_b_input_tmp4_block, m->d_c_return, m->c_tmp1, m->d_b_h_next, m->b_output, m->b_tmp3, m->d_b_cell_next,
      m->b_forget, m->b_cell_prev, m->b_newmem, m->b_input));
  // d:b/h@prev f32[64,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block,
      256, m->d_b_h_prev, 64));
  // d:a f32[32,N]
  TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 32, N, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block,
      256, m->d_a, 32));
  // d:b/input/b@block f32[256,64], d:b/input/c@block f32[256]
  TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_BGRADA, m->d_b_input_c_block, CUBLAS_OP_N, CUBLAS_OP_T, 256,
      64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->d_b_input_b_block, 256));
  if (!m->product[0].fused) TRY(knet_launch(kernels.sum_columns, 256, 128, 0, m->stream, m->d_b_input_c_block,
      m->d_b_input_tmp4_block, 256, N));
  // d:b/input/a@block f32[256,32]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 256, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32,
      m->d_b_input_a_block, 256));
  // charlm.knet:5: a = wdot(x; out=embedding)
  // d:a/w f32[32,65]
  TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 32, 65, N, m->d_a, 32, m->x, 65, m->d_a_w, 32));
  TRY(finish_bucket(m, 0));
  if (want & 1) {
    // d:x f32[65,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 65, N, 32, m->a_w, 32, m->d_a, 32, m->d_x, 65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_h_state, m->d_b_h_prev, 64 * N * sizeof(float)));
  // d:b/cell f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_cell_state, m->d_b_cell_prev, 64 * N * sizeof(float)));
  if (want & 1) m->input_gradients[0] = m->d_x;
  return 0;
}

// The backward pass through a whole sequence from softloss, under dropout.
int backseq_softloss_dropout(knet_model* m, const float* mask, unsigned long long) {
  // Before the loop over time: the columns of all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
    // d:wbf/tmp2 f32[65,N]
    TRY(knet_launch(kernels.softloss_and_back, knet_blocks(65 * N), 256, 0, m->stream, m->partials, m->d_wbf_tmp2,
        m->return_, m->gold, mask, m->batch, 65 * N));
    // @loss f32[]
    TRY(knet_launch(kernels.total, 1, 256, 0, m->stream, m->loss, m->partials, knet_blocks(65 * N), 1.0 / N));
    // d:wbf/w f32[65,64], d:wbf/b f32[65]
    TRY(multiply(m, &m->product[2], CUBLASLT_EPILOGUE_BGRADA, m->d_wbf_b, CUBLAS_OP_N, CUBLAS_OP_T, 65, 64, N,
        m->d_wbf_tmp2, 65, m->c_return, 64, m->d_wbf_w, 65));
    if (!m->product[2].fused) TRY(knet_launch(kernels.sum_columns, 65, 128, 0, m->stream, m->d_wbf_b, m->d_wbf_tmp2,
        65, N));
    // d:c/return f32[64,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 65, m->wbf_w, 65, m->d_wbf_tmp2, 65, m->d_c_return,
        64));
    // charlm.knet:7: c = drop(b; pdrop=pdrop)
    TRY(knet_launch_each(kernels.mul, 64 * N, m->stream, m->d_b_h, m->d_c_return, m->c_tmp1));  // d:b/h f32[64,N]
  }
  float *d_b_h_next_here = m->d_b_h_next, *d_b_h_prev_here = m->d_b_h_prev;
  // d:b/h f32[64,N], from the step after
  TRY(take_state_gradient(m, m->later, d_b_h_next_here, m->d_b_h_state, 64 * m->batch * sizeof(float)));
  float *d_b_cell_next_here = m->d_b_cell_next, *d_b_cell_prev_here = m->d_b_cell_prev;
  // d:b/cell f32[64,N], from the step after
  TRY(take_state_gradient(m, m->later, d_b_cell_next_here, m->d_b_cell_state, 64 * m->batch * sizeof(float)));
  for (int step = m->steps - 1; step >= 0; step--) {
    const int N = m->batch, at = N * step;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // d:b/input/tmp4 f32[64,N]
    TRY(knet_launch_each(kernels.fused_d_input_tmp4_2, 64 * N, m->stream, d_b_cell_prev_here,
        m->d_b_input_tmp4_block + 192 + 256 * at, m->d_b_input_tmp4_block + 128 + 256 * at,
        m->d_b_input_tmp4_block + 64 + 256 * at, m->d_b_input_tmp4_block + 256 * at, d_b_h_next_here,
        m->d_b_h + 64 * at, m->b_output + 64 * at, m->b_tmp3 + 64 * at, d_b_cell_next_here, m->b_forget + 64 * at,
        m->b_cell_prev + 64 * at, m->b_newmem + 64 * at, m->b_input + 64 * at));
    // d:b/h@prev f32[64,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 64, N, 256, m->b_input_b_block, 256,
        m->d_b_input_tmp4_block + 256 * at, 256, d_b_h_prev_here, 64));
    knet_swap(d_b_h_next_here, d_b_h_prev_here);
    knet_swap(d_b_cell_next_here, d_b_cell_prev_here);
  }
  // d:b/h f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_h_state, d_b_h_next_here, 64 * m->batch * sizeof(float)));
  // d:b/cell f32[64,N], for the step before
  TRY(hand_state_gradient(m, m->d_b_cell_state, d_b_cell_next_here, 64 * m->batch * sizeof(float)));
  // After the loop: again all steps at once.
  {
    const int N = m->batch * m->steps;
    // charlm.knet:6: b = lstm(a; out=hidden)
    // d:a f32[32,N]
    TRY(knet_gemm(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, 32, N, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block,
        256, m->d_a, 32));
    // d:b/input/b@block f32[256,64], d:b/input/c@block f32[256]
    TRY(multiply(m, &m->product[0], CUBLASLT_EPILOGUE_BGRADA, m->d_b_input_c_block, CUBLAS_OP_N, CUBLAS_OP_T, 256,
        64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->d_b_input_b_block, 256));
    if (!m->product[0].fused) TRY(knet_launch(kernels.sum_columns, 256, 128, 0, m->stream, m->d_b_input_c_block,
        m->d_b_input_tmp4_block, 256, N));
    // d:b/input/a@block f32[256,32]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 256, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32,
        m->d_b_input_a_block, 256));
    // charlm.knet:5: a = wdot(x; out=embedding)
    // d:a/w f32[32,65]
    TRY(knet_gemm(m->blas, CUBLAS_OP_N, CUBLAS_OP_T, 32, 65, N, m->d_a, 32, m->x, 65, m->d_a_w, 32));
    TRY(finish_bucket(m, 0));
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
  // a/w f32[32,65], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 2080, m->stream, m->a_w, m->clock, 0u, 0u, (-0.30618621784789724),
      0.30618621784789724, 2080, 0));
  // b/input/a f32[64,32], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 2048, m->stream, m->b_input_a_block, m->clock, 1u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/input/b f32[64,64], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 4096, m->stream, m->b_input_b_block, m->clock, 2u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/input/c f32[64], Constant(0.0)
  TRY(knet_launch_each(kernels.fill_constant, 64, m->stream, m->b_input_c, 0.0, 64, 0));
  // b/forget/a f32[64,32], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 2048, m->stream, m->b_input_a_block + 64, m->clock, 4u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/forget/b f32[64,64], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 4096, m->stream, m->b_input_b_block + 64, m->clock, 5u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/forget/c f32[64], Constant(1.0)
  TRY(knet_launch_each(kernels.fill_constant, 64, m->stream, m->b_forget_c, 1.0, 64, 0));
  // b/output/a f32[64,32], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 2048, m->stream, m->b_input_a_block + 128, m->clock, 7u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/output/b f32[64,64], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 4096, m->stream, m->b_input_b_block + 128, m->clock, 8u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/output/c f32[64], Constant(0.0)
  TRY(knet_launch_each(kernels.fill_constant, 64, m->stream, m->b_output_c, 0.0, 64, 0));
  // b/newmem/a f32[64,32], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 2048, m->stream, m->b_input_a_block + 192, m->clock, 10u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/newmem/b f32[64,64], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 4096, m->stream, m->b_input_b_block + 192, m->clock, 11u, 0u,
      (-0.21650635094610965), 0.21650635094610965, 64, 256));
  // b/newmem/c f32[64], Constant(0.0)
  TRY(knet_launch_each(kernels.fill_constant, 64, m->stream, m->b_newmem_c, 0.0, 64, 0));
  // wbf/w f32[65,64], Xavier()
  TRY(knet_launch_each(kernels.fill_uniform, 4160, m->stream, m->wbf_w, m->clock, 14u, 0u, (-0.21483446221182986),
      0.21483446221182986, 4160, 0));
  TRY(knet_launch_each(kernels.fill_constant, 65, m->stream, m->wbf_b, 0.0, 65, 0));  // wbf/b f32[65], Constant(0.0)
  return 0;
}

// The forward function of each variant, the one for a whole sequence or NULL, and whether it draws random numbers.
struct knet_forward_function {
  int (*run)(knet_model* m);
  int (*sequence)(knet_model* m);
  bool draws;
  const knet_buffer *places, *sequence_places;
};
const knet_forward_function forwards[] = {
    {forward, forwseq, false, places_0, sequence_places_0},
    {forward_dropout, forwseq_dropout, true, places_1, sequence_places_1},
};
// A backward function: the forward function and the loss that it belongs to, and where it reads what was wanted.
struct knet_backward_function {
  int variant, loss;
  int (*run)(knet_model* m, const float* mask, unsigned long long want);
  int (*sequence)(knet_model* m, const float* mask, unsigned long long want);  // for a whole sequence, or NULL
  knet_buffer gold;
  bool masked;  // whether it reads the mask
  const knet_buffer *places, *sequence_places;
};
const knet_backward_function backwards[] = {
    {0, KNET_ZERO, backward_zero, backseq_zero,
     {nullptr, 0, 0}, false, places_0_zero, sequence_places_0_zero},
    {0, KNET_SOFTLOSS, backward_softloss, backseq_softloss,
     {&knet_model::gold, 0, 65}, true, places_0_softloss, sequence_places_0_softloss},
    {1, KNET_ZERO, backward_zero, backseq_zero,
     {nullptr, 0, 0}, false, places_1_zero, sequence_places_1_zero},
    {1, KNET_SOFTLOSS, backward_softloss_dropout, backseq_softloss_dropout,
     {&knet_model::gold, 0, 65}, true, places_1_softloss, sequence_places_1_softloss},
    {0, 0, nullptr, nullptr, {nullptr, 0, 0}, false, nullptr, nullptr},
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
  release(f->values, code);  // the first begins their memory
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
  float** value = f->values;
  for (const knet_buffer* b = frames[f->variant]; b->place; b++) {
    *value++ = at;
    at += knet_round(b->fixed + b->column * room);
  }
  return 0;
}
// Of the frames that wait, the place of one for a forward function over so many steps, or of the end. Those of several
// steps that are too small are freed: the next ones will be larger too.
knet_frame** find_frame(knet_model* m, int variant, int batch, int steps, int* code) {
  knet_frame** place = &m->spare;
  while (knet_frame* f = *place) {
    if (steps > 1 && f->steps > 1 && f->room < batch * steps) {
      *place = f->below;
      free_frame(m, f, code);
    } else if (f->variant == variant && (f->steps > 1) == (steps > 1)) {
      return place;
    } else {
      place = &f->below;
    }
  }
  return place;
}
// A frame for so many steps of a forward function: one that waits, or a new one.
int take_frame(knet_model* m, int variant, int batch, int steps, knet_frame** frame) {
  int code = 0;
  knet_frame** const place = find_frame(m, variant, batch, steps, &code);
  if (code) return code;
  knet_frame* f = *place;
  if (f) {
    *place = f->below;
  } else {
    f = new (std::nothrow) knet_frame();
    if (!f) return knet_fail(KNET_MEMORY, "no memory for a step");
    f->variant = variant;
    f->room = batch * steps > m->capacity ? batch * steps : m->capacity;
    code = make_frame(f, f->room);
    if (code) {
      free_frame(m, f, &code);
      return code;
    }
  }
  f->below = nullptr;
  f->batch = batch;
  f->steps = f->left = steps;
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
// Makes frames for so many single steps to wait, so that no step finds no memory.
int make_frames(knet_model* m, int variant, int batch, int steps) {
  knet_frame* made = nullptr;
  int code = 0;
  while (!code && steps-- > 0) {
    knet_frame* f = nullptr;
    code = take_frame(m, variant, batch, 1, &f);
    if (!f) break;
    f->below = made;
    made = f;
  }
  if (code) free_frames(m, &made, &code);
  while (knet_frame* f = made) {
    made = f->below;
    give_frame(m, f, &code);
  }
  return code;
}
// Points the model at the buffers in the frame, from one of its steps on.
void enter_frame(knet_model* m, const knet_frame* f, int first) {
  float* const* value = f->values;
  for (const knet_buffer* b = frames[f->variant]; b->place; b++) m->*b->place = *value++ + b->column * f->batch * first;
  m->variant = f->variant;
  m->batch = f->batch;
  m->steps = f->steps;
}
// Points the model at the buffers of a function: those in the frame, and the others at their places in the arena.
void use_frame(knet_model* m, const knet_frame* f, const knet_buffer* places, int first = 0) {
  const size_t later = (size_t)f->batch * (f->steps - 1);
  for (const knet_buffer* b = places; b->place; b++)
    m->*b->place = m->arena + b->fixed + b->column * f->batch + b->later * later;
  enter_frame(m, f, first);
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
  m->arena_room = 0;
  m->capacity = 0;
  m->last = nullptr;
  forget_input_gradients(m);
}
// Whether arrays of so many columns have more elements than are counted: in int.
bool is_too_large(double columns) {
  return columns * (double)buffers[sizeof buffers / sizeof *buffers - 1].column > 2130706432.0;
}
// Makes room for `batch` columns, of so many steps at once; on failure the model has no room for values outside of its
// frames, but its parameters, state and stack.
int reserve(knet_model* m, int batch, int steps = 1) {
  if (is_too_large((double)batch * steps))
    return knet_fail(KNET_ARGUMENT, "a batch of %d columns is too large: an array would have over 2130706432 elements",
                     batch);
  if (batch > m->capacity) {
    int code = 0;
    release_columns(m, &code);
    for (const knet_buffer* b = buffers; b->place && !code; b++)
      if (b->column) code = allocate(&(m->*b->place), batch * b->column);
    if (code) {
      release_columns(m, &code);
      return code;
    }
    m->capacity = batch;
  }
  const size_t room = arena_elements(batch, steps);
  if (room > m->arena_room) {
    int code = 0;
    m->memory++;
    m->arena_room = 0;
    forget_input_gradients(m);
    release(&m->arena, &code);
    if (!code) code = allocate(&m->arena, room);
    if (code) return code;
    m->arena_room = room;
  }
  return 0;
}
// Whether the state is one of so many columns, or zero.
int check_state(const knet_model* m, int batch) {
  if (!m->state_batch || m->state_batch == batch) return 0;
  return knet_fail(KNET_ORDER, "the state has %d columns and the batch %d; reset comes before another batch size",
                   m->state_batch, batch);
}
// Zeroes the state of so many columns, or, with none, the state whose size does not depend on the batch.
int zero_state(knet_model* m, int batch) {
  for (const knet_array* s = states; s->name; s++)
    if (batched(*s) == (batch > 0))
      TRY(cudaMemsetAsync(m->*s->place, 0, elements(*s, batch) * sizeof(float), m->stream));
  return 0;
}
// Makes the state, zero, for a sequence of so many columns, where there is none yet.
int begin_state(knet_model* m, int batch) {
  if (m->state_batch) return 0;
  int code = 0;
  if (batch > m->state_room) {
    m->state_room = 0;
    m->memory++;
    for (const knet_array* s = states; s->name; s++)
      if (batched(*s)) release(&(m->*s->place), &code);
    for (const knet_array* s = states; s->name && !code; s++)
      if (batched(*s)) code = allocate(&(m->*s->place), elements(*s, batch));
    if (code) return code;
    m->state_room = batch;
  }
  TRY(zero_state(m, batch));
  m->state_batch = batch;
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
  return a.batch == b.batch && a.loss == b.loss && a.flags == b.flags && a.memory == b.memory && a.want == b.want &&
         a.first == b.first && a.steps == b.steps;
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
  if (g && !g->exec && !g->refused && (seen || m->graphs == 2))
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
  const dim3 squares(17, PARAMETERS), blocks(17, PARAMETERS);
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
  TRY(allocate(&m->partials, 256));
  TRY(allocate(&m->squares, 1));
  TRY(allocate(&m->updates, PARAMETERS));
  m->sent = new (std::nothrow) knet_training[PARAMETERS];
  if (!m->sent) return knet_fail(KNET_MEMORY, "no memory for a model");
  memset((void*)m->sent, 0xff, PARAMETERS * sizeof *m->sent);  // what no options come to
  TRY(allocate(&m->clock, 1));
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->fixed) TRY(allocate(&(m->*b->place), b->fixed));
  TRY(zero_state(m, 0));
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
  for (const knet_array* s = states; s->name; s++) release(&(m->*s->place), code);
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
  if (kind == KNET_VALUE) enter_frame(m, m->last, m->last->steps - 1);  // where all stands that has a name
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
  if (kind == KNET_STATE) {
    *batch = m->state_batch;
    if (batched(**array) && !*batch)
      return knet_fail(KNET_ORDER, "there is no state: it is zero until a forward call or set_state");
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
    const size_t bytes = elements(inputs[i], m->batch * m->steps) * sizeof(float);
    const float* const from = arrays[i] + from_column(inputs[i], first);
    TRY(cudaMemcpyAsync(m->*inputs[i].place, from, bytes, cudaMemcpyDefault, m->stream));
  }
  if (forwards[m->variant].draws) TRY(set_clock(m));
  return 0;
}
// Runs a forward function in a frame and copies what the model returns.
int run_in(knet_model* m, knet_frame* f, const knet_real* const* arrays, knet_real* output) {
  bool wait = false;
  if (output) TRY(in_host_memory(output, &wait));
  const knet_forward_function& forward = forwards[f->variant];
  use_frame(m, f, f->steps > 1 ? forward.sequence_places : forward.places);
  TRY(give_inputs(m, arrays, 0));
  knet_call call = {};
  call.batch = m->batch;
  call.loss = -1;
  call.steps = m->steps;
  const auto run = m->steps > 1 ? forward.sequence : forward.run;
  TRY(run_call(m, &f->graphs, call, [=] { return run(m); }));
  if (!output) return 0;
  const knet_array* value = find(values[m->variant], "return");
  if (value) TRY(copy_array(m, *value, data_of(m, *value), output, m->batch * m->steps, true));
  if (wait) TRY(cudaStreamSynchronize(m->stream));
  return 0;
}
// Whether a forward call can run; *variant: the forward function for the conditions.
int check_step(const knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, int* variant) {
  // For every setting of the conditions: which forward function it runs.
  static const unsigned short variant_of[1 << CONDITIONS] = {0, 1};
  TRY(check_model(m));
  if (conditions >> CONDITIONS) return knet_fail(KNET_ARGUMENT, "there is no such condition");
  *variant = variant_of[conditions];
  if (*variant >= int(sizeof values / sizeof *values))
    return knet_fail(KNET_ARGUMENT, "there is no such setting of the conditions");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  for (int i = 0; i < INPUTS; i++)
    if (!arrays || !arrays[i]) return knet_fail(KNET_ARGUMENT, "input %s is NULL", inputs[i].name);
  TRY(check_state(m, batch));
  return 0;
}
// Makes ready for a forward call, or so many steps at once: a frame for it, and state where there is none yet.
int begin_step(knet_model* m, int variant, int batch, int steps, knet_frame** frame) {
  TRY(reserve(m, batch, steps));
  int code = 0;
  m->last = nullptr;
  forget_record(m, &code);
  forget_input_gradients(m);
  if (!code) code = take_frame(m, variant, batch, steps, frame);
  if (!code) code = begin_state(m, batch);
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
// A forward call; with `push`, a step of a sequence, or so many steps at once.
int step_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output,
                 bool push, int steps = 1) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, batch, &variant));
  knet_frame* f = nullptr;
  int code = begin_step(m, variant, batch, steps, &f);
  if (!code) {
    m->call++;
    code = run_in(m, f, arrays, output);
    m->call += code ? -1 : steps - 1;
  }
  if (code) return give_up_step(m, f, code);
  m->last = f;
  if (!push) {
    m->record = f;
    return 0;
  }
  if (!m->stack) m->later = false;
  f->below = m->stack;
  m->stack = f;
  return 0;
}

// Runs a backward function through so many steps of the frame in use; `add` to the gradients that there are, and `sum`
// them over all ranks, outside a sequence with the losses.
int run_back(knet_model* m, knet_frame* f, const knet_backward_function* b, const knet_real* gold,
             const knet_real* mask, unsigned long long input_grads, bool add, bool sum,
             bool pop, int steps) {
  knet_call call = {};
  call.batch = m->batch;
  call.loss = b->loss;
  call.want = input_grads;
  call.first = f->left - steps;
  call.steps = steps;
  const int columns = m->batch * steps;
  const auto run = steps > 1 ? b->sequence : b->run;
  if (b->gold.place) {
    const size_t bytes = (b->gold.fixed + b->gold.column * columns) * sizeof(float);
    TRY(cudaMemcpyAsync(m->*b->gold.place, gold, bytes, cudaMemcpyDefault, m->stream));
  }
  if (!b->masked) mask = nullptr;
  if (mask) {
    TRY(cudaMemcpyAsync(m->mask, mask, columns * sizeof(float), cudaMemcpyDefault, m->stream));
    mask = m->mask;
    call.flags |= KNET_MASKED;
  }
  call.flags |= (m->unwinding ? KNET_UNWINDING : 0) | (m->later ? KNET_LATER : 0);
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
    int code = run(m, mask, input_grads);
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
// A backward pass through the last forward call; with `pop`, through the newest step of the sequence, or so many.
int step_backward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
                  unsigned long long input_grads, knet_real* loss_value, bool pop, int steps = 1) {
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
  TRY(reserve(m, f->batch, steps));
  use_frame(m, f, steps > 1 ? b->sequence_places : b->places, f->left - steps);
  forget_input_gradients(m);
  const bool add = pop && m->gradients;
  m->gradients = add;
  m->unwinding = pop;
  // Over all ranks, where no step of the sequence is left that adds to them.
  const bool sum = m->communicator && !(pop && (f->below || f->left > steps));
  int code = run_back(m, f, b, gold, mask, input_grads, add, sum, pop, steps);
  if (!code && loss_value) code = copy_loss(m, loss, loss_value);
  if (code) {
    settle(m, &code);
    return code;
  }
  m->gradients = true;
  m->input_batch = f->batch;
  if (pop) {
    f->left -= steps;
    if (!f->left) {
      m->stack = f->below;
      give_frame(m, f, &code);
    }
    m->later = true;
  }
  return code;
}

// Takes so many of the newest steps off the stack, as if they had not been made; but the state stays theirs.
void take_back(knet_model* m, int steps, int* code) {
  for (m->call -= steps; steps > 0; steps--) {
    knet_frame* const f = m->stack;
    m->stack = f->below;
    give_frame(m, f, code);
  }
}
// A sequence forward: at once where the forward function has one for that beside it, else step by step.
int sequence_forward(knet_model* m, unsigned conditions, const float* const* arrays, int batch, int steps,
                     float* output) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, batch, &variant));
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  if (steps > 1 && forwards[variant].sequence && !is_too_large((double)batch * steps))
    return step_forward(m, conditions, arrays, batch, output, true, steps);
  const knet_array* const value = find(values[variant], "return");
  TRY(reserve(m, batch));
  int made = make_frames(m, variant, batch, steps);
  if (made == KNET_MEMORY) release_columns(m, &made);
  TRY(made);
  for (int t = 0; t < steps; t++) {
    const float* given[INPUTS + 1];
    for (int i = 0; i < INPUTS; i++) given[i] = arrays[i] + (batched(inputs[i]) ? elements(inputs[i], batch) * t : 0);
    float* const to = output && value ? output + elements(*value, batch) * t : nullptr;
    int code = step_forward(m, conditions, given, batch, to, true);  // only the first can find no memory
    if (code) {
      take_back(m, t, &code);
      return code;
    }
  }
  return 0;
}
// Back through the newest steps: those at once that were computed at once, if the backward function has one for that.
// Where a loss is asked for, it is the mean of the steps'.
int sequence_backward(knet_model* m, int loss, const float* gold, const float* mask, int steps,
                      float* loss_value) {
  TRY(check_model(m));
  TRY(check_loss(loss, gold));
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  int left = steps, runs = 0;
  size_t columns = 0;  // of all steps, which may be more than one array has
  const knet_backward_function* b = nullptr;
  for (const knet_frame* f = m->stack; f && left > 0; f = f->below) {
    TRY(find_way_back(f->variant, loss, &b));
    TRY(reserve(m, f->batch, f->steps));  // so that nothing fails between two steps
    const int of_frame = f->left < left ? f->left : left;
    columns += (size_t)f->batch * of_frame;
    runs += of_frame == f->steps && b->sequence ? 1 : of_frame;
    left -= of_frame;
  }
  if (left > 0) return knet_fail(KNET_ORDER, "the stack has %d steps, not %d", steps - left, steps);
  if (m->gradients || runs > 1) TRY(make_sums(m));
  double sum = 0;  // of the steps' losses
  for (left = steps; left > 0;) {
    knet_frame* const f = m->stack;
    TRY(find_way_back(f->variant, loss, &b));
    const bool whole = f->steps > 1 && f->left == f->steps && f->steps <= left && b->sequence;
    const int now = whole ? f->steps : 1;
    columns -= (size_t)f->batch * now;
    left -= now;
    const knet_array* const value = find(values[f->variant], "return");
    const float* const wanted = gold && value ? gold + from_column(*value, columns) : gold;
    const float* const weights = mask ? mask + columns : nullptr;
    float mean = 0;
    float* const place = loss_value ? &mean : nullptr;
    TRY(step_backward(m, loss, wanted, weights, 0, place, true, now));
    sum += (double)mean * now;
  }
  if (loss_value) *loss_value = (float)(sum / steps);
  return 0;
}
// Empties the stack and forgets the gradients.
void forget_sequence(knet_model* m, int* code) {
  while (knet_frame* f = m->stack) {
    m->stack = f->below;
    give_frame(m, f, code);
  }
  m->later = false;
  m->gradients = false;
  forget_input_gradients(m);
}

// ---- training. A step, that is forward, back and update for a minibatch or a segment of a sequence, is one graph:
// between two of them the host copies the next columns and launches it.

// The work of a step in a frame.
int run_training(knet_model* m, const knet_frame* f, const knet_backward_function* b, unsigned flags) {
  const knet_forward_function& forward = forwards[f->variant];
  const bool whole = f->steps > 1;
  use_frame(m, f, whole ? forward.sequence_places : forward.places);
  TRY(whole ? forward.sequence(m) : forward.run(m));
  use_frame(m, f, whole ? b->sequence_places : b->places);
  TRY((whole ? b->sequence : b->run)(m, nullptr, 0));
  if (flags & KNET_SUMMING) TRY(end_sums(m, false, true));
  return run_update(m, flags);
}
// Copies the columns of a step, from `first` on, to where its frame has places for them.
int give_columns(knet_model* m, const knet_frame* f, const knet_backward_function* b, const knet_real* const* arrays,
                 const knet_real* gold, size_t first) {
  const bool whole = f->steps > 1;
  use_frame(m, f, whole ? b->sequence_places : b->places);
  if (b->gold.place) {
    const size_t columns = (size_t)m->batch * m->steps;
    const size_t bytes = (b->gold.fixed + b->gold.column * columns) * sizeof(float);
    const float* const from = gold + b->gold.column * first;
    TRY(cudaMemcpyAsync(m->*b->gold.place, from, bytes, cudaMemcpyDefault, m->stream));
  }
  use_frame(m, f, whole ? forwards[f->variant].sequence_places : forwards[f->variant].places);
  return give_inputs(m, arrays, first);
}
// A step for so many columns from `first` on, in a segment for so many of each of its steps; `loss`: where on the
// device its loss goes, or NULL.
int step_training(knet_model* m, const knet_backward_function* b, const knet_real* const* arrays, const knet_real* gold,
                  size_t first, int batch, double gclip, double gscale, float* loss, int steps = 1) {
  knet_frame* f = nullptr;
  int code = begin_step(m, b->variant, batch, steps, &f);
  knet_call call = {};
  call.batch = batch;
  call.loss = b->loss;
  call.steps = steps;
  call.flags = KNET_TRAINING | (m->communicator ? KNET_SUMMING | KNET_LOSSES : 0);
  m->by_bucket = m->communicator;
  m->training_step = true;
  m->unwinding = steps > 1;
  call.flags |= m->later ? KNET_LATER : 0;
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
  m->call += steps - 1;
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
  if (steps > 1 && columns % batch)
    return knet_fail(KNET_ORDER, "the state has %d columns and the last minibatch %d", batch, columns % batch);
  if (losses) TRY(make_losses(m, steps));
  for (int k = 0; k < steps; k++) {
    const int first = k * batch, left = columns - first;
    TRY(step_training(m, b, arrays, gold, first, left < batch ? left : batch, gclip, gscale,
                      losses ? m->losses + k : nullptr));
  }
  return losses ? copy_losses(m, steps, losses) : 0;
}
// A sequence that is trained on: the columns of a step, all its steps, and the steps of a segment, after each of which
// the parameters change. The last segment may be shorter.
struct knet_time {
  int batch, steps, length;
};
int segments_of(const knet_time& time) { return (time.steps - 1) / time.length + 1; }
int steps_of(const knet_time& time, int segment) {
  const int left = time.steps - segment * time.length;
  return left < time.length ? left : time.length;
}
// Trains on segments by the calls that a user would make.
int train_by_calls(knet_model* m, int loss, unsigned conditions, const float* const* arrays, const float* gold,
                   const knet_array& value, const knet_time& time, double gclip, double gscale, float* losses) {
  const int segments = segments_of(time);
  for (int k = 0; k < segments; k++) {
    const size_t first = (size_t)time.batch * time.length * k;
    const int steps = steps_of(time, k);
    const float* given[INPUTS + 1];
    for (int i = 0; i < INPUTS; i++) given[i] = arrays[i] + from_column(inputs[i], first);
    TRY(sequence_forward(m, conditions, given, time.batch, steps, nullptr));
    m->gradients = false;  // those of another segment
    const float* const wanted = gold + from_column(value, first);
    TRY(sequence_backward(m, loss, wanted, nullptr, steps, losses ? losses + k : nullptr));
    TRY(update(m, gclip, gscale));
  }
  return 0;
}
// Whether each segment can be one step of training.
bool trains_at_once(const knet_backward_function* b, const knet_time& time) {
  const int steps = steps_of(time, 0);
  return steps == 1 || (forwards[b->variant].sequence && b->sequence && !is_too_large((double)time.batch * steps));
}
// Takes the memory of all segments, so that none lacks it when those before have changed the model.
int reserve_segments(knet_model* m, const knet_backward_function* b, const knet_time& time, bool at_once, bool losses,
                     double gclip, double gscale) {
  const int last = steps_of(time, segments_of(time) - 1);
  TRY(reserve(m, time.batch, at_once ? steps_of(time, 0) : 1));
  if (at_once) TRY(reserve(m, time.batch, last));
  if (last == 1) TRY(make_frames(m, b->variant, time.batch, 1));
  if (!at_once) TRY(make_sums(m));
  if (losses) TRY(make_losses(m, segments_of(time)));
  unsigned flags = 0;
  return begin_update(m, gclip, gscale, &flags);
}
// Trains on segments, each of them one step of training; waits for them where the losses are wanted.
int train_at_once(knet_model* m, const knet_backward_function* b, const knet_real* const* arrays,
                  const knet_real* gold, const knet_time& time, double gclip, double gscale, knet_real* losses) {
  const int segments = segments_of(time);
  for (int k = 0; k < segments; k++) {
    const size_t first = (size_t)time.batch * time.length * k;
    TRY(step_training(m, b, arrays, gold, first, time.batch, gclip, gscale, losses ? m->losses + k : nullptr,
                      steps_of(time, k)));
  }
  return losses ? copy_losses(m, segments, losses) : 0;
}
// Trains over a sequence. Afterwards the stack is empty and there are no gradients; but what failed for lack of memory
// has changed nothing.
int train_sequence(knet_model* m, const knet_backward_function* b, unsigned conditions, const knet_real* const* arrays,
                   const knet_real* gold, const knet_time& time, double gclip, double gscale, knet_real* losses) {
  const bool at_once = trains_at_once(b, time);
  if (!at_once && m->communicator)
    return knet_fail(KNET_ARGUMENT, "segments of %d steps do not run at once, and a step of training is over all ranks",
                     steps_of(time, 0));
  TRY(reserve_segments(m, b, time, at_once, losses && at_once, gclip, gscale));
  m->later = false;
  int code = at_once ? train_at_once(m, b, arrays, gold, time, gclip, gscale, losses)
                     : train_by_calls(m, b->loss, conditions, arrays, gold, *find(values[b->variant], "return"), time,
                                      gclip, gscale, losses);
  if (code == KNET_MEMORY && !m->stack) return code;
  forget_record(m, &code);
  forget_sequence(m, &code);
  return code;
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

const char* charlm_last_error(void) { return knet_error_text; }

int charlm_create(knet_model** model, unsigned long long seed, void* stream) {
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

int charlm_destroy(knet_model* m) {
  int code = 0;
  if (m) close_model(m, &code);
  return code;
}

int charlm_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch,
    knet_real* output) {
  return step_forward(m, conditions, arrays, batch, output, false);
}
int charlm_sforward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch,
    knet_real* output) {
  return step_forward(m, conditions, arrays, batch, output, true);
}
int charlm_backward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
    unsigned long long input_grads, knet_real* loss_value) {
  return step_backward(m, loss, gold, mask, input_grads, loss_value, false);
}
int charlm_sbackward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
    unsigned long long input_grads, knet_real* loss_value) {
  return step_backward(m, loss, gold, mask, input_grads, loss_value, true);
}

int charlm_forwseq(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, int steps,
    knet_real* output) {
  return sequence_forward(m, conditions, arrays, batch, steps, output);
}
int charlm_backseq(knet_model* m, int loss, const knet_real* gold, const knet_real* mask, int steps,
    knet_real* loss_value) {
  return sequence_backward(m, loss, gold, mask, steps, loss_value);
}

int charlm_update(knet_model* m, double gclip, double gscale) {
  TRY(check_model(m));
  if (!m->gradients) return knet_fail(KNET_ORDER, "update comes after backward");
  TRY(check_update(gclip, gscale));
  TRY(update(m, gclip, gscale));
  return 0;
}

int charlm_train(knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
    const knet_real* gold, int columns, int batch, double gclip, double gscale, knet_real* losses) {
  TRY(check_model(m));
  if (columns < 1) return knet_fail(KNET_ARGUMENT, "%d columns", columns);
  const knet_backward_function* b = nullptr;
  TRY(check_training(m, conditions, loss, arrays, gold, batch < columns ? batch : columns, gclip, gscale, &b));
  return train(m, b, arrays, gold, columns, batch, gclip, gscale, losses);
}
int charlm_trainseq(knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
    const knet_real* gold, int batch, int steps, int length, double gclip, double gscale, knet_real* losses) {
  const knet_backward_function* b = nullptr;
  TRY(check_training(m, conditions, loss, arrays, gold, batch, gclip, gscale, &b));
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  if (length < 1) return knet_fail(KNET_ARGUMENT, "segments of %d steps", length);
  if (m->stack) return knet_fail(KNET_ORDER, "there are steps on the stack: reset comes before training over time");
  return train_sequence(m, b, conditions, arrays, gold, {batch, steps, length}, gclip, gscale, losses);
}

int charlm_set_option(knet_model* m, const char* parameter, const char* option, double value) {
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

int charlm_configure(knet_model* m, const char* setting, int value) {
  TRY(check_model(m));
  if (!setting) return knet_fail(KNET_ARGUMENT, "the setting is NULL");
  const bool graphs = !strcmp(setting, "graphs"), sums = !strcmp(setting, "graph_sums");
  if (!graphs && !sums && strcmp(setting, "search") && strcmp(setting, "deterministic"))
    return knet_fail(KNET_ARGUMENT, "there is no setting %s", setting);
  if (value < 0 || value > (graphs ? 2 : 1)) return knet_fail(KNET_ARGUMENT, "setting %s cannot be %d", setting, value);
  if (graphs) m->graphs = value;
  if (sums) m->graph_sums = value;
  return 0;
}

int charlm_graphs(knet_model* m, int* captured, int* refused) {
  TRY(check_model(m));
  if (!captured || !refused) return knet_fail(KNET_ARGUMENT, "the place for the numbers is NULL");
  *captured = m->captured;
  *refused = m->refused;
  return 0;
}

int charlm_wait_for(knet_model* m, void* stream) {
  TRY(check_model(m));
  TRY(cudaEventRecord(m->event, (cudaStream_t)stream));
  TRY(cudaStreamWaitEvent(m->stream, m->event, 0));
  return 0;
}
int charlm_make_wait(knet_model* m, void* stream) {
  TRY(check_model(m));
  TRY(cudaEventRecord(m->event, m->stream));
  TRY(cudaStreamWaitEvent((cudaStream_t)stream, m->event, 0));
  return 0;
}

int charlm_reset(knet_model* m, int keepstate) {
  TRY(check_model(m));
  int code = 0;
  forget_sequence(m, &code);
  if (code || keepstate) return code;
  m->state_batch = 0;
  TRY(zero_state(m, 0));
  return code;
}

int charlm_clean(knet_model* m) {
  TRY(check_model(m));
  TRY(cudaStreamSynchronize(m->stream));
  int code = 0;
  forget_sequence(m, &code);
  release_columns(m, &code);
  for (float*& sum : m->sums) release(&sum, &code);
  return code;
}

int charlm_set_seed(knet_model* m, unsigned long long seed) {
  TRY(check_model(m));
  m->seed = seed;
  m->call = 0;
  return 0;
}

int charlm_dims(knet_model* m, int kind, const char* name, int* count, int* dims) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, kind, name, &a, &data, &batch));
  if (!count || !dims) return knet_fail(KNET_ARGUMENT, "the place for the dimensions is NULL");
  *count = a->count;
  for (int i = 0; i < a->count; i++) dims[i] = a->dims[i] < 0 ? batch : a->dims[i];
  return 0;
}

int charlm_get(knet_model* m, int kind, const char* name, knet_real* array) {
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

int charlm_set(knet_model* m, const char* name, const knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, KNET_PARAM, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  TRY(copy_array(m, *a, data, const_cast<float*>(array), batch, false));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

int charlm_set_state(knet_model* m, const char* name, const knet_real* array, int batch) {
  TRY(check_model(m));
  if (!name) return knet_fail(KNET_ARGUMENT, "the name is NULL");
  const knet_array* a = find(states, name);
  if (!a) return knet_fail(KNET_ARGUMENT, "there is no state called %s", name);
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  if (batched(*a)) {
    TRY(check_state(m, batch));
    TRY(begin_state(m, batch));
  }
  TRY(cudaMemcpyAsync(m->*a->place, array, elements(*a, batch) * sizeof(float), cudaMemcpyDefault, m->stream));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

int charlm_set_average(knet_model* m, int kind, const char* parameter, const knet_real* array) {
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

int charlm_adam_steps(knet_model* m, const char* parameter, int* steps) {
  knet_options* o = nullptr;
  TRY(find_options(m, parameter, &o));
  if (!steps) return knet_fail(KNET_ARGUMENT, "the place for the steps is NULL");
  *steps = o->adam_steps;
  return 0;
}

int charlm_set_adam_steps(knet_model* m, const char* parameter, int steps) {
  knet_options* o = nullptr;
  TRY(find_options(m, parameter, &o));
  if (steps < 0) return knet_fail(KNET_ARGUMENT, "%d steps of Adam", steps);
  o->adam_steps = steps;
  return 0;
}

int charlm_calls(knet_model* m, unsigned* calls) {
  TRY(check_model(m));
  if (!calls) return knet_fail(KNET_ARGUMENT, "the place for the number of calls is NULL");
  *calls = m->call;
  return 0;
}

int charlm_set_calls(knet_model* m, unsigned calls) {
  TRY(check_model(m));
  m->call = calls;
  return 0;
}

int charlm_set_columns(knet_model* m, int first) {
  TRY(check_model(m));
  if (first < 0) return knet_fail(KNET_ARGUMENT, "a first column %d", first);
  m->columns_before = first;
  return 0;
}

#ifdef KNET_NCCL
int charlm_set_communicator(knet_model* m, void* communicator) {
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

int charlm_save(knet_model* m, const char* path) {
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

int charlm_load(knet_model* m, const char* path) {
  TRY(check_model(m));
  if (!path) return knet_fail(KNET_ARGUMENT, "the path is NULL");
  knet_file f = {nullptr, knet_file_size(), 0};
  f.data = new (std::nothrow) char[f.size];
  if (!f.data) return knet_fail(KNET_MEMORY, "no memory for %zu bytes of parameters", f.size);
  int code = knet_file_read(&f, path);
  if (!code) code = knet_file_take(m, &f, path);
  if (code) settle(m, &code);
  delete[] f.data;
  return code;
}

int charlm_synchronize(knet_model* m) {
  TRY(check_model(m));
  TRY(cudaStreamSynchronize(m->stream));
  return 0;
}

#ifdef KNET_HOST_ONLY
int charlm_use_cubin(const void* image) {
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
