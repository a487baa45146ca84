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
