// Look-alike of cuDNN's pooling: maximum and both averages, forward and backward. cuDNN's geometry is enforced: an output
// has 1 + floor((x + 2 pad - window) / stride) elements, and no window lies in the padding alone; anything else is
// CUDNN_STATUS_BAD_PARAM. Of several equal largest elements, the first takes the gradient. Before: `cudnn.cpp`.
#include <math.h>

#include <algorithm>

#include "dnn.h"

namespace knetemu {
namespace {

struct Geometry {
  cudnnTensorStruct x, y;
  cudnnPoolingStruct pool;
};

int output_size(const cudnnPoolingStruct& p, const Shape& x, int i) {
  const int room = x.size[i] + 2 * p.pad[i] - p.window[i];
  return room < 0 || p.pad[i] >= p.window[i] ? 0 : room / p.stride[i] + 1;
}

cudnnStatus_t set_geometry(Geometry& g, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t y,
                           cudnnPoolingDescriptor_t pool) {
  g = {get(x), get(y), get(pool)};
  if (!g.x.set || !g.y.set || !g.pool.set || g.x.type != g.y.type) return CUDNN_STATUS_BAD_PARAM;
  if (g.x.dims != g.pool.spatial + 2 || g.y.dims != g.x.dims) return CUDNN_STATUS_BAD_PARAM;
  if (g.x.batch != g.y.batch || g.x.channels != g.y.channels) return CUDNN_STATUS_BAD_PARAM;
  for (int i = 0; i < kSpatial; i++)
    if (g.y.size[i] != output_size(g.pool, g.x, i)) return CUDNN_STATUS_BAD_PARAM;
  return CUDNN_STATUS_SUCCESS;
}

// The part of one window that lies inside the image: [from, to) in each dimension.
struct Window {
  int from[kSpatial], to[kSpatial], whole = 1;
  Window(const Geometry& g, const int (&output)[kSpatial]) {
    for (int i = 0; i < kSpatial; i++) {
      const int start = output[i] * g.pool.stride[i] - g.pool.pad[i];
      from[i] = std::max(start, 0);
      to[i] = std::min(start + g.pool.window[i], g.x.size[i]);
      whole *= g.pool.window[i];
    }
  }
  int inside() const { return (to[0] - from[0]) * (to[1] - from[1]) * (to[2] - from[2]); }
};

// Calls f(offset in the plane) for each element of a window.
template <class F> void each_element(const Geometry& g, const Window& w, F f) {
  for (int d = w.from[0]; d < w.to[0]; d++)
    for (int h = w.from[1]; h < w.to[1]; h++)
      for (int c = w.from[2]; c < w.to[2]; c++)
        f((static_cast<size_t>(d) * static_cast<size_t>(g.x.size[1]) + static_cast<size_t>(h)) *
              static_cast<size_t>(g.x.size[2]) +
          static_cast<size_t>(c));
}

// Calls f(window, start of the plane in x, offset in y) for each output.
template <class F> void each_output(const Geometry& g, F f) {
  size_t output = 0;
  const size_t planes = static_cast<size_t>(g.x.batch) * static_cast<size_t>(g.x.channels);
  for (size_t plane = 0; plane < planes; plane++)
    for (int d = 0; d < g.y.size[0]; d++)
      for (int h = 0; h < g.y.size[1]; h++)
        for (int c = 0; c < g.y.size[2]; c++) f(Window(g, {d, h, c}), plane * g.x.plane(), output++);
}

bool is_max(const Geometry& g) {
  return g.pool.mode == CUDNN_POOLING_MAX || g.pool.mode == CUDNN_POOLING_MAX_DETERMINISTIC;
}
int divisor(const Geometry& g, const Window& w) {
  return g.pool.mode == CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING ? w.whole : w.inside();
}

// Where the largest element of a window stands: the first of several; a NaN is the largest, if it propagates.
template <class T> size_t largest(const Geometry& g, const Window& w, const T* plane) {
  size_t best = 0;
  bool any = false;
  each_element(g, w, [&](size_t i) {
    const bool nan = std::isnan(plane[i]);
    if (nan && !g.pool.propagate_nan) return;
    if (!any || (!std::isnan(plane[best]) && (nan || plane[i] > plane[best]))) best = i;
    any = true;
  });
  if (!any) each_element(g, w, [&](size_t i) { best = i; });  // all are NaN
  return best;
}

template <class T> void forward(const Geometry& g, T alpha, const T* x, T beta, T* y) {
  each_output(g, [&](const Window& w, size_t plane, size_t output) {
    T value = 0;
    if (is_max(g)) {
      value = x[plane + largest(g, w, x + plane)];
    } else {
      each_element(g, w, [&](size_t i) { value += x[plane + i]; });
      value /= static_cast<T>(divisor(g, w));
    }
    y[output] = beta == 0 ? alpha * value : alpha * value + beta * y[output];
  });
}

template <class T> void backward(const Geometry& g, T alpha, const T* dy, const T* x, T beta, T* dx) {
  scale(dx, g.x.count(), beta);
  each_output(g, [&](const Window& w, size_t plane, size_t output) {
    if (is_max(g)) {
      dx[plane + largest(g, w, x + plane)] += alpha * dy[output];
    } else {
      const T share = alpha * dy[output] / static_cast<T>(divisor(g, w));
      each_element(g, w, [&](size_t i) { dx[plane + i] += share; });
    }
  });
}

template <class T>
void submit_forward(cudaStream_t stream, const Geometry& g, const void* alpha, const void* x, const void* beta, void* y) {
  const char* who = "cudnnPoolingForward";
  const T a = scalar<T>(alpha, who), b = scalar<T>(beta, who);
  submit(stream, [=] {
    check(x, g.x.bytes(), who);
    check(y, g.y.bytes(), who);
    DeviceMode device;
    forward(g, a, static_cast<const T*>(x), b, static_cast<T*>(y));
  });
}
template <class T>
void submit_backward(cudaStream_t stream, const Geometry& g, const void* alpha, const void* y, const void* dy,
                     const void* x, const void* beta, void* dx) {
  const char* who = "cudnnPoolingBackward";
  const T a = scalar<T>(alpha, who), b = scalar<T>(beta, who);
  submit(stream, [=] {
    check(y, g.y.bytes(), who);
    check(dy, g.y.bytes(), who);
    check(x, g.x.bytes(), who);
    check(dx, g.x.bytes(), who);
    DeviceMode device;
    backward(g, a, static_cast<const T*>(dy), static_cast<const T*>(x), b, static_cast<T*>(dx));
  });
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;
extern "C" {
cudnnStatus_t cudnnGetPoolingNdForwardOutputDim(const cudnnPoolingDescriptor_t pooling,
                                                const cudnnTensorDescriptor_t x, int dims, int size[]) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  const cudnnPoolingStruct& p = get(pooling);
  const Shape& input = get(x);
  if (!p.set || !input.set || input.dims != dims || p.spatial + 2 != dims) return CUDNN_STATUS_BAD_PARAM;
  size[0] = input.batch;
  size[1] = input.channels;
  for (int i = 0; i < p.spatial; i++) {
    size[2 + i] = output_size(p, input, kSpatial - p.spatial + i);
    if (size[2 + i] < 1) return CUDNN_STATUS_BAD_PARAM;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnPoolingForward(cudnnHandle_t handle, const cudnnPoolingDescriptor_t pooling, const void* alpha,
                                  const cudnnTensorDescriptor_t x_desc, const void* x, const void* beta,
                                  const cudnnTensorDescriptor_t y_desc, void* y) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_EXECUTION_FAILED;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x_desc, y_desc, pooling)) return status;
  const cudaStream_t stream = get(handle).stream;
  if (g.x.type == CUDNN_DATA_FLOAT)
    submit_forward<float>(stream, g, alpha, x, beta, y);
  else
    submit_forward<double>(stream, g, alpha, x, beta, y);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnPoolingBackward(cudnnHandle_t handle, const cudnnPoolingDescriptor_t pooling, const void* alpha,
                                   const cudnnTensorDescriptor_t y_desc, const void* y,
                                   const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                   const cudnnTensorDescriptor_t x_desc, const void* x, const void* beta,
                                   const cudnnTensorDescriptor_t dx_desc, void* dx) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_EXECUTION_FAILED;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x_desc, y_desc, pooling)) return status;
  if (!g.y.same_as(get(dy_desc)) || !g.x.same_as(get(dx_desc))) return CUDNN_STATUS_BAD_PARAM;
  const cudaStream_t stream = get(handle).stream;
  if (g.x.type == CUDNN_DATA_FLOAT)
    submit_backward<float>(stream, g, alpha, y, dy, x, beta, dx);
  else
    submit_backward<double>(stream, g, alpha, y, dy, x, beta, dx);
  return CUDNN_STATUS_SUCCESS;
}
}
