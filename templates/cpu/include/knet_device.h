// What the helpers for random numbers, which are the same in the CUDA that knetc emits, call on a device: operations
// that are rounded, and never become one with the next.
#define __device__
static inline double knet_rounded(double x) {
#if defined(__GNUC__) && defined(__SSE2__)
  __asm__("" : "+x"(x));
#elif defined(__GNUC__) && defined(__aarch64__)
  __asm__("" : "+w"(x));
#else
  volatile double kept = x;
  x = kept;
#endif
  return x;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline double __dadd_rn(double a, double b) { return knet_rounded(a + b); }
static inline double __dsub_rn(double a, double b) { return knet_rounded(a - b); }
static inline double __dmul_rn(double a, double b) { return knet_rounded(a * b); }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
