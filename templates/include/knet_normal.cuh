// The polynomial with `count` coefficients from the constant up.
static inline __device__ double knet_horner(const double* coefficients, int count, double x) {
  double value = coefficients[count - 1];
  for (int k = count - 2; k >= 0; k--) value = __dadd_rn(__dmul_rn(value, x), coefficients[k]);
  return value;
}
static const __device__ double knet_log_series[12] = {
    2.0, 0.6666666666666666, 0.4, 0.2857142857142857, 0.2222222222222222, 0.18181818181818182, 0.15384615384615385,
    0.13333333333333333, 0.11764705882352941, 0.10526315789473684, 0.09523809523809523, 0.08695652173913043};
// The natural logarithm of a positive number: x = m 2^e with m in [sqrt(1/2), sqrt(2)), e ln 2 + 2 atanh((m-1)/(m+1)).
static inline __device__ double knet_logarithm(double x) {
  int e;
  double m = frexp(x, &e);
  if (m < 0.7071067811865476) {
    m = __dadd_rn(m, m);
    e--;
  }
  const double s = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0));
  const double series = __dmul_rn(s, knet_horner(knet_log_series, 12, __dmul_rn(s, s)));
  return __dadd_rn(__dmul_rn(e, 0.6931471803691238), __dadd_rn(series, __dmul_rn(e, 1.9082149292705877e-10)));
}
static const __device__ double knet_middle_above[8] = {
    3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946, 45921.95393154987,
    67265.7709270087, 33430.57558358813, 2509.0809287301227};
static const __device__ double knet_middle_below[8] = {
    1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597, 39307.89580009271,
    28729.085735721943, 5226.495278852854};
static const __device__ double knet_tail_above[8] = {
    1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045, 1.2704582524523684,
    0.2417807251774506, 0.022723844989269184, 0.0007745450142783414};
static const __device__ double knet_tail_below[8] = {
    1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008, 0.015198666563616457,
    0.0005475938084995345, 1.0507500716444169e-09};
// Standard normal: the quantile of the middle of a word's interval (Wichura, AS 241, Applied Statistics 37, PPND16).
static inline __device__ double knet_normal(unsigned word) {
  const double p = __dmul_rn(__dadd_rn((double)(word >> 8), 0.5), 1.0 / 16777216);
  const double q = __dsub_rn(p, 0.5);
  if (fabs(q) <= 0.425) {
    const double r = __dsub_rn(0.18062499999999998, __dmul_rn(q, q));
    return __ddiv_rn(__dmul_rn(q, knet_horner(knet_middle_above, 8, r)), knet_horner(knet_middle_below, 8, r));
  }
  const double end = p < 0.5 ? p : __dsub_rn(1.0, p);
  const double r = __dsub_rn(__dsqrt_rn(-knet_logarithm(end)), 1.6);
  return copysign(__ddiv_rn(knet_horner(knet_tail_above, 8, r), knet_horner(knet_tail_below, 8, r)), q);
}
