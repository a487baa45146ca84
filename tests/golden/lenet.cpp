// Knet model lenet, compiled by knetc to C++ (f32, fp32).
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
// Memory with a batch of 100: 7.8 MB, and 749.7 kB for each thread.
// What a call is given stands with the caller; steps on the stack have copies of inputs that are read back.
//   param  a/w         f32[5,5,1,20]      2.0 kB
//   param  a/b         f32[1,1,20,1]        80 B
//   param  b/w         f32[5,5,20,50]   100.0 kB
//   param  b/b         f32[1,1,50,1]       200 B
//   param  c/w         f32[500,800]       1.6 MB
//   param  c/b         f32[500]           2.0 kB
//   param  wbf/w       f32[10,500]       20.0 kB
//   param  wbf/b       f32[10]              40 B
//   value  a@winner    f32[12,12,20,N]    1.2 MB
//   value  a           f32[12,12,20,N]    1.2 MB
//   value  b@winner    f32[4,4,50,N]    320.0 kB
//   value  b           f32[4,4,50,N]    320.0 kB
//   value  c/tmp1      f32[500,N]       200.0 kB
//   value  c           f32[500,N]       200.0 kB
//   value  wbf/tmp1    f32[10,N]          4.0 kB
//   value  return      f32[10,N]          4.0 kB
//   value  d:wbf/tmp2  f32[10,N]          4.0 kB
//   grad   d:wbf/b     f32[10]              40 B
//   grad   d:wbf/w     f32[10,500]       20.0 kB
//   value  d:c         f32[500,N]       200.0 kB
//   value  d:c/tmp2    f32[500,N]       200.0 kB
//   grad   d:c/b       f32[500]           2.0 kB
//   grad   d:c/w       f32[500,800]       1.6 MB
//   value  d:b         f32[4,4,50,N]    320.0 kB
//   grad   d:b/b       f32[1,1,50,1]       200 B
//   grad   d:b/w       f32[5,5,20,50]   100.0 kB
//   grad   d:a/b       f32[1,1,20,1]        80 B
//   grad   d:a/w       f32[5,5,1,20]      2.0 kB
//   value  d:x         f32[28,28,1,N]   313.6 kB
// d:v is the gradient of v.
// Build it with, for this processor:
//   g++ -std=c++17 -O3 -march=native -fopenmp -fno-math-errno -fno-trapping-math -ffp-contract=fast -shared -fPIC
// and a CBLAS; without -fopenmp it runs on one thread.
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <initializer_list>
#include <new>
#ifdef _OPENMP
#include <omp.h>
#endif
// Before a loop that may run as vectors; with -fopenmp-simd alone, which sets no macro, -DKNET_VECTORS says so.
#if defined(_OPENMP) || defined(KNET_VECTORS)
#define KNET_PRAGMA(text) _Pragma(#text)
#define KNET_SIMD(...) KNET_PRAGMA(omp simd __VA_ARGS__)
#else
#define KNET_SIMD(...)
#endif

// Before a function with loops over elements: it stays apart from its callers, which are compiled with less effort.
#define KNET_LOOPS __attribute__((noinline))

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
/* Makes a model with its parameters filled from `seed`. `stream` is there for the sake of the CUDA file, whose interface
   this is: NULL. Where it fails, *model is NULL and nothing is left behind. */
int lenet_create(lenet_model** model, unsigned long long seed, void* stream);
/* Frees everything; NULL is fine. */
int lenet_destroy(lenet_model* model);

/* At most so many threads run a call; 0: as many as OpenMP has (OMP_NUM_THREADS, or all processors), as at the start. */
int lenet_set_threads(lenet_model* model, int threads);

/* Runs the model over `batch` columns. inputs: x [28,28,1,N]; each column-major, the batch last. They are
   read where they stand, and must stay as they are until the backward pass. output: where the value is copied
   ([10,N]), or NULL. */
int lenet_forward(lenet_model* model, unsigned conditions, const lenet_real* const* inputs, int batch, lenet_real* output);
/* Gradients of the last lenet_forward, by a loss against `gold` (of the shape of the value).
   loss: KNET_SOFTLOSS (knetc's --loss). mask: one number a column, or NULL; without a loss it is not
   read. input_grads: bit i asks for the gradient of input i. loss_value: where the loss goes, 0 without one, or
   NULL. May be called again, for another loss. Between a forward call and its ways back the parameters must not
   change. */
int lenet_backward(lenet_model* model, int loss, const lenet_real* gold, const lenet_real* mask,
                  unsigned long long input_grads, lenet_real* loss_value);
/* Changes every parameter by its gradient and its options. Gradients are scaled so that their common L2 norm is at most
   gclip, where that is over 0, and by gscale. */
int lenet_update(lenet_model* model, double gclip, double gscale);
/* Trains on so many columns, in minibatches of `batch` (the last may be smaller): what lenet_forward,
   lenet_backward and lenet_update do for each, in one call. inputs and gold hold all columns. rows: NULL, or for
   each input NULL or, in place of a one-hot matrix, the row (from 0) of the 1 in each column; gold_rows as well.
   losses: where the loss of each minibatch goes, before its update, or NULL. The last one's gradients are kept. */
int lenet_train(lenet_model* model, unsigned conditions, int loss, const lenet_real* const* inputs,
                 const int* const* rows, const lenet_real* gold, const int* gold_rows, int columns, int batch,
                 double gclip, double gscale, double* losses);
/* Sets an option of one parameter, or of all with NULL: lr, l1reg, l2reg, adagrad, rmsprop, adam (0 or 1), momentum,
   nesterov, gclip, gscale. */
int lenet_set_option(lenet_model* model, const char* parameter, const char* option, double value);
/* As lenet_forward, for a step of a sequence: what its backward pass needs goes on the model's stack,
   the inputs too, which may be filled anew. */
int lenet_sforward(lenet_model* model, unsigned conditions, const lenet_real* const* inputs, int batch, lenet_real* output);
/* As lenet_backward, for the newest step on the stack, which it takes off; adds to the gradients that there are. The
   state's gradient flows to the step before. KNET_ZERO where no gradient comes from the output of that step. */
int lenet_sbackward(lenet_model* model, int loss, const lenet_real* gold, const lenet_real* mask,
                   unsigned long long input_grads, lenet_real* loss_value);
/* As so many calls of lenet_sforward, with the columns of all steps side by side in each input and in output, the first
   step's first. What the state does not stand between is computed for all steps at once, if the steps are over 1. */
int lenet_forwseq(lenet_model* model, unsigned conditions, const lenet_real* const* inputs, int batch, int steps,
    lenet_real* output);
/* As lenet_sbackward for the newest steps on the stack, the newest first; gold and mask have the columns of all of them,
   the oldest step's first. loss_value: where the mean of the steps' losses goes, 0 without one, or NULL. Steps that ran in one
   lenet_forwseq are gone back through at once, if all of them are. */
int lenet_backseq(lenet_model* model, int loss, const lenet_real* gold, const lenet_real* mask, int steps,
    lenet_real* loss_value);
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
/* Copies an array out. */
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
/* Overwrites the gradient of a parameter, which a backward pass has computed: with the sum over several processes. */
int lenet_set_gradient(lenet_model* model, const char* name, const lenet_real* array);
/* Writes all parameters to a file, whole or not at all; and reads them from one, which must be of the same model. */
int lenet_save(lenet_model* model, const char* path);
int lenet_load(lenet_model* model, const char* path);
/* Nothing: every call has done its work when it returns. */
int lenet_synchronize(lenet_model* model);
}

namespace {

// Short for what is spelled with the model's name.
using knet_model = lenet_model;
using knet_real = lenet_real;

// The threads that run a call. All of them run the same function, each on its part; a barrier stands only where one
// reads what another has written.
struct knet_range {
  int from, to;
  int size() const { return to - from; }
  knet_range times(int k) const { return {from * k, to * k}; }
  bool whole(int n) const { return from == 0 && to == n; }
};
struct knet_team {
  int index, size;  // this thread, of so many
  bool wide;        // each thread has columns of its own; otherwise it has all of them, and a part of their rows
  // This thread's part of n units: neighbours, the same ones at every call.
  knet_range part(int n) const {
    return {(int)((long long)n * index / size), (int)((long long)n * (index + 1) / size)};
  }
  knet_range columns(int n) const { return wide ? part(n) : knet_range{0, n}; }
  knet_range rows(int n) const { return wide ? knet_range{0, n} : part(n); }
  void wait() const {
#ifdef _OPENMP
    if (size > 1) {
#pragma omp barrier
    }
#endif
  }
  void wait_wide() const {
    if (wide) wait();
  }
  void wait_narrow() const {
    if (!wide) wait();
  }
};
// Runs body(team) on so many threads, on a batch of so many columns.
template <class Body>
static void knet_parallel(int threads, int batch, const Body& body) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int size = omp_get_num_threads();
      body(knet_team{omp_get_thread_num(), size, batch >= size});
    }
    return;
  }
#endif
  (void)threads, (void)batch;
  body(knet_team{0, 1, true});
}

// Where a result goes: written over what is there or added to it, times a factor. A gradient may go to its own array,
// or straight into the parameter with the learning rate as the factor. The columns of a matrix are `pitch` elements
// apart, or follow each other where that is 0.
template <class T>
struct knet_sink {
  T* to;
  T scale;
  bool add;
  int pitch;
  int apart(int rows) const { return pitch ? pitch : rows; }
  void put(int i, T value) const { to[i] = add ? to[i] + scale * value : scale * value; }
};
template <class T>
static inline knet_sink<T> knet_to(T* place, int pitch = 0) {
  return {place, 1, false, pitch};
}

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
static inline float knet_sqrt(float x) { return sqrtf(x); }
static inline double knet_sqrt(double x) { return sqrt(x); }
// The larger; a NaN wins, as it does in the reference interpreter. In two steps, which become vector code.
template <class T>
static inline T knet_max(T a, T b) {
  const T larger = a > b ? a : b;
  return a != a ? a : larger;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

// Copies and zeroes rows of n columns of so many elements.
template <class T>
static inline void knet_zero(T* to, int size, knet_range rows, int n) {
  if (rows.whole(size)) rows.to *= n, n = 1;
  for (int c = 0; c < n && rows.size() > 0; c++) memset(to + size * c + rows.from, 0, rows.size() * sizeof(T));
}

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

// Parts of a matrix product whose sums stay in registers: vectors of rows, and so many columns. KNET_TILES: whether
// products are made of them. They are where the compiler may use wide vectors and multiply-add; otherwise a BLAS, which
// looks for these at run time, is faster. -DKNET_TILES=0 leaves all products to the BLAS.
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
enum { KNET_TILE_VECTORS = 3, KNET_TILE_COLUMNS = 8 };
#else  // 16
enum { KNET_TILE_VECTORS = 2, KNET_TILE_COLUMNS = 6 };
#endif
#ifndef KNET_TILES
#if defined(__FMA__) || defined(__aarch64__)
#define KNET_TILES 1
#else
#define KNET_TILES 0
#endif
#endif
// c = a b of one tile, the sum of `depth` products: columns of a are lda elements apart; of b an element is `down` from
// the one above and `across` from the one to its left. Vectors have so many bytes.
template <int BYTES, int VECTORS, int COLUMNS, class T>
static inline void knet_tile(int depth, const T* __restrict a, size_t lda, const T* __restrict b, size_t down,
                             size_t across, const knet_sink<T>& c) {
  typedef knet_vector<T, BYTES> vector;
  typename vector::type sum[COLUMNS][VECTORS] = {};
  for (int i = 0; i < depth; i++, a += lda, b += down) {
    typename vector::type rows[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) rows[v] = vector::load(a + vector::lanes * v);
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; j++)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) sum[j][v] += rows[v] * b[across * j];
  }
  const T scale = c.scale;
  const bool add = c.add;
#pragma GCC unroll 8
  for (int j = 0; j < COLUMNS; j++)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      T* const to = c.to + (size_t)c.pitch * j + vector::lanes * v;
      vector::store(to, add ? vector::load(to) + scale * sum[j][v] : scale * sum[j][v]);
    }
}
// Some rows of all n columns of c, VECTORS vectors of them.
template <int BYTES, int VECTORS, class T>
KNET_LOOPS void knet_tile_row(int n, int depth, const T* a, int lda, const T* b, int down, int across, knet_sink<T> c) {
  constexpr int most = KNET_TILE_COLUMNS;
  int j = 0;
  for (; j + most <= n; j += most, b += (size_t)most * across, c.to += (size_t)most * c.pitch)
    knet_tile<BYTES, VECTORS, most>(depth, a, lda, b, down, across, c);
  if constexpr (VECTORS > 1) {  // fewer rows are little work
    constexpr int half = most / 2;
    for (; j + half <= n; j += half, b += (size_t)half * across, c.to += (size_t)half * c.pitch)
      knet_tile<BYTES, VECTORS, half>(depth, a, lda, b, down, across, c);
  }
  for (; j < n; j++, b += across, c.to += c.pitch) knet_tile<BYTES, VECTORS, 1>(depth, a, lda, b, down, across, c);
}
// Whether a product of a plain m x k matrix is made of tiles: its rows fill vectors, and it is small enough for the
// matrices to be read where they stand, columns within a page of memory.
template <class T>
static inline bool knet_is_tiled(int m, int n, int k, int lda) {
  constexpr int row = KNET_TILE_VECTORS * knet_vector<T, KNET_REGISTER_BYTES>::lanes, least = knet_vector<T, 16>::lanes;
  const bool small = lda * sizeof(T) <= 4096 && n <= 512;
  return KNET_TILES && small && m >= row && m % least == 0 && n >= KNET_TILE_COLUMNS / 2 && k >= 16;
}
// c = a op(b), of which c says its pitch.
template <class T>
KNET_LOOPS void knet_tiled_product(bool tb, int m, int n, int k, const T* a, int lda, const T* b, int ldb,
                                   knet_sink<T> c) {
  enum { DEPTH = 512 };  // what is multiplied at a time stays in the second cache
  constexpr int lanes = knet_vector<T, KNET_REGISTER_BYTES>::lanes, least = knet_vector<T, 16>::lanes;
  const int down = tb ? ldb : 1, across = tb ? 1 : ldb;
  for (int first = 0; first < k; first += DEPTH, c.add = true) {
    const int depth = k - first < DEPTH ? k - first : DEPTH;
    const T *from = a + (size_t)lda * first, *const by = b + (size_t)down * first;
    knet_sink<T> to = c;
    const auto take = [&](int rows) { from += rows, to.to += rows; };
    int left = m;
    for (int rows = KNET_TILE_VECTORS * lanes; left >= rows; left -= rows, take(rows))
      knet_tile_row<KNET_REGISTER_BYTES, KNET_TILE_VECTORS>(n, depth, from, lda, by, down, across, to);
    for (; left >= lanes; left -= lanes, take(lanes))
      knet_tile_row<KNET_REGISTER_BYTES, 1>(n, depth, from, lda, by, down, across, to);
    for (; left >= least; left -= least, take(least))
      knet_tile_row<16, 1>(n, depth, from, lda, by, down, across, to);
  }
}

