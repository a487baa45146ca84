// Knet model charlm, compiled by knetc to C++ (f32, fp32).
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
// Memory with a batch of 100: 1.2 MB, and 98.3 kB for each thread.
// What a call is given stands with the caller; steps on the stack have copies of inputs that are read back.
//   state   b/h                   f32[64,N]     25.6 kB
//   state   b/cell                f32[64,N]     25.6 kB
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
//   value   d:x                   f32[65,N]     26.0 kB
//   value   d:wbf/tmp2            f32[65,N]     26.0 kB
//   grad    d:wbf/b               f32[65]         260 B
//   and 7 more
// d:v is the gradient of v; v@prev what v was in the call before; d:v@next the gradient that the step after
// hands back; v@block several values, one above the other, from v on.
// Each step on the stack takes 320.8 kB more.
// A sequence that runs at once takes 519.2 kB for each of its steps.
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

typedef struct charlm_model charlm_model;
typedef float charlm_real; /* the element type of every array */
/* Conditions, to be added up; what is not named is false. */
enum {
  CHARLM_DROPOUT = 1 /* dropout */
};

/* The reason for this thread's last error. */
const char* charlm_last_error(void);
/* Makes a model with its parameters filled from `seed`. `stream` is there for the sake of the CUDA file, whose interface
   this is: NULL. Where it fails, *model is NULL and nothing is left behind. */
int charlm_create(charlm_model** model, unsigned long long seed, void* stream);
/* Frees everything; NULL is fine. */
int charlm_destroy(charlm_model* model);

/* At most so many threads run a call; 0: as many as OpenMP has (OMP_NUM_THREADS, or all processors), as at the start. */
int charlm_set_threads(charlm_model* model, int threads);

/* Runs the model over `batch` columns. inputs: x [65,N]; each column-major, the batch last. They are
   read where they stand, and must stay as they are until the backward pass. output: where the value is copied
   ([65,N]), or NULL. */
int charlm_forward(charlm_model* model, unsigned conditions, const charlm_real* const* inputs, int batch, charlm_real* output);
/* Gradients of the last charlm_forward, by a loss against `gold` (of the shape of the value).
   loss: KNET_ZERO or KNET_SOFTLOSS (knetc's --loss). mask: one number a column, or NULL; without a loss it is not
   read. input_grads: bit i asks for the gradient of input i. loss_value: where the loss goes, 0 without one, or
   NULL. May be called again, for another loss. Between a forward call and its ways back the parameters must not
   change. */
int charlm_backward(charlm_model* model, int loss, const charlm_real* gold, const charlm_real* mask,
                  unsigned long long input_grads, charlm_real* loss_value);
/* Changes every parameter by its gradient and its options. Gradients are scaled so that their common L2 norm is at most
   gclip, where that is over 0, and by gscale. */
int charlm_update(charlm_model* model, double gclip, double gscale);
/* Trains on so many columns, in minibatches of `batch` (the last may be smaller): what charlm_forward,
   charlm_backward and charlm_update do for each, in one call. inputs and gold hold all columns. rows: NULL, or for
   each input NULL or, in place of a one-hot matrix, the row (from 0) of the 1 in each column; gold_rows as well.
   losses: where the loss of each minibatch goes, before its update, or NULL. The last one's gradients are kept. */
int charlm_train(charlm_model* model, unsigned conditions, int loss, const charlm_real* const* inputs,
                 const int* const* rows, const charlm_real* gold, const int* gold_rows, int columns, int batch,
                 double gclip, double gscale, double* losses);
/* Sets an option of one parameter, or of all with NULL: lr, l1reg, l2reg, adagrad, rmsprop, adam (0 or 1), momentum,
   nesterov, gclip, gscale. */
int charlm_set_option(charlm_model* model, const char* parameter, const char* option, double value);
/* As charlm_forward, for a step of a sequence: what its backward pass needs goes on the model's stack,
   the inputs too, which may be filled anew. */
int charlm_sforward(charlm_model* model, unsigned conditions, const charlm_real* const* inputs, int batch, charlm_real* output);
/* As charlm_backward, for the newest step on the stack, which it takes off; adds to the gradients that there are. The
   state's gradient flows to the step before. KNET_ZERO where no gradient comes from the output of that step. */
int charlm_sbackward(charlm_model* model, int loss, const charlm_real* gold, const charlm_real* mask,
                   unsigned long long input_grads, charlm_real* loss_value);
/* As so many calls of charlm_sforward, with the columns of all steps side by side in each input and in output, the first
   step's first. What the state does not stand between is computed for all steps at once, if the steps are over 1. */
int charlm_forwseq(charlm_model* model, unsigned conditions, const charlm_real* const* inputs, int batch, int steps,
    charlm_real* output);
/* As charlm_sbackward for the newest steps on the stack, the newest first; gold and mask have the columns of all of them,
   the oldest step's first. loss_value: where the mean of the steps' losses goes, 0 without one, or NULL. Steps that ran in one
   charlm_forwseq are gone back through at once, if all of them are. */
int charlm_backseq(charlm_model* model, int loss, const charlm_real* gold, const charlm_real* mask, int steps,
    charlm_real* loss_value);
/* Trains over so many steps of a sequence, in segments of `length` steps (the last may be shorter): for each what
   charlm_forwseq, charlm_backseq, charlm_update and charlm_reset, keeping the state, do. It begins as after such
   a reset; the stack must be empty. inputs and gold have the columns of all steps side by side. losses: where the loss of
   each segment goes, before its update, or NULL. A failure for lack of memory changes nothing. */
int charlm_trainseq(charlm_model* model, unsigned conditions, int loss, const charlm_real* const* inputs,
    const charlm_real* gold, int batch, int steps, int length, double gclip, double gscale, charlm_real* losses);
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
/* Copies an array out. */
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
/* Overwrites the gradient of a parameter, which a backward pass has computed: with the sum over several processes. */
int charlm_set_gradient(charlm_model* model, const char* name, const charlm_real* array);
/* Writes all parameters to a file, whole or not at all; and reads them from one, which must be of the same model. */
int charlm_save(charlm_model* model, const char* path);
int charlm_load(charlm_model* model, const char* path);
/* Nothing: every call has done its work when it returns. */
int charlm_synchronize(charlm_model* model);
}

