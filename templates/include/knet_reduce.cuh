// Reductions in a fixed order, so that the same input gives the same bits: no atomics.
template <class T> static inline __device__ T knet_warp_sum(T v) {
  for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
template <class T> static inline __device__ T knet_warp_max(T v) {
  for (int step = 16; step > 0; step >>= 1) v = knet_max(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}
// The sum over the block, in every thread. blockDim.x is a multiple of 32; every thread of the block must call it.
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
// The largest value of the block, in every thread; as above.
template <class T> static inline __device__ T knet_block_max(T v) {
  KNET_SHARED(T, part, 32);
  v = knet_warp_max(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  T top = part[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; warp++) top = knet_max(top, part[warp]);
  __syncthreads();
  return top;
}
