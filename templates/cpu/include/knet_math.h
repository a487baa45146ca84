// Functions that the compiler can turn into vector code: no branch, no call; within 3 units in the last place, and
// right for NaN, infinity and numbers near zero.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
static inline float knet_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double knet_fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template <class T>
static inline T knet_fma(T a, T b, T c) {
  return a * b + c;
}
#endif
static inline int knet_bits(float x) {
  int i;
  memcpy(&i, &x, sizeof i);
  return i;
}
static inline long long knet_bits(double x) {
  long long i;
  memcpy(&i, &x, sizeof i);
  return i;
}
static inline float knet_from_bits(int i) {
  float x;
  memcpy(&x, &i, sizeof x);
  return x;
}
static inline double knet_from_bits(long long i) {
  double x;
  memcpy(&x, &i, sizeof x);
  return x;
}
// What differs between float and double: the bits of a fraction, the exponent's offset, a number that rounds what is
// added to it to a whole number, and ln 2 in two parts, the first short enough for exact products.
template <class T>
struct knet_number;
template <>
struct knet_number<float> {
  typedef int integer;
  typedef unsigned bits;
  static constexpr int fraction = 23, offset = 127;
  static constexpr float round = 12582912.0f, ln2_high = 0.693145751953125f, ln2_low = 1.4286068203094172e-06f;
  static constexpr float least = 1.17549435e-38f, largest_exp = 89.0f, smallest_exp = -104.0f, least_tanh = -32.0f;
};
template <>
struct knet_number<double> {
  typedef long long integer;
  typedef unsigned long long bits;
  static constexpr int fraction = 52, offset = 1023;
  static constexpr double round = 6755399441055744.0, ln2_high = 0.6931471803691238, ln2_low = 1.9082149292705877e-10;
  static constexpr double least = 2.2250738585072014e-308, largest_exp = 710.0, smallest_exp = -746.0,
                          least_tanh = -64.0;
};
//? knet_tanh
static inline float knet_copysign(float size, float sign) { return copysignf(size, sign); }
static inline double knet_copysign(double size, double sign) { return copysign(size, sign); }
//.
// e^r - 1 for |r| <= ln 2 / 2, by its series.
static inline float knet_expm1_series(float r) {
  float q = 1.0f / 5040;
  q = knet_fma(q, r, 1.0f / 720);
  q = knet_fma(q, r, 1.0f / 120);
  q = knet_fma(q, r, 1.0f / 24);
  q = knet_fma(q, r, 1.0f / 6);
  q = knet_fma(q, r, 0.5f);
  return knet_fma(q, r * r, r);
}
static inline double knet_expm1_series(double r) {
  double q = 1.0 / 6227020800;
  q = knet_fma(q, r, 1.0 / 479001600);
  q = knet_fma(q, r, 1.0 / 39916800);
  q = knet_fma(q, r, 1.0 / 3628800);
  q = knet_fma(q, r, 1.0 / 362880);
  q = knet_fma(q, r, 1.0 / 40320);
  q = knet_fma(q, r, 1.0 / 5040);
  q = knet_fma(q, r, 1.0 / 720);
  q = knet_fma(q, r, 1.0 / 120);
  q = knet_fma(q, r, 1.0 / 24);
  q = knet_fma(q, r, 1.0 / 6);
  q = knet_fma(q, r, 0.5);
  return knet_fma(q, r * r, r);
}
// x = n ln 2 + r: r, and n as the bits of n + round less those of round.
template <class T>
static inline T knet_reduce(T x, typename knet_number<T>::integer* n) {
  typedef knet_number<T> number;
  const T shifted = x * (T)1.4426950408889634 + number::round, whole = shifted - number::round;
  *n = knet_bits(shifted) - knet_bits((T)number::round);
  return knet_fma(-whole, (T)number::ln2_low, knet_fma(-whole, (T)number::ln2_high, x));
}
// 2^n.
template <class T>
static inline T knet_power_of_2(typename knet_number<T>::integer n) {
  typedef knet_number<T> number;
  // Shifted without a sign: of NaN and infinity n is any number.
  return knet_from_bits((typename number::integer)((typename number::bits)(n + number::offset) << number::fraction));
}
template <class T>
static inline T knet_exp(T x) {
  typedef knet_number<T> number;
  x = x > number::largest_exp ? number::largest_exp : x;
  x = x < number::smallest_exp ? number::smallest_exp : x;
  typename number::integer n;
  const T e = 1 + knet_expm1_series(knet_reduce(x, &n));
  const typename number::integer half = n / 2;  // in two steps, so that the largest and smallest come out right
  return e * knet_power_of_2<T>(half) * knet_power_of_2<T>(n - half);
}
//? knet_tanh
// With e = e^y at y = -2|x|: (1 - e) / (1 + e). Near 0, e - 1 keeps its digits, and far from it 2 e / (1 + e) does.
template <class T>
static inline T knet_tanh(T x) {
  typedef knet_number<T> number;
  const T size = x < 0 ? -x : x;
  T y = (T)-2 * size;
  y = y < number::least_tanh ? number::least_tanh : y;
  typename number::integer n;
  const T series = knet_expm1_series(knet_reduce(y, &n)), power = knet_power_of_2<T>(n);
  const T minus = knet_fma(power, series, power - 1), e = knet_fma(power, series, power);
  const bool far = size > (T)0.55;
  const T part = (far ? 2 * e : -minus) / (1 + e), value = far ? 1 - part : part;
  return knet_copysign(value, x);
}
//.
//? knet_log
// log((1 + s) / (1 - s)) / s - 2 over z = s^2, by its series.
static inline float knet_atanh_series(float z) {
  float q = 2.0f / 11;
  q = knet_fma(q, z, 2.0f / 9);
  q = knet_fma(q, z, 2.0f / 7);
  q = knet_fma(q, z, 2.0f / 5);
  return knet_fma(q, z, 2.0f / 3);
}
static inline double knet_atanh_series(double z) {
  double q = 2.0 / 23;
  q = knet_fma(q, z, 2.0 / 21);
  q = knet_fma(q, z, 2.0 / 19);
  q = knet_fma(q, z, 2.0 / 17);
  q = knet_fma(q, z, 2.0 / 15);
  q = knet_fma(q, z, 2.0 / 13);
  q = knet_fma(q, z, 2.0 / 11);
  q = knet_fma(q, z, 2.0 / 9);
  q = knet_fma(q, z, 2.0 / 7);
  q = knet_fma(q, z, 2.0 / 5);
  return knet_fma(q, z, 2.0 / 3);
}
//.
//? knet_log
// x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m by s = (m - 1) / (m + 1).
template <class T>
static inline T knet_log(T x) {
  typedef knet_number<T> number;
  const bool tiny = x < number::least;
  const T scaled = tiny ? x * (T)((long long)1 << number::fraction) : x;
  const auto bits = knet_bits(scaled) - knet_bits((T)0.7071067811865476);
  const auto power = bits >> number::fraction;
  const auto whole = (typename number::integer)((typename number::bits)power << number::fraction);
  const T m = knet_from_bits(bits - whole + knet_bits((T)0.7071067811865476));
  const T e = (T)power - (tiny ? (T)number::fraction : (T)0), f = m - 1, s = f / (2 + f), z = s * s;
  const T log_m = knet_fma(s * z, knet_atanh_series(z), 2 * s);
  const T value = knet_fma(e, (T)number::ln2_high, knet_fma(e, (T)number::ln2_low, log_m));
  const T special = x == 0 ? -(T)INFINITY : x > 0 ? x : (T)NAN;
  return x > 0 && x < (T)INFINITY ? value : special;
}
//.
//? knet_pow
static inline float knet_pow(float x, float p) { return powf(x, p); }
static inline double knet_pow(double x, double p) { return pow(x, p); }
//.
static inline float knet_sqrt(float x) { return sqrtf(x); }
static inline double knet_sqrt(double x) { return sqrt(x); }
// The larger; a NaN wins, as it does in the reference interpreter. In two steps, which become vector code.
template <class T>
static inline T knet_max(T a, T b) {
  const T larger = a > b ? a : b;
  return a != a ? a : larger;
}