namespace {

// Short for what is spelled with the model's name.
using knet_model = charlm_model;
using knet_real = charlm_real;

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
template <class T>
static inline void knet_zero_columns(const knet_sink<T>& y, int rows, knet_range columns) {
  for (int c = columns.from; c < columns.to; c++) memset(y.to + (size_t)y.apart(rows) * c, 0, rows * sizeof(T));
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
static inline float knet_copysign(float size, float sign) { return copysignf(size, sign); }
static inline double knet_copysign(double size, double sign) { return copysign(size, sign); }
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
static inline void knet_copy(T* to, const T* from, int size, knet_range rows, int n) {
  if (rows.whole(size)) rows.to *= n, n = 1;
  for (int c = 0; c < n && rows.size() > 0; c++)
    memcpy(to + size * c + rows.from, from + size * c + rows.from, rows.size() * sizeof(T));
}
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

// Products with a matrix that is the same at every step of a sequence. A BLAS lays a matrix out anew at every call, in
// the order in which its inner loop reads it; here that is done once for all steps. Panels of rows fill the registers
// with sums, vectors of the result; each panel is read from first to last for some columns at a time. DEPTH: so much of
// what is summed over at a time, and COLUMNS so many columns, so that those stay in the second cache.
template <class T>
struct knet_panel {
  typedef knet_vector<T, KNET_REGISTER_BYTES> vector;
  static constexpr int rows = KNET_TILE_VECTORS * vector::lanes;
  // The elements of so many rows with what fills the last vector.
  static int filled(int n) { return (n + vector::lanes - 1) / vector::lanes * vector::lanes; }
};
// Lays op(a), m x k, out anew, each thread some panels: one part of the depth after another, in it the panels, of each
// the columns one after the other, zeroes after the last row.
template <int DEPTH, class T>
KNET_LOOPS void knet_pack(bool ta, int m, int k, const T* __restrict a, int lda, T* __restrict to,
                          const knet_team& t) {
  typedef knet_panel<T> panel;
  const knet_range panels = t.part((m + panel::rows - 1) / panel::rows);
  for (int first = 0; first < k; first += DEPTH) {
    const int depth = k - first < DEPTH ? k - first : DEPTH;
    for (int p = panels.from; p < panels.to; p++) {
      const int r = p * panel::rows, n = m - r < panel::rows ? m - r : panel::rows, filled = panel::filled(n);
      T* out = to + (size_t)panel::filled(m) * first + (size_t)r * depth;
      for (int i = first; i < first + depth; i++, out += filled) {
        if (ta)
          for (int q = 0; q < n; q++) out[q] = a[(size_t)lda * (r + q) + i];
        else
          memcpy(out, a + (size_t)lda * i + r, n * sizeof(T));
        for (int q = n; q < filled; q++) out[q] = 0;
      }
    }
  }
}
// Some columns of b, from `first` on of what is summed over, in groups: of each group one row after the other.
template <class T>
static inline void knet_pack_columns(int n, int depth, const T* __restrict b, int ldb, T* __restrict to) {
  for (int j = 0; j < n; j += KNET_TILE_COLUMNS) {
    for (int q = 0; q < KNET_TILE_COLUMNS; q++) {
      const T* const column = b + (size_t)ldb * (j + q < n ? j + q : j);  // a column too many, which nobody reads
      for (int i = 0; i < depth; i++) to[KNET_TILE_COLUMNS * i + q] = column[i];
    }
    to += KNET_TILE_COLUMNS * depth;
  }
}
// A panel times so many columns, of which c has `rows` rows.
template <int VECTORS, class T>
KNET_LOOPS void knet_panel_columns(int rows, int n, int depth, const T* a, const T* b, T* c, int ldc, bool add) {
  constexpr int all = VECTORS * knet_panel<T>::vector::lanes;
  constexpr int width = KNET_TILE_COLUMNS, bytes = KNET_REGISTER_BYTES;
  for (int j = 0; j < n; j += width, b += width * depth, c += (size_t)ldc * width) {
    const int columns = n - j < width ? n - j : width;
    if (columns == width && rows == all) {
      knet_tile<bytes, VECTORS, width>(depth, a, all, b, width, 1, knet_sink<T>{c, 1, add, ldc});
      continue;
    }
    T sum[width * all];
    knet_tile<bytes, VECTORS, width>(depth, a, all, b, width, 1, knet_to(sum, all));
    for (int q = 0; q < columns; q++)
      for (int r = 0; r < rows; r++) c[(size_t)ldc * q + r] = sum[all * q + r] + (add ? c[(size_t)ldc * q + r] : 0);
  }
}
// c = op(a) b, m x n, of which a is packed; `room` is for columns of b. Where that gains nothing, from a itself.
template <int DEPTH, int COLUMNS, class T>
static inline void knet_packed_product(bool packed, bool ta, int m, int n, int k, const T* a, int lda, const T* panels,
                                       const T* b, int ldb, T* c, int ldc, T* room, knet_range rows) {
  static_assert(COLUMNS % KNET_TILE_COLUMNS == 0, "columns in whole groups");
  typedef knet_panel<T> panel;
  constexpr int lanes = panel::vector::lanes;
  if (!packed || n < 2 || (double)m * n * k < 1e6)
    return knet_product_rows(ta, false, m, n, k, a, lda, b, ldb, knet_to(c, ldc), rows);
  for (int first = 0; first < k; first += DEPTH) {
    const int depth = k - first < DEPTH ? k - first : DEPTH;
    for (int j = 0; j < n; j += COLUMNS) {
      const int columns = n - j < COLUMNS ? n - j : COLUMNS;
      knet_pack_columns(columns, depth, b + (size_t)ldb * j + first, ldb, room);
      const T* from = panels + (size_t)panel::filled(m) * first;
      for (int r = 0; r < m; r += panel::rows, from += (size_t)panel::rows * depth) {
        const int height = m - r < panel::rows ? m - r : panel::rows;
        T* const to = c + (size_t)ldc * j + r;
        if (height > 2 * lanes)
          knet_panel_columns<3>(height, columns, depth, from, room, to, ldc, first > 0);
        else if (height > lanes)
          knet_panel_columns<2>(height, columns, depth, from, room, to, ldc, first > 0);
        else
          knet_panel_columns<1>(height, columns, depth, from, room, to, ldc, first > 0);
      }
    }
  }
}

// Products with an input that may be one-hot: then `ones` has the row of the 1 in each column, and columns are picked.
// Some rows of the n columns of y = w x from column c on: x is k x n, y m x n; columns of w are ldw apart, those of y ldy.
template <class T>
KNET_LOOPS void knet_input_product(const int* ones, int m, int n, int k, const T* w, int ldw,
                                   const T* x, int c, T* y, int ldy, knet_range rows) {
  if (!ones) return knet_product_rows(false, false, m, n, k, w, ldw, x + k * c, k, knet_to(y, ldy), rows);
  for (int i = 0; i < n; i++)
    for (int r = rows.from; r < rows.to; r++) y[ldy * i + r] = w[ldw * ones[c + i] + r];
}
// Some columns of dw = dy x', m x k, over all n columns of dy and x.
template <class T>
KNET_LOOPS void knet_input_product_back(const int* ones, int m, int k, int n, const T* dy, int ldy,
                                        const T* x, const knet_sink<T>& dw, knet_range columns) {
  if (!ones) return knet_product_columns(false, true, m, k, n, dy, ldy, x, k, dw, columns);
  if (!dw.add) knet_zero_columns(dw, m, columns);
  for (int i = 0; i < n; i++) {
    if (ones[i] < columns.from || ones[i] >= columns.to) continue;
    T* const to = dw.to + (size_t)dw.apart(m) * ones[i];
    for (int r = 0; r < m; r++) to[r] += dw.scale * dy[ldy * i + r];
  }
}
// Whether each of so many columns is 1 in one row and 0 in the others; those rows.
template <class T>
KNET_LOOPS bool knet_find_ones(const T* x, int rows, int columns, int* ones) {
  for (int c = 0; c < columns; c++, x += rows) {
    int count = 0, sum = 0;
    for (int r = 0; r < rows; r++) {
      count += x[r] != 0;
      sum += x[r] != 0 ? r : 0;
    }
    if (count != 1 || x[sum] != 1) return false;
    ones[c] = sum;
  }
  return true;
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
template <class T>
KNET_LOOPS void knet_fill_bernoulli(T* y, int first, int n, unsigned long long seed, unsigned call, unsigned stream,
                                    double p, double scale) {
  for (int i = 0; i < n; i++) y[i] = knet_uniform(knet_random_word(seed, first + i, call, stream)) < p ? (T)scale : 0;
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

// output, forget, input, newmem, cell, tmp3, h in one pass: 9 add, 3 sigm, 2 tanh, 3 mul
//   charlm.knet:6: b = lstm(a; out=hidden)
KNET_LOOPS void fused_h_64xN(float* __restrict output, float* __restrict forget, float* __restrict input,
    float* __restrict newmem, float* __restrict cell, float* __restrict tmp3, float* __restrict h,
    const float* __restrict output_tmp1, const float* __restrict output_tmp2, const float* __restrict output_c,
    const float* __restrict forget_tmp1, const float* __restrict forget_tmp2, const float* __restrict forget_c,
    const float* __restrict input_tmp1, const float* __restrict input_tmp2, const float* __restrict input_c,
    const float* __restrict newmem_tmp1, const float* __restrict newmem_tmp2, const float* __restrict newmem_c,
    const float* __restrict cell_prev, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      const float output_tmp3 = output_tmp1[256 * c + i] + output_tmp2[256 * c + i];
      const float output_tmp4 = output_tmp3 + output_c[i];
      const float output_i = 1.0f / (1.0f + knet_exp(-output_tmp4));
      output[64 * c + i] = output_i;
      const float forget_tmp3 = forget_tmp1[256 * c + i] + forget_tmp2[256 * c + i];
      const float forget_tmp4 = forget_tmp3 + forget_c[i];
      const float forget_i = 1.0f / (1.0f + knet_exp(-forget_tmp4));
      forget[64 * c + i] = forget_i;
      const float input_tmp3 = input_tmp1[256 * c + i] + input_tmp2[256 * c + i];
      const float input_tmp4 = input_tmp3 + input_c[i];
      const float input_i = 1.0f / (1.0f + knet_exp(-input_tmp4));
      input[64 * c + i] = input_i;
      const float newmem_tmp3 = newmem_tmp1[256 * c + i] + newmem_tmp2[256 * c + i];
      const float newmem_tmp4 = newmem_tmp3 + newmem_c[i];
      const float newmem_i = knet_tanh(newmem_tmp4);
      newmem[64 * c + i] = newmem_i;
      const float tmp1 = input_i * newmem_i;
      const float tmp2 = cell_prev[64 * c + i] * forget_i;
      const float cell_i = tmp1 + tmp2;
      cell[64 * c + i] = cell_i;
      const float tmp3_i = knet_tanh(cell_i);
      tmp3[64 * c + i] = tmp3_i;
      h[64 * c + i] = tmp3_i * output_i;
    }
  }
}

// y = soft(add(tmp1, b))
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
KNET_LOOPS void add_soft(float* __restrict y, const float* __restrict tmp1, const float* __restrict b,
    knet_range rows, int columns) {
  if (!rows.size()) return;  // another thread has the columns
  for (int c = 0; c < columns; c++) {
    float top = -INFINITY, sum = 0;
    for (int i = 0; i < 65; i++) {
      const float e = tmp1[65 * c + i] + b[i];
      top = e > top ? e : top;  // a NaN comes into the sum
    }
    for (int i = 0; i < 65; i++) {
      sum += knet_exp((tmp1[65 * c + i] + b[i]) - top);
    }
    for (int i = 0; i < 65; i++) {
      y[65 * c + i] = knet_exp((tmp1[65 * c + i] + b[i]) - top) / sum;
    }
  }
}

// d_cell_prev, d_newmem_tmp4, d_output_tmp4, d_forget_tmp4, d_input_tmp4 in one pass: 6 mul, 2 tanh_back, add, 3 sigm_back
//   charlm.knet:6: b = lstm(a; out=hidden)
KNET_LOOPS void fused_d_input_tmp4(float* __restrict d_cell_prev, float* __restrict d_newmem_tmp4,
    float* __restrict d_output_tmp4, float* __restrict d_forget_tmp4, float* __restrict d_input_tmp4,
    const float* __restrict d_h_next, const float* __restrict output, const float* __restrict tmp3,
    const float* __restrict d_cell_next, const float* __restrict forget, const float* __restrict cell_prev,
    const float* __restrict newmem, const float* __restrict input, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      const float d_h_next_i = d_h_next[64 * c + i];
      const float output_i = output[64 * c + i];
      const float tmp3_i = tmp3[64 * c + i];
      const float forget_i = forget[64 * c + i];
      const float newmem_i = newmem[64 * c + i];
      const float input_i = input[64 * c + i];
      const float d_tmp3 = d_h_next_i * output_i;
      const float d_output = d_h_next_i * tmp3_i;
      const float d_cell = d_tmp3 * ((1.0f - tmp3_i) * (1.0f + tmp3_i));
      const float d_cell_2 = d_cell_next[64 * c + i] + d_cell;
      d_cell_prev[64 * c + i] = d_cell_2 * forget_i;
      const float d_forget = d_cell_2 * cell_prev[64 * c + i];
      const float d_input = d_cell_2 * newmem_i;
      const float d_newmem = d_cell_2 * input_i;
      d_newmem_tmp4[256 * c + i] = d_newmem * ((1.0f - newmem_i) * (1.0f + newmem_i));
      d_output_tmp4[256 * c + i] = d_output * (output_i * (1.0f - output_i));
      d_forget_tmp4[256 * c + i] = d_forget * (forget_i * (1.0f - forget_i));
      d_input_tmp4[256 * c + i] = d_input * (input_i * (1.0f - input_i));
    }
  }
}

// the sum of -mask * gold * log(p)
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
KNET_LOOPS double softloss(const float* __restrict p, const float* __restrict gold, const float* __restrict mask,
    knet_range rows, int columns) {
  double sum = 0;
  if (!rows.size()) return sum;  // another thread's
  for (int c = 0; c < columns; c++) {
    const float weight = mask ? mask[c] : 1;
    if (weight == 0) continue;
    double part = 0;
    KNET_SIMD(reduction(+ : part))
    for (int i = 0; i < 65; i++) {
      const int at = 65 * c + i;
      part += gold[at] * knet_log(knet_max(p[at], 1.1920928955078125e-07f));
    }
    sum -= part * weight;
  }
  return sum;
}

// y = softmax_softloss_back(p_2, gold, mask)
//   charlm.knet:8: return wbf(c; out=nchar, f=:soft)
KNET_LOOPS void softmax_softloss_back(float* __restrict y, const float* __restrict p_2,
    const float* __restrict gold, const float* __restrict mask, float part, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    const float share = mask ? mask[c] * part : part;
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      y[65 * c + i] = share != 0.0f ? (p_2[65 * c + i] - gold[65 * c + i]) * share : 0.0f;
    }
  }
}

// d_cell_prev, d_newmem_tmp4, d_output_tmp4, d_forget_tmp4, d_input_tmp4 in one pass: 2 add, 6 mul, 2 tanh_back, 3 sigm_back
//   charlm.knet:6: b = lstm(a; out=hidden)
KNET_LOOPS void fused_d_input_tmp4_2(float* __restrict d_cell_prev, float* __restrict d_newmem_tmp4,
    float* __restrict d_output_tmp4, float* __restrict d_forget_tmp4, float* __restrict d_input_tmp4,
    const float* __restrict d_h_next, const float* __restrict d_h, const float* __restrict output,
    const float* __restrict tmp3, const float* __restrict d_cell_next, const float* __restrict forget,
    const float* __restrict cell_prev, const float* __restrict newmem, const float* __restrict input, knet_range rows,
    int columns) {
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      const float output_i = output[64 * c + i];
      const float tmp3_i = tmp3[64 * c + i];
      const float forget_i = forget[64 * c + i];
      const float newmem_i = newmem[64 * c + i];
      const float input_i = input[64 * c + i];
      const float d_h_2 = d_h_next[64 * c + i] + d_h[64 * c + i];
      const float d_tmp3 = d_h_2 * output_i;
      const float d_output = d_h_2 * tmp3_i;
      const float d_cell = d_tmp3 * ((1.0f - tmp3_i) * (1.0f + tmp3_i));
      const float d_cell_2 = d_cell_next[64 * c + i] + d_cell;
      d_cell_prev[64 * c + i] = d_cell_2 * forget_i;
      const float d_forget = d_cell_2 * cell_prev[64 * c + i];
      const float d_input = d_cell_2 * newmem_i;
      const float d_newmem = d_cell_2 * input_i;
      d_newmem_tmp4[256 * c + i] = d_newmem * ((1.0f - newmem_i) * (1.0f + newmem_i));
      d_output_tmp4[256 * c + i] = d_output * (output_i * (1.0f - output_i));
      d_forget_tmp4[256 * c + i] = d_forget * (forget_i * (1.0f - forget_i));
      d_input_tmp4[256 * c + i] = d_input * (input_i * (1.0f - input_i));
    }
  }
}

