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
