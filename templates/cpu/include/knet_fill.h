// Filling n elements of an array, of which `first` is the number of the first one.
//? knet_fill_constant
template <class T>
KNET_LOOPS void knet_fill_constant(T* y, int, int n, double value) {
  for (int i = 0; i < n; i++) y[i] = (T)value;
}
//.
//? knet_fill_identity
template <class T>
KNET_LOOPS void knet_fill_identity(T* y, int first, int n, double scale, int rows) {
  for (int i = 0; i < n; i++) y[i] = (first + i) % rows == (first + i) / rows ? (T)scale : 0;
}
//.
//? knet_fill_table
template <class T>
KNET_LOOPS void knet_fill_table(T* y, const T* table, int first, int n) {
  for (int i = 0; i < n; i++) y[i] = table[first + i];
}
//.

