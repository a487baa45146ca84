// Convolution as a matrix product: every window of an image is a row of a matrix of patches, in which a column belongs
// to an element of the filter. A few lines of the result at a time, so that their patches stay in the cache. The
// positions y for which start + y * stride lies in 0..x-1.
static inline knet_range knet_inside(int start, int stride, int x, int y) {
  int from = start >= 0 ? 0 : (-start + stride - 1) / stride, to = start >= x ? 0 : (x - 1 - start) / stride + 1;
  to = to < y ? to : y;
  return {from < to ? from : to, to};
}
// Calls line(patches, image, at, inside, stride) for each line of the result in `lines`, and each element of the filter
// in `channels`: `at` is where the line begins in the patches, image[0] the element of the image that its first
// position meets, and `inside` the positions whose element there is.
template <class T, class Line>
static inline void knet_each_line(const knet_conv& g, knet_range channels, knet_range lines, T* image,
                                  const Line& line) {
  int at = 0;
  for (int ch = channels.from; ch < channels.to; ch++) {
    for (int w2 = 0; w2 < g.w[2]; w2++)
      for (int w1 = 0; w1 < g.w[1]; w1++)
        for (int w0 = 0; w0 < g.w[0]; w0++) {
          const int start = g.first(0, w0);
          const knet_range inside = knet_inside(start, g.stride[0], g.x[0], g.y[0]);
          for (int l = lines.from; l < lines.to; l++, at += g.y[0]) {
            const int x1 = g.first(1, w1) + l % g.y[1] * g.stride[1], x2 = g.first(2, w2) + l / g.y[1] * g.stride[2];
            const bool there = x1 >= 0 && x1 < g.x[1] && x2 >= 0 && x2 < g.x[2];
            const int plane = ((ch * g.x[2] + x2) * g.x[1] + x1) * g.x[0];
            line(at, there ? image + plane : image, start, there ? inside : knet_range{0, 0});
          }
        }
  }
}
template <class T>
static inline void knet_make_patches(const knet_conv& g, knet_range lines, const T* image, T* patches) {
  const int size = g.y[0], stride = g.stride[0];
  knet_each_line(g, {0, g.inputs}, lines, image, [=](int at, const T* x, int start, knet_range inside) {
    T* const p = patches + at;
    for (int i = 0; i < inside.from; i++) p[i] = 0;
    if (stride == 1)
      for (int i = inside.from; i < inside.to; i++) p[i] = x[start + i];
    else
      for (int i = inside.from; i < inside.to; i++) p[i] = x[start + i * stride];
    for (int i = inside.to; i < size; i++) p[i] = 0;
  });
}
template <class T>
static inline void knet_add_patches(const knet_conv& g, knet_range channels, knet_range lines, const T* patches,
                                    T* image) {
  const int stride = g.stride[0];
  knet_each_line(g, channels, lines, image, [=](int at, T* x, int start, knet_range inside) {
    const T* const p = patches + at;
    if (stride == 1)
      for (int i = inside.from; i < inside.to; i++) x[start + i] += p[i];
    else
      for (int i = inside.from; i < inside.to; i++) x[start + i * stride] += p[i];
  });
}
// Calls block(lines, m, at): some lines of a result, their m elements, which begin at `at` of a channel.
template <class Block>
static inline void knet_each_block(const knet_conv& g, const Block& block) {
  const int all = g.y[1] * g.y[2];
  for (int l = 0; l < all; l += g.lines) {
    const int to = l + g.lines < all ? l + g.lines : all;
    block(knet_range{l, to}, (to - l) * g.y[0], l * g.y[0]);
  }
}
// y = conv(w, x) of n images, in the channels `outputs`.
template <class T>
KNET_LOOPS void knet_patches_forward(const knet_conv& g, const T* w, const T* x, T* y, T* patches,
                                     knet_range outputs, int n) {
  const int k = g.w_size() * g.inputs, size = g.y_size();
  if (outputs.size() <= 0) return;
  for (int c = 0; c < n; c++, x += g.x_size() * g.inputs, y += size * g.outputs)
    knet_each_block(g, [=, &g](knet_range lines, int m, int at) {
      knet_make_patches(g, lines, x, patches);
      knet_gemm(false, false, m, outputs.size(), k, patches, m, w + outputs.from * k, k,
                knet_to(y + outputs.from * size + at, size));
    });
}
// dw += the gradient of the filters by n images, of the channels `outputs`.
template <class T>
KNET_LOOPS void knet_patches_back_w(const knet_conv& g, const T* x, const T* dy, T* dw, T* patches,
                                    knet_range outputs, int n) {
  const int k = g.w_size() * g.inputs, size = g.y_size();
  if (outputs.size() <= 0) return;
  for (int c = 0; c < n; c++, x += g.x_size() * g.inputs, dy += size * g.outputs)
    knet_each_block(g, [=, &g](knet_range lines, int m, int at) {
      knet_make_patches(g, lines, x, patches);
      knet_gemm(true, false, k, outputs.size(), m, patches, m, dy + outputs.from * size + at, size,
                knet_sink<T>{dw + outputs.from * k, 1, true, k});
    });
}
// dx = the gradient of n images, in the channels `inputs`.
template <class T>
KNET_LOOPS void knet_patches_back_x(const knet_conv& g, const T* w, const T* dy, T* dx, T* patches,
                                    knet_range inputs, int n) {
  const int k = g.w_size() * inputs.size(), size = g.y_size(), plane = g.x_size();
  if (k <= 0) return;
  for (int c = 0; c < n; c++, dx += plane * g.inputs, dy += size * g.outputs) {
    memset(dx + plane * inputs.from, 0, plane * inputs.size() * sizeof(T));
    knet_each_block(g, [=, &g](knet_range lines, int m, int at) {
      knet_gemm(false, true, m, k, g.outputs, dy + at, size, w + g.w_size() * inputs.from, g.w_size() * g.inputs,
                knet_to(patches, m));
      knet_add_patches(g, inputs, lines, patches, dx);
    });
  }
}