// output, forget, input, newmem, cell, tmp3, h, return_ in one pass: 9 add, 3 sigm, 2 tanh, 4 mul
//   charlm.knet:6: b = lstm(a; out=hidden)
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
KNET_LOOPS void fused_return_64xN(float* __restrict output, float* __restrict forget, float* __restrict input,
    float* __restrict newmem, float* __restrict cell, float* __restrict tmp3, float* __restrict h,
    float* __restrict return_, const float* __restrict output_tmp1, const float* __restrict output_tmp2,
    const float* __restrict output_c, const float* __restrict forget_tmp1, const float* __restrict forget_tmp2,
    const float* __restrict forget_c, const float* __restrict input_tmp1, const float* __restrict input_tmp2,
    const float* __restrict input_c, const float* __restrict newmem_tmp1, const float* __restrict newmem_tmp2,
    const float* __restrict newmem_c, const float* __restrict cell_prev, const float* __restrict tmp1, knet_range rows,
    int columns) {
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      const float output_tmp3 = output_tmp1[256 * c + i] + output_tmp2[256 * c + i];
      const float output_tmp4 = output_tmp3 + output_c[i];
      const float output_i = 1.0f / (1.0f + knet_exp(-output_tmp4));
      output[64 * c + i] = output_i;
      const float forget_tmp3 = forget_tmp1[256 * c + i] + forget_tmp2[256 * c + i];
      const float forget_tmp4 = forget_tmp3 + forget_c[i];
      const float forget_i = 1.0f / (1.0f + knet_exp(-forget_tmp4));
      forget[64 * c + i] = forget_i;
      const float input_tmp3 = input_tmp1[256 * c + i] + input_tmp2[256 * c + i];
      const float input_tmp4 = input_tmp3 + input_c[i];
      const float input_i = 1.0f / (1.0f + knet_exp(-input_tmp4));
      input[64 * c + i] = input_i;
      const float newmem_tmp3 = newmem_tmp1[256 * c + i] + newmem_tmp2[256 * c + i];
      const float newmem_tmp4 = newmem_tmp3 + newmem_c[i];
      const float newmem_i = knet_tanh(newmem_tmp4);
      newmem[64 * c + i] = newmem_i;
      const float tmp1_2 = input_i * newmem_i;
      const float tmp2 = cell_prev[64 * c + i] * forget_i;
      const float cell_i = tmp1_2 + tmp2;
      cell[64 * c + i] = cell_i;
      const float tmp3_i = knet_tanh(cell_i);
      tmp3[64 * c + i] = tmp3_i;
      const float h_i = tmp3_i * output_i;
      h[64 * c + i] = h_i;
      return_[64 * c + i] = h_i * tmp1[64 * c + i];
    }
  }
}

// y = mul(a, b)
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
KNET_LOOPS void mul(float* __restrict y, const float* __restrict a, const float* __restrict b, knet_range rows,
    int columns) {
  if (rows.whole(64)) rows.to *= columns, columns = 1;  // the columns as one run of memory
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      y[64 * c + i] = a[64 * c + i] * b[64 * c + i];
    }
  }
}

// d_cell_prev, d_newmem_tmp4, d_output_tmp4, d_forget_tmp4, d_input_tmp4 in one pass: 7 mul, 2 add, 2 tanh_back, 3 sigm_back
//   charlm.knet:7: c = drop(b; pdrop=pdrop)
//   charlm.knet:6: b = lstm(a; out=hidden)
KNET_LOOPS void fused_d_input_tmp4_3(float* __restrict d_cell_prev, float* __restrict d_newmem_tmp4,
    float* __restrict d_output_tmp4, float* __restrict d_forget_tmp4, float* __restrict d_input_tmp4,
    const float* __restrict d_return, const float* __restrict tmp1, const float* __restrict d_h_next,
    const float* __restrict output, const float* __restrict tmp3, const float* __restrict d_cell_next,
    const float* __restrict forget, const float* __restrict cell_prev, const float* __restrict newmem,
    const float* __restrict input, knet_range rows, int columns) {
  for (int c = 0; c < columns; c++) {
    KNET_SIMD()
    for (int i = rows.from; i < rows.to; i++) {
      const float output_i = output[64 * c + i];
      const float tmp3_i = tmp3[64 * c + i];
      const float forget_i = forget[64 * c + i];
      const float newmem_i = newmem[64 * c + i];
      const float input_i = input[64 * c + i];
      const float d_h = d_return[64 * c + i] * tmp1[64 * c + i];
      const float d_h_2 = d_h_next[64 * c + i] + d_h;
      const float d_tmp3 = d_h_2 * output_i;
      const float d_output = d_h_2 * tmp3_i;
      const float d_cell = d_tmp3 * ((1.0f - tmp3_i) * (1.0f + tmp3_i));
      const float d_cell_2 = d_cell_next[64 * c + i] + d_cell;
      d_cell_prev[64 * c + i] = d_cell_2 * forget_i;
      const float d_forget = d_cell_2 * cell_prev[64 * c + i];
      const float d_input = d_cell_2 * newmem_i;
      const float d_newmem = d_cell_2 * input_i;
      d_newmem_tmp4[256 * c + i] = d_newmem * ((1.0f - newmem_i) * (1.0f + newmem_i));
      d_output_tmp4[256 * c + i] = d_output * (output_i * (1.0f - output_i));
      d_forget_tmp4[256 * c + i] = d_forget * (forget_i * (1.0f - forget_i));
      d_input_tmp4[256 * c + i] = d_input * (input_i * (1.0f - input_i));
    }
  }
}

// ------------------------------------------------------------------------------------------------ the model ----
enum { PARAMETERS = 15, INPUTS = 1, CONDITIONS = 1 };

// What a thread has for itself; a line of the cache apart from the others.
struct alignas(64) knet_worker {
  double loss = 0, squares = 0;
  float* columns = nullptr;  // columns that packed matrices are multiplied by
};
struct knet_worker_array {
  float* knet_worker::*place;
  size_t elements;
};
const knet_worker_array worker_arrays[] = {
    {&knet_worker::columns, 24576},
    {nullptr, 0},
};

// What a forward call leaves for its backward pass, with room for `room` columns: the values that backward passes read;
// and the inputs, which stand where the caller has them, or, of a step of a sequence, in copies. `below` is the step
// before on the stack, or the next one that waits to be used again.
// Steps that were computed at once have one frame, with the columns of all `steps` side by side, the first step's first;
// `left` of them have still to be gone back through.
struct knet_frame {
  knet_frame* below;
  int variant, batch, room;
  int steps, left;
  int* ones[INPUTS + 1];  // of an input that is one-hot at every step, the row of the 1 in each column
  const float* inputs[INPUTS + 1];
  float* copies[INPUTS + 1];
  float* values[12];
};

}  // namespace

// A model: its settings, then a place for every value, by Knet's name.
struct charlm_model {
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
  int steps = 1;               // the steps that are computed at once
  int whole_capacity = 0;      // the columns that those values have room for that hold all steps
  float* shared = nullptr;     // the memory of values over whole sequences of which no call needs all
  bool packs = false;          // whether matrices of the loop over time are packed
  int state_batch = 0, state_room = 0;  // the columns of the state, 0 where it is zero; and those it has room for
  bool unwinding = false;               // whether the backward pass is of a step on the stack
  bool later = false;                   // whether a later step of the sequence hands gradients to the state
  bool gradients = false;   // whether there are gradients
  bool wants_loss = false;  // whether the loss's value is asked for
  knet_sink<float> sinks[PARAMETERS + 1] = {};  // where the gradient of each parameter goes
  const float* input_gradients[INPUTS + 1] = {};
  int input_batch = 0;  // the columns of those
  const int* rows[INPUTS + 1] = {};  // of an input that is one-hot, the row of the 1 in each column
  float* desired = nullptr;          // the dense matrix of what is wanted, where that is given so
  knet_options training[PARAMETERS + 1];

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
  float* d_b_input_tmp4_block = nullptr;  // d:b/input/tmp4@block f32[256,N]: d:b/input/tmp4 and 15 more
  float* d_b_h_prev = nullptr;  // d:b/h@prev f32[64,N]
  float* d_a = nullptr;  // d:a f32[32,N]
  float* d_x = nullptr;  // d:x f32[65,N]
  float* d_wbf_tmp2 = nullptr;  // d:wbf/tmp2 f32[65,N]
  float* d_b_h = nullptr;  // d:b/h f32[64,N]
  float* c_tmp1 = nullptr;  // c/tmp1 f32[64,N]
  float* c_return = nullptr;  // c/return f32[64,N]
  float* d_c_return = nullptr;  // d:c/return f32[64,N]

  // matrices as the products of a loop over time read them, rows filled up to whole vectors
  float* packed_b_input_b_block = nullptr;  // packed b/input/b@block f32[256,64]
  float* packed_b_input_b_block_transposed = nullptr;  // packed b/input/b@block transposed f32[64,256]
};

