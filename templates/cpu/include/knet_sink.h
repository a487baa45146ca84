// Where a result goes: written over what is there or added to it, times a factor. A gradient may go to its own array,
// or straight into the parameter with the learning rate as the factor. The columns of a matrix are `pitch` elements
// apart, or follow each other where that is 0.
template <class T>
struct knet_sink {
  T* to;
  T scale;
  bool add;
  int pitch;
  int apart(int rows) const { return pitch ? pitch : rows; }
  void put(int i, T value) const { to[i] = add ? to[i] + scale * value : scale * value; }
};
template <class T>
static inline knet_sink<T> knet_to(T* place, int pitch = 0) {
  return {place, 1, false, pitch};
}
//? knet_put_columns
// Some columns of a matrix, from where they are `pitch` elements apart.
template <class T>
KNET_LOOPS void knet_put_columns(const knet_sink<T>& y, const T* x, int rows, int pitch, knet_range columns) {
  for (int c = columns.from; c < columns.to; c++) {
    const knet_sink<T> column = {y.to + (size_t)y.apart(rows) * c, y.scale, y.add, 0};
    for (int i = 0; i < rows; i++) column.put(i, x[(size_t)pitch * c + i]);
  }
}
//.
//? knet_zero_columns
template <class T>
static inline void knet_zero_columns(const knet_sink<T>& y, int rows, knet_range columns) {
  for (int c = columns.from; c < columns.to; c++) memset(y.to + (size_t)y.apart(rows) * c, 0, rows * sizeof(T));
}
//.
