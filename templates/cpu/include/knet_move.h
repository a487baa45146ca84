//? knet_copy knet_zero
// Copies and zeroes rows of n columns of so many elements.
//.
//? knet_copy
template <class T>
static inline void knet_copy(T* to, const T* from, int size, knet_range rows, int n) {
  if (rows.whole(size)) rows.to *= n, n = 1;
  for (int c = 0; c < n && rows.size() > 0; c++)
    memcpy(to + size * c + rows.from, from + size * c + rows.from, rows.size() * sizeof(T));
}
//.
//? knet_zero
template <class T>
static inline void knet_zero(T* to, int size, knet_range rows, int n) {
  if (rows.whole(size)) rows.to *= n, n = 1;
  for (int c = 0; c < n && rows.size() > 0; c++) memset(to + size * c + rows.from, 0, rows.size() * sizeof(T));
}
//.