namespace {

using knet_place = float* knet_model::*;
// Where each array stands in the model, and its elements: a fixed number, or so many a column.
struct knet_buffer {
  knet_place place;
  size_t fixed, column;
  bool whole = false;  // whether it has the columns of all steps that are computed at once
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
    {&knet_model::b_input_tmp2_block, 0, 256},
    {&knet_model::b_cell, 0, 64},
    {&knet_model::d_b_h_next, 0, 64},
    {&knet_model::d_b_h_state, 0, 64},
    {&knet_model::d_b_cell_next, 0, 64},
    {&knet_model::d_b_cell_state, 0, 64},
    {&knet_model::d_b_cell_prev, 0, 64},
    {&knet_model::d_b_h_prev, 0, 64},
    {&knet_model::d_b_input_c_block, 256, 0},
    {&knet_model::d_b_input_b_block, 16384, 0},
    {&knet_model::d_b_input_a_block, 8192, 0},
    {&knet_model::d_a_w, 2080, 0},
    {&knet_model::d_x, 0, 65},
    {&knet_model::d_wbf_b, 65, 0},
    {&knet_model::d_wbf_w, 4160, 0},
    {&knet_model::packed_b_input_b_block, 16384, 0},
    {&knet_model::packed_b_input_b_block_transposed, 16384, 0},
    {nullptr, 0, 256},  // the end, and the elements a column of the largest array
};

// The values that share memory, and where in it each begins, in elements a column.
struct knet_shared {
  knet_place place;
  size_t from;
};
const knet_shared shared_values[] = {
    {&knet_model::b_input_tmp1_block, 0},
    {&knet_model::wbf_tmp1, 256},
    {&knet_model::d_b_input_tmp4_block, 0},
    {&knet_model::d_a, 256},
    {&knet_model::d_wbf_tmp2, 288},
    {&knet_model::d_b_h, 368},
    {&knet_model::d_c_return, 432},
    {nullptr, 0},
};
const size_t shared_column = 496;  // the elements a column of all

// What the frame of each forward function holds, in order.
const knet_buffer frame_0[] = {
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
const knet_buffer frame_1[] = {
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
// The inputs that the backward passes of each forward function read.
const bool reads_input[][INPUTS + 1] = {
    {true, false},
    {true, false},
};
// The inputs that its training reads as dense matrices, even where they are one-hot.
const bool reads_dense[][INPUTS + 1] = {
    {false, false},
    {false, false},
};
const knet_buffer* const frames[] = {frame_0, frame_1};

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
// A state's gradient from the step after: zero at the last step, and outside a sequence.
void take_state_gradient(bool later, float* to, const float* from, int size, knet_range rows, int n) {
  if (later)
    knet_copy(to, from, size, rows, n);
  else
    knet_zero(to, size, rows, n);
}
// A state's gradient for the step before.
void hand_state_gradient(const knet_model* m, float* to, const float* from, int size, knet_range rows, int n) {
  if (m->unwinding) knet_copy(to, from, size, rows, n);
}

// For each step of a sequence that has some of the n columns from c on: fill(from, first, count, call) is about `count`
// columns from `from` on, which within the step are those from `first` on; `call` is the number of the step's call.
template <class Fill>
void knet_each_step(const knet_model* m, int c, int n, const Fill& fill) {
  for (int from = c, count = 0; from < c + n; from += count) {
    const int first = from % m->batch, rest = m->batch - first;
    count = c + n - from < rest ? c + n - from : rest;
    fill(from, first, count, m->call + from / m->batch);
  }
}

// The forward pass, under no condition.
void forward(knet_model* m, const knet_team& t) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  knet_copy(m->b_h_prev + 64 * c, m->b_h_state + 64 * c, 64, t.rows(64), n);  // b/h, as the call before left it
  // b/cell, as the call before left it
  knet_copy(m->b_cell_prev + 64 * c, m->b_cell_state + 64 * c, 64, t.rows(64), n);
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product(m->rows[0], 32, n, 65, m->a_w, 32, m->x, c, m->a + 32 * c, 32, t.rows(32));  // a f32[32,N]
  t.wait_narrow();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/input/tmp1@block f32[256,N]
  knet_product_rows(false, false, 256, n, 32, m->b_input_a_block, 256, m->a + 32 * c, 32,
      knet_to(m->b_input_tmp1_block + 256 * c, 256), t.rows(256));
  // b/input/tmp2@block f32[256,N]
  knet_product_rows(false, false, 256, n, 64, m->b_input_b_block, 256, m->b_h_prev + 64 * c, 64,
      knet_to(m->b_input_tmp2_block + 256 * c, 256), t.rows(256));
  t.wait_narrow();
  // b/h f32[64,N]
  fused_h_64xN(m->b_output + 64 * c, m->b_forget + 64 * c, m->b_input + 64 * c, m->b_newmem + 64 * c,
      m->b_cell + 64 * c, m->b_tmp3 + 64 * c, m->b_h + 64 * c, m->b_input_tmp1_block + 128 + 256 * c,
      m->b_input_tmp2_block + 128 + 256 * c, m->b_output_c, m->b_input_tmp1_block + 64 + 256 * c,
      m->b_input_tmp2_block + 64 + 256 * c, m->b_forget_c, m->b_input_tmp1_block + 256 * c,
      m->b_input_tmp2_block + 256 * c, m->b_input_c, m->b_input_tmp1_block + 192 + 256 * c,
      m->b_input_tmp2_block + 192 + 256 * c, m->b_newmem_c, m->b_cell_prev + 64 * c, t.rows(64), n);
  t.wait_narrow();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // wbf/tmp1 f32[65,N]
  knet_product_rows(false, false, 65, n, 64, m->wbf_w, 65, m->b_h + 64 * c, 64, knet_to(m->wbf_tmp1 + 65 * c, 65),
      t.rows(65));
  t.wait_narrow();
  add_soft(m->return_ + 65 * c, m->wbf_tmp1 + 65 * c, m->wbf_b, t.rows(1), n);  // return f32[65,N]
  // charlm.knet:6: b = lstm(a; out=hidden)
  knet_copy(m->b_h_state + 64 * c, m->b_h + 64 * c, 64, t.rows(64), n);  // b/h for the next call
  knet_copy(m->b_cell_state + 64 * c, m->b_cell + 64 * c, 64, t.rows(64), n);  // b/cell for the next call
  (void)m, (void)t;
}

// Forward, under no condition, before the loop over time.
void before_forward(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product(m->rows[0], 32, n, 65, m->a_w, 32, m->x, c, m->a + 32 * c, 32, t.rows(32));  // a f32[32,N]
  t.wait_narrow();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/input/tmp1@block f32[256,N]
  knet_product_rows(false, false, 256, n, 32, m->b_input_a_block, 256, m->a + 32 * c, 32,
      knet_to(m->b_input_tmp1_block + 256 * c, 256), t.rows(256));
  // packed b/input/b@block
  if (m->packs) knet_pack<512>(false, 256, 64, m->b_input_b_block, 256, m->packed_b_input_b_block, t);
  (void)m, (void)t;
}

// Forward, under no condition, at each step of a sequence.
void loop_forward(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int step) {
  const int N = m->batch;
  const int at = N * step;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/h, as the call before left it
  knet_copy(m->b_h_prev + 64 * (at + c), m->b_h_state + 64 * c, 64, t.rows(64), n);
  // b/cell, as the call before left it
  knet_copy(m->b_cell_prev + 64 * (at + c), m->b_cell_state + 64 * c, 64, t.rows(64), n);
  t.wait_narrow();
  // b/input/tmp2@block f32[256,N]
  knet_packed_product<512, 96>(m->packs, false, 256, n, 64, m->b_input_b_block, 256, m->packed_b_input_b_block,
      m->b_h_prev + 64 * (at + c), 64, m->b_input_tmp2_block + 256 * c, 256, w.columns, t.rows(256));
  t.wait_narrow();
  // b/h f32[64,N]
  fused_h_64xN(m->b_output + 64 * (at + c), m->b_forget + 64 * (at + c), m->b_input + 64 * (at + c),
      m->b_newmem + 64 * (at + c), m->b_cell + 64 * c, m->b_tmp3 + 64 * (at + c), m->b_h + 64 * (at + c),
      m->b_input_tmp1_block + 128 + 256 * (at + c), m->b_input_tmp2_block + 128 + 256 * c, m->b_output_c,
      m->b_input_tmp1_block + 64 + 256 * (at + c), m->b_input_tmp2_block + 64 + 256 * c, m->b_forget_c,
      m->b_input_tmp1_block + 256 * (at + c), m->b_input_tmp2_block + 256 * c, m->b_input_c,
      m->b_input_tmp1_block + 192 + 256 * (at + c), m->b_input_tmp2_block + 192 + 256 * c, m->b_newmem_c,
      m->b_cell_prev + 64 * (at + c), t.rows(64), n);
  knet_copy(m->b_h_state + 64 * c, m->b_h + 64 * (at + c), 64, t.rows(64), n);  // b/h for the next call
  knet_copy(m->b_cell_state + 64 * c, m->b_cell + 64 * c, 64, t.rows(64), n);  // b/cell for the next call
  (void)m, (void)t;
}

// Forward, under no condition, after the loop.
void after_forward(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // wbf/tmp1 f32[65,N]
  knet_product_rows(false, false, 65, n, 64, m->wbf_w, 65, m->b_h + 64 * c, 64, knet_to(m->wbf_tmp1 + 65 * c, 65),
      t.rows(65));
  t.wait_narrow();
  add_soft(m->return_ + 65 * c, m->wbf_tmp1 + 65 * c, m->wbf_b, t.rows(1), n);  // return f32[65,N]
  (void)m, (void)t;
}

// The backward pass from a zero gradient of the output, under no condition.
void backward_zero(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, unsigned long long want) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_h_next + 64 * c, m->d_b_h_state + 64 * c, 64, t.rows(64),
      n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_cell_next + 64 * c, m->d_b_cell_state + 64 * c, 64,
      t.rows(64), n);
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * c,
      m->d_b_input_tmp4_block + 128 + 256 * c, m->d_b_input_tmp4_block + 64 + 256 * c,
      m->d_b_input_tmp4_block + 256 * c, m->d_b_h_next + 64 * c, m->b_output + 64 * c, m->b_tmp3 + 64 * c,
      m->d_b_cell_next + 64 * c, m->b_forget + 64 * c, m->b_cell_prev + 64 * c, m->b_newmem + 64 * c,
      m->b_input + 64 * c, t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_product_rows(true, false, 64, n, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_b_h_prev + 64 * c, 64), t.rows(64));
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  t.wait_narrow();
  // charlm.knet:5: a = wdot(x; out=embedding)
  if (want & 1) {
    // d:x f32[65,N]
    knet_product_rows(true, false, 65, n, 32, m->a_w, 32, m->d_a + 32 * c, 32, knet_to(m->d_x + 65 * c, 65),
        t.rows(65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  if (!m->sinks[13].add) knet_zero(m->sinks[13].to, 4160, t.part(4160), 1);  // d:wbf/w, not reached
  if (!m->sinks[14].add) knet_zero(m->sinks[14].to, 65, t.part(65), 1);  // d:wbf/b, not reached
  t.wait_wide();
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  if (want & 1) m->input_gradients[0] = m->d_x;
  (void)m, (void)t;
}

// Back from a zero gradient of the output, under no condition, before the loop over time.
void before_backward_zero(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  // packed b/input/b@block transposed
  if (m->packs) knet_pack<512>(true, 64, 256, m->b_input_b_block, 256, m->packed_b_input_b_block_transposed, t);
  (void)m, (void)t;
}

// Back from a zero gradient of the output, under no condition, at each step of a sequence.
void loop_backward_zero(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int step) {
  const int N = m->batch;
  const int at = N * step;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_h_next + 64 * c,
      m->d_b_h_state + 64 * c, 64, t.rows(64), n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_cell_next + 64 * c,
      m->d_b_cell_state + 64 * c, 64, t.rows(64), n);
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * (at + c),
      m->d_b_input_tmp4_block + 128 + 256 * (at + c), m->d_b_input_tmp4_block + 64 + 256 * (at + c),
      m->d_b_input_tmp4_block + 256 * (at + c), m->d_b_h_next + 64 * c, m->b_output + 64 * (at + c),
      m->b_tmp3 + 64 * (at + c), m->d_b_cell_next + 64 * c, m->b_forget + 64 * (at + c),
      m->b_cell_prev + 64 * (at + c), m->b_newmem + 64 * (at + c), m->b_input + 64 * (at + c), t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_packed_product<512, 96>(m->packs, true, 64, n, 256, m->b_input_b_block, 256,
      m->packed_b_input_b_block_transposed, m->d_b_input_tmp4_block + 256 * (at + c), 256, m->d_b_h_prev + 64 * c, 64,
      w.columns, t.rows(64));
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  t.wait_narrow();
  (void)m, (void)t;
}

// Back from a zero gradient of the output, under no condition, after the loop.
void after_backward_zero(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  if (!m->sinks[13].add) knet_zero(m->sinks[13].to, 4160, t.part(4160), 1);  // d:wbf/w, not reached
  if (!m->sinks[14].add) knet_zero(m->sinks[14].to, 65, t.part(65), 1);  // d:wbf/b, not reached
  t.wait();
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  (void)m, (void)t;
}

// The backward pass from softloss, under no condition.
void backward_softloss(knet_model* m, const knet_team& t,
    const knet_real* gold, const knet_real* mask, unsigned long long want) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // @loss f32[]
  if (m->wants_loss) w.loss = softloss(m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c), t.rows(1), n);
  // d:wbf/tmp2 f32[65,N]
  softmax_softloss_back(m->d_wbf_tmp2 + 65 * c, m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c),
      (float)(1.0 / N), t.rows(65), n);
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_h_next + 64 * c, m->d_b_h_state + 64 * c, 64, t.rows(64),
      n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_cell_next + 64 * c, m->d_b_cell_state + 64 * c, 64,
      t.rows(64), n);
  t.wait_narrow();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // d:b/h f32[64,N]
  knet_product_rows(true, false, 64, n, 65, m->wbf_w, 65, m->d_wbf_tmp2 + 65 * c, 65, knet_to(m->d_b_h + 64 * c,
      64), t.rows(64));
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4_2(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * c,
      m->d_b_input_tmp4_block + 128 + 256 * c, m->d_b_input_tmp4_block + 64 + 256 * c,
      m->d_b_input_tmp4_block + 256 * c, m->d_b_h_next + 64 * c, m->d_b_h + 64 * c, m->b_output + 64 * c,
      m->b_tmp3 + 64 * c, m->d_b_cell_next + 64 * c, m->b_forget + 64 * c, m->b_cell_prev + 64 * c,
      m->b_newmem + 64 * c, m->b_input + 64 * c, t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_product_rows(true, false, 64, n, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_b_h_prev + 64 * c, 64), t.rows(64));
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  t.wait_narrow();
  // charlm.knet:5: a = wdot(x; out=embedding)
  if (want & 1) {
    // d:x f32[65,N]
    knet_product_rows(true, false, 65, n, 32, m->a_w, 32, m->d_a + 32 * c, 32, knet_to(m->d_x + 65 * c, 65),
        t.rows(65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  t.wait_wide();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  knet_sum_columns(m->sinks[14], m->d_wbf_tmp2, 65, N, t.part(65));  // d:wbf/b f32[65]
  // d:wbf/w f32[65,64]
  knet_product_rows(false, true, 65, 64, N, m->d_wbf_tmp2, 65, m->b_h, 64, m->sinks[13], t.part(65));
  // charlm.knet:6: b = lstm(a; out=hidden)
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  if (want & 1) m->input_gradients[0] = m->d_x;
  (void)m, (void)t;
}

// Back from softloss, under no condition, before the loop over time.
void before_backward_softloss(knet_model* m, const knet_team& t,
    const knet_real* gold, const knet_real* mask, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // @loss f32[]
  if (m->wants_loss) w.loss = softloss(m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c), t.rows(1), n);
  // d:wbf/tmp2 f32[65,N]
  softmax_softloss_back(m->d_wbf_tmp2 + 65 * c, m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c),
      (float)(1.0 / m->batch), t.rows(65), n);
  t.wait_narrow();
  // d:b/h f32[64,N]
  knet_product_rows(true, false, 64, n, 65, m->wbf_w, 65, m->d_wbf_tmp2 + 65 * c, 65, knet_to(m->d_b_h + 64 * c,
      64), t.rows(64));
  // packed b/input/b@block transposed
  if (m->packs) knet_pack<512>(true, 64, 256, m->b_input_b_block, 256, m->packed_b_input_b_block_transposed, t);
  t.wait_wide();
  knet_sum_columns(m->sinks[14], m->d_wbf_tmp2, 65, N, t.part(65));  // d:wbf/b f32[65]
  // d:wbf/w f32[65,64]
  knet_product_rows(false, true, 65, 64, N, m->d_wbf_tmp2, 65, m->b_h, 64, m->sinks[13], t.part(65));
  (void)m, (void)t;
}

