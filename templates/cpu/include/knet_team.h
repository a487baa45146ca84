// The threads that run a call. All of them run the same function, each on its part; a barrier stands only where one
// reads what another has written.
struct knet_range {
  int from, to;
  int size() const { return to - from; }
  knet_range times(int k) const { return {from * k, to * k}; }
  bool whole(int n) const { return from == 0 && to == n; }
};
struct knet_team {
  int index, size;  // this thread, of so many
  bool wide;        // each thread has columns of its own; otherwise it has all of them, and a part of their rows
  // This thread's part of n units: neighbours, the same ones at every call.
  knet_range part(int n) const {
    return {(int)((long long)n * index / size), (int)((long long)n * (index + 1) / size)};
  }
  knet_range columns(int n) const { return wide ? part(n) : knet_range{0, n}; }
  knet_range rows(int n) const { return wide ? knet_range{0, n} : part(n); }
  void wait() const {
#ifdef _OPENMP
    if (size > 1) {
#pragma omp barrier
    }
#endif
  }
  void wait_wide() const {
    if (wide) wait();
  }
  void wait_narrow() const {
    if (!wide) wait();
  }
};
// Runs body(team) on so many threads, on a batch of so many columns.
template <class Body>
static void knet_parallel(int threads, int batch, const Body& body) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int size = omp_get_num_threads();
      body(knet_team{omp_get_thread_num(), size, batch >= size});
    }
    return;
  }
#endif
  (void)threads, (void)batch;
  body(knet_team{0, 1, true});
}