// Matrix products by a CBLAS, each on the one thread that calls it. KNET_BLAS makes the library's names of the usual
// ones; scipy_ stands before those of the wheel scipy-openblas32.
#ifndef KNET_BLAS
#define KNET_BLAS(name) name
#endif
extern "C" {
void KNET_BLAS(cblas_sgemm)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                            int);
void KNET_BLAS(cblas_dgemm)(int, int, int, int, int, int, double, const double*, int, const double*, int, double,
                            double*, int);
void KNET_BLAS(cblas_sgemv)(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void KNET_BLAS(cblas_dgemv)(int, int, int, int, double, const double*, int, const double*, int, double, double*, int);
#if defined(__ELF__)
__attribute__((weak))
#endif
void KNET_BLAS(openblas_set_num_threads)(int);
}
enum { KNET_COLUMN_MAJOR = 102, KNET_PLAIN = 111, KNET_TRANSPOSED = 112 };
static inline void knet_call_gemm(int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda,
                                  const float* b, int ldb, float beta, float* c, int ldc) {
  KNET_BLAS(cblas_sgemm)(KNET_COLUMN_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
static inline void knet_call_gemm(int ta, int tb, int m, int n, int k, double alpha, const double* a, int lda,
                                  const double* b, int ldb, double beta, double* c, int ldc) {
  KNET_BLAS(cblas_dgemm)(KNET_COLUMN_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
static inline void knet_gemv(int ta, int m, int n, float alpha, const float* a, int lda, const float* x, float beta,
                             float* y) {
  KNET_BLAS(cblas_sgemv)(KNET_COLUMN_MAJOR, ta, m, n, alpha, a, lda, x, 1, beta, y, 1);
}
static inline void knet_gemv(int ta, int m, int n, double alpha, const double* a, int lda, const double* x, double beta,
                             double* y) {
  KNET_BLAS(cblas_dgemv)(KNET_COLUMN_MAJOR, ta, m, n, alpha, a, lda, x, 1, beta, y, 1);
}
// c = op(a) op(b): c is m x n, and k is what is summed over. The columns of a are lda elements apart, those of b ldb,
// those of c its pitch.
template <class T>
static inline void knet_gemm(bool ta, bool tb, int m, int n, int k, const T* a, int lda, const T* b, int ldb,
                             const knet_sink<T>& c) {
  const knet_sink<T> to = {c.to, c.scale, c.add, c.apart(m)};
  if (!ta && knet_is_tiled<T>(m, n, k, lda)) return knet_tiled_product(tb, m, n, k, a, lda, b, ldb, to);
  knet_call_gemm(ta ? KNET_TRANSPOSED : KNET_PLAIN, tb ? KNET_TRANSPOSED : KNET_PLAIN, m, n, k, c.scale, a, lda, b, ldb,
                 c.add ? 1 : 0, to.to, to.pitch);
}
// Some rows of such a product.
template <class T>
static inline void knet_product_rows(bool ta, bool tb, int m, int n, int k, const T* a, int lda,
                                     const T* b, int ldb, const knet_sink<T>& c, knet_range rows) {
  if (rows.size() <= 0 || n <= 0) return;
  const T* const part = a + (ta ? (size_t)rows.from * lda : rows.from);
  const knet_sink<T> to = {c.to + rows.from, c.scale, c.add, c.apart(m)};
  if (n > 1 || (tb && ldb != 1)) return knet_gemm(ta, tb, rows.size(), n, k, part, lda, b, ldb, to);
  knet_gemv(ta ? KNET_TRANSPOSED : KNET_PLAIN, ta ? k : rows.size(), ta ? rows.size() : k, c.scale, part, lda, b,
            c.add ? 1 : 0, to.to);
}

// Whether all numbers are finite. (A compiler that is told that all are, as by -ffast-math, may say so unseen.)
template <class T>
KNET_LOOPS bool knet_finite(int n, const T* x) {
  T sum = 0;
  KNET_SIMD(reduction(+ : sum))
  for (int i = 0; i < n; i++) sum += 0 * x[i];
  return sum == 0;
}
// y = factor x, or y += factor x.
template <bool ADD, class T>
static inline void knet_put_multiple(int n, T factor, const T* __restrict x, T* __restrict y) {
  // Longer vectors would span cache lines.
  typedef knet_vector<T, KNET_REGISTER_BYTES < 32 ? KNET_REGISTER_BYTES : 32> vector;
  int i = 0;
  for (; i + vector::lanes <= n; i += vector::lanes) {
    const typename vector::type term = factor * vector::load(x + i);
    vector::store(y + i, ADD ? vector::load(y + i) + term : term);
  }
  for (; i < n; i++) y[i] = ADD ? y[i] + factor * x[i] : factor * x[i];
}
// c += a b', a column times a row, in some columns. Where b is zero, as at the background of an image, and a is finite,
// nothing is added: those columns are passed over.
template <class T>
KNET_LOOPS void knet_add_outer(int m, const T* __restrict a, const T* __restrict b, const knet_sink<T>& c,
                               knet_range columns) {
  enum { BLOCK = 256 };
  const bool all = !knet_finite(m, a);
  const T scale = c.scale;
  const size_t apart = c.apart(m);
  T factor[BLOCK];
  int used[BLOCK];  // found before any is added, so that no branch has to be guessed
  for (int from = columns.from; from < columns.to; from += BLOCK) {
    const int n = columns.to - from < BLOCK ? columns.to - from : (int)BLOCK;
    T* const to = c.to + apart * from;
    for (int j = 0; j < n; j++) factor[j] = scale * b[from + j];
    int count = 0;
    for (int j = 0; j < n; j++) {
      used[count] = j;
      count += all || factor[j] != 0;
    }
    for (int q = 0; q < count; q++) knet_put_multiple<true>(m, factor[used[q]], a, to + apart * used[q]);
  }
}
// c = a b' likewise, of which no column can be passed over.
template <class T>
KNET_LOOPS void knet_outer(int m, const T* a, const T* b, const knet_sink<T>& c, knet_range columns) {
  const size_t apart = c.apart(m);
  for (int j = columns.from; j < columns.to; j++) knet_put_multiple<false>(m, c.scale * b[j], a, c.to + apart * j);
}
// Some columns of a product as `knet_gemm` makes.
template <class T>
static inline void knet_product_columns(bool ta, bool tb, int m, int, int k, const T* a, int lda,
                                        const T* b, int ldb, const knet_sink<T>& c, knet_range columns) {
  if (columns.size() <= 0 || m <= 0) return;
  if (!ta && tb && k == 1) return c.add ? knet_add_outer(m, a, b, c, columns) : knet_outer(m, a, b, c, columns);
  const T* const part = b + (tb ? columns.from : (size_t)columns.from * ldb);
  const int pitch = c.apart(m);
  knet_gemm(ta, tb, m, columns.size(), k, a, lda, part, ldb,
            {c.to + (size_t)columns.from * pitch, c.scale, c.add, pitch});
}

// y[i] = the sum over the columns of x[i], for the rows i, always in the same order; columns are a pitch apart.
template <class T>
KNET_LOOPS void knet_sum_columns(const knet_sink<T>& y, const T* x, int pitch, int columns, knet_range rows) {
  enum { BLOCK = 512 };
  for (int from = rows.from; from < rows.to; from += BLOCK) {
    const int n = rows.to - from < BLOCK ? rows.to - from : (int)BLOCK;
    T sum[BLOCK] = {};
    for (int c = 0; c < columns; c++)
      for (int i = 0; i < n; i++) sum[i] += x[pitch * c + from + i];
    for (int i = 0; i < n; i++) y.put(from + i, sum[i]);
  }
}
// y = the sum of the parts that so many threads have, of the elements in the range, always in the same order.
template <class T, class Worker>
KNET_LOOPS void knet_sum_parts(const knet_sink<T>& y, const Worker* workers, int threads, T* Worker::* part,
                               knet_range range) {
  for (int i = range.from; i < range.to; i++) {
    T sum = (workers[0].*part)[i];
    for (int t = 1; t < threads; t++) sum += (workers[t].*part)[i];
    y.put(i, sum);
  }
}

// The sizes of a convolution.
struct knet_segment {
  int y;        // where a vector stands in a channel of the result
  int x;        // where the first element of its window stands in the padded image
  int covered;  // how many of its lanes belong to the vector before it
};
struct knet_conv {
  int x[3], w[3], y[3], padding[3], stride[3], upscale[3];  // per dimension, those that there are not: 1, 0
  int inputs, outputs;                                      // channels
  bool flip;
  int lines;  // how many lines (along the first dimension) of the result at a time, where patches are made
  int lanes;  // how many elements a vector has, where none are made; else 0
  // Then, made by knet_prepare: the vectors of a channel of the result, and where each element of a filter is, channel
  // by channel, from the first element of a window on.
  int segments = 0;
  knet_segment* segment = nullptr;
  int* offset = nullptr;
  int x_size() const { return x[0] * x[1] * x[2]; }
  int w_size() const { return w[0] * w[1] * w[2]; }
  int y_size() const { return y[0] * y[1] * y[2]; }
  int padded(int d) const { return x[d] + 2 * padding[d]; }
  int padded_size() const { return padded(0) * padded(1) * padded(2); }
  // Where in the image, along dimension d, the element of the filter at `at` meets the first position of the window.
  int first(int d, int at) const { return (flip ? w[d] - 1 - at : at) * upscale[d] - padding[d]; }
};
inline void knet_release(knet_conv* g) {
  delete[] g->segment;
  delete[] g->offset;
  g->segment = nullptr, g->offset = nullptr;
}
// Makes what goes without patches ready; false where there is no memory.
inline bool knet_prepare(knet_conv* g) {
  if (!g->lanes) return true;
  const int in_line = (g->y[0] + g->lanes - 1) / g->lanes, lines = g->y[1] * g->y[2];
  g->segments = in_line * lines;
  g->segment = new (std::nothrow) knet_segment[g->segments];
  g->offset = new (std::nothrow) int[g->w_size() * g->inputs];
  if (!g->segment || !g->offset) return false;
  knet_segment* s = g->segment;
  for (int l = 0; l < lines; l++)
    for (int i = 0; i < in_line; i++) {
      const int wanted = i * g->lanes, last = g->y[0] - g->lanes, at = wanted < last ? wanted : last;
      const int line = l / g->y[1] * g->stride[2] * g->padded(1) + l % g->y[1] * g->stride[1];
      *s++ = {l * g->y[0] + at, line * g->padded(0) + at, wanted - at};
    }
  int* o = g->offset;
  for (int ch = 0; ch < g->inputs; ch++)
    for (int w2 = 0; w2 < g->w[2]; w2++)
      for (int w1 = 0; w1 < g->w[1]; w1++)
        for (int w0 = 0; w0 < g->w[0]; w0++) {
          const int x2 = g->first(2, w2) + g->padding[2], x1 = g->first(1, w1) + g->padding[1];
          const int line = (ch * g->padded(2) + x2) * g->padded(1) + x1;
          *o++ = line * g->padded(0) + g->first(0, w0) + g->padding[0];
        }
  return true;
}

// Convolution without patches, where windows move by one along the first dimension: a vector holds neighbours along it,
// and is multiplied by one element of the filter after another. Twelve sums stand in registers.
// Below, TILE channels and VECTORS vectors of each are computed together: twelve sums, so that they and what they are
// made of fill the sixteen registers of most processors. COVERED: whether some vectors of a line overlap.

// An image with its padding, in `room` where it has any; zeroes around it.
template <class T>
static inline const T* knet_pad(const knet_conv& g, const T* x, T* room) {
  if (!g.padding[0] && !g.padding[1] && !g.padding[2]) return x;
  const int p0 = g.padded(0), p1 = g.padded(1), p2 = g.padded(2);
  memset(room, 0, sizeof(T) * p0 * p1 * p2 * g.inputs);
  T* to = room + (g.padding[2] * p1 + g.padding[1]) * p0 + g.padding[0];
  for (int ch = 0; ch < g.inputs; ch++, to += p0 * p1 * p2)
    for (int x2 = 0; x2 < g.x[2]; x2++)
      for (int x1 = 0; x1 < g.x[1]; x1++, x += g.x[0]) memcpy(to + (x2 * p1 + x1) * p0, x, g.x[0] * sizeof(T));
  return room;
}
// The way back, of some channels: what lies inside the padding.
template <class T>
static inline void knet_unpad(const knet_conv& g, const T* padded, T* x, int channels) {
  const int p0 = g.padded(0), p1 = g.padded(1), p2 = g.padded(2);
  const T* from = padded + (g.padding[2] * p1 + g.padding[1]) * p0 + g.padding[0];
  for (int ch = 0; ch < channels; ch++, from += p0 * p1 * p2)
    for (int x2 = 0; x2 < g.x[2]; x2++)
      for (int x1 = 0; x1 < g.x[1]; x1++, x += g.x[0]) memcpy(x, from + (x2 * p1 + x1) * p0, g.x[0] * sizeof(T));
}
// sum[t][v] += x[v] * w[t]; what there is less of stays in registers.
template <int BYTES, int TILE, int VECTORS, class T, class X, class W>
static inline void knet_direct_add(typename knet_vector<T, BYTES>::type (&sum)[TILE][VECTORS], const X& x, const W& w) {
  typedef knet_vector<T, BYTES> vector;
  if (TILE < VECTORS) {
    typename vector::type held[TILE];
#pragma GCC unroll 8
    for (int t = 0; t < TILE; t++) held[t] = vector::held(vector::all(w(t)));
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      const typename vector::type element = vector::held(x(v));
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++) sum[t][v] += element * held[t];
    }
  } else {
    typename vector::type held[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) held[v] = vector::held(x(v));
#pragma GCC unroll 8
    for (int t = 0; t < TILE; t++) {
      const typename vector::type element = vector::all(w(t));
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) sum[t][v] += held[v] * element;
    }
  }
}
// TILE channels of y = conv(w, x) of one image with its padding.
template <int BYTES, int TILE, int VECTORS, class T>
static void knet_direct_tile(const knet_conv& g, const T* __restrict w, const T* __restrict x, T* __restrict y) {
  typedef knet_vector<T, BYTES> vector;
  const int k = g.w_size() * g.inputs, y_size = g.y_size(), last = g.segments - 1;
  for (int s = 0; s < g.segments; s += VECTORS) {
    typename vector::type sum[TILE][VECTORS] = {};
    const T* from[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) from[v] = x + g.segment[s + v < last ? s + v : last].x;
    for (int i = 0; i < k; i++)
      knet_direct_add<BYTES, TILE, VECTORS, T>(
          sum, [&](int v) { return vector::load(from[v] + g.offset[i]); }, [&](int t) { return w[k * t + i]; });
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++)
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++)
        vector::store(y + y_size * t + g.segment[s + v < last ? s + v : last].y, sum[t][v]);
  }
}
template <int BYTES, int TILE, int VECTORS, bool, class T>
KNET_LOOPS void knet_direct_forward(const knet_conv& g, const T* w, const T* x, T* y, T* room, knet_range outputs,
                                    int n) {
  const int k = g.w_size() * g.inputs, size = g.y_size();
  if (outputs.size() <= 0) return;
  for (int c = 0; c < n; c++, x += g.x_size() * g.inputs, y += size * g.outputs) {
    const T* const image = knet_pad(g, x, room);
    int o = outputs.from;
    for (; o + TILE <= outputs.to; o += TILE) knet_direct_tile<BYTES, TILE, VECTORS>(g, w + k * o, image, y + size * o);
    for (; o + 2 <= outputs.to; o += 2) knet_direct_tile<BYTES, 2, VECTORS>(g, w + k * o, image, y + size * o);
    for (; o < outputs.to; o++) knet_direct_tile<BYTES, 1, VECTORS>(g, w + k * o, image, y + size * o);
  }
}
// Adds to TILE channels of an image's gradient, which has its padding, what comes through one element of the filter: w
// is that element of the first of the channels, for the first output.
template <int BYTES, int TILE, int VECTORS, bool COVERED, class T>
static void knet_direct_back_x_tile(const knet_conv& g, const T* __restrict w, const T* __restrict dy,
                                    T* __restrict dx) {
  typedef knet_vector<T, BYTES> vector;
  const int size = g.w_size(), k = size * g.inputs, plane = g.padded_size(), y_size = g.y_size(), last = g.segments - 1;
  for (int s = 0; s < g.segments; s += VECTORS) {
    typename vector::type sum[TILE][VECTORS] = {};
    int from[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) from[v] = g.segment[s + v < last ? s + v : last].y;
    const T *f = w, *d = dy;
    for (int o = 0; o < g.outputs; o++, f += k, d += y_size)
      knet_direct_add<BYTES, TILE, VECTORS, T>(
          sum, [&](int v) { return vector::load(d + from[v]); }, [&](int t) { return f[size * t]; });
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      if (s + v > last) break;
      const knet_segment& at = g.segment[s + v];
#pragma GCC unroll 8
      for (int t = 0; t < TILE; t++) {
        T* const to = dx + plane * t + at.x;
        vector::store(to, vector::load(to) + (COVERED ? vector::without(sum[t][v], at.covered) : sum[t][v]));
      }
    }
  }
}
// The gradient of TILE channels of an image.
template <int BYTES, int TILE, int VECTORS, bool COVERED, class T>
static void knet_direct_back_x_channels(const knet_conv& g, const T* w, const T* dy, T* dx, T* room) {
  const bool padding = g.padded_size() != g.x_size();
  T* const to = padding ? room : dx;
  memset(to, 0, sizeof(T) * g.padded_size() * TILE);
  for (int e = 0; e < g.w_size(); e++)
    knet_direct_back_x_tile<BYTES, TILE, VECTORS, COVERED>(g, w + e, dy, to + g.offset[e]);
  if (padding) knet_unpad(g, to, dx, TILE);
}
template <int BYTES, int TILE, int VECTORS, bool COVERED, class T>
KNET_LOOPS void knet_direct_back_x(const knet_conv& g, const T* w, const T* dy, T* dx, T* room, knet_range inputs,
                                   int n) {
  const int size = g.w_size(), plane = g.x_size();
  if (inputs.size() <= 0) return;
  for (int c = 0; c < n; c++, dx += plane * g.inputs, dy += g.y_size() * g.outputs) {
    int ch = inputs.from;
    for (; ch + TILE <= inputs.to; ch += TILE)
      knet_direct_back_x_channels<BYTES, TILE, VECTORS, COVERED>(g, w + size * ch, dy, dx + plane * ch, room);
    for (; ch < inputs.to; ch++)
      knet_direct_back_x_channels<BYTES, 1, VECTORS, COVERED>(g, w + size * ch, dy, dx + plane * ch, room);
  }
}
// The sums of four vectors.
template <class T, int BYTES>
static inline void knet_sums(const typename knet_vector<T, BYTES>::type (&v)[4], T (&sum)[4]) {
  constexpr int lanes = BYTES / sizeof(T);
#if defined(__clang__) || __GNUC__ >= 12
  if constexpr (lanes == 8) {
    typename knet_vector<T, BYTES / 2>::type half[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++)
      half[t] = __builtin_shufflevector(v[t], v[t], 0, 1, 2, 3) + __builtin_shufflevector(v[t], v[t], 4, 5, 6, 7);
    return knet_sums<T, BYTES / 2>(half, sum);
  }
  if constexpr (lanes == 4) {
    const auto a = __builtin_shufflevector(v[0], v[1], 0, 4, 2, 6) + __builtin_shufflevector(v[0], v[1], 1, 5, 3, 7);
    const auto b = __builtin_shufflevector(v[2], v[3], 0, 4, 2, 6) + __builtin_shufflevector(v[2], v[3], 1, 5, 3, 7);
    const auto all = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    memcpy(sum, &all, sizeof sum);
    return;
  }
#endif
  for (int t = 0; t < 4; t++) {
    T a[lanes];
    memcpy(a, &v[t], sizeof a);
    for (int half = lanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; i++) a[i] += a[i + half];
    sum[t] = a[0];
  }
}
// Adds to the gradients of some elements of the filters of four outputs, by n images.
template <int BYTES, int ELEMENTS, bool COVERED, class T>
static void knet_direct_back_w_tile(const knet_conv& g, const T* x, int x_step, const T* dy, int dy_step,
                                    const int* offset, T* dw, int n, int outputs) {
  typedef knet_vector<T, BYTES> vector;
  const int k = g.w_size() * g.inputs, y_size = g.y_size();
  typename vector::type sum[ELEMENTS][4] = {};
  for (int c = 0; c < n; c++, x += x_step, dy += dy_step) {
    const T *from[ELEMENTS], *with[4];
    for (int e = 0; e < ELEMENTS; e++) from[e] = x + offset[e];
    for (int t = 0; t < 4; t++) with[t] = dy + y_size * (t < outputs ? t : 0);
    for (int s = 0; s < g.segments; s++) {
      const long xs = g.segment[s].x, ys = g.segment[s].y;
      typename vector::type v[ELEMENTS];
#pragma GCC unroll 4
      for (int e = 0; e < ELEMENTS; e++) v[e] = vector::held(vector::load(from[e] + xs));
#pragma GCC unroll 4
      for (int t = 0; t < 4; t++) {
        typename vector::type d = vector::held(vector::load(with[t] + ys));
        if (COVERED) d = vector::without(d, g.segment[s].covered);
#pragma GCC unroll 4
        for (int e = 0; e < ELEMENTS; e++) sum[e][t] += v[e] * d;
      }
    }
  }
#pragma GCC unroll 4
  for (int e = 0; e < ELEMENTS; e++) {
    T more[4];
    knet_sums<T, BYTES>(sum[e], more);
    for (int t = 0; t < outputs; t++) dw[k * t + e] += more[t];
  }
}
template <int BYTES, int TILE, int VECTORS, bool COVERED, class T>
KNET_LOOPS void knet_direct_back_w(const knet_conv& g, const T* x, const T* dy, T* dw, T* room, knet_range outputs,
                                   int n) {
  const int k = g.w_size() * g.inputs, y_size = g.y_size(), y_step = y_size * g.outputs;
  const int x_step = g.x_size() * g.inputs;
  const bool padding = g.padded_size() != g.x_size();
  if (outputs.size() <= 0) return;
  for (int c = 0; c < n; c += padding ? 1 : n) {  // with padding, an image at a time
    const T* const image = padding ? knet_pad(g, x + x_step * c, room) : x;
    const int many = padding ? 1 : n;
    for (int o = outputs.from; o < outputs.to; o += 4) {
      const int rest = outputs.to - o < 4 ? outputs.to - o : 4;
      const T* const d = dy + y_step * c + y_size * o;
      T* const to = dw + k * o;
      int i = 0;
      for (; i + 3 <= k; i += 3)
        knet_direct_back_w_tile<BYTES, 3, COVERED>(g, image, x_step, d, y_step, g.offset + i, to + i, many, rest);
      for (; i < k; i++)
        knet_direct_back_w_tile<BYTES, 1, COVERED>(g, image, x_step, d, y_step, g.offset + i, to + i, many, rest);
    }
  }
}

