// Matrix product in blocks: parts of both operands are packed into buffers that stay in the cache, and a tile of c is kept
// in registers. Before: `cublas.cpp` and `convolution.cpp`.
//
// Every element of c is the sum of its products in the order of k, in blocks of kDepth whose sums are then added: the
// same number whatever the width of the machine's vectors, with an error that grows with kDepth + k / kDepth, not k.
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "emu.h"

namespace knetemu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kColumns = 6;  // of a tile; its rows are two vectors: 12 sums, 3 operands, of 16 or 32 registers
constexpr int kDepth = 256, kRowsBlock = 192, kColumnsBlock = 1536;

template <class T> struct Tile {
  static constexpr int lanes = kVectorBytes / static_cast<int>(sizeof(T)), rows = 2 * lanes;
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
};

// op(matrix)[i, j], column-major.
template <class T> struct View {
  const T* data;
  size_t row_step, column_step;
  View(const T* p, bool transposed, int ld)
      : data(p), row_step(transposed ? static_cast<size_t>(ld) : 1), column_step(transposed ? 1 : static_cast<size_t>(ld)) {}
  const T* at(int i, int j) const { return data + static_cast<size_t>(i) * row_step + static_cast<size_t>(j) * column_step; }
};

// A buffer that only grows, aligned for vectors.
template <class T> class Buffer {
 public:
  T* get(size_t count) {
    if (count > count_) {
      free(data_);
      void* memory = nullptr;
      if (posix_memalign(&memory, 64, count * sizeof(T))) die("no memory for a matrix product");
      data_ = static_cast<T*>(memory);
      count_ = count;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

// Strips of `width` along i, each with its elements in the order j, i; a last strip is filled up with zeros.
template <class T>
void pack(View<T> m, bool across, int i0, int count, int j0, int depth, int width, T* to) {
  const size_t step_i = across ? m.column_step : m.row_step, step_j = across ? m.row_step : m.column_step;
  const T* base = m.data + static_cast<size_t>(i0) * step_i + static_cast<size_t>(j0) * step_j;
  for (int i = 0; i < count; i += width) {
    const int here = std::min(width, count - i);
    const T* strip = base + static_cast<size_t>(i) * step_i;
    if (step_i == 1) {
      for (int j = 0; j < depth; j++, to += width) {
        memcpy(to, strip + static_cast<size_t>(j) * step_j, static_cast<size_t>(here) * sizeof(T));
        for (int r = here; r < width; r++) to[r] = 0;
      }
    } else {
      for (int r = 0; r < here; r++)
        for (int j = 0; j < depth; j++)
          to[j * width + r] = strip[static_cast<size_t>(r) * step_i + static_cast<size_t>(j) * step_j];
      for (int r = here; r < width; r++)
        for (int j = 0; j < depth; j++) to[j * width + r] = 0;
      to += static_cast<size_t>(depth) * static_cast<size_t>(width);
    }
  }
}

// sums = strip of a times strip of b, both packed.
template <class T> void multiply(const T* a, const T* b, int depth, T* sums) {
  using V = typename Tile<T>::Vector;
  V low[kColumns] = {}, high[kColumns] = {};
  const V* rows = reinterpret_cast<const V*>(a);
  for (int p = 0; p < depth; p++, rows += 2, b += kColumns) {
    const V a0 = rows[0], a1 = rows[1];
#pragma GCC unroll 6
    for (int j = 0; j < kColumns; j++) {
      low[j] += a0 * b[j];
      high[j] += a1 * b[j];
    }
  }
  V* to = reinterpret_cast<V*>(sums);
  for (int j = 0; j < kColumns; j++) {
    to[2 * j] = low[j];
    to[2 * j + 1] = high[j];
  }
}

template <class T> void scale(T* c, int m, int n, int ldc, T beta) {
  if (beta == 1) return;
  for (int j = 0; j < n; j++) {
    T* column = c + static_cast<size_t>(j) * static_cast<size_t>(ldc);
    for (int i = 0; i < m; i++) column[i] = beta == 0 ? 0 : beta * column[i];
  }
}

// c += alpha times a block of op(a), packed, times a block of op(b), packed.
template <class T> void add_block(const T* a, const T* b, int m, int n, int depth, T alpha, T* c, int ldc) {
  constexpr int rows = Tile<T>::rows;
  alignas(64) T sums[rows * kColumns];
  for (int j = 0; j < n; j += kColumns)
    for (int i = 0; i < m; i += rows) {
      multiply(a + static_cast<size_t>(i) * static_cast<size_t>(depth),
               b + static_cast<size_t>(j) * static_cast<size_t>(depth), depth, sums);
      const int high = std::min(rows, m - i), wide = std::min(kColumns, n - j);
      for (int q = 0; q < wide; q++) {
        T* column = c + static_cast<size_t>(j + q) * static_cast<size_t>(ldc) + i;
        for (int r = 0; r < high; r++) column[r] += alpha * sums[q * rows + r];
      }
    }
}

size_t rounded(int count, int width) { return static_cast<size_t>((count + width - 1) / width * width); }

}  // namespace

template <class T>
void gemm(bool ta, bool tb, int m, int n, int k, T alpha, const T* a, int lda, const T* b, int ldb, T beta, T* c,
          int ldc) {
  static Buffer<T> a_buffer, b_buffer;
  scale(c, m, n, ldc, beta);
  if (m == 0 || n == 0 || k == 0 || alpha == 0) return;
  const View<T> left(a, ta, lda), right(b, tb, ldb);
  for (int j = 0; j < n; j += kColumnsBlock) {
    const int wide = std::min(kColumnsBlock, n - j);
    for (int p = 0; p < k; p += kDepth) {
      const int depth = std::min(kDepth, k - p);
      T* packed_b = b_buffer.get(rounded(wide, kColumns) * static_cast<size_t>(depth));
      pack(right, true, j, wide, p, depth, kColumns, packed_b);
      for (int i = 0; i < m; i += kRowsBlock) {
        const int high = std::min(kRowsBlock, m - i);
        T* packed_a = a_buffer.get(rounded(high, Tile<T>::rows) * static_cast<size_t>(depth));
        pack(left, false, i, high, p, depth, Tile<T>::rows, packed_a);
        add_block(packed_a, packed_b, high, wide, depth, alpha,
                  c + static_cast<size_t>(j) * static_cast<size_t>(ldc) + i, ldc);
      }
    }
  }
}

template void gemm(bool, bool, int, int, int, float, const float*, int, const float*, int, float, float*, int);
template void gemm(bool, bool, int, int, int, double, const double*, int, const double*, int, double, double*, int);

}  // namespace knetemu