// Back from softloss, under no condition, at each step of a sequence.
void loop_backward_softloss(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int step) {
  const int N = m->batch;
  const int at = N * step;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_h_next + 64 * c,
      m->d_b_h_state + 64 * c, 64, t.rows(64), n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_cell_next + 64 * c,
      m->d_b_cell_state + 64 * c, 64, t.rows(64), n);
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4_2(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * (at + c),
      m->d_b_input_tmp4_block + 128 + 256 * (at + c), m->d_b_input_tmp4_block + 64 + 256 * (at + c),
      m->d_b_input_tmp4_block + 256 * (at + c), m->d_b_h_next + 64 * c, m->d_b_h + 64 * (at + c),
      m->b_output + 64 * (at + c), m->b_tmp3 + 64 * (at + c), m->d_b_cell_next + 64 * c, m->b_forget + 64 * (at + c),
      m->b_cell_prev + 64 * (at + c), m->b_newmem + 64 * (at + c), m->b_input + 64 * (at + c), t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_packed_product<512, 96>(m->packs, true, 64, n, 256, m->b_input_b_block, 256,
      m->packed_b_input_b_block_transposed, m->d_b_input_tmp4_block + 256 * (at + c), 256, m->d_b_h_prev + 64 * c, 64,
      w.columns, t.rows(64));
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  t.wait_narrow();
  (void)m, (void)t;
}

// Back from softloss, under no condition, after the loop.
void after_backward_softloss(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  t.wait();
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  (void)m, (void)t;
}

// The forward pass, under dropout.
void forward_dropout(knet_model* m, const knet_team& t) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  knet_copy(m->b_h_prev + 64 * c, m->b_h_state + 64 * c, 64, t.rows(64), n);  // b/h, as the call before left it
  // b/cell, as the call before left it
  knet_copy(m->b_cell_prev + 64 * c, m->b_cell_state + 64 * c, 64, t.rows(64), n);
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product(m->rows[0], 32, n, 65, m->a_w, 32, m->x, c, m->a + 32 * c, 32, t.rows(32));  // a f32[32,N]
  t.wait_narrow();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/input/tmp1@block f32[256,N]
  knet_product_rows(false, false, 256, n, 32, m->b_input_a_block, 256, m->a + 32 * c, 32,
      knet_to(m->b_input_tmp1_block + 256 * c, 256), t.rows(256));
  // b/input/tmp2@block f32[256,N]
  knet_product_rows(false, false, 256, n, 64, m->b_input_b_block, 256, m->b_h_prev + 64 * c, 64,
      knet_to(m->b_input_tmp2_block + 256 * c, 256), t.rows(256));
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  // c/tmp1 f32[64,N]
  knet_fill_bernoulli(m->c_tmp1 + 64 * c, 64 * (m->columns_before + c), t.rows(1).size() * 64 * n, m->seed,
      m->call, 13u, 0.8, 1.25);
  t.wait_narrow();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // c/return f32[64,N]
  fused_return_64xN(m->b_output + 64 * c, m->b_forget + 64 * c, m->b_input + 64 * c, m->b_newmem + 64 * c,
      m->b_cell + 64 * c, m->b_tmp3 + 64 * c, m->b_h + 64 * c, m->c_return + 64 * c,
      m->b_input_tmp1_block + 128 + 256 * c, m->b_input_tmp2_block + 128 + 256 * c, m->b_output_c,
      m->b_input_tmp1_block + 64 + 256 * c, m->b_input_tmp2_block + 64 + 256 * c, m->b_forget_c,
      m->b_input_tmp1_block + 256 * c, m->b_input_tmp2_block + 256 * c, m->b_input_c,
      m->b_input_tmp1_block + 192 + 256 * c, m->b_input_tmp2_block + 192 + 256 * c, m->b_newmem_c,
      m->b_cell_prev + 64 * c, m->c_tmp1 + 64 * c, t.rows(64), n);
  t.wait_narrow();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // wbf/tmp1 f32[65,N]
  knet_product_rows(false, false, 65, n, 64, m->wbf_w, 65, m->c_return + 64 * c, 64, knet_to(m->wbf_tmp1 + 65 * c,
      65), t.rows(65));
  t.wait_narrow();
  add_soft(m->return_ + 65 * c, m->wbf_tmp1 + 65 * c, m->wbf_b, t.rows(1), n);  // return f32[65,N]
  // charlm.knet:6: b = lstm(a; out=hidden)
  knet_copy(m->b_h_state + 64 * c, m->b_h + 64 * c, 64, t.rows(64), n);  // b/h for the next call
  knet_copy(m->b_cell_state + 64 * c, m->b_cell + 64 * c, 64, t.rows(64), n);  // b/cell for the next call
  (void)m, (void)t;
}

// Forward, under dropout, before the loop over time.
void before_forward_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product(m->rows[0], 32, n, 65, m->a_w, 32, m->x, c, m->a + 32 * c, 32, t.rows(32));  // a f32[32,N]
  t.wait_narrow();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/input/tmp1@block f32[256,N]
  knet_product_rows(false, false, 256, n, 32, m->b_input_a_block, 256, m->a + 32 * c, 32,
      knet_to(m->b_input_tmp1_block + 256 * c, 256), t.rows(256));
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  // c/tmp1 f32[64,N]
  knet_each_step(m, c, n, [=](int from, int first, int count,
      unsigned call) { knet_fill_bernoulli(m->c_tmp1 + 64 * from, 64 * (m->columns_before + first),
      t.rows(1).size() * 64 * count, m->seed, call, 13u, 0.8, 1.25); });
  // packed b/input/b@block
  if (m->packs) knet_pack<512>(false, 256, 64, m->b_input_b_block, 256, m->packed_b_input_b_block, t);
  (void)m, (void)t;
}

// Forward, under dropout, at each step of a sequence.
void loop_forward_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int step) {
  const int N = m->batch;
  const int at = N * step;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:6: b = lstm(a; out=hidden)
  // b/h, as the call before left it
  knet_copy(m->b_h_prev + 64 * (at + c), m->b_h_state + 64 * c, 64, t.rows(64), n);
  // b/cell, as the call before left it
  knet_copy(m->b_cell_prev + 64 * (at + c), m->b_cell_state + 64 * c, 64, t.rows(64), n);
  t.wait_narrow();
  // b/input/tmp2@block f32[256,N]
  knet_packed_product<512, 96>(m->packs, false, 256, n, 64, m->b_input_b_block, 256, m->packed_b_input_b_block,
      m->b_h_prev + 64 * (at + c), 64, m->b_input_tmp2_block + 256 * c, 256, w.columns, t.rows(256));
  t.wait_narrow();
  // b/h f32[64,N]
  fused_h_64xN(m->b_output + 64 * (at + c), m->b_forget + 64 * (at + c), m->b_input + 64 * (at + c),
      m->b_newmem + 64 * (at + c), m->b_cell + 64 * c, m->b_tmp3 + 64 * (at + c), m->b_h + 64 * (at + c),
      m->b_input_tmp1_block + 128 + 256 * (at + c), m->b_input_tmp2_block + 128 + 256 * c, m->b_output_c,
      m->b_input_tmp1_block + 64 + 256 * (at + c), m->b_input_tmp2_block + 64 + 256 * c, m->b_forget_c,
      m->b_input_tmp1_block + 256 * (at + c), m->b_input_tmp2_block + 256 * c, m->b_input_c,
      m->b_input_tmp1_block + 192 + 256 * (at + c), m->b_input_tmp2_block + 192 + 256 * c, m->b_newmem_c,
      m->b_cell_prev + 64 * (at + c), t.rows(64), n);
  knet_copy(m->b_h_state + 64 * c, m->b_h + 64 * (at + c), 64, t.rows(64), n);  // b/h for the next call
  knet_copy(m->b_cell_state + 64 * c, m->b_cell + 64 * c, 64, t.rows(64), n);  // b/cell for the next call
  (void)m, (void)t;
}

// Forward, under dropout, after the loop.
void after_forward_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  mul(m->c_return + 64 * c, m->b_h + 64 * c, m->c_tmp1 + 64 * c, t.rows(64), n);  // c/return f32[64,N]
  t.wait_narrow();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // wbf/tmp1 f32[65,N]
  knet_product_rows(false, false, 65, n, 64, m->wbf_w, 65, m->c_return + 64 * c, 64, knet_to(m->wbf_tmp1 + 65 * c,
      65), t.rows(65));
  t.wait_narrow();
  add_soft(m->return_ + 65 * c, m->wbf_tmp1 + 65 * c, m->wbf_b, t.rows(1), n);  // return f32[65,N]
  (void)m, (void)t;
}

// The backward pass from a zero gradient of the output, under dropout.
void backward_zero_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, unsigned long long want) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_h_next + 64 * c, m->d_b_h_state + 64 * c, 64, t.rows(64),
      n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_cell_next + 64 * c, m->d_b_cell_state + 64 * c, 64,
      t.rows(64), n);
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * c,
      m->d_b_input_tmp4_block + 128 + 256 * c, m->d_b_input_tmp4_block + 64 + 256 * c,
      m->d_b_input_tmp4_block + 256 * c, m->d_b_h_next + 64 * c, m->b_output + 64 * c, m->b_tmp3 + 64 * c,
      m->d_b_cell_next + 64 * c, m->b_forget + 64 * c, m->b_cell_prev + 64 * c, m->b_newmem + 64 * c,
      m->b_input + 64 * c, t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_product_rows(true, false, 64, n, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_b_h_prev + 64 * c, 64), t.rows(64));
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  t.wait_narrow();
  // charlm.knet:5: a = wdot(x; out=embedding)
  if (want & 1) {
    // d:x f32[65,N]
    knet_product_rows(true, false, 65, n, 32, m->a_w, 32, m->d_a + 32 * c, 32, knet_to(m->d_x + 65 * c, 65),
        t.rows(65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  if (!m->sinks[13].add) knet_zero(m->sinks[13].to, 4160, t.part(4160), 1);  // d:wbf/w, not reached
  if (!m->sinks[14].add) knet_zero(m->sinks[14].to, 65, t.part(65), 1);  // d:wbf/b, not reached
  t.wait_wide();
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  if (want & 1) m->input_gradients[0] = m->d_x;
  (void)m, (void)t;
}

// Back from a zero gradient of the output, under dropout, before the loop over time.
void before_backward_zero_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  // packed b/input/b@block transposed
  if (m->packs) knet_pack<512>(true, 64, 256, m->b_input_b_block, 256, m->packed_b_input_b_block_transposed, t);
  (void)m, (void)t;
}

// Back from a zero gradient of the output, under dropout, at each step of a sequence.
void loop_backward_zero_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int step) {
  const int N = m->batch;
  const int at = N * step;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_h_next + 64 * c,
      m->d_b_h_state + 64 * c, 64, t.rows(64), n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_cell_next + 64 * c,
      m->d_b_cell_state + 64 * c, 64, t.rows(64), n);
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * (at + c),
      m->d_b_input_tmp4_block + 128 + 256 * (at + c), m->d_b_input_tmp4_block + 64 + 256 * (at + c),
      m->d_b_input_tmp4_block + 256 * (at + c), m->d_b_h_next + 64 * c, m->b_output + 64 * (at + c),
      m->b_tmp3 + 64 * (at + c), m->d_b_cell_next + 64 * c, m->b_forget + 64 * (at + c),
      m->b_cell_prev + 64 * (at + c), m->b_newmem + 64 * (at + c), m->b_input + 64 * (at + c), t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_packed_product<512, 96>(m->packs, true, 64, n, 256, m->b_input_b_block, 256,
      m->packed_b_input_b_block_transposed, m->d_b_input_tmp4_block + 256 * (at + c), 256, m->d_b_h_prev + 64 * c, 64,
      w.columns, t.rows(64));
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  t.wait_narrow();
  (void)m, (void)t;
}