// Filling n elements of an array, of which `first` is the number of the first one.
template <class T>
KNET_LOOPS void knet_fill_constant(T* y, int, int n, double value) {
  for (int i = 0; i < n; i++) y[i] = (T)value;
}

// The training options of a parameter with their defaults, how many steps Adam has made, and the running averages,
// which are allocated when an option first needs them.
struct knet_options {
  double lr = 1, l1reg = 0, l2reg = 0, momentum = 0, nesterov = 0, gclip = 0, gscale = 1;
  bool adagrad = false, rmsprop = false, adam = false;
  int adam_steps = 0;
  knet_real *adagrad_squares = nullptr, *rmsprop_squares = nullptr, *adam_mean = nullptr, *adam_square = nullptr;
  knet_real *momentum_average = nullptr, *nesterov_average = nullptr;
};
KNET_LOOPS double knet_sum_of_squares(const knet_real* x, knet_range part) {
  double sum = 0;
  KNET_SIMD(reduction(+ : sum))
  for (int k = part.from; k < part.to; k++) sum += (double)x[k] * (double)x[k];
  return sum;
}
// Whether a parameter changes by its gradient and the learning rate alone.
inline bool knet_is_plain(const knet_options& o) {
  return o.l1reg == 0 && o.l2reg == 0 && !o.adagrad && !o.rmsprop && !o.adam && o.momentum == 0 && o.nesterov == 0;
}
// Changes part of a parameter, w, by its gradient times `factor` and its options; of the averages, w is element `at`.
KNET_LOOPS void knet_update(const knet_options& o, knet_real* w, const knet_real* dw, size_t at, knet_range part,
                            double factor) {
  const knet_real scale = (knet_real)factor, epsilon = (knet_real)1e-8, lr = (knet_real)o.lr;
  const knet_real l1reg = (knet_real)o.l1reg, l2reg = (knet_real)o.l2reg;
  const knet_real momentum = (knet_real)o.momentum, nesterov = (knet_real)o.nesterov;
  const knet_real mean_bias = (knet_real)(1 - pow(0.9, o.adam_steps));
  const knet_real square_bias = (knet_real)(1 - pow(0.999, o.adam_steps));
  if (knet_is_plain(o)) {
    for (int i = part.from; i < part.to; i++) w[i] -= lr * (scale * dw[i]);
    return;
  }
  for (int i = part.from; i < part.to; i++) {
    knet_real g = scale * dw[i];
    if (l1reg != 0) g += l1reg * (knet_real)((w[i] > 0) - (w[i] < 0));
    if (l2reg != 0) g += l2reg * w[i];
    if (o.adagrad) {
      o.adagrad_squares[at + i] += g * g;
      g /= epsilon + knet_sqrt(o.adagrad_squares[at + i]);
    }
    if (o.rmsprop) {
      o.rmsprop_squares[at + i] = (knet_real)0.9 * o.rmsprop_squares[at + i] + (knet_real)(1 - 0.9) * (g * g);
      g /= epsilon + knet_sqrt(o.rmsprop_squares[at + i]);
    }
    if (o.adam) {
      o.adam_mean[at + i] = (knet_real)0.9 * o.adam_mean[at + i] + (knet_real)(1 - 0.9) * g;
      o.adam_square[at + i] = (knet_real)0.999 * o.adam_square[at + i] + (knet_real)(1 - 0.999) * (g * g);
      g = o.adam_mean[at + i] / mean_bias / (knet_sqrt(o.adam_square[at + i] / square_bias) + epsilon);
    }
    if (o.momentum != 0) {
      g += momentum * o.momentum_average[at + i];
      o.momentum_average[at + i] = g;
    }
    if (o.nesterov != 0) {
      o.nesterov_average[at + i] = nesterov * o.nesterov_average[at + i] + g;
      g += nesterov * o.nesterov_average[at + i];
    }
    w[i] -= lr * g;
  }
}

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

