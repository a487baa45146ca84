// CUDA's arithmetic intrinsics, for `knet_device_emu.h`, which includes this file. Those with a rounding in their name
// are one operation each, rounded to nearest: emitted code is compiled with -ffp-contract=off, so that nothing here is
// fused, and the fast approximations are the exact functions.
#pragma once

// --- rounded operations ----------------------------------------------------------------------------------------------

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// --- conversions -----------------------------------------------------------------------------------------------------

static inline float __double2float_rn(double a) { return static_cast<float>(a); }
static inline float __uint2float_rn(unsigned int a) { return static_cast<float>(a); }
static inline float __int2float_rn(int a) { return static_cast<float>(a); }
static inline double __uint2double_rn(unsigned int a) { return static_cast<double>(a); }
static inline double __int2double_rn(int a) { return static_cast<double>(a); }

namespace knetemu __attribute__((visibility("hidden"))) {
template <class To, class From> To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits as another type");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace knetemu
static inline float __uint_as_float(unsigned int a) { return knetemu::bits<float>(a); }
static inline unsigned int __float_as_uint(float a) { return knetemu::bits<unsigned int>(a); }
static inline float __int_as_float(int a) { return knetemu::bits<float>(a); }
static inline int __float_as_int(float a) { return knetemu::bits<int>(a); }
static inline double __longlong_as_double(long long a) { return knetemu::bits<double>(a); }
static inline long long __double_as_longlong(double a) { return knetemu::bits<long long>(a); }

// --- integers --------------------------------------------------------------------------------------------------------

static inline unsigned int __umulhi(unsigned int a, unsigned int b) {
  return static_cast<unsigned int>(static_cast<unsigned long long>(a) * b >> 32);
}
static inline int __popc(unsigned int a) { return __builtin_popcount(a); }
static inline int __clz(int a) { return a ? __builtin_clz(static_cast<unsigned int>(a)) : 32; }
static inline int __ffs(int a) { return __builtin_ffs(a); }

// --- approximations and the rest -------------------------------------------------------------------------------------

// Macros, since glibc reserves some of these names for itself.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
template <class T> static inline T __ldg(const T* address) { return *address; }

template <class T, class U> static inline auto min(T a, U b) -> typename std::common_type<T, U>::type {
  using C = typename std::common_type<T, U>::type;
  return static_cast<C>(b) < static_cast<C>(a) ? static_cast<C>(b) : static_cast<C>(a);
}
template <class T, class U> static inline auto max(T a, U b) -> typename std::common_type<T, U>::type {
  using C = typename std::common_type<T, U>::type;
  return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
}