// Back from a zero gradient of the output, under dropout, after the loop.
void after_backward_zero_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  if (!m->sinks[13].add) knet_zero(m->sinks[13].to, 4160, t.part(4160), 1);  // d:wbf/w, not reached
  if (!m->sinks[14].add) knet_zero(m->sinks[14].to, 65, t.part(65), 1);  // d:wbf/b, not reached
  t.wait();
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  (void)m, (void)t;
}

// The backward pass from softloss, under dropout.
void backward_softloss_dropout(knet_model* m, const knet_team& t,
    const knet_real* gold, const knet_real* mask, unsigned long long want) {
  const int N = m->batch;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // @loss f32[]
  if (m->wants_loss) w.loss = softloss(m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c), t.rows(1), n);
  // d:wbf/tmp2 f32[65,N]
  softmax_softloss_back(m->d_wbf_tmp2 + 65 * c, m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c),
      (float)(1.0 / N), t.rows(65), n);
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_h_next + 64 * c, m->d_b_h_state + 64 * c, 64, t.rows(64),
      n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && m->later, m->d_b_cell_next + 64 * c, m->d_b_cell_state + 64 * c, 64,
      t.rows(64), n);
  t.wait_narrow();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // d:c/return f32[64,N]
  knet_product_rows(true, false, 64, n, 65, m->wbf_w, 65, m->d_wbf_tmp2 + 65 * c, 65,
      knet_to(m->d_c_return + 64 * c, 64), t.rows(64));
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4_3(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * c,
      m->d_b_input_tmp4_block + 128 + 256 * c, m->d_b_input_tmp4_block + 64 + 256 * c,
      m->d_b_input_tmp4_block + 256 * c, m->d_c_return + 64 * c, m->c_tmp1 + 64 * c, m->d_b_h_next + 64 * c,
      m->b_output + 64 * c, m->b_tmp3 + 64 * c, m->d_b_cell_next + 64 * c, m->b_forget + 64 * c,
      m->b_cell_prev + 64 * c, m->b_newmem + 64 * c, m->b_input + 64 * c, t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_product_rows(true, false, 64, n, 256, m->b_input_b_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_b_h_prev + 64 * c, 64), t.rows(64));
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  t.wait_narrow();
  // charlm.knet:5: a = wdot(x; out=embedding)
  if (want & 1) {
    // d:x f32[65,N]
    knet_product_rows(true, false, 65, n, 32, m->a_w, 32, m->d_a + 32 * c, 32, knet_to(m->d_x + 65 * c, 65),
        t.rows(65));
  }
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  t.wait_wide();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  knet_sum_columns(m->sinks[14], m->d_wbf_tmp2, 65, N, t.part(65));  // d:wbf/b f32[65]
  // d:wbf/w f32[65,64]
  knet_product_rows(false, true, 65, 64, N, m->d_wbf_tmp2, 65, m->c_return, 64, m->sinks[13], t.part(65));
  // charlm.knet:6: b = lstm(a; out=hidden)
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  if (want & 1) m->input_gradients[0] = m->d_x;
  (void)m, (void)t;
}

// Back from softloss, under dropout, before the loop over time.
void before_backward_softloss_dropout(knet_model* m, const knet_team& t,
    const knet_real* gold, const knet_real* mask, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  // @loss f32[]
  if (m->wants_loss) w.loss = softloss(m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c), t.rows(1), n);
  // d:wbf/tmp2 f32[65,N]
  softmax_softloss_back(m->d_wbf_tmp2 + 65 * c, m->return_ + 65 * c, gold + 65 * c, knet_at(mask, c),
      (float)(1.0 / m->batch), t.rows(65), n);
  t.wait_narrow();
  // d:c/return f32[64,N]
  knet_product_rows(true, false, 64, n, 65, m->wbf_w, 65, m->d_wbf_tmp2 + 65 * c, 65,
      knet_to(m->d_c_return + 64 * c, 64), t.rows(64));
  // charlm.knet:7: c = drop(b; pdrop=pdrop)
  mul(m->d_b_h + 64 * c, m->d_c_return + 64 * c, m->c_tmp1 + 64 * c, t.rows(64), n);  // d:b/h f32[64,N]
  // packed b/input/b@block transposed
  if (m->packs) knet_pack<512>(true, 64, 256, m->b_input_b_block, 256, m->packed_b_input_b_block_transposed, t);
  t.wait_wide();
  // charlm.knet:8: return wbf(c; out=nchar, f=:soft)
  knet_sum_columns(m->sinks[14], m->d_wbf_tmp2, 65, N, t.part(65));  // d:wbf/b f32[65]
  // d:wbf/w f32[65,64]
  knet_product_rows(false, true, 65, 64, N, m->d_wbf_tmp2, 65, m->c_return, 64, m->sinks[13], t.part(65));
  (void)m, (void)t;
}

// Back from softloss, under dropout, at each step of a sequence.
void loop_backward_softloss_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int step) {
  const int N = m->batch;
  const int at = N * step;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  knet_worker& w = m->workers[t.index];
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:b/h from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_h_next + 64 * c,
      m->d_b_h_state + 64 * c, 64, t.rows(64), n);
  // d:b/cell from the step after
  take_state_gradient(m->unwinding && (m->later || step + 1 < m->steps), m->d_b_cell_next + 64 * c,
      m->d_b_cell_state + 64 * c, 64, t.rows(64), n);
  // d:b/input/tmp4 f32[64,N]
  fused_d_input_tmp4_2(m->d_b_cell_prev + 64 * c, m->d_b_input_tmp4_block + 192 + 256 * (at + c),
      m->d_b_input_tmp4_block + 128 + 256 * (at + c), m->d_b_input_tmp4_block + 64 + 256 * (at + c),
      m->d_b_input_tmp4_block + 256 * (at + c), m->d_b_h_next + 64 * c, m->d_b_h + 64 * (at + c),
      m->b_output + 64 * (at + c), m->b_tmp3 + 64 * (at + c), m->d_b_cell_next + 64 * c, m->b_forget + 64 * (at + c),
      m->b_cell_prev + 64 * (at + c), m->b_newmem + 64 * (at + c), m->b_input + 64 * (at + c), t.rows(64), n);
  t.wait_narrow();
  // d:b/h@prev f32[64,N]
  knet_packed_product<512, 96>(m->packs, true, 64, n, 256, m->b_input_b_block, 256,
      m->packed_b_input_b_block_transposed, m->d_b_input_tmp4_block + 256 * (at + c), 256, m->d_b_h_prev + 64 * c, 64,
      w.columns, t.rows(64));
  // d:b/h for the step before
  hand_state_gradient(m, m->d_b_h_state + 64 * c, m->d_b_h_prev + 64 * c, 64, t.rows(64), n);
  // d:b/cell for the step before
  hand_state_gradient(m, m->d_b_cell_state + 64 * c, m->d_b_cell_prev + 64 * c, 64, t.rows(64), n);
  t.wait_narrow();
  (void)m, (void)t;
}

// Back from softloss, under dropout, after the loop.
void after_backward_softloss_dropout(knet_model* m, const knet_team& t,
    const knet_real*, const knet_real*, int) {
  const int N = m->batch * m->steps;
  const int c = t.columns(N).from;
  const int n = t.columns(N).size();
  // charlm.knet:6: b = lstm(a; out=hidden)
  // d:a f32[32,N]
  knet_product_rows(true, false, 32, n, 256, m->b_input_a_block, 256, m->d_b_input_tmp4_block + 256 * c, 256,
      knet_to(m->d_a + 32 * c, 32), t.rows(32));
  knet_sum_columns(m->sinks[3], m->d_b_input_tmp4_block, 256, N, t.part(64));  // d:b/input/c f32[64]
  knet_sum_columns(m->sinks[6], m->d_b_input_tmp4_block + 64, 256, N, t.part(64));  // d:b/forget/c f32[64]
  knet_sum_columns(m->sinks[9], m->d_b_input_tmp4_block + 128, 256, N, t.part(64));  // d:b/output/c f32[64]
  knet_sum_columns(m->sinks[12], m->d_b_input_tmp4_block + 192, 256, N, t.part(64));  // d:b/newmem/c f32[64]
  // d:b/input/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block, 256, m->b_h_prev, 64, m->sinks[2],
      t.part(64));
  // d:b/forget/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 64, 256, m->b_h_prev, 64, m->sinks[5],
      t.part(64));
  // d:b/output/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 128, 256, m->b_h_prev, 64, m->sinks[8],
      t.part(64));
  // d:b/newmem/b f32[64,64]
  knet_product_columns(false, true, 64, 64, N, m->d_b_input_tmp4_block + 192, 256, m->b_h_prev, 64, m->sinks[11],
      t.part(64));
  // d:b/input/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block, 256, m->a, 32, m->sinks[1], t.part(64));
  // d:b/forget/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 64, 256, m->a, 32, m->sinks[4], t.part(64));
  // d:b/output/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 128, 256, m->a, 32, m->sinks[7],
      t.part(64));
  // d:b/newmem/a f32[64,32]
  knet_product_rows(false, true, 64, 32, N, m->d_b_input_tmp4_block + 192, 256, m->a, 32, m->sinks[10],
      t.part(64));
  t.wait();
  // charlm.knet:5: a = wdot(x; out=embedding)
  knet_input_product_back(m->rows[0], 32, 65, N, m->d_a, 32, m->x, m->sinks[0], t.part(65));  // d:a/w f32[32,65]
  (void)m, (void)t;
}

// Parameters and constants as they are at the start.
void initialize(knet_model* m, const knet_team& t) {
  // a/w f32[32,65], Xavier()
  knet_fill_uniform(m->a_w + t.part(2080).from, t.part(2080).from, t.part(2080).size(), m->seed, 0u, 0u,
      (-0.30618621784789724), 0.30618621784789724);
  // b/input/a f32[64,32], Xavier()
  for (int j = t.part(32).from; j < t.part(32).to; j++) knet_fill_uniform(m->b_input_a_block + 256 * j, 64 * j,
      64, m->seed, 0u, 1u, (-0.21650635094610965), 0.21650635094610965);
  // b/input/b f32[64,64], Xavier()
  for (int j = t.part(64).from; j < t.part(64).to; j++) knet_fill_uniform(m->b_input_b_block + 256 * j, 64 * j,
      64, m->seed, 0u, 2u, (-0.21650635094610965), 0.21650635094610965);
  // b/input/c f32[64], Constant(0.0)
  knet_fill_constant(m->b_input_c + t.part(64).from, t.part(64).from, t.part(64).size(), 0.0);
  // b/forget/a f32[64,32], Xavier()
  for (int j = t.part(32).from; j < t.part(32).to; j++) knet_fill_uniform(m->b_input_a_block + 64 + 256 * j,
      64 * j, 64, m->seed, 0u, 4u, (-0.21650635094610965), 0.21650635094610965);
  // b/forget/b f32[64,64], Xavier()
  for (int j = t.part(64).from; j < t.part(64).to; j++) knet_fill_uniform(m->b_input_b_block + 64 + 256 * j,
      64 * j, 64, m->seed, 0u, 5u, (-0.21650635094610965), 0.21650635094610965);
  // b/forget/c f32[64], Constant(1.0)
  knet_fill_constant(m->b_forget_c + t.part(64).from, t.part(64).from, t.part(64).size(), 1.0);
  // b/output/a f32[64,32], Xavier()
  for (int j = t.part(32).from; j < t.part(32).to; j++) knet_fill_uniform(m->b_input_a_block + 128 + 256 * j,
      64 * j, 64, m->seed, 0u, 7u, (-0.21650635094610965), 0.21650635094610965);
  // b/output/b f32[64,64], Xavier()
  for (int j = t.part(64).from; j < t.part(64).to; j++) knet_fill_uniform(m->b_input_b_block + 128 + 256 * j,
      64 * j, 64, m->seed, 0u, 8u, (-0.21650635094610965), 0.21650635094610965);
  // b/output/c f32[64], Constant(0.0)
  knet_fill_constant(m->b_output_c + t.part(64).from, t.part(64).from, t.part(64).size(), 0.0);
  // b/newmem/a f32[64,32], Xavier()
  for (int j = t.part(32).from; j < t.part(32).to; j++) knet_fill_uniform(m->b_input_a_block + 192 + 256 * j,
      64 * j, 64, m->seed, 0u, 10u, (-0.21650635094610965), 0.21650635094610965);
  // b/newmem/b f32[64,64], Xavier()
  for (int j = t.part(64).from; j < t.part(64).to; j++) knet_fill_uniform(m->b_input_b_block + 192 + 256 * j,
      64 * j, 64, m->seed, 0u, 11u, (-0.21650635094610965), 0.21650635094610965);
  // b/newmem/c f32[64], Constant(0.0)
  knet_fill_constant(m->b_newmem_c + t.part(64).from, t.part(64).from, t.part(64).size(), 0.0);
  // wbf/w f32[65,64], Xavier()
  knet_fill_uniform(m->wbf_w + t.part(4160).from, t.part(4160).from, t.part(4160).size(), m->seed, 0u, 14u,
      (-0.21483446221182986), 0.21483446221182986);
  // wbf/b f32[65], Constant(0.0)
  knet_fill_constant(m->wbf_b + t.part(65).from, t.part(65).from, t.part(65).size(), 0.0);
  (void)m, (void)t;
}

