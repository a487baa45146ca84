// Look-alike of cuDNN's convolutions: image by image, the input unfolded into a matrix with one row an output element
// and one column a filter tap, times the filter as a matrix. Before: `cudnn.cpp` sets the descriptors. After: `gemm.cpp`.
//
// The unfolded matrix of one image is the workspace that is asked for; it holds garbage afterwards, as a device's does.
#include <string.h>

#include <algorithm>

#include "dnn.h"

namespace knetemu {
namespace {

struct Geometry {
  cudnnTensorStruct x, y;
  cudnnFilterStruct w;
  cudnnConvolutionStruct conv;

  int outputs() const { return static_cast<int>(y.plane()); }    // elements of one output channel
  int taps() const { return static_cast<int>(w.image()); }       // of one filter
  size_t workspace() const {
    return x.bytes() / x.count() * static_cast<size_t>(outputs()) * static_cast<size_t>(taps());
  }
};

int output_size(const cudnnConvolutionStruct& conv, const Shape& x, const Shape& w, int i) {
  const int span = (w.size[i] - 1) * conv.dilation[i] + 1;
  const int room = x.size[i] + 2 * conv.pad[i] - span;
  return room < 0 ? 0 : room / conv.stride[i] + 1;
}

// Fills `g`, or says what cuDNN would find wrong.
cudnnStatus_t set_geometry(Geometry& g, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                           cudnnConvolutionDescriptor_t conv, cudnnTensorDescriptor_t y) {
  g = {get(x), get(y), get(w), get(conv)};
  if (!g.x.set || !g.y.set || !g.w.set || !g.conv.set) return CUDNN_STATUS_BAD_PARAM;
  if (g.x.type != g.w.type || g.x.type != g.y.type) return CUDNN_STATUS_BAD_PARAM;
  if (g.conv.compute != g.x.type) return CUDNN_STATUS_NOT_SUPPORTED;
  const int dims = g.conv.spatial + 2;
  if (g.x.dims != dims || g.w.dims != dims || g.y.dims != dims) return CUDNN_STATUS_BAD_PARAM;
  if (g.x.channels != g.w.channels || g.y.channels != g.w.batch || g.x.batch != g.y.batch) return CUDNN_STATUS_BAD_PARAM;
  for (int i = 0; i < kSpatial; i++)
    if (g.y.size[i] != output_size(g.conv, g.x, g.w, i)) return CUDNN_STATUS_BAD_PARAM;
  return CUDNN_STATUS_SUCCESS;
}

// Calls row(image row, column of the first output in it, unfolded row) for each row of outputs under each filter tap, in
// the order of the unfolded matrix; the image row is an offset into one image, -1 in the padding.
template <class F> void each_row(const Geometry& g, F row) {
  const cudnnConvolutionStruct& c = g.conv;
  const bool flip = c.mode == CUDNN_CONVOLUTION;
  ptrdiff_t unfolded = 0;
  for (int channel = 0; channel < g.w.channels; channel++)
    for (int tap = 0; tap < static_cast<int>(g.w.plane()); tap++) {
      const int at = flip ? static_cast<int>(g.w.plane()) - 1 - tap : tap;
      const int td = at / (g.w.size[1] * g.w.size[2]), th = at / g.w.size[2] % g.w.size[1], tw = at % g.w.size[2];
      for (int d = 0; d < g.y.size[0]; d++)
        for (int h = 0; h < g.y.size[1]; h++, unfolded += g.y.size[2]) {
          const int xd = d * c.stride[0] - c.pad[0] + td * c.dilation[0];
          const int xh = h * c.stride[1] - c.pad[1] + th * c.dilation[1];
          const bool inside = xd >= 0 && xd < g.x.size[0] && xh >= 0 && xh < g.x.size[1];
          const ptrdiff_t image_row =
              ((static_cast<ptrdiff_t>(channel) * g.x.size[0] + xd) * g.x.size[1] + xh) * g.x.size[2];
          row(inside ? image_row : -1, tw * c.dilation[2] - c.pad[2], unfolded);
        }
    }
}

// The outputs [from, to) of a row whose first has column `first` that lie inside the image.
struct Inside {
  int from, to;
  Inside(const Geometry& g, int first) {
    const int stride = g.conv.stride[2], width = g.x.size[2];
    from = first >= 0 ? 0 : (-first + stride - 1) / stride;
    to = first >= width ? 0 : (width - 1 - first) / stride + 1;
    to = std::min(to, g.y.size[2]);
    from = std::min(from, to);
  }
};

template <class T> void unfold(const Geometry& g, const T* image, T* matrix) {
  const int stride = g.conv.stride[2], width = g.y.size[2];
  each_row(g, [&](ptrdiff_t row, int first, ptrdiff_t unfolded) {
    T* to = matrix + unfolded;
    if (row < 0) {
      std::fill(to, to + width, T(0));
      return;
    }
    const Inside in(g, first);
    const T* from = image + row + first;
    std::fill(to, to + in.from, T(0));
    for (ptrdiff_t q = in.from; q < in.to; q++) to[q] = from[q * stride];
    std::fill(to + in.to, to + width, T(0));
  });
}

// The transpose of unfold: adds each element of the matrix where it came from.
template <class T> void fold(const Geometry& g, const T* matrix, T* image) {
  const int stride = g.conv.stride[2];
  each_row(g, [&](ptrdiff_t row, int first, ptrdiff_t unfolded) {
    if (row < 0) return;
    const Inside in(g, first);
    T* to = image + row + first;
    for (ptrdiff_t q = in.from; q < in.to; q++) to[q * stride] += matrix[unfolded + q];
  });
}

// One convolution: its operands on the device, and what scales them.
template <class T> struct Operands {
  T alpha, beta;
  T *x, *w, *y;
  T* matrix;
};

template <class T> void forward(const Geometry& g, const Operands<T>& o) {
  for (size_t n = 0; n < static_cast<size_t>(g.x.batch); n++) {
    unfold(g, o.x + n * g.x.image(), o.matrix);
    gemm(false, false, g.outputs(), g.w.batch, g.taps(), o.alpha, o.matrix, g.outputs(), o.w, g.taps(), o.beta,
         o.y + n * g.y.image(), g.outputs());
  }
}
template <class T> void backward_data(const Geometry& g, const Operands<T>& o) {
  scale(o.x, g.x.count(), o.beta);
  for (size_t n = 0; n < static_cast<size_t>(g.x.batch); n++) {
    gemm(false, true, g.outputs(), g.taps(), g.w.batch, o.alpha, o.y + n * g.y.image(), g.outputs(), o.w, g.taps(),
         T(0), o.matrix, g.outputs());
    fold(g, o.matrix, o.x + n * g.x.image());
  }
}
template <class T> void backward_filter(const Geometry& g, const Operands<T>& o) {
  scale(o.w, g.w.count(), o.beta);
  for (size_t n = 0; n < static_cast<size_t>(g.x.batch); n++) {
    unfold(g, o.x + n * g.x.image(), o.matrix);
    gemm(true, false, g.taps(), g.w.batch, g.outputs(), o.alpha, o.matrix, g.outputs(), o.y + n * g.y.image(),
         g.outputs(), T(1), o.w, g.taps());
  }
}

// The operands as the calls give them; those that a call only reads are const there.
struct Call3 {
  const char* who;
  const void *alpha, *beta;
  const void *x, *w, *y;
  void* workspace;
  size_t workspace_size;
};

template <class T, class F> void submit_as(cudaStream_t stream, const Geometry& g, const Call3& c, F convolve) {
  Operands<T> o{};
  o.alpha = scalar<T>(c.alpha, c.who);
  o.beta = scalar<T>(c.beta, c.who);
  o.x = static_cast<T*>(const_cast<void*>(c.x));
  o.w = static_cast<T*>(const_cast<void*>(c.w));
  o.y = static_cast<T*>(const_cast<void*>(c.y));
  o.matrix = static_cast<T*>(c.workspace);
  submit(stream, [=] {
    check(c.x, g.x.bytes(), c.who);
    check(c.w, g.w.bytes(), c.who);
    check(c.y, g.y.bytes(), c.who);
    check(c.workspace, c.workspace_size, c.who);
    DeviceMode device;
    convolve(g, o);
    memset(c.workspace, options().fill, c.workspace_size);
  });
}

template <class F>
cudnnStatus_t convolve(cudnnHandle_t handle, const Geometry& g, const Call3& c, F convolution) {
  if (c.workspace_size < g.workspace() || !c.workspace) return CUDNN_STATUS_BAD_PARAM;
  const cudaStream_t stream = get(handle).stream;
  if (g.x.type == CUDNN_DATA_FLOAT)
    submit_as<float>(stream, g, c, convolution);
  else
    submit_as<double>(stream, g, c, convolution);
  return CUDNN_STATUS_SUCCESS;
}

// Whether the options rule the algorithm out; 0 is the plain one of each of the three calls, which cuDNN always has.
bool refused(int algorithm, long from) { return algorithm != 0 && options().plain_only >= from; }

// --- which algorithms there are --------------------------------------------------------------------------------------

// The algorithms of each call in the order of the heuristics; a timed search finds the reverse. As cuDNN says of its own,
// some do not give the same bits in every run.
struct Algorithm {
  int number;
  bool deterministic;
};
const Algorithm forward_algorithms[] = {{CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, true},
                                        {CUDNN_CONVOLUTION_FWD_ALGO_GEMM, true},
                                        {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, true}};
const Algorithm data_algorithms[] = {{CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, false},
                                     {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, true}};
const Algorithm filter_algorithms[] = {{CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3, false},
                                       {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, true},
                                       {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, false}};
int last_algorithm[3] = {-1, -1, -1};

// Lists the algorithms of a call, as the heuristics or as a search.
template <class Found, size_t count>
void list(const Algorithm (&algorithms)[count], const Geometry& g, bool timed, int wanted, int* returned,
          Found* found) {
  *returned = std::min(wanted, static_cast<int>(count));
  for (int i = 0; i < *returned; i++) {
    const Algorithm& a = algorithms[timed ? count - 1 - static_cast<size_t>(i) : static_cast<size_t>(i)];
    found[i] = {};
    found[i].algo = static_cast<decltype(found[i].algo)>(a.number);
    found[i].status = refused(a.number, timed ? 1 : 2) ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
    found[i].time = timed ? static_cast<float>(i + 1) : -1.0f;
    found[i].memory = g.workspace();
    found[i].determinism = a.deterministic ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
    found[i].mathType = CUDNN_FMA_MATH;
  }
}
template <class Found, size_t count>
cudnnStatus_t heuristics(const Algorithm (&algorithms)[count], cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                         cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t conv, cudnnTensorDescriptor_t y,
                         int wanted, int* returned, Found* found) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  get(handle);
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x, w, conv, y)) return status;
  list(algorithms, g, false, wanted, returned, found);
  return CUDNN_STATUS_SUCCESS;
}
// Runs every algorithm: the result and the workspace hold garbage afterwards. It waits, so it cannot be captured.
template <class Found, size_t count>
cudnnStatus_t search(const Algorithm (&algorithms)[count], cudnnHandle_t handle, const Geometry& g, void* result,
                     size_t bytes, int wanted, int* returned, Found* found, void* workspace, size_t workspace_size) {
  if (waits_for_all()) return CUDNN_STATUS_EXECUTION_FAILED;
  get(handle);
  drain_all();
  check(result, bytes, "a search for algorithms (result)");
  check(workspace, workspace_size, "a search for algorithms (workspace)");
  DeviceMode device;
  memset(result, options().fill, bytes);
  memset(workspace, options().fill, workspace_size);
  list(algorithms, g, true, wanted, returned, found);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t workspace_size(cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
                             cudnnConvolutionDescriptor_t conv, cudnnTensorDescriptor_t y, int algorithm,
                             size_t* size) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  get(handle);
  Geometry g;
  const cudnnStatus_t status = set_geometry(g, x, w, conv, y);
  if (refused(algorithm, 2)) return CUDNN_STATUS_NOT_SUPPORTED;
  if (status == CUDNN_STATUS_SUCCESS) *size = g.workspace();
  return status;
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;
extern "C" {
cudnnStatus_t cudnnGetConvolutionNdForwardOutputDim(const cudnnConvolutionDescriptor_t conv,
                                                    const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
                                                    int dims, int size[]) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  const cudnnConvolutionStruct& c = get(conv);
  const Shape &input = get(x), &filter = get(w);
  if (!c.set || !input.set || !filter.set || input.channels != filter.channels) return CUDNN_STATUS_BAD_PARAM;
  if (input.dims != dims || filter.dims != dims || c.spatial + 2 != dims) return CUDNN_STATUS_BAD_PARAM;
  size[0] = input.batch;
  size[1] = filter.batch;
  for (int i = 0; i < c.spatial; i++) {
    size[2 + i] = output_size(c, input, filter, kSpatial - c.spatial + i);
    if (size[2 + i] < 1) return CUDNN_STATUS_BAD_PARAM;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                      const cudnnFilterDescriptor_t w,
                                                      const cudnnConvolutionDescriptor_t conv,
                                                      const cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t algo,
                                                      size_t* size) {
  return workspace_size(handle, x, w, conv, y, algo, size);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
                                                           const cudnnTensorDescriptor_t dy,
                                                           const cudnnConvolutionDescriptor_t conv,
                                                           const cudnnTensorDescriptor_t dx,
                                                           cudnnConvolutionBwdDataAlgo_t algo, size_t* size) {
  return workspace_size(handle, dx, w, conv, dy, algo, size);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                             const cudnnTensorDescriptor_t dy,
                                                             const cudnnConvolutionDescriptor_t conv,
                                                             const cudnnFilterDescriptor_t dw,
                                                             cudnnConvolutionBwdFilterAlgo_t algo, size_t* size) {
  return workspace_size(handle, x, dw, conv, dy, algo, size);
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                     const cudnnFilterDescriptor_t w,
                                                     const cudnnConvolutionDescriptor_t conv,
                                                     const cudnnTensorDescriptor_t y, const int wanted, int* count,
                                                     cudnnConvolutionFwdAlgoPerf_t* found) {
  return heuristics(forward_algorithms, handle, x, w, conv, y, wanted, count, found);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
                                                          const cudnnTensorDescriptor_t dy,
                                                          const cudnnConvolutionDescriptor_t conv,
                                                          const cudnnTensorDescriptor_t dx, const int wanted,
                                                          int* count, cudnnConvolutionBwdDataAlgoPerf_t* found) {
  return heuristics(data_algorithms, handle, dx, w, conv, dy, wanted, count, found);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                            const cudnnTensorDescriptor_t dy,
                                                            const cudnnConvolutionDescriptor_t conv,
                                                            const cudnnFilterDescriptor_t dw, const int wanted,
                                                            int* count, cudnnConvolutionBwdFilterAlgoPerf_t* found) {
  return heuristics(filter_algorithms, handle, x, dw, conv, dy, wanted, count, found);
}
cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(cudnnHandle_t handle, const cudnnTensorDescriptor_t x_desc,
                                                     const void*, const cudnnFilterDescriptor_t w_desc, const void*,
                                                     const cudnnConvolutionDescriptor_t conv,
                                                     const cudnnTensorDescriptor_t y_desc, void* y, const int wanted,
                                                     int* count, cudnnConvolutionFwdAlgoPerf_t* found,
                                                     void* workspace, size_t workspace_size) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x_desc, w_desc, conv, y_desc)) return status;
  return search(forward_algorithms, handle, g, y, g.y.bytes(), wanted, count, found, workspace, workspace_size);
}
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(
    cudnnHandle_t handle, const cudnnFilterDescriptor_t w_desc, const void*, const cudnnTensorDescriptor_t dy_desc,
    const void*, const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t dx_desc, void* dx,
    const int wanted, int* count, cudnnConvolutionBwdDataAlgoPerf_t* found, void* workspace, size_t workspace_size) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, dx_desc, w_desc, conv, dy_desc)) return status;
  return search(data_algorithms, handle, g, dx, g.x.bytes(), wanted, count, found, workspace, workspace_size);
}
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(
    cudnnHandle_t handle, const cudnnTensorDescriptor_t x_desc, const void*, const cudnnTensorDescriptor_t dy_desc,
    const void*, const cudnnConvolutionDescriptor_t conv, const cudnnFilterDescriptor_t dw_desc, void* dw,
    const int wanted, int* count, cudnnConvolutionBwdFilterAlgoPerf_t* found, void* workspace, size_t workspace_size) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x_desc, dw_desc, conv, dy_desc)) return status;
  return search(filter_algorithms, handle, g, dw, g.w.bytes(), wanted, count, found, workspace, workspace_size);
}
int knetemu_convolution(int call) { return last_algorithm[call]; }

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha, const cudnnTensorDescriptor_t x_desc,
                                      const void* x, const cudnnFilterDescriptor_t w_desc, const void* w,
                                      const cudnnConvolutionDescriptor_t conv, cudnnConvolutionFwdAlgo_t algo,
                                      void* workspace, size_t workspace_size, const void* beta,
                                      const cudnnTensorDescriptor_t y_desc, void* y) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_EXECUTION_FAILED;
  if (refused(algo, 1)) return CUDNN_STATUS_NOT_SUPPORTED;
  last_algorithm[0] = algo;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x_desc, w_desc, conv, y_desc)) return status;
  return convolve(handle, g, {"cudnnConvolutionForward", alpha, beta, x, w, y, workspace, workspace_size},
                  [](const Geometry& geometry, const auto& operands) { forward(geometry, operands); });
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void* alpha,
                                           const cudnnFilterDescriptor_t w_desc, const void* w,
                                           const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                           const cudnnConvolutionDescriptor_t conv, cudnnConvolutionBwdDataAlgo_t algo,
                                           void* workspace, size_t workspace_size, const void* beta,
                                           const cudnnTensorDescriptor_t dx_desc, void* dx) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_EXECUTION_FAILED;
  if (refused(algo, 1)) return CUDNN_STATUS_NOT_SUPPORTED;
  last_algorithm[1] = algo;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, dx_desc, w_desc, conv, dy_desc)) return status;
  return convolve(handle, g, {"cudnnConvolutionBackwardData", alpha, beta, dx, w, dy, workspace, workspace_size},
                  [](const Geometry& geometry, const auto& operands) { backward_data(geometry, operands); });
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void* alpha,
                                             const cudnnTensorDescriptor_t x_desc, const void* x,
                                             const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                             const cudnnConvolutionDescriptor_t conv, cudnnConvolutionBwdFilterAlgo_t algo,
                                             void* workspace, size_t workspace_size, const void* beta,
                                             const cudnnFilterDescriptor_t dw_desc, void* dw) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_EXECUTION_FAILED;
  if (refused(algo, 1)) return CUDNN_STATUS_NOT_SUPPORTED;
  last_algorithm[2] = algo;
  Geometry g;
  if (const cudnnStatus_t status = set_geometry(g, x_desc, dw_desc, conv, dy_desc)) return status;
  return convolve(handle, g, {"cudnnConvolutionBackwardFilter", alpha, beta, x, dw, dy, workspace, workspace_size},
                  [](const Geometry& geometry, const auto& operands) { backward_filter(geometry, operands); });
}
}