template <class T>
KNET_LOOPS void knet_fill_uniform(T* y, int first, int n, unsigned long long seed, unsigned call, unsigned stream,
                                  double low, double high) {
  for (int i = 0; i < n; i++)
    y[i] = (T)(knet_rounded(knet_uniform(knet_random_word(seed, first + i, call, stream)) * (high - low)) + low);
}

// Errors: every function below returns 0, or one of the codes of the interface with the reason in knet_error_text.
thread_local char knet_error_text[512];

int knet_fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(knet_error_text, sizeof knet_error_text, format, arguments);
  va_end(arguments);
  return code;
}
// Returns from the enclosing function where the call fails.
#define TRY(...)                   \
  do {                             \
    const int code_ = __VA_ARGS__; \
    if (code_) return code_;       \
  } while (0)

// ------------------------------------------------------------------------------------------------ operations ----

// winner = winner(add(c_2, b); stride=2); y = relu(pool(add(c_2, b); stride=2))
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
KNET_LOOPS void add_pool_winner_relu_24x24_to_12x12(float* __restrict winner, float* __restrict y,
    const float* __restrict c_2, const float* __restrict b, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    for (int j = rows.from; j < rows.to; j++)
      for (int y1 = 0; y1 < 12; y1++)
        KNET_SIMD()
        for (int y0 = 0; y0 < 12; y0++) {
          float top = c_2[11520 * c + 576 * j + 24 * (2 * y1) + 2 * y0] + b[j], first = 0, e;
          e = c_2[11520 * c + 576 * j + 24 * (2 * y1) + 2 * y0 + 1] + b[j];
          first = e > top ? 1 : first;
          top = knet_max(top, e);
          e = c_2[11520 * c + 576 * j + 24 * (2 * y1 + 1) + 2 * y0] + b[j];
          first = e > top ? 2 : first;
          top = knet_max(top, e);
          e = c_2[11520 * c + 576 * j + 24 * (2 * y1 + 1) + 2 * y0 + 1] + b[j];
          first = e > top ? 3 : first;
          top = knet_max(top, e);
          first = top != top ? -1 : first;
          winner[2880 * c + 144 * j + 12 * y1 + y0] = first;
          y[2880 * c + 144 * j + 12 * y1 + y0] = top < 0.0f ? 0.0f : top;
        }
  }
}

// winner = winner(add(c_2, b); stride=2); y = relu(pool(add(c_2, b); stride=2))
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
KNET_LOOPS void add_pool_winner_relu_8x8_to_4x4(float* __restrict winner, float* __restrict y,
    const float* __restrict c_2, const float* __restrict b, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    for (int j = rows.from; j < rows.to; j++)
      for (int y1 = 0; y1 < 4; y1++)
        KNET_SIMD()
        for (int y0 = 0; y0 < 4; y0++) {
          float top = c_2[3200 * c + 64 * j + 8 * (2 * y1) + 2 * y0] + b[j], first = 0, e;
          e = c_2[3200 * c + 64 * j + 8 * (2 * y1) + 2 * y0 + 1] + b[j];
          first = e > top ? 1 : first;
          top = knet_max(top, e);
          e = c_2[3200 * c + 64 * j + 8 * (2 * y1 + 1) + 2 * y0] + b[j];
          first = e > top ? 2 : first;
          top = knet_max(top, e);
          e = c_2[3200 * c + 64 * j + 8 * (2 * y1 + 1) + 2 * y0 + 1] + b[j];
          first = e > top ? 3 : first;
          top = knet_max(top, e);
          first = top != top ? -1 : first;
          winner[800 * c + 16 * j + 4 * y1 + y0] = first;
          y[800 * c + 16 * j + 4 * y1 + y0] = top < 0.0f ? 0.0f : top;
        }
  }
}

// y = relu(add(tmp1, b))
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
KNET_LOOPS void add_relu_500xN(float* __restrict y, const float* __restrict tmp1, const float* __restrict b,
    knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      const float tmp2 = tmp1[500 * c + i] + b[i];
      y[500 * c + i] = tmp2 < 0.0f ? 0.0f : tmp2;
    }
  }
}

// y = soft(add(tmp1, b))
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
KNET_LOOPS void add_soft(float* __restrict y, const float* __restrict tmp1, const float* __restrict b,
    knet_range rows, int columns) {
  if (!rows.size()) return;  // another thread has the columns
  for (int c = 0; c < columns; c++) {
    float top = -INFINITY, sum = 0;
    for (int i = 0; i < 10; i++) {
      const float e = tmp1[10 * c + i] + b[i];
      top = e > top ? e : top;  // a NaN comes into the sum
    }
    for (int i = 0; i < 10; i++) {
      sum += knet_exp((tmp1[10 * c + i] + b[i]) - top);
    }
    for (int i = 0; i < 10; i++) {
      y[10 * c + i] = knet_exp((tmp1[10 * c + i] + b[i]) - top) / sum;
    }
  }
}

// the sum of -mask * gold * log(p)
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
KNET_LOOPS double softloss(const float* __restrict p, const float* __restrict gold, const float* __restrict mask,
    knet_range rows, int columns) {
  double sum = 0;
  if (!rows.size()) return sum;  // another thread's
  for (int c = 0; c < columns; c++) {
    const float weight = mask ? mask[c] : 1;
    if (weight == 0) continue;
    double part = 0;
    KNET_SIMD(reduction(+ : part))
    for (int i = 0; i < 10; i++) {
      const int at = 10 * c + i;
      part += gold[at] * knet_log(knet_max(p[at], 1.1920928955078125e-07f));
    }
    sum -= part * weight;
  }
  return sum;
}

// y = softmax_softloss_back(p_2, gold, mask)
//   lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
KNET_LOOPS void softmax_softloss_back(float* __restrict y, const float* __restrict p_2,
    const float* __restrict gold, const float* __restrict mask, float part, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    const float share = mask ? mask[c] * part : part;
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      y[10 * c + i] = share != 0.0f ? (p_2[10 * c + i] - gold[10 * c + i]) * share : 0.0f;
    }
  }
}

// dx = relu_back(dy, y)
//   lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
KNET_LOOPS void relu_back(float* __restrict dx, const float* __restrict dy, const float* __restrict y,
    knet_range rows, int columns) {
  if (rows.whole(500)) rows.to *= columns, columns = 1;  // the columns as one run of memory
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      dx[500 * c + i] = y[500 * c + i] > 0.0f ? dy[500 * c + i] : 0.0f;
    }
  }
}

// dx = relu_back(dy, y)
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
KNET_LOOPS void relu_back_2(float* __restrict dx, const float* __restrict dy, const float* __restrict y,
    knet_range rows, int columns) {
  if (rows.whole(800)) rows.to *= columns, columns = 1;  // the columns as one run of memory
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      dx[800 * c + i] = y[800 * c + i] > 0.0f ? dy[800 * c + i] : 0.0f;
    }
  }
}

// dx = unpool(dy, winner; stride=2)
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
KNET_LOOPS void unpool_8x8_to_4x4(float* __restrict dx, const float* __restrict dy, const float* __restrict winner,
    knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    for (int j = rows.from; j < rows.to; j++)
      for (int y1 = 0; y1 < 4; y1++)
        KNET_SIMD()
        for (int y0 = 0; y0 < 4; y0++) {
          const float element = dy[800 * c + 16 * j + 4 * y1 + y0];
          const float first = winner[800 * c + 16 * j + 4 * y1 + y0];
          dx[3200 * c + 64 * j + 8 * (2 * y1) + 2 * y0] = first == 0 ? element : 0;
          dx[3200 * c + 64 * j + 8 * (2 * y1) + 2 * y0 + 1] = first == 1 ? element : 0;
          dx[3200 * c + 64 * j + 8 * (2 * y1 + 1) + 2 * y0] = first == 2 ? element : 0;
          dx[3200 * c + 64 * j + 8 * (2 * y1 + 1) + 2 * y0 + 1] = first == 3 ? element : 0;
        }
  }
}

// sum += sumto(x): adds up along dimensions along which a value was repeated
//   lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
KNET_LOOPS void sumto_sum16x50xsumN(float* __restrict sum, const float* __restrict x, knet_range rows,
    int columns) {
  if (!rows.size()) return;  // another thread's
  for (int c = 0; c < columns; c++) {
    for (int j = 0; j < 50; j++) {
      float part = 0;
    KNET_SIMD(reduction(+ : part))
      for (int i = 0; i < 16; i++) part += x[800 * c + 16 * j + i];
      sum[j] += part;
    }
  }
}

// dx = relu_back(dy, y)
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
KNET_LOOPS void relu_back_3(float* __restrict dx, const float* __restrict dy, const float* __restrict y,
    knet_range rows, int columns) {
  if (rows.whole(2880)) rows.to *= columns, columns = 1;  // the columns as one run of memory
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      dx[2880 * c + i] = y[2880 * c + i] > 0.0f ? dy[2880 * c + i] : 0.0f;
    }
  }
}

// dx = unpool(dy, winner; stride=2)
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
KNET_LOOPS void unpool_24x24_to_12x12(float* __restrict dx, const float* __restrict dy,
    const float* __restrict winner, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    for (int j = rows.from; j < rows.to; j++)
      for (int y1 = 0; y1 < 12; y1++)
        KNET_SIMD()
        for (int y0 = 0; y0 < 12; y0++) {
          const float element = dy[2880 * c + 144 * j + 12 * y1 + y0];
          const float first = winner[2880 * c + 144 * j + 12 * y1 + y0];
          dx[11520 * c + 576 * j + 24 * (2 * y1) + 2 * y0] = first == 0 ? element : 0;
          dx[11520 * c + 576 * j + 24 * (2 * y1) + 2 * y0 + 1] = first == 1 ? element : 0;
          dx[11520 * c + 576 * j + 24 * (2 * y1 + 1) + 2 * y0] = first == 2 ? element : 0;
          dx[11520 * c + 576 * j + 24 * (2 * y1 + 1) + 2 * y0 + 1] = first == 3 ? element : 0;
        }
  }
}

// sum += sumto(x): adds up along dimensions along which a value was repeated
//   lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
KNET_LOOPS void sumto_sum144x20xsumN(float* __restrict sum, const float* __restrict x, knet_range rows,
    int columns) {
  if (!rows.size()) return;  // another thread's
  for (int c = 0; c < columns; c++) {
    for (int j = 0; j < 20; j++) {
      float part = 0;
    KNET_SIMD(reduction(+ : part))
      for (int i = 0; i < 144; i++) part += x[2880 * c + 144 * j + i];
      sum[j] += part;
    }
  }
}

// ------------------------------------------------------------------------------------------------ the model ----
enum { PARAMETERS = 8, INPUTS = 1, CONDITIONS = 0 };

// What a thread has for itself; a line of the cache apart from the others.
struct alignas(64) knet_worker {
  double loss = 0, squares = 0;
  float* room = nullptr;  // windows or padded images
  float* sum_d_b_b = nullptr;  // its part of d:b/b
  float* sum_d_b_w = nullptr;  // its part of d:b/w
  float* sum_d_a_b = nullptr;  // its part of d:a/b
  float* sum_d_a_w = nullptr;  // its part of d:a/w
  float* a_c = nullptr;  // a/c f32[24,24,20,N], of a block
  float* b_c = nullptr;  // b/c f32[8,8,50,N], of a block
  float* d_b_pool = nullptr;  // d:b@pool f32[4,4,50,N], of a block
  float* d_b_tmp1 = nullptr;  // d:b/tmp1 f32[8,8,50,N], of a block
  float* d_a = nullptr;  // d:a f32[12,12,20,N], of a block
  float* d_a_pool = nullptr;  // d:a@pool f32[12,12,20,N], of a block
  float* d_a_tmp1 = nullptr;  // d:a/tmp1 f32[24,24,20,N], of a block
};
struct knet_worker_array {
  float* knet_worker::*place;
  size_t elements;
};
const knet_worker_array worker_arrays[] = {
    {&knet_worker::room, 3136},
    {&knet_worker::sum_d_b_b, 50},
    {&knet_worker::sum_d_b_w, 25000},
    {&knet_worker::sum_d_a_b, 20},
    {&knet_worker::sum_d_a_w, 500},
    {&knet_worker::a_c, 57600},
    {&knet_worker::b_c, 16000},
    {&knet_worker::d_b_pool, 3200},
    {&knet_worker::d_b_tmp1, 12800},
    {&knet_worker::d_a, 11520},
    {&knet_worker::d_a_pool, 11520},
    {&knet_worker::d_a_tmp1, 46080},
    {nullptr, 0},
};