// What runs each variant: its functions, with the operations of each, about, of a column and of the whole.
struct knet_work {
  double column, fixed;
};
// What runs a whole sequence: before the loop over time and after it on all columns, and in it on those of one step;
// the operations of all three and of the loop alone; whether threads wait for one another in the loop, even where each
// has columns of its own.
using knet_phase = void(knet_model*, const knet_team&, const float*, const float*, int);
struct knet_sequence {
  knet_phase *before, *loop, *after;
  knet_work work, step;
  bool waits;
};
using knet_forward = void(knet_model*, const knet_team&);
using knet_backward = void(knet_model*, const knet_team&, const float*, const float*, unsigned long long);
struct knet_functions {
  knet_forward* forward;
  knet_work forward_work;
  knet_backward* backward[4];
  knet_work backward_work[4];
  knet_backward* train[4];
  knet_sequence forward_steps, backward_steps[4];
};
const knet_functions variants[] = {
    {forward, {66506, 0}, {backward_zero, nullptr, nullptr, backward_softloss}, {{112256, 0}, {0, 0}, {0, 0}, {130194, 0}},
     {nullptr, nullptr, nullptr, nullptr},
     {before_forward, loop_forward, after_forward, {66506, 0}, {36992, 0}, false},
     {{before_backward_zero, loop_backward_zero, after_backward_zero, {108096, 0}, {36352, 0}, false},
      {nullptr, nullptr, nullptr, {0, 0}, {0, 0}, false},
      {nullptr, nullptr, nullptr, {0, 0}, {0, 0}, false},
      {before_backward_softloss, loop_backward_softloss, after_backward_softloss, {126034, 0}, {36480, 0}, false}}},
    {forward_dropout, {67146, 0}, {backward_zero_dropout, nullptr, nullptr, backward_softloss_dropout}, {{112256, 0}, {0, 0}, {0, 0}, {130322, 0}},
     {nullptr, nullptr, nullptr, nullptr},
     {before_forward_dropout, loop_forward_dropout, after_forward_dropout, {67146, 0}, {36992, 0}, false},
     {{before_backward_zero_dropout, loop_backward_zero_dropout, after_backward_zero_dropout, {108096, 0}, {36352, 0}, false},
      {nullptr, nullptr, nullptr, {0, 0}, {0, 0}, false},
      {nullptr, nullptr, nullptr, {0, 0}, {0, 0}, false},
      {before_backward_softloss_dropout, loop_backward_softloss_dropout, after_backward_softloss_dropout, {126162, 0}, {36480, 0}, false}}},
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
  for (int*& ones : f->ones) delete[] ones;
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
// Of the frames that wait, the place of one for a forward function over so many steps, or of the end. Those of several
// steps that are too small are freed: the next ones will be larger too.
knet_frame** find_frame(knet_model* m, int variant, int batch, int steps) {
  knet_frame** place = &m->spare;
  while (knet_frame* f = *place) {
    if (steps > 1 && f->steps > 1 && f->room < batch * steps) {
      *place = f->below;
      free_frame(m, f);
    } else if (f->variant == variant && (f->steps > 1) == (steps > 1)) {
      return place;
    } else {
      place = &f->below;
    }
  }
  return place;
}
// A frame for a call of a forward function over so many steps: one that waits, or a new one.
int take_frame(knet_model* m, int variant, int batch, int steps, knet_frame** frame) {
  knet_frame** const place = find_frame(m, variant, batch, steps);
  knet_frame* f = *place;
  if (f)
    *place = f->below;
  else
    TRY(make_frame(m, variant, batch * steps > m->capacity ? batch * steps : m->capacity, &f));
  f->below = nullptr;
  f->batch = batch;
  f->steps = f->left = steps;
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
    code = take_frame(m, variant, batch, 1, &f);
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
    memcpy(f->copies[i], f->inputs[i], elements(inputs[i], f->batch * f->steps) * sizeof(float));
    f->inputs[i] = f->copies[i];
  }
  return 0;
}
// Makes a frame the one in use, from one of its steps on.
void use_frame(knet_model* m, const knet_frame* f, int step = 0) {
  const int c = f->batch * step;
  float* const* value = f->values;
  for (const knet_buffer* b = frames[f->variant]; b->place; b++) m->*b->place = *value++ + b->column * c;
  for (int i = 0; i < INPUTS; i++)
    m->*inputs[i].place = const_cast<float*>(f->inputs[i] ? f->inputs[i] + from_column(inputs[i], c) : nullptr);
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
  release(&m->shared);
  for (const knet_shared* s = shared_values; s->place; s++) m->*s->place = nullptr;
  release(&m->desired);
  m->capacity = m->whole_capacity = 0;
  m->last = nullptr;
  forget_input_gradients(m);
}
// Makes room for so many columns in the values that have those of all steps, or in the others; where it fails, none have.
int make_room(knet_model* m, bool whole, int columns, int* capacity) {
  int code = 0;
  *capacity = 0;
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->column && b->whole == whole) release(&(m->*b->place));
  if (whole) release(&m->shared);
  for (const knet_buffer* b = buffers; b->place && !code; b++)
    if (b->column && b->whole == whole) code = allocate(&(m->*b->place), columns * b->column);
  if (whole && !code) code = allocate(&m->shared, columns * shared_column);
  for (const knet_shared* s = shared_values; s->place && whole && !code; s++)
    m->*s->place = m->shared + columns * s->from;
  if (!code) *capacity = columns;
  return code;
}
// Whether arrays of so many columns have more elements than are counted: in int.
bool is_too_large(double columns) {
  return columns * (double)buffers[sizeof buffers / sizeof *buffers - 1].column > 2130706432.0;
}
// Makes room for `batch` columns, of so many steps at once; on failure the model has no room for values, but its
// parameters, state and stack.
int reserve(knet_model* m, int batch, int steps = 1) {
  if (is_too_large((double)batch * steps))
    return knet_fail(KNET_ARGUMENT, "a batch of %d columns is too large: an array would have over 2130706432 elements",
                     batch);
  int code = 0;
  if (batch > m->capacity) {
    release_columns(m);
    code = make_room(m, false, batch, &m->capacity);
  }
  if (!code && batch * steps > m->whole_capacity) code = make_room(m, true, batch * steps, &m->whole_capacity);
  if (code) release_columns(m);
  return code;
}
// Whether the state is one of so many columns, or zero.
int check_state(const knet_model* m, int batch) {
  if (!m->state_batch || m->state_batch == batch) return 0;
  return knet_fail(KNET_ORDER,
                   "the state has %d columns and the batch %d; reset comes before another batch size",
                   m->state_batch, batch);
}
// Zeroes the state of so many columns, or, with none, the state whose size does not depend on the batch.
void zero_state(knet_model* m, int batch) {
  for (const knet_array* s = states; s->name; s++)
    if (batched(*s) == (batch > 0)) memset(m->*s->place, 0, elements(*s, batch) * sizeof(float));
}
// Makes the state, zero, for a sequence of so many columns, where there is none yet.
int begin_state(knet_model* m, int batch) {
  if (m->state_batch) return 0;
  if (batch > m->state_room) {
    m->state_room = 0;
    for (const knet_array* s = states; s->name; s++)
      if (batched(*s)) release(&(m->*s->place));
    for (const knet_array* s = states; s->name; s++)
      if (batched(*s)) TRY(allocate(&(m->*s->place), elements(*s, batch)));
    m->state_room = batch;
  }
  zero_state(m, batch);
  m->state_batch = batch;
  return 0;
}

int check_model(const knet_model* m) { return m ? 0 : knet_fail(KNET_ARGUMENT, "the model is NULL"); }
// Whether a forward call can run, on inputs of which each is given as an array or as the rows of a one-hot matrix;
// *variant: the forward function for the conditions.
int check_step(const knet_model* m, unsigned conditions, const knet_real* const* arrays, const int* const* rows,
               int batch, int* variant) {
  // For every setting of the conditions: which forward function it runs.
  static const unsigned short variant_of[1 << CONDITIONS] = {0, 1};
  TRY(check_model(m));
  if (conditions >> CONDITIONS) return knet_fail(KNET_ARGUMENT, "there is no such condition");
  *variant = variant_of[conditions];
  if (*variant >= (int)(sizeof values / sizeof *values))
    return knet_fail(KNET_ARGUMENT, "there is no such setting of the conditions");
  if (batch < 1) return knet_fail(KNET_ARGUMENT, "a batch of %d columns", batch);
  for (int i = 0; i < INPUTS; i++)
    if ((!arrays || !arrays[i]) && (!rows || !rows[i]))
      return knet_fail(KNET_ARGUMENT, "input %s is NULL", inputs[i].name);
  TRY(check_state(m, batch));
  return 0;
}
// What comes before a forward function: room, and a frame for what it leaves; `keep`: with copies of the inputs.
int begin_step(knet_model* m, int variant, const knet_real* const* arrays, int batch, bool keep, knet_frame** frame, int steps = 1) {
  TRY(reserve(m, batch, steps));
  m->last = nullptr;
  forget_record(m);
  forget_input_gradients(m);
  int code = take_frame(m, variant, batch, steps, frame);
  for (int i = 0; i < INPUTS && !code; i++) (*frame)->inputs[i] = arrays ? arrays[i] : nullptr;
  if (!code && keep) code = copy_inputs(*frame);
  if (!code) code = begin_state(m, batch);
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
  if (!m->stack) m->later = false;
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
  m->later = true;
  f->left -= steps;
  if (f->left) return;
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
  use_frame(m, f, f->left - 1);
  forget_input_gradients(m);
  keep_gradients(m, pop && m->gradients);
  m->unwinding = pop;
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
  m->later = false;
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
  // The backward function reads parameters after it has written the gradients of others.
  aim_gradients(m, gscale, false);
  m->unwinding = false;
  (void)keep;
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
    run.forward(m, t);
    t.wait();
    run.backward[loss](m, t, gold, nullptr, 0);
    if (!updates) return;
    t.wait();
    update_parts(m, t, gclip, gscale, clip);
  });
  if (value) *value = loss_of(m, threads, m->batch);
  return 0;
}

