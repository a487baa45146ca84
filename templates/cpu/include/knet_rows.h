// Products with an input that may be one-hot: then `ones` has the row of the 1 in each column, and columns are picked.
// Some rows of the n columns of y = w x from column c on: x is k x n, y m x n; columns of w are ldw apart, those of y ldy.
template <class T>
KNET_LOOPS void knet_input_product(const int* ones, int m, int n, int k, const T* w, int ldw,
                                   const T* x, int c, T* y, int ldy, knet_range rows) {
  if (!ones) return knet_product_rows(false, false, m, n, k, w, ldw, x + k * c, k, knet_to(y, ldy), rows);
  for (int i = 0; i < n; i++)
    for (int r = rows.from; r < rows.to; r++) y[ldy * i + r] = w[ldw * ones[c + i] + r];
}
//? knet_input_product_back
// Some columns of dw = dy x', m x k, over all n columns of dy and x.
template <class T>
KNET_LOOPS void knet_input_product_back(const int* ones, int m, int k, int n, const T* dy, int ldy,
                                        const T* x, const knet_sink<T>& dw, knet_range columns) {
  if (!ones) return knet_product_columns(false, true, m, k, n, dy, ldy, x, k, dw, columns);
  if (!dw.add) knet_zero_columns(dw, m, columns);
  for (int i = 0; i < n; i++) {
    if (ones[i] < columns.from || ones[i] >= columns.to) continue;
    T* const to = dw.to + (size_t)dw.apart(m) * ones[i];
    for (int r = 0; r < m; r++) to[r] += dw.scale * dy[ldy * i + r];
  }
}
//.
// Whether each of so many columns is 1 in one row and 0 in the others; those rows.
template <class T>
KNET_LOOPS bool knet_find_ones(const T* x, int rows, int columns, int* ones) {
  for (int c = 0; c < columns; c++, x += rows) {
    int count = 0, sum = 0;
    for (int r = 0; r < rows; r++) {
      count += x[r] != 0;
      sum += x[r] != 0 ? r : 0;
    }
    if (count != 1 || x[sum] != 1) return false;
    ones[c] = sum;
  }
  return true;
}
