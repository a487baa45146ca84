// The blocks of a kernel that sums over n elements, each block to a partial sum.
enum { KNET_BLOCKS = 256 };
static inline int knet_blocks(int n) { return n < 256 * KNET_BLOCKS ? (n + 255) / 256 : (int)KNET_BLOCKS; }
