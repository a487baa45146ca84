// The functions of <math.h> under one name for float and double, and what the activations are made of.
inline __device__ float knet_exp(float x) { return expf(x); }
inline __device__ double knet_exp(double x) { return exp(x); }
inline __device__ float knet_log(float x) { return logf(x); }
inline __device__ double knet_log(double x) { return log(x); }
inline __device__ float knet_pow(float x, float p) { return powf(x, p); }
inline __device__ double knet_pow(double x, double p) { return pow(x, p); }
inline __device__ float knet_sqrt(float x) { return sqrtf(x); }
inline __device__ double knet_sqrt(double x) { return sqrt(x); }
inline __device__ float knet_tanh(float x) { return tanhf(x); }
inline __device__ double knet_tanh(double x) { return tanh(x); }
// The larger; a NaN wins, as it does in the reference interpreter.
template <class T> static inline __device__ T knet_max(T a, T b) { return a > b || a != a ? a : b; }