// What a forward call leaves for its backward pass, with room for `room` columns: the values that backward passes read;
// and the inputs, which stand where the caller has them, or, of a step of a sequence, in copies. `below` is the step
// before on the stack, or the next one that waits to be used again.
struct knet_frame {
  knet_frame* below;
  int variant, batch, room;
  const float* inputs[INPUTS + 1];
  float* copies[INPUTS + 1];
  float* values[6];
};

}  // namespace

// A model: its settings, then a place for every value, by Knet's name.
struct lenet_model {
  int threads = 1;                 // how many run a call, at most
  knet_worker* workers = nullptr;  // one for each
  unsigned long long seed = 0;
  unsigned call = 0;  // the number of the last forward call
  int columns_before = 0;  // how many of the minibatch that random draws are of come before those of a call
  // The frames: of the last forward call; of the one that a backward pass outside a sequence goes back through; of the
  // steps of a sequence, the newest first; and those that wait to be used again.
  knet_frame *last = nullptr, *record = nullptr, *stack = nullptr, *spare = nullptr;
  int variant = 0, batch = 0;  // the forward function and the columns of the frame in use
  int capacity = 0;            // the columns that the values have room for
  bool gradients = false;   // whether there are gradients
  bool wants_loss = false;  // whether the loss's value is asked for
  knet_sink<float> sinks[PARAMETERS + 1] = {};  // where the gradient of each parameter goes
  const float* input_gradients[INPUTS + 1] = {};
  int input_batch = 0;  // the columns of those
  const int* rows[INPUTS + 1] = {};  // of an input that is one-hot, the row of the 1 in each column
  float* desired = nullptr;          // the dense matrix of what is wanted, where that is given so
  knet_options training[PARAMETERS + 1];
  // The convolutions: the sizes of x, w and y (fastest first), padding, stride, upscale, channels, whether the filter
  // is flipped, how many lines at a time, how many elements a vector has.
  knet_conv conv[2] = {
      {{28, 28, 1}, {5, 5, 1}, {24, 24, 1}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, 1, 20, true, 24, 8},
      {{12, 12, 1}, {5, 5, 1}, {8, 8, 1}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, 20, 50, true, 8, 8},
  };

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
  float* a_winner = nullptr;  // a@winner f32[12,12,20,N]
  float* a = nullptr;  // a f32[12,12,20,N]
  float* b_winner = nullptr;  // b@winner f32[4,4,50,N]
  float* b = nullptr;  // b f32[4,4,50,N]
  float* c_tmp1 = nullptr;  // c/tmp1 f32[500,N]
  float* c = nullptr;  // c f32[500,N]
  float* wbf_tmp1 = nullptr;  // wbf/tmp1 f32[10,N]
  float* return_ = nullptr;  // return f32[10,N]
  float* d_wbf_tmp2 = nullptr;  // d:wbf/tmp2 f32[10,N]
  float* d_c = nullptr;  // d:c f32[500,N]
  float* d_c_tmp2 = nullptr;  // d:c/tmp2 f32[500,N]
  float* d_b = nullptr;  // d:b f32[4,4,50,N]
  float* d_x = nullptr;  // d:x f32[28,28,1,N]
};

namespace {

using knet_place = float* knet_model::*;
// Where each array stands in the model, and its elements: a fixed number, or so many a column.
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
    {&knet_model::c_tmp1, 0, 500},
    {&knet_model::wbf_tmp1, 0, 10},
    {&knet_model::d_wbf_tmp2, 0, 10},
    {&knet_model::d_wbf_b, 10, 0},
    {&knet_model::d_wbf_w, 5000, 0},
    {&knet_model::d_c, 0, 500},
    {&knet_model::d_c_tmp2, 0, 500},
    {&knet_model::d_c_b, 500, 0},
    {&knet_model::d_c_w, 400000, 0},
    {&knet_model::d_b, 0, 800},
    {&knet_model::d_b_b, 50, 0},
    {&knet_model::d_b_w, 25000, 0},
    {&knet_model::d_a_b, 20, 0},
    {&knet_model::d_a_w, 500, 0},
    {&knet_model::d_x, 0, 784},
    {nullptr, 0, 11520},  // the end, and the elements a column of the largest array
};

// What the frame of each forward function holds, in order.
const knet_buffer frame_0[] = {
    {&knet_model::a_winner, 0, 2880},
    {&knet_model::a, 0, 2880},
    {&knet_model::b_winner, 0, 800},
    {&knet_model::b, 0, 800},
    {&knet_model::c, 0, 500},
    {&knet_model::return_, 0, 10},
    {nullptr, 0, 0},
};
// The inputs that the backward passes of each forward function read.
const bool reads_input[][INPUTS + 1] = {
    {true, false},
};
// The inputs that its training reads as dense matrices, even where they are one-hot.
const bool reads_dense[][INPUTS + 1] = {
    {true, false},
};
const knet_buffer* const frames[] = {frame_0};

// All columns of what is trained on: an input or the gold is an array, or the rows of the 1s of a one-hot matrix.
struct knet_data {
  const float* const* inputs;
  const int* const* rows;
  const float* gold;
  const int* gold_rows;
};
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
float* data_of(knet_model* m, const knet_array& a) { return m->*a.place + a.offset; }
// Copies an array to one without pitch (`out`), or from there.
void copy_array(const knet_array& a, float* data, float* plain, int batch, bool out) {
  const size_t size = elements(a, batch), rows = a.pitch ? a.dims[0] : size;
  for (size_t at = 0; at < size; at += rows, data += a.pitch)
    memcpy(out ? plain + at : data, out ? data : plain + at, rows * sizeof(float));
}
// The array of that name, NULL where there is none.
const knet_array* find(const knet_array* table, const char* name) {
  for (; table->name; table++)
    if (!strcmp(table->name, name)) return table;
  return nullptr;
}
// A mask from column c on, if there is one.
const float* knet_at(const float* mask, int c) { return mask ? mask + c : nullptr; }

// From here on no loop goes over elements: the compiler's work would take longer than what it gains.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O1")
#endif

// ------------------------------------------------------------------------------------------------ the steps ----
// The forward pass.
void forward(knet_model* m, const knet_team& t) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  knet_worker& s = m->workers[t.wide ? t.index : 0];
  for (int b = c; b < c + n; b += 5) {
    const int k = min(5, c + n - b);
    // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
    // a/c f32[24,24,20,N]
    knet_direct_forward<32, 4, 3, false>(m->conv[0], m->a_w, m->x + 784 * b, s.a_c, w.room, t.rows(20), k);
    // a f32[12,12,20,N]
    add_pool_winner_relu_24x24_to_12x12(m->a_winner + 2880 * b, m->a + 2880 * b, s.a_c, m->a_b, t.rows(20), k);
    t.wait_narrow();
    // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
    // b/c f32[8,8,50,N]
    knet_direct_forward<32, 3, 4, false>(m->conv[1], m->b_w, m->a + 2880 * b, s.b_c, w.room, t.rows(50), k);
    // b f32[4,4,50,N]
    add_pool_winner_relu_8x8_to_4x4(m->b_winner + 800 * b, m->b + 800 * b, s.b_c, m->b_b, t.rows(50), k);
    t.wait_narrow();
  }
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  // c/tmp1 f32[500,N]
  knet_product_rows(false, false, 500, n, 800, m->c_w, 500, m->b + 800 * c, 800, knet_to(m->c_tmp1 + 500 * c,
      500), t.rows(500));
  add_relu_500xN(m->c + 500 * c, m->c_tmp1 + 500 * c, m->c_b, t.rows(500), n);  // c f32[500,N]
  t.wait_narrow();
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  // wbf/tmp1 f32[10,N]
  knet_product_rows(false, false, 10, n, 500, m->wbf_w, 10, m->c + 500 * c, 500, knet_to(m->wbf_tmp1 + 10 * c,
      10), t.rows(10));
  t.wait_narrow();
  add_soft(m->return_ + 10 * c, m->wbf_tmp1 + 10 * c, m->wbf_b, t.rows(1), n);  // return f32[10,N]
  (void)m, (void)t;
}

// The backward pass from softloss.
void backward_softloss(knet_model* m, const knet_team& t,
    const knet_real* gold, const knet_real* mask, unsigned long long want) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  knet_worker& s = m->workers[t.wide ? t.index : 0];
  // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
  knet_zero(s.sum_d_b_b, 50, t.rows(1).times(50), 1);
  knet_zero(s.sum_d_b_w, 25000, t.rows(50).times(500), 1);
  // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
  knet_zero(s.sum_d_a_b, 20, t.rows(1).times(20), 1);
  knet_zero(s.sum_d_a_w, 500, t.rows(20).times(25), 1);
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  // @loss f32[]
  if (m->wants_loss) w.loss = softloss(m->return_ + 10 * c, gold + 10 * c, knet_at(mask, c), t.rows(1), n);
  // d:wbf/tmp2 f32[10,N]
  softmax_softloss_back(m->d_wbf_tmp2 + 10 * c, m->return_ + 10 * c, gold + 10 * c, knet_at(mask, c),
      (float)(1.0 / N), t.rows(10), n);
  t.wait_narrow();
  // d:c f32[500,N]
  knet_product_rows(true, false, 500, n, 10, m->wbf_w, 10, m->d_wbf_tmp2 + 10 * c, 10, knet_to(m->d_c + 500 * c,
      500), t.rows(500));
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  relu_back(m->d_c_tmp2 + 500 * c, m->d_c + 500 * c, m->c + 500 * c, t.rows(500), n);  // d:c/tmp2 f32[500,N]
  t.wait_narrow();
  // d:b f32[4,4,50,N]
  knet_product_rows(true, false, 800, n, 500, m->c_w, 500, m->d_c_tmp2 + 500 * c, 500, knet_to(m->d_b + 800 * c,
      800), t.rows(800));
  for (int b = c; b < c + n; b += 4) {
    const int k = min(4, c + n - b);
    t.wait_narrow();
    // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
    relu_back_2(s.d_b_pool, m->d_b + 800 * b, m->b + 800 * b, t.rows(50).times(16), k);  // d:b@pool f32[4,4,50,N]
    unpool_8x8_to_4x4(s.d_b_tmp1, s.d_b_pool, m->b_winner + 800 * b, t.rows(50), k);  // d:b/tmp1 f32[8,8,50,N]
    t.wait_narrow();
    sumto_sum16x50xsumN(s.sum_d_b_b, s.d_b_pool, t.rows(1), k);  // d:b/b, of these columns
    // d:b/w, of these columns
    knet_direct_back_w<32, 3, 4, false>(m->conv[1], m->a + 2880 * b, s.d_b_tmp1, s.sum_d_b_w, w.room, t.rows(50),
        k);
    // d:a f32[12,12,20,N]
    knet_direct_back_x<32, 3, 4, false>(m->conv[1], m->b_w, s.d_b_tmp1, s.d_a, w.room, t.rows(20), k);
    // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
    relu_back_3(s.d_a_pool, s.d_a, m->a + 2880 * b, t.rows(20).times(144), k);  // d:a@pool f32[12,12,20,N]
    unpool_24x24_to_12x12(s.d_a_tmp1, s.d_a_pool, m->a_winner + 2880 * b, t.rows(20), k);  // d:a/tmp1 f32[24,24,20,N]
    t.wait_narrow();
    sumto_sum144x20xsumN(s.sum_d_a_b, s.d_a_pool, t.rows(1), k);  // d:a/b, of these columns
    // d:a/w, of these columns
    knet_direct_back_w<32, 4, 3, false>(m->conv[0], m->x + 784 * b, s.d_a_tmp1, s.sum_d_a_w, w.room, t.rows(20),
        k);
    if (want & 1) {
      // d:x f32[28,28,1,N]
      knet_direct_back_x<32, 4, 3, false>(m->conv[0], m->a_w, s.d_a_tmp1, m->d_x + 784 * b, w.room, t.rows(1), k);
    }
    t.wait_narrow();
  }
  t.wait_wide();
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  knet_sum_columns(m->sinks[7], m->d_wbf_tmp2, 10, N, t.part(10));  // d:wbf/b f32[10]
  // d:wbf/w f32[10,500]
  knet_product_columns(false, true, 10, 500, N, m->d_wbf_tmp2, 10, m->c, 500, m->sinks[6], t.part(500));
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  knet_sum_columns(m->sinks[5], m->d_c_tmp2, 500, N, t.part(500));  // d:c/b f32[500]
  // d:c/w f32[500,800]
  knet_product_columns(false, true, 500, 800, N, m->d_c_tmp2, 500, m->b, 800, m->sinks[4], t.part(800));
  // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
  // d:b/b f32[1,1,50,1]
  knet_sum_parts(m->sinks[3], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_b_b, t.part(50));
  // d:b/w f32[5,5,20,50]
  knet_sum_parts(m->sinks[2], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_b_w, t.part(50).times(500));
  // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
  // d:a/b f32[1,1,20,1]
  knet_sum_parts(m->sinks[1], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_a_b, t.part(20));
  // d:a/w f32[5,5,1,20]
  knet_sum_parts(m->sinks[0], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_a_w, t.part(20).times(25));
  if (want & 1) m->input_gradients[0] = m->d_x;
  (void)m, (void)t;
}

