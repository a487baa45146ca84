// Neighbours in an array, computed with together. How functions take them matters to nobody: all are in this file.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#if defined(__AVX512F__)
enum { KNET_REGISTER_BYTES = 64 };
#elif defined(__AVX__)
enum { KNET_REGISTER_BYTES = 32 };
#else
enum { KNET_REGISTER_BYTES = 16 };
#endif
template <class T, int BYTES>
struct knet_vector {
  typedef T type __attribute__((vector_size(BYTES)));
  typedef T loose __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));  // anywhere in an array
  static constexpr int lanes = BYTES / sizeof(T);
  static inline type load(const T* p) { return *(const loose*)p; }
  // The vector in a register, where it stays for several uses: the compiler would rather load it for each.
  static inline type held(type v) {
#if defined(__GNUC__) && defined(__SSE2__)
    if constexpr (BYTES <= KNET_REGISTER_BYTES) __asm__("" : "+x"(v));
#elif defined(__GNUC__) && defined(__aarch64__)
    if constexpr (BYTES <= KNET_REGISTER_BYTES) __asm__("" : "+w"(v));
#endif
    return v;
  }
  static inline void store(T* p, type v) { *(loose*)p = v; }
  // The vector with its first n lanes zero.
  static inline type without(type v, int n) {
    T a[lanes];
    memcpy(a, &v, sizeof a);
    for (int i = 0; i < n; i++) a[i] = 0;
    memcpy(&v, a, sizeof a);
    return v;
  }
  static inline type all(T value) { return value - type{}; }
};
