//? knet_sum_columns
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
//.
//? knet_sum_parts
// y = the sum of the parts that so many threads have, of the elements in the range, always in the same order.
template <class T, class Worker>
KNET_LOOPS void knet_sum_parts(const knet_sink<T>& y, const Worker* workers, int threads, T* Worker::* part,
                               knet_range range) {
  for (int i = range.from; i < range.to; i++) {
    T sum = (workers[0].*part)[i];
    for (int t = 1; t < threads; t++) sum += (workers[t].*part)[i];
    y.put(i, sum);
  }
}
//.