// Forward and back from softloss: the gradients go where m->sinks says.
void train_softloss(knet_model* m, const knet_team& t,
    const knet_real* gold, const knet_real* mask, unsigned long long) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  knet_worker& s = m->workers[t.wide ? t.index : 0];
  // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
  knet_zero(s.sum_d_b_b, 50, t.rows(1).times(50), 1);
  knet_zero(s.sum_d_b_w, 25000, t.rows(50).times(500), 1);
  // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
  knet_zero(s.sum_d_a_b, 20, t.rows(1).times(20), 1);
  knet_zero(s.sum_d_a_w, 500, t.rows(20).times(25), 1);
  for (int b = c; b < c + n; b += 5) {
    const int k = min(5, c + n - b);
    // a/c f32[24,24,20,N]
    knet_direct_forward<32, 4, 3, false>(m->conv[0], m->a_w, m->x + 784 * b, s.a_c, w.room, t.rows(20), k);
    // a f32[12,12,20,N]
    add_pool_winner_relu_24x24_to_12x12(m->a_winner + 2880 * b, m->a + 2880 * b, s.a_c, m->a_b, t.rows(20), k);
    t.wait_narrow();
    // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
    // b/c f32[8,8,50,N]
    knet_direct_forward<32, 3, 4, false>(m->conv[1], m->b_w, m->a + 2880 * b, s.b_c, w.room, t.rows(50), k);
    // b f32[4,4,50,N]
    add_pool_winner_relu_8x8_to_4x4(m->b_winner + 800 * b, m->b + 800 * b, s.b_c, m->b_b, t.rows(50), k);
    t.wait_narrow();
  }
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  // c/tmp1 f32[500,N]
  knet_product_rows(false, false, 500, n, 800, m->c_w, 500, m->b + 800 * c, 800, knet_to(m->c_tmp1 + 500 * c,
      500), t.rows(500));
  add_relu_500xN(m->c + 500 * c, m->c_tmp1 + 500 * c, m->c_b, t.rows(500), n);  // c f32[500,N]
  t.wait_narrow();
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  // wbf/tmp1 f32[10,N]
  knet_product_rows(false, false, 10, n, 500, m->wbf_w, 10, m->c + 500 * c, 500, knet_to(m->wbf_tmp1 + 10 * c,
      10), t.rows(10));
  t.wait_narrow();
  add_soft(m->return_ + 10 * c, m->wbf_tmp1 + 10 * c, m->wbf_b, t.rows(1), n);  // return f32[10,N]
  t.wait_narrow();
  // @loss f32[]
  if (m->wants_loss) w.loss = softloss(m->return_ + 10 * c, gold + 10 * c, knet_at(mask, c), t.rows(1), n);
  // d:wbf/tmp2 f32[10,N]
  softmax_softloss_back(m->d_wbf_tmp2 + 10 * c, m->return_ + 10 * c, gold + 10 * c, knet_at(mask, c),
      (float)(1.0 / N), t.rows(10), n);
  t.wait_narrow();
  // d:c f32[500,N]
  knet_product_rows(true, false, 500, n, 10, m->wbf_w, 10, m->d_wbf_tmp2 + 10 * c, 10, knet_to(m->d_c + 500 * c,
      500), t.rows(500));
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  relu_back(m->d_c_tmp2 + 500 * c, m->d_c + 500 * c, m->c + 500 * c, t.rows(500), n);  // d:c/tmp2 f32[500,N]
  t.wait_narrow();
  // d:b f32[4,4,50,N]
  knet_product_rows(true, false, 800, n, 500, m->c_w, 500, m->d_c_tmp2 + 500 * c, 500, knet_to(m->d_b + 800 * c,
      800), t.rows(800));
  for (int b = c; b < c + n; b += 4) {
    const int k = min(4, c + n - b);
    t.wait_narrow();
    // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
    relu_back_2(s.d_b_pool, m->d_b + 800 * b, m->b + 800 * b, t.rows(50).times(16), k);  // d:b@pool f32[4,4,50,N]
    unpool_8x8_to_4x4(s.d_b_tmp1, s.d_b_pool, m->b_winner + 800 * b, t.rows(50), k);  // d:b/tmp1 f32[8,8,50,N]
    t.wait_narrow();
    sumto_sum16x50xsumN(s.sum_d_b_b, s.d_b_pool, t.rows(1), k);  // d:b/b, of these columns
    // d:b/w, of these columns
    knet_direct_back_w<32, 3, 4, false>(m->conv[1], m->a + 2880 * b, s.d_b_tmp1, s.sum_d_b_w, w.room, t.rows(50),
        k);
    // d:a f32[12,12,20,N]
    knet_direct_back_x<32, 3, 4, false>(m->conv[1], m->b_w, s.d_b_tmp1, s.d_a, w.room, t.rows(20), k);
    // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
    relu_back_3(s.d_a_pool, s.d_a, m->a + 2880 * b, t.rows(20).times(144), k);  // d:a@pool f32[12,12,20,N]
    unpool_24x24_to_12x12(s.d_a_tmp1, s.d_a_pool, m->a_winner + 2880 * b, t.rows(20), k);  // d:a/tmp1 f32[24,24,20,N]
    t.wait_narrow();
    sumto_sum144x20xsumN(s.sum_d_a_b, s.d_a_pool, t.rows(1), k);  // d:a/b, of these columns
    // d:a/w, of these columns
    knet_direct_back_w<32, 4, 3, false>(m->conv[0], m->x + 784 * b, s.d_a_tmp1, s.sum_d_a_w, w.room, t.rows(20),
        k);
    t.wait_narrow();
  }
  t.wait_wide();
  // lenet.knet:8: return wbf(c; out=nclass, winit=Glorot(), f=:soft)
  knet_sum_columns(m->sinks[7], m->d_wbf_tmp2, 10, N, t.part(10));  // d:wbf/b f32[10]
  // d:wbf/w f32[10,500]
  knet_product_columns(false, true, 10, 500, N, m->d_wbf_tmp2, 10, m->c, 500, m->sinks[6], t.part(500));
  // lenet.knet:7: c = wbf(b; out=hidden, winit=Glorot())
  knet_sum_columns(m->sinks[5], m->d_c_tmp2, 500, N, t.part(500));  // d:c/b f32[500]
  // d:c/w f32[500,800]
  knet_product_columns(false, true, 500, 800, N, m->d_c_tmp2, 500, m->b, 800, m->sinks[4], t.part(800));
  // lenet.knet:6: b = cbfp(a; out=cout2, cwindow=cwin2, pwindow=pwin2, cinit=Glorot())
  // d:b/b f32[1,1,50,1]
  knet_sum_parts(m->sinks[3], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_b_b, t.part(50));
  // d:b/w f32[5,5,20,50]
  knet_sum_parts(m->sinks[2], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_b_w, t.part(50).times(500));
  // lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())
  // d:a/b f32[1,1,20,1]
  knet_sum_parts(m->sinks[1], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_a_b, t.part(20));
  // d:a/w f32[5,5,1,20]
  knet_sum_parts(m->sinks[0], m->workers, t.wide ? t.size : 1, &knet_worker::sum_d_a_w, t.part(20).times(25));
  (void)m, (void)t;
}

// Parameters and constants as they are at the start.
void initialize(knet_model* m, const knet_team& t) {
  // a/w f32[5,5,1,20], GlorotUniform()
  knet_fill_uniform(m->a_w + t.part(500).from, t.part(500).from, t.part(500).size(), m->seed, 0u, 0u,
      (-0.10690449676496976), 0.10690449676496976);
  // a/b f32[1,1,20,1], Constant(0.0)
  knet_fill_constant(m->a_b + t.part(20).from, t.part(20).from, t.part(20).size(), 0.0);
  // b/w f32[5,5,20,50], GlorotUniform()
  knet_fill_uniform(m->b_w + t.part(25000).from, t.part(25000).from, t.part(25000).size(), m->seed, 0u, 2u,
      (-0.05855400437691199), 0.05855400437691199);
  // b/b f32[1,1,50,1], Constant(0.0)
  knet_fill_constant(m->b_b + t.part(50).from, t.part(50).from, t.part(50).size(), 0.0);
  // c/w f32[500,800], GlorotUniform()
  knet_fill_uniform(m->c_w + t.part(400000).from, t.part(400000).from, t.part(400000).size(), m->seed, 0u, 4u,
      (-0.06793662204867575), 0.06793662204867575);
  // c/b f32[500], Constant(0.0)
  knet_fill_constant(m->c_b + t.part(500).from, t.part(500).from, t.part(500).size(), 0.0);
  // wbf/w f32[10,500], GlorotUniform()
  knet_fill_uniform(m->wbf_w + t.part(5000).from, t.part(5000).from, t.part(5000).size(), m->seed, 0u, 6u,
      (-0.10846522890932808), 0.10846522890932808);
  // wbf/b f32[10], Constant(0.0)
  knet_fill_constant(m->wbf_b + t.part(10).from, t.part(10).from, t.part(10).size(), 0.0);
  (void)m, (void)t;
}

// What runs each variant: its functions, with the operations of each, about, of a column and of the whole.
struct knet_work {
  double column, fixed;
};
using knet_forward = void(knet_model*, const knet_team&);
using knet_backward = void(knet_model*, const knet_team&, const float*, const float*, unsigned long long);
struct knet_functions {
  knet_forward* forward;
  knet_work forward_work;
  knet_backward* backward[4];
  knet_work backward_work[4];
  knet_backward* train[4];
};
const knet_functions variants[] = {
    {forward, {4860420, 0}, {nullptr, nullptr, nullptr, backward_softloss}, {{0, 0}, {0, 0}, {0, 0}, {9331740, 0}},
     {nullptr, nullptr, nullptr, train_softloss}},
};

// ------------------------------------------------------------------------------------------------ the calls ----
// ---- memory
enum { ALIGNMENT = 64 };
float* allocate_elements(size_t elements) {
  return (float*)operator new[](elements * sizeof(float), std::align_val_t(ALIGNMENT), std::nothrow);
}
int allocate(float** place, size_t elements) {
  *place = allocate_elements(elements);
  return *place ? 0 : knet_fail(KNET_MEMORY, "no memory for %zu bytes", elements * sizeof(float));
}
void release(float** place) {
  operator delete[](*place, std::align_val_t(ALIGNMENT));
  *place = nullptr;
}

// ---- threads
void release_workers(knet_worker* workers, int threads) {
  for (int t = 0; workers && t < threads; t++)
    for (const knet_worker_array* a = worker_arrays; a->place; a++) release(&(workers[t].*a->place));
  delete[] workers;
}
// Makes so many threads the most that run a call.
int make_workers(knet_model* m, int threads) {
  knet_worker* workers = new (std::nothrow) knet_worker[threads];
  if (!workers) return knet_fail(KNET_MEMORY, "no memory for %d threads", threads);
  int code = 0;
  for (int t = 0; t < threads; t++)
    for (const knet_worker_array* a = worker_arrays; a->place && !code; a++)
      code = allocate(&(workers[t].*a->place), a->elements);
  if (code) {
    release_workers(workers, threads);
    return code;
  }
  release_workers(m->workers, m->threads);
  m->workers = workers;
  m->threads = threads;
  return 0;
}
int most_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}
// How many threads are worth while for so much work on so many columns: each has so many operations at least.
#ifndef KNET_THREAD_WORK
#define KNET_THREAD_WORK 400000
#endif
int threads_for(const knet_model* m, const knet_work& work, int batch) {
  const double operations = work.column * batch + work.fixed, threads = operations / KNET_THREAD_WORK;
  return threads < 2 ? 1 : threads < m->threads ? (int)threads : m->threads;
}

// ---- frames
void free_frame(knet_model* m, knet_frame* f) {
  if (m->last == f) m->last = nullptr;
  for (float*& copy : f->copies) release(&copy);
  for (float*& value : f->values) release(&value);
  delete f;
}
void free_frames(knet_model* m, knet_frame** list) {
  while (knet_frame* f = *list) {
    *list = f->below;
    free_frame(m, f);
  }
}
// A new frame for a forward function, with room for so many columns.
int make_frame(knet_model* m, int variant, int room, knet_frame** frame) {
  knet_frame* const f = new (std::nothrow) knet_frame();
  if (!f) return knet_fail(KNET_MEMORY, "no memory for a step");
  f->variant = variant;
  f->room = room;
  int code = 0;
  float** value = f->values;
  for (const knet_buffer* b = frames[variant]; b->place && !code; b++)
    code = allocate(value++, b->fixed + b->column * room);
  if (code) {
    free_frame(m, f);
    return code;
  }
  *frame = f;
  return 0;
}
// Of the frames that wait, the place of one for a forward function, or of the end.
knet_frame** find_frame(knet_model* m, int variant) {
  knet_frame** place = &m->spare;
  while (*place && (*place)->variant != variant) place = &(*place)->below;
  return place;
}
// A frame for a call of a forward function: one that waits, or a new one.
int take_frame(knet_model* m, int variant, int batch, knet_frame** frame) {
  knet_frame** const place = find_frame(m, variant);
  knet_frame* f = *place;
  if (f)
    *place = f->below;
  else
    TRY(make_frame(m, variant, m->capacity, &f));
  f->below = nullptr;
  f->batch = batch;
  *frame = f;
  return 0;
}
// Gives a frame back; it keeps what it holds until the next call takes it.
void give_frame(knet_model* m, knet_frame* f) {
  if (f->room < m->capacity) return free_frame(m, f);
  f->below = m->spare;
  m->spare = f;
}
// Room for copies of the inputs that the backward pass reads.
int make_copies(knet_frame* f) {
  for (int i = 0; i < INPUTS; i++)
    if (reads_input[f->variant][i] && !f->copies[i]) TRY(allocate(&f->copies[i], elements(inputs[i], f->room)));
  return 0;
}
// Makes frames for so many single steps to wait, so that no step finds no memory.
int make_frames(knet_model* m, int variant, int batch, int steps) {
  knet_frame* made = nullptr;
  int code = 0;
  while (!code && steps-- > 0) {
    knet_frame* f = nullptr;
    code = take_frame(m, variant, batch, &f);
    if (!f) break;
    code = make_copies(f);
    f->below = made;
    made = f;
  }
  if (code) free_frames(m, &made);
  while (knet_frame* f = made) {
    made = f->below;
    give_frame(m, f);
  }
  return code;
}
// Copies the inputs that the backward pass reads, so that the caller may fill them anew.
int copy_inputs(knet_frame* f) {
  TRY(make_copies(f));
  for (int i = 0; i < INPUTS; i++) {
    if (!reads_input[f->variant][i]) continue;
    memcpy(f->copies[i], f->inputs[i], elements(inputs[i], f->batch) * sizeof(float));
    f->inputs[i] = f->copies[i];
  }
  return 0;
}
void use_frame(knet_model* m, const knet_frame* f) {
  float* const* value = f->values;
  for (const knet_buffer* b = frames[f->variant]; b->place; b++) m->*b->place = *value++;
  for (int i = 0; i < INPUTS; i++) m->*inputs[i].place = const_cast<float*>(f->inputs[i]);
  m->variant = f->variant;
  m->batch = f->batch;
}
void forget_record(knet_model* m) {
  if (m->record) give_frame(m, m->record);
  m->record = nullptr;
}
void forget_input_gradients(knet_model* m) {
  for (int i = 0; i <= INPUTS; i++) m->input_gradients[i] = nullptr;
}

