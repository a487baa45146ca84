// A pooling's sizes, slowest first; x and y (batch, channels, spatial).
struct knet_pool_shape {
  int nd, x[5], y[5], window[3], padding[3], stride[3];
  cudnnPoolingMode_t mode;
};
struct knet_pool {
  cudnnTensorDescriptor_t x, y;
  cudnnPoolingDescriptor_t pool;
};
static inline int knet_pool_prepare(knet_pool* p, const knet_pool_shape& s, int batch, cudnnDataType_t type) {
  if (!p->x) TRY(cudnnCreateTensorDescriptor(&p->x));
  if (!p->y) TRY(cudnnCreateTensorDescriptor(&p->y));
  if (!p->pool) TRY(cudnnCreatePoolingDescriptor(&p->pool));
  TRY(knet_describe(p->x, type, s.nd, s.x, batch));
  TRY(knet_describe(p->y, type, s.nd, s.y, batch));
  TRY(cudnnSetPoolingNdDescriptor(p->pool, s.mode, CUDNN_PROPAGATE_NAN, s.nd - 2, s.window, s.padding, s.stride));
  return 0;
}
static inline void knet_pool_release(knet_pool* p, int* code) {
  if (p->x) NOTE(code, cudnnDestroyTensorDescriptor(p->x));
  if (p->y) NOTE(code, cudnnDestroyTensorDescriptor(p->y));
  if (p->pool) NOTE(code, cudnnDestroyPoolingDescriptor(p->pool));
}
