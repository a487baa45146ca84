static inline int knet_check(cudnnStatus_t status, const char* call, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return 0;
  return knet_fail(KNET_CUDNN, "%s (line %d: %s)", cudnnGetErrorString(status), line, call);
}
// A dense tensor of nd sizes, slowest first; a first size of 0 stands for the batch.
static inline cudnnStatus_t knet_describe(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int nd,
                                          const int* sizes, int batch) {
  int size[5], stride[5];
  for (int i = nd - 1, step = 1; i >= 0; step *= size[i--]) {
    size[i] = sizes[i] ? sizes[i] : batch;
    stride[i] = step;
  }
  return cudnnSetTensorNdDescriptor(tensor, type, nd, size, stride);
}