// ---- memory that depends on the batch
void release_columns(knet_model* m) {
  forget_record(m);
  free_frames(m, &m->spare);
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->column) release(&(m->*b->place));
  release(&m->desired);
  m->capacity = 0;
  m->last = nullptr;
  forget_input_gradients(m);
}
// Makes room for `batch` columns; on failure the model has no room for values at all, but its parameters, state and
// stack.
int reserve(knet_model* m, int batch) {
  const int end = sizeof buffers / sizeof *buffers - 1;
  // Elements are counted in int.
  if ((double)batch * (double)buffers[end].column > 2130706432.0)
    return knet_fail(KNET_ARGUMENT, "a batch of %d columns is too large: an array would have over 2130706432 elements",
                     batch);
  if (batch <= m->capacity) return 0;
  release_columns(m);
  for (const knet_buffer* b = buffers; b->place; b++) {
    if (!b->column || !allocate(&(m->*b->place), batch * b->column)) continue;
    release_columns(m);
    return KNET_MEMORY;
  }
  m->capacity = batch;
  return 0;
}

int check_model(const knet_model* m) { return m ? 0 : knet_fail(KNET_ARGUMENT, "the model is NULL"); }
// Whether a forward call can run, on inputs of which each is given as an array or as the rows of a one-hot matrix;
// *variant: the forward function for the conditions.
int check_step(const knet_model* m, unsigned conditions, const knet_real* const* arrays, const int* const* rows,
               int batch, int* variant) {
  // For every setting of the conditions: which forward function it runs.
  static const unsigned short variant_of[1 << CONDITIONS] = {0};
  TRY(check_model(m));
  if (conditions >> CONDITIONS) return knet_fail(KNET_ARGUMENT, "there is no such condition");
  *variant = variant_of[conditions];
  if (*variant >= (int)(sizeof values / sizeof *values))
    return knet_fail(KNET_ARGUMENT, "there is no such setting of the conditions");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  for (int i = 0; i < INPUTS; i++)
    if ((!arrays || !arrays[i]) && (!rows || !rows[i]))
      return knet_fail(KNET_ARGUMENT, "input %s is NULL", inputs[i].name);
  return 0;
}
// What comes before a forward function: room, and a frame for what it leaves; `keep`: with copies of the inputs.
int begin_step(knet_model* m, int variant, const knet_real* const* arrays, int batch, bool keep, knet_frame** frame) {
  TRY(reserve(m, batch));
  m->last = nullptr;
  forget_record(m);
  forget_input_gradients(m);
  int code = take_frame(m, variant, batch, frame);
  for (int i = 0; i < INPUTS && !code; i++) (*frame)->inputs[i] = arrays ? arrays[i] : nullptr;
  if (!code && keep) code = copy_inputs(*frame);
  if (code) {  // no memory: what a smaller batch has no use for is given back
    if (*frame) give_frame(m, *frame);
    *frame = nullptr;
    release_columns(m);
    return code;
  }
  use_frame(m, *frame);
  m->call++;
  return 0;
}

// ---- forward
void push_frame(knet_model* m, knet_frame* f) {
  f->below = m->stack;
  m->stack = f;
}
// A forward call; with `push`, a step of a sequence.
int step_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output,
                 bool push) {
  int variant = 0;
  knet_frame* f = nullptr;
  TRY(check_step(m, conditions, arrays, nullptr, batch, &variant));
  TRY(begin_step(m, variant, arrays, batch, push, &f));
  const knet_functions& run = variants[variant];
  knet_parallel(threads_for(m, run.forward_work, batch), batch, [=](const knet_team& t) { run.forward(m, t); });
  if (const knet_array* value = output ? find(values[variant], "return") : nullptr)
    copy_array(*value, data_of(m, *value), output, batch, true);
  m->last = f;
  if (push)
    push_frame(m, f);
  else
    m->record = f;
  return 0;
}

// ---- back
// The sum of what the threads have found of the loss.
double loss_of(const knet_model* m, int threads, double columns) {
  double sum = 0;
  for (int t = 0; t < threads; t++) sum += m->workers[t].loss;
  return sum / columns;
}
// Takes the newest steps of the sequence off the stack, which are of that frame.
void pop_steps(knet_model* m, knet_frame* f, int steps) {
  (void)steps;
  m->stack = f->below;
  give_frame(m, f);
}
// Lets the gradients of parameters go to their arrays; `add`: to what is there.
void keep_gradients(knet_model* m, bool add) {
  for (int i = 0; i < PARAMETERS; i++)
    if (gradients[i].place) m->sinks[i] = {data_of(m, gradients[i]), 1, add, gradients[i].pitch};
}
// Whether a backward pass can start from a loss, against `gold`.
int check_loss(int loss, const knet_real* gold) {
  if (loss < KNET_ZERO || loss > KNET_SOFTLOSS) return knet_fail(KNET_ARGUMENT, "there is no loss %d", loss);
  return loss == KNET_ZERO || gold ? 0 : knet_fail(KNET_ARGUMENT, "gold is NULL");
}
int check_way_back(const knet_frame* f, int loss) {
  if (variants[f->variant].backward[loss]) return 0;
  return knet_fail(KNET_ARGUMENT,
                   "there is no backward pass from that loss for the last forward call; --loss says from which");
}
// A backward pass through the last forward call; with `pop`, through the newest step of the sequence.
int step_backward(knet_model* m, int loss, const knet_real* gold, const knet_real* mask,
                  unsigned long long input_grads, knet_real* loss_value, bool pop) {
  TRY(check_model(m));
  knet_frame* const f = pop ? m->stack : m->record;
  if (!f)
    return knet_fail(KNET_ORDER,
                     pop ? "the stack is empty: each sbackward goes back through one sforward"
                         : "backward comes after forward");
  TRY(check_loss(loss, gold));
  for (int i = INPUTS; i < 64; i++)
    if (input_grads >> i & 1) return knet_fail(KNET_ARGUMENT, "there is no input %d", i);
  TRY(check_way_back(f, loss));
  const knet_functions& run = variants[f->variant];
  TRY(reserve(m, f->batch));
  use_frame(m, f);
  forget_input_gradients(m);
  keep_gradients(m, pop && m->gradients);
  m->wants_loss = loss_value;
  const int threads = threads_for(m, run.backward_work[loss], f->batch);
  for (int t = 0; t < threads; t++) m->workers[t].loss = 0;
  knet_parallel(threads, f->batch, [=](const knet_team& t) { run.backward[loss](m, t, gold, mask, input_grads); });
  m->gradients = true;
  m->input_batch = f->batch;
  if (loss_value) *loss_value = (float)loss_of(m, threads, f->batch);
  if (pop) pop_steps(m, f, 1);
  return 0;
}

// Empties the stack and forgets the gradients.
void forget_sequence(knet_model* m) {
  while (knet_frame* f = m->stack) {
    m->stack = f->below;
    give_frame(m, f);
  }
  m->gradients = false;
  forget_input_gradients(m);
}

// ---- update
// Makes room for an average that an option needs, zero at first.
int keep_average(bool needed, float** average, size_t elements) {
  if (!needed || *average) return 0;
  TRY(allocate(average, elements));
  memset(*average, 0, elements * sizeof(float));
  return 0;
}
int keep_averages(knet_options* o, size_t elements) {
  TRY(keep_average(o->adagrad, &o->adagrad_squares, elements));
  TRY(keep_average(o->rmsprop, &o->rmsprop_squares, elements));
  TRY(keep_average(o->adam, &o->adam_mean, elements));
  TRY(keep_average(o->adam, &o->adam_square, elements));
  TRY(keep_average(o->momentum != 0, &o->momentum_average, elements));
  TRY(keep_average(o->nesterov != 0, &o->nesterov_average, elements));
  return 0;
}
// The gradients' common norm, where some gradient is to be clipped. Every thread calls this.
double gradient_norm(knet_model* m, const knet_team& t) {
  double squares = 0;
  for (int i = 0; i < PARAMETERS; i++) {
    if (!gradients[i].place) continue;
    const float* const dw = data_of(m, gradients[i]);
    const int n = (int)elements(gradients[i], 1), pitch = gradients[i].pitch;
    if (!pitch) {
      squares += knet_sum_of_squares(dw, t.part(n));
      continue;
    }
    const knet_range part = t.part(n / gradients[i].dims[0]);
    for (int c = part.from; c < part.to; c++) squares += knet_sum_of_squares(dw + (size_t)pitch * c, {0, gradients[i].dims[0]});
  }
  m->workers[t.index].squares = squares;
  t.wait();
  squares = 0;
  for (int k = 0; k < t.size; k++) squares += m->workers[k].squares;
  return sqrt(squares);
}
// Changes this thread's part of one parameter: some elements, or some columns where those do not follow each other.
void update_columns(knet_model* m, int i, const knet_team& t, double factor) {
  const knet_array &a = parameters[i], &g = gradients[i];
  float* const w = data_of(m, a);
  const float* const dw = data_of(m, g);
  const int n = (int)elements(a, 1);
  if (!a.pitch && !g.pitch) return knet_update(m->training[i], w, dw, 0, t.part(n), factor);
  const int rows = a.dims[0], to = a.pitch ? a.pitch : rows, from = g.pitch ? g.pitch : rows;
  const knet_range part = t.part(n / rows);
  for (int c = part.from; c < part.to; c++)
    knet_update(m->training[i], w + (size_t)to * c, dw + (size_t)from * c, (size_t)rows * c, {0, rows}, factor);
}
// Every thread's part of an update. Parameters whose gradient goes straight into them are done already.
void update_parts(knet_model* m, const knet_team& t, double gclip, double gscale, bool clip) {
  const double norm = clip ? gradient_norm(m, t) : 0;
  for (int i = 0; i < PARAMETERS; i++) {
    if (!gradients[i].place || m->sinks[i].to == data_of(m, parameters[i])) continue;
    const knet_options& o = m->training[i];
    const double most = gclip > 0 ? gclip : o.gclip;
    double factor = gscale * o.gscale;
    if (most > 0 && norm > most) factor *= most / norm;
    update_columns(m, i, t, factor);
  }
}
// Room for the averages that all options need.
int keep_averages(knet_model* m) {
  for (int i = 0; i < PARAMETERS; i++)
    if (gradients[i].place) TRY(keep_averages(&m->training[i], elements(parameters[i], 1)));
  return 0;
}
// What comes before an update: room for averages, and Adam's count. *clip: whether some gradient may be clipped.
int begin_update(knet_model* m, double gclip, bool* clip) {
  TRY(keep_averages(m));
  *clip = gclip > 0;
  for (int i = 0; i < PARAMETERS; i++) *clip = *clip || (gradients[i].place && m->training[i].gclip > 0);
  for (int i = 0; i < PARAMETERS; i++) m->training[i].adam_steps += gradients[i].place && m->training[i].adam;
  return 0;
}
int update(knet_model* m, double gclip, double gscale) {
  bool clip = false;
  TRY(begin_update(m, gclip, &clip));
  double work = 0;
  for (int i = 0; i < PARAMETERS; i++) {
    if (!gradients[i].place) continue;
    m->sinks[i].to = data_of(m, gradients[i]);
    work += 4.0 * elements(parameters[i], 1);
  }
  knet_parallel(threads_for(m, {0, work}, 1), 1,
                [=](const knet_team& t) { update_parts(m, t, gclip, gscale, clip); });
  return 0;
}

