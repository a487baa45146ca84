// In [0, 1): the upper 24 bits of a word.
static inline __device__ double knet_uniform(unsigned word) { return __dmul_rn((double)(word >> 8), 1.0 / 16777216); }
