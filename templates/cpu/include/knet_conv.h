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