// ---- sequences
// Where an input is one-hot, products with it pick columns. Nothing is lost where there is no memory for that.
void find_ones(knet_frame* f) {
  for (int i = 0; i < INPUTS; i++) {
    delete[] f->ones[i];
    f->ones[i] = nullptr;
    if (!batched(inputs[i]) || inputs[i].count != 2) continue;
    int* const ones = new (std::nothrow) int[f->batch * f->steps];
    if (ones && knet_find_ones(f->inputs[i], inputs[i].dims[0], f->batch * f->steps, ones))
      f->ones[i] = ones;
    else
      delete[] ones;
  }
}
// How many threads run a sequence: one, where a step is too little work for threads that wait for one another in the
// loop, and the loop is most of all.
int threads_for(const knet_model* m, const knet_sequence& run) {
  const int threads = threads_for(m, run.work, m->batch * m->steps);
  const bool waits = run.waits || m->batch < threads;
  return waits && 2 * run.step.column > run.work.column ? threads_for(m, run.step, m->batch) : threads;
}
// Runs the parts of a sequence on so many threads, forward from the first step or back from the last one.
void run_sequence(knet_model* m, const knet_sequence& run, int threads, const float* gold, const float* mask,
                  bool back) {
  m->packs = KNET_TILES && m->steps > 1 && m->batch >= 2 * threads;
  knet_parallel(threads, m->batch * m->steps, [=](const knet_team& all) {
    const knet_team team = {all.index, all.size, m->batch >= all.size};
    run.before(m, all, gold, mask, 0);
    all.wait();
    for (int k = 0; k < m->steps; k++) run.loop(m, team, gold, mask, back ? m->steps - 1 - k : k);
    all.wait();
    run.after(m, all, gold, mask, 0);
  });
}
// So many steps forward at once, by the forward function `variant`.
int steps_forward(knet_model* m, int variant, const float* const* arrays, int batch, int steps, float* output) {
  knet_frame* f = nullptr;
  TRY(begin_step(m, variant, arrays, batch, true, &f, steps));
  m->steps = steps;
  find_ones(f);
  for (int i = 0; i < INPUTS; i++) m->rows[i] = f->ones[i];
  const knet_sequence& run = variants[variant].forward_steps;
  run_sequence(m, run, threads_for(m, run), nullptr, nullptr, false);
  for (const int*& rows : m->rows) rows = nullptr;
  m->call += steps - 1;
  if (const knet_array* value = output ? find(values[variant], "return") : nullptr)
    copy_array(*value, data_of(m, *value), output, batch * steps, true);
  m->last = f;
  push_frame(m, f);
  return 0;
}
// Back at once through all steps of a frame, the newest one; there is room. *value: the mean of their losses, or NULL.
void steps_backward(knet_model* m, knet_frame* f, int loss, const float* gold, const float* mask,
                    float* value) {
  use_frame(m, f);
  forget_input_gradients(m);
  keep_gradients(m, m->gradients);
  m->steps = f->steps;
  m->unwinding = true;
  m->wants_loss = value;
  for (int i = 0; i < INPUTS; i++) m->rows[i] = f->ones[i];
  const knet_sequence& run = variants[f->variant].backward_steps[loss];
  const int threads = threads_for(m, run);
  for (int t = 0; t < threads; t++) m->workers[t].loss = 0;
  run_sequence(m, run, threads, gold, mask, true);
  if (value) *value = (float)loss_of(m, threads, (double)m->batch * m->steps);
  for (const int*& rows : m->rows) rows = nullptr;
  m->gradients = true;
  pop_steps(m, f, f->steps);
}
// A sequence forward: at once where the forward function has the parts for that, else step by step.
int sequence_forward(knet_model* m, unsigned conditions, const float* const* arrays, int batch, int steps,
                     float* output) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, nullptr, batch, &variant));
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  if (steps > 1 && variants[variant].forward_steps.loop && !is_too_large((double)batch * steps))
    return steps_forward(m, variant, arrays, batch, steps, output);
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
    TRY(reserve(m, f->batch, f->steps));  // so that nothing fails between two steps
    const int of_frame = f->left < left ? f->left : left;
    columns += (size_t)f->batch * of_frame;
    left -= of_frame;
  }
  if (left > 0) return knet_fail(KNET_ORDER, "the stack has %d steps, not %d", steps - left, steps);
  double sum = 0;  // of the steps' losses
  for (left = steps; left > 0;) {
    knet_frame* const f = m->stack;
    const bool whole = f->steps > 1 && f->left == f->steps && f->steps <= left &&
                       variants[f->variant].backward_steps[loss].loop;
    const int now = whole ? f->steps : 1;
    columns -= (size_t)f->batch * now;
    left -= now;
    const knet_array* const value = find(values[f->variant], "return");
    const float* const wanted = gold && value ? gold + from_column(*value, columns) : gold;
    const float* const weights = mask ? mask + columns : nullptr;
    float mean = 0;
    float* const place = loss_value ? &mean : nullptr;
    if (whole)
      steps_backward(m, f, loss, wanted, weights, place);
    else
      TRY(step_backward(m, loss, wanted, weights, 0, place, true));
    sum += (double)mean * now;
  }
  if (loss_value) *loss_value = (float)(sum / steps);
  return 0;
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
// Takes the memory of a segment of so many steps.
int reserve_segment(knet_model* m, int variant, int batch, int steps) {
  const bool at_once = steps > 1 && variants[variant].forward_steps.loop && !is_too_large((double)batch * steps);
  TRY(reserve(m, batch, at_once ? steps : 1));
  if (!at_once) return make_frames(m, variant, batch, steps);
  knet_frame* f = nullptr;
  TRY(take_frame(m, variant, batch, steps, &f));
  const int code = make_copies(f);
  give_frame(m, f);
  return code;
}
// Takes the memory of all segments, so that none lacks it when those before have changed the model.
int reserve_segments(knet_model* m, int variant, const knet_time& time) {
  const int steps = steps_of(time, 0), last = steps_of(time, segments_of(time) - 1);
  TRY(reserve_segment(m, variant, time.batch, steps));
  if (last != steps) TRY(reserve_segment(m, variant, time.batch, last));
  TRY(keep_averages(m));
  return begin_state(m, time.batch);
}
// Trains over a sequence. Afterwards the stack is empty and there are no gradients; but what failed for lack of memory
// has changed nothing.
int train_sequence(knet_model* m, int variant, int loss, unsigned conditions, const float* const* arrays,
                   const float* gold, const knet_time& time, double gclip, double gscale, float* losses) {
  if (const int code = reserve_segments(m, variant, time)) {
    release_columns(m);
    return code;
  }
  const knet_array& value = *find(values[variant], "return");
  const int code = train_by_calls(m, loss, conditions, arrays, gold, value, time, gclip, gscale, losses);
  forget_sequence(m);
  return code;
}

}  // namespace

namespace {

int open_model(knet_model* m, unsigned long long seed) {
  m->seed = seed;
  // The threads are ours: a product runs on the one that calls it.
  if (KNET_BLAS(openblas_set_num_threads)) KNET_BLAS(openblas_set_num_threads)(1);
  TRY(make_workers(m, most_threads()));
  for (const knet_buffer* b = buffers; b->place; b++)
    if (b->fixed) TRY(allocate(&(m->*b->place), b->fixed));
  zero_state(m, 0);
  knet_parallel(m->threads, 1, [=](const knet_team& t) { initialize(m, t); });
  return 0;
}
void close_model(knet_model* m) {
  free_frames(m, &m->stack);
  release_columns(m);
  for (const knet_buffer* b = buffers; b->place; b++) release(&(m->*b->place));
  for (const knet_array* s = states; s->name; s++) release(&(m->*s->place));
  for (knet_options& o : m->training)
    for (float** average : {&o.adagrad_squares, &o.rmsprop_squares, &o.adam_mean, &o.adam_square,
                             &o.momentum_average, &o.nesterov_average})
      release(average);
  release_workers(m->workers, m->threads);
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
  if (kind == KNET_VALUE) use_frame(m, m->last, m->last->steps - 1);
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

const char* charlm_last_error(void) { return knet_error_text; }

int charlm_create(knet_model** model, unsigned long long seed, void*) {
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

int charlm_destroy(knet_model* m) {
  if (m) close_model(m);
  return 0;
}

int charlm_forward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output) {
  return step_forward(m, conditions, arrays, batch, output, false);
}
int charlm_sforward(knet_model* m, unsigned conditions, const knet_real* const* arrays, int batch, knet_real* output) {
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
  TRY(check_update(gclip, gscale));
  if (!m->gradients) return knet_fail(KNET_ORDER, "update comes after backward");
  return update(m, gclip, gscale);
}

int charlm_train(knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
    const int* const* rows, const knet_real* gold, const int* gold_rows, int columns, int batch, double gclip,
    double gscale, double* losses) {
  int variant = 0;
  if (columns < 1) return knet_fail(KNET_ARGUMENT, "%d columns", columns);
  if (batch > columns) batch = columns;
  TRY(check_step(m, conditions, arrays, rows, batch, &variant));
  if (!gold && !gold_rows) return knet_fail(KNET_ARGUMENT, "gold is NULL");
  TRY(check_update(gclip, gscale));
  if (loss < KNET_QUADLOSS || loss > KNET_SOFTLOSS || !variants[variant].backward[loss])
    return knet_fail(KNET_ARGUMENT, "there is no training from loss %d", loss);
  TRY(check_rows(rows, gold_rows, *find(values[variant], "return"), columns));
  const int columns_of_state = m->state_batch;
  if (columns % batch)
    return knet_fail(KNET_ORDER, "the state has %d columns and the last minibatch %d", batch, columns % batch);
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
  if (!c) m->state_batch = columns_of_state;  // nothing has been trained
  // Of the last minibatch the inputs may be read by name, and by a backward pass.
  for (int i = 0; i < INPUTS && !code; i++)
    if (m->rows[i] && !reads_dense[f->variant][i]) make_input_dense(m, f, i);
  for (const int*& given : m->rows) given = nullptr;
  m->gradients = !code;
  if (f) m->last = m->record = f;
  return code;
}

int charlm_trainseq(knet_model* m, unsigned conditions, int loss, const knet_real* const* arrays,
    const knet_real* gold, int batch, int steps, int length, double gclip, double gscale, knet_real* losses) {
  int variant = 0;
  TRY(check_step(m, conditions, arrays, nullptr, batch, &variant));
  TRY(check_loss(loss, gold));
  TRY(check_update(gclip, gscale));
  if (loss == KNET_ZERO || loss == KNET_GRADIENT || !variants[variant].backward[loss])
    return knet_fail(KNET_ARGUMENT, "there is no training from loss %d", loss);
  if (steps < 1) return knet_fail(KNET_ARGUMENT, "a sequence of %d steps", steps);
  if (length < 1) return knet_fail(KNET_ARGUMENT, "segments of %d steps", length);
  if (m->stack) return knet_fail(KNET_ORDER, "there are steps on the stack: reset comes before training over time");
  return train_sequence(m, variant, loss, conditions, arrays, gold, {batch, steps, length}, gclip, gscale, losses);
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

int charlm_set_threads(knet_model* m, int threads) {
  TRY(check_model(m));
  if (threads < 0 || threads > 4096) return knet_fail(KNET_ARGUMENT, "a number of %d threads", threads);
  if (!threads) threads = most_threads();
  return threads == m->threads ? 0 : make_workers(m, threads);
}

int charlm_reset(knet_model* m, int keepstate) {
  TRY(check_model(m));
  forget_sequence(m);
  if (keepstate) return 0;
  m->state_batch = 0;
  zero_state(m, 0);
  return 0;
}

int charlm_clean(knet_model* m) {
  TRY(check_model(m));
  forget_sequence(m);
  release_columns(m);
  return 0;
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
  knet_array layout = *a;
  if (average_place(m->training, kind)) layout.pitch = 0;  // an average is no part of a block
  copy_array(layout, data, array, batch, true);
  return 0;
}

int charlm_set(knet_model* m, const char* name, const knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, KNET_PARAM, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  copy_array(*a, data, const_cast<float*>(array), batch, false);
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
  memcpy(m->*a->place, array, elements(*a, batch) * sizeof(float));
  return 0;
}

int charlm_set_average(knet_model* m, int kind, const char* parameter, const knet_real* array) {
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

int charlm_set_gradient(knet_model* m, const char* name, const knet_real* array) {
  const knet_array* a = nullptr;
  float* data = nullptr;
  int batch = 0;
  TRY(find_array(m, KNET_GRAD, name, &a, &data, &batch));
  if (!array) return knet_fail(KNET_ARGUMENT, "the array is NULL");
  copy_array(*a, data, const_cast<float*>(array), batch, false);
  return 0;
}

int charlm_save(knet_model* m, const char* path) {
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

int charlm_load(knet_model* m, const char* path) {
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

int charlm_synchronize(knet_model* m) { return check_model(m); }

}  // extern "C"

// The templates above become functions at the end of the file: with all of the compiler's work again.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