// ---- training
// Where the gradients of a step of training go: straight into the parameters where nothing else is to be done to them.
void aim_gradients(knet_model* m, double gscale, bool straight) {
  for (int i = 0; i < PARAMETERS; i++) {
    if (!gradients[i].place) continue;
    const knet_options& o = m->training[i];
    if (straight && knet_is_plain(o))
      m->sinks[i] = {data_of(m, parameters[i]), (float)(-o.lr * gscale * o.gscale), true, parameters[i].pitch};
    else
      m->sinks[i] = {data_of(m, gradients[i]), 1, false, gradients[i].pitch};
  }
}
// The dense matrix of `rows`, the row of the single 1 of each column.
void make_dense(const int* rows, int size, int columns, float* dense) {
  memset(dense, 0, (size_t)size * columns * sizeof(float));
  for (int c = 0; c < columns; c++) dense[(size_t)size * c + rows[c]] = 1;
}
int check_rows(const knet_array& a, const int* rows, int columns) {
  if (!batched(a) || a.count != 2)
    return knet_fail(KNET_ARGUMENT, "%s is no matrix with a column for each instance", a.name);
  for (int c = 0; c < columns; c++)
    if (rows[c] < 0 || rows[c] >= a.dims[0])
      return knet_fail(KNET_ARGUMENT, "%s has no row %d, as column %d says", a.name, rows[c], c);
  return 0;
}
// Whether the rows of one-hot matrices are rows of these.
int check_rows(const int* const* rows, const int* gold_rows, const knet_array& value, int columns) {
  for (int i = 0; i < INPUTS && rows; i++)
    if (rows[i]) TRY(check_rows(inputs[i], rows[i], columns));
  return gold_rows ? check_rows(value, gold_rows, columns) : 0;
}
// Room for the inputs that are given by rows, as dense matrices.
int make_copies(knet_frame* f, const int* const* rows) {
  for (int i = 0; i < INPUTS && rows; i++)
    if (rows[i] && !f->copies[i]) TRY(allocate(&f->copies[i], elements(inputs[i], f->room)));
  return 0;
}
// Makes an input that is given by rows a dense matrix of the frame's, which has room for it.
void make_input_dense(knet_model* m, knet_frame* f, int i) {
  make_dense(m->rows[i], (int)elements(inputs[i], 1), f->batch, f->copies[i]);
  f->inputs[i] = f->copies[i];
}
// Makes the minibatch that begins at column c the one that the frame is of, and that is looked for in `gold`.
int take_minibatch(knet_model* m, knet_frame* f, const knet_data& data, int c, const float** gold) {
  for (int i = 0; i < INPUTS; i++) {
    const bool dense = !data.rows || !data.rows[i];
    m->rows[i] = dense ? nullptr : data.rows[i] + c;
    if (dense) {
      f->inputs[i] = data.inputs[i] + from_column(inputs[i], c);
    } else if (reads_dense[f->variant][i]) {
      make_input_dense(m, f, i);
    }
  }
  use_frame(m, f);
  const knet_array& value = *find(values[f->variant], "return");
  if (!data.gold_rows) {
    *gold = data.gold + from_column(value, c);
    return 0;
  }
  if (!m->desired) TRY(allocate(&m->desired, elements(value, m->capacity)));
  make_dense(data.gold_rows + c, (int)elements(value, 1), f->batch, m->desired);
  *gold = m->desired;
  return 0;
}
// One minibatch: forward, back, update. `keep`: its gradients are kept, for who wants to look at them.
int train_minibatch(knet_model* m, int loss, const float* gold, double gclip, double gscale, bool keep,
                    double* value) {
  bool clip = false;
  TRY(begin_update(m, gclip, &clip));
  aim_gradients(m, gscale, !keep && !clip);
  const knet_functions& run = variants[m->variant];
  const knet_work work = {run.forward_work.column + run.backward_work[loss].column,
                          run.forward_work.fixed + run.backward_work[loss].fixed};
  const int threads = threads_for(m, work, m->batch);
  bool updates = clip;
  for (int i = 0; i < PARAMETERS; i++) updates = updates || (gradients[i].place && !m->sinks[i].add);
  for (int t = 0; t < threads; t++) m->workers[t].loss = 0;
  m->wants_loss = value;
  m->call++;
  knet_parallel(threads, m->batch, [=](const knet_team& t) {
    run.train[loss](m, t, gold, nullptr, 0);
    if (!updates) return;
    t.wait();
    update_parts(m, t, gclip, gscale, clip);
  });
  if (value) *value = loss_of(m, threads, m->batch);
  return 0;
}

// ---- sequences
// A sequence forward: at once where the forward function has the parts for that, else step by step.
int sequence_forward(knet_model* m, unsigned conditions, const float* const* arrays, int batch, int steps,
                     float* output) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, nullptr, batch, &variant));
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  const knet_array* const value = find(values[variant], "return");
  TRY(reserve(m, batch));
  const int made = make_frames(m, variant, batch, steps);
  if (made) release_columns(m);
  TRY(made);
  for (int t = 0; t < steps; t++) {
    const float* given[INPUTS + 1];
    for (int i = 0; i < INPUTS; i++) given[i] = arrays[i] + (batched(inputs[i]) ? elements(inputs[i], batch) * t : 0);
    float* const to = output && value ? output + elements(*value, batch) * t : nullptr;
    TRY(step_forward(m, conditions, given, batch, to, true));  // only the first can fail, by what it checks
  }
  return 0;
}
// Back through the newest steps: those at once that were computed at once, where the backward function has the parts.
// Where a loss is asked for, it is the mean of the steps'.
int sequence_backward(knet_model* m, int loss, const float* gold, const float* mask, int steps,
                      float* loss_value) {
  TRY(check_model(m));
  TRY(check_loss(loss, gold));
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  int left = steps;
  size_t columns = 0;  // of all steps, which may be more than one array has
  for (const knet_frame* f = m->stack; f && left > 0; f = f->below) {
    TRY(check_way_back(f, loss));
    TRY(reserve(m, f->batch));  // so that nothing fails between two steps
    const int of_frame = 1;
    columns += (size_t)f->batch * of_frame;
    left -= of_frame;
  }
  if (left > 0) return knet_fail(KNET_ORDER, "the stack has %d steps, not %d", steps - left, steps);
  double sum = 0;  // of the steps' losses
  for (left = steps; left > 0;) {
    knet_frame* const f = m->stack;
    const int now = 1;
    columns -= (size_t)f->batch * now;
    left -= now;
    const knet_array* const value = find(values[f->variant], "return");
    const float* const wanted = gold && value ? gold + from_column(*value, columns) : gold;
    const float* const weights = mask ? mask + columns : nullptr;
    float mean = 0;
    float* const place = loss_value ? &mean : nullptr;
    TRY(step_backward(m, loss, wanted, weights, 0, place, true));
    sum += (double)mean * now;
  }
  if (loss_value) *loss_value = (float)(sum / steps);
  return 0;
}

}  // namespace

namespace {

int open_model(knet_model* m, unsigned long long seed) {
  m->seed = seed;
  // The threads are ours: a product runs on the one that calls it.
  if (KNET_BLAS(openblas_set_num_threads)) KNET_BLAS(openblas_set_num_threads)(1);
  TRY(make_workers(m, most_threads()));
  for (knet_conv& c : m->conv)
    if (!knet_prepare(&c)) return knet_fail(KNET_MEMORY, "no memory for a convolution");
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->fixed) TRY(allocate(&(m->*b->place), b->fixed));
  knet_parallel(m->threads, 1, [=](const knet_team& t) { initialize(m, t); });
  return 0;
}
void close_model(knet_model* m) {
  free_frames(m, &m->stack);
  release_columns(m);
  for (const knet_buffer* b = buffers; b->place; b++) release(&(m->*b->place));
  for (knet_options& o : m->training)
    for (float** average : {&o.adagrad_squares, &o.rmsprop_squares, &o.adam_mean, &o.adam_square,
                             &o.momentum_average, &o.nesterov_average})
      release(average);
  release_workers(m->workers, m->threads);
  for (knet_conv& c : m->conv) knet_release(&c);
  delete m;
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
  if (kind == KNET_VALUE) use_frame(m, m->last);
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

// Copies a parameter to memory of the caller's (`out`), or from there.
int copy_parameter(knet_model* m, const knet_array& a, float* plain, bool out) {
  copy_array(a, data_of(m, a), plain, 1, out);
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

int check_update(double gclip, double gscale) {
  if (!isfinite(gclip) || gclip < 0) return knet_fail(KNET_ARGUMENT, "gclip cannot be %g", gclip);
  if (!isfinite(gscale)) return knet_fail(KNET_ARGUMENT, "gscale cannot be %g", gscale);
  return 0;
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

int lenet_create(knet_model** model, unsigned long long seed, void*) {
  if (!model) return knet_fail(KNET_ARGUMENT, "the place for the model is NULL");
  *model = nullptr;
  knet_model* m = new (std::nothrow) knet_model();
  if (!m) return knet_fail(KNET_MEMORY, "no memory for a model");
  if (const int code = open_model(m, seed)) {
    close_model(m);
    return code;
  }
  *model = m;
  return 0;
}

int lenet_destroy(knet_model* m) {
  if (m) close_model(m);
  return 0;
}

int lenet_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output) {
  return step_forward(m, conditions, arrays, batch, output, false);
}
int lenet_sforward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output) {
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
int lenet_forwseq(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, int steps,
    knet_real* output) {
  return sequence_forward(m, conditions, arrays, batch, steps, output);
}
int lenet_backseq(knet_model* m, int loss, const knet_real* gold, const knet_real* mask, int steps,
    knet_real* loss_value) {
  return sequence_backward(m, loss, gold, mask, steps, loss_value);
}

int lenet_update(knet_model* m, double gclip, double gscale) {
  TRY(check_model(m));
  TRY(check_update(gclip, gscale));
  if (!m->gradients) return knet_fail(KNET_ORDER, "update comes after backward");
  return update(m, gclip, gscale);
}

int lenet_train(knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
    const int* const* rows, const knet_real* gold, const int* gold_rows, int columns, int batch, double gclip,
    double gscale, double* losses) {
  int variant = 0;
  if (columns < 1) return knet_fail(KNET_ARGUMENT, "%d columns", columns);
  if (batch > columns) batch = columns;
  TRY(check_step(m, conditions, arrays, rows, batch, &variant));
  if (!gold && !gold_rows) return knet_fail(KNET_ARGUMENT, "gold is NULL");
  TRY(check_update(gclip, gscale));
  if (loss < KNET_QUADLOSS || loss > KNET_SOFTLOSS || !variants[variant].train[loss])
    return knet_fail(KNET_ARGUMENT, "there is no training from loss %d", loss);
  TRY(check_rows(rows, gold_rows, *find(values[variant], "return"), columns));
  const knet_data data = {arrays, rows, gold, gold_rows};
  knet_frame* f = nullptr;
  int code = begin_step(m, variant, arrays, batch, false, &f);
  m->call -= !code;  // each minibatch is a call
  if (!code) code = make_copies(f, rows);
  int c = 0;
  for (; c < columns && !code; c += code ? 0 : batch) {
    f->batch = columns - c < batch ? columns - c : batch;
    const knet_real* wanted = nullptr;
    code = take_minibatch(m, f, data, c, &wanted);
    if (!code)
      code = train_minibatch(m, loss, wanted, gclip, gscale, c + batch >= columns,
                             losses ? losses + c / batch : nullptr);
  }
  // Of the last minibatch the inputs may be read by name, and by a backward pass.
  for (int i = 0; i < INPUTS && !code; i++)
    if (m->rows[i] && !reads_dense[f->variant][i]) make_input_dense(m, f, i);
  for (const int*& given : m->rows) given = nullptr;
  m->gradients = !code;
  if (f) m->last = m->record = f;
  return code;
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

int lenet_set_threads(knet_model* m, int threads) {
  TRY(check_model(m));
  if (threads < 0 || threads > 4096) return knet_fail(KNET_ARGUMENT, "a number of %d threads", threads);
  if (!threads) threads = most_threads();
  return threads == m->threads ? 0 : make_workers(m, threads);
}

int lenet_reset(knet_model* m, int keepstate) {
  TRY(check_model(m));
  forget_sequence(m);
  (void)keepstate;  // the model has no state
  return 0;
}

int lenet_clean(knet_model* m) {
  TRY(check_model(m));
  forget_sequence(m);
  release_columns(m);
  return 0;
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
  knet_array layout = *a;
  if (average_place(m->training, kind)) layout.pitch = 0;  // an average is no part of a block
  copy_array(layout, data, array, batch, true);
  return 0;
}

int lenet_set(knet_model* m, const char* name, const knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, KNET_PARAM, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  copy_array(*a, data, const_cast<float*>(array), batch, false);
  return 0;
}

int lenet_set_state(knet_model* m, const char* name, const knet_real* array, int batch) {
  TRY(check_model(m));
  if (!name) return knet_fail(KNET_ARGUMENT, "the name is NULL");
  const knet_array* a = find(states, name);
  if (!a) return knet_fail(KNET_ARGUMENT, "there is no state called %s", name);
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  memcpy(m->*a->place, array, elements(*a, batch) * sizeof(float));
  return 0;
}

int lenet_set_average(knet_model* m, int kind, const char* parameter, const knet_real* array) {
  knet_options* o = nullptr;
  TRY(find_options(m, parameter, &o));
  float** place = average_place(o, kind);
  if (!place) return knet_fail(KNET_ARGUMENT, "there is no kind %d of averages", kind);
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  const size_t n = elements(*find(parameters, parameter), 1);
  if (!*place) TRY(allocate(place, n));
  memcpy(*place, array, n * sizeof(float));
  return 0;
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

int lenet_set_gradient(knet_model* m, const char* name, const knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, KNET_GRAD, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  copy_array(*a, data, const_cast<float*>(array), batch, false);
  return 0;
}

int lenet_save(knet_model* m, const char* path) {
  TRY(check_model(m));
  if (!path) return knet_fail(KNET_ARGUMENT, "the path is NULL");
  knet_file f = {nullptr, knet_file_size(), 0};
  f.data = new (std::nothrow) char[f.size];
  if (!f.data) return knet_fail(KNET_MEMORY, "no memory for %zu bytes of parameters", f.size);
  int code = knet_file_fill(m, &f);
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
  if (!code) code = knet_file_take(m, &f, path);
  delete[] f.data;
  return code;
}

int lenet_synchronize(knet_model* m) { return check_model(m); }

}  // extern "C"

// The templates above become functions at the end of the file: with all of the compiler's work again.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
