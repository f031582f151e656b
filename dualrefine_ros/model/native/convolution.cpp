// 3x3 convolution, stride 1, padding 1, by Winograd's F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for
// convolutional neural networks", 2016): 36 multiplications where the definition needs 144.
//
// Maps are channels-last: (B, H, W, C) floats. The input's channels may lie in several maps, so that nobody
// has to concatenate them. A tile is 4x4 pixels of the output, and 6x6 of the input.

#include <cstring>

#include "parallel.h"

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12, kVectors = 2;  // of the block of a product that registers hold
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 6, kVectors = 4;
#else
constexpr int kLanes = 4, kRows = 4, kVectors = 2;
#endif
constexpr int kColumns = kLanes * kVectors;
constexpr int kTiles = 24;  // worked on at a time; a multiple of kRows, few enough to stay in the cache
constexpr int kOut = 4, kIn = 6, kTaps = kIn * kIn;

// May lie anywhere, and be read from plain floats: a pointer to it is an unaligned load. (GCC 12 copies 32 bytes
// by memcpy in halves, through the stack, which makes AVX2 three times slower.)
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }

inline void store(float* p, const Vector& v) { *reinterpret_cast<Vector*>(p) = v; }

// The first n numbers at p, and zeros.
inline Vector load(const float* p, int n) {
  if (n >= kLanes) return load(p);
  Vector v{};
  std::memcpy(&v, p, n * sizeof(float));
  return v;
}

inline void store(float* p, const Vector& v, int n) {
  if (n >= kLanes)
    store(p, v);
  else
    std::memcpy(p, &v, n * sizeof(float));
}

// B^T d, of six vectors `step` apart.
inline void transform_input(const Vector* d, Vector* to, int step) {
  const Vector d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Vector a = d4 - 4 * d2, b = d3 - 4 * d1, c = d4 - d2, e = 2 * (d3 - d1);
  to[0] = 4 * d0 - 5 * d2 + d4;
  to[step] = a + b;
  to[2 * step] = a - b;
  to[3 * step] = c + e;
  to[4 * step] = c - e;
  to[5 * step] = 4 * d1 - 5 * d3 + d5;
}

// A^T m, of six vectors `step` apart, to four.
inline void transform_output(const Vector* m, Vector* to, int step) {
  const Vector p = m[step] + m[2 * step], q = m[step] - m[2 * step];
  const Vector r = m[3 * step] + m[4 * step], s = m[3 * step] - m[4 * step];
  to[0] = m[0] + p + r;
  to[step] = q + 2 * s;
  to[2 * step] = p + 4 * r;
  to[3 * step] = q + 8 * s + m[5 * step];
}

// A block (kRows, kColumns), in rows `stride` apart, of the product of a (kRows, K) and b (K, kColumns).
inline void multiply(const float* a, int K, const float* b, float* to, int64_t stride) {
  Vector sum[kRows][kVectors] = {};
  for (int k = 0; k < K; ++k) {
    Vector column[kVectors];
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + k * kColumns + v * kLanes);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) sum[r][v] += a[r * K + k] * column[v];
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) store(to + r * stride + v * kLanes, sum[r][v]);
}

struct Shape {
  int batch, height, width, out, sources;
  int rows() const { return (height + kOut - 1) / kOut; }
  int columns() const { return (width + kOut - 1) / kOut; }
  int64_t tiles() const { return static_cast<int64_t>(batch) * rows() * columns(); }
};

struct Tile {
  int64_t image;
  int top, left;
  Tile(const Shape& s, int64_t i)
      : image(i / (s.rows() * s.columns())),
        top(static_cast<int>(i / s.columns() % s.rows()) * kOut),
        left(static_cast<int>(i % s.columns()) * kOut) {}
};

// Channels of one tile of one map to U, whose 36 entries lie `stride` apart.
void gather(const Shape& s, const Tile& tile, const float* map, int channels, const float* zeros, float* U,
            int64_t stride) {
  const float* at[kTaps];
  for (int i = 0; i < kTaps; ++i) {
    const int y = tile.top + i / kIn - 1, x = tile.left + i % kIn - 1;
    const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
    at[i] = inside ? map + ((tile.image * s.height + y) * s.width + x) * channels : zeros;
  }
  for (int c = 0; c < channels; c += kLanes) {
    Vector d[kTaps], e[kTaps];
    for (int i = 0; i < kTaps; ++i) d[i] = load(at[i] + c, channels - c);
    for (int j = 0; j < kIn; ++j) transform_input(d + j, e + j, kIn);
    for (int i = 0; i < kIn; ++i) transform_input(e + i * kIn, d + i * kIn, 1);
    for (int i = 0; i < kTaps; ++i) store(U + i * stride + c, d[i], channels - c);
  }
}

// One tile of the output from M, whose 36 entries lie `stride` apart.
void scatter(const Shape& s, const Tile& tile, const float* M, int64_t stride, const float* bias,
             const float* addend, bool relu, float* out) {
  for (int o = 0; o < s.out; o += kLanes) {
    Vector m[kTaps], e[kOut * kIn], y[kOut * kOut];
    for (int i = 0; i < kTaps; ++i) m[i] = load(M + i * stride + o);
    for (int j = 0; j < kIn; ++j) transform_output(m + j, e + j, kIn);
    for (int i = 0; i < kOut; ++i) transform_output(e + i * kIn, y + i * kOut, 1);
    const Vector b = bias ? load(bias + o, s.out - o) : Vector{};
    for (int i = 0; i < kOut * kOut; ++i) {
      const int row = tile.top + i / kOut, column = tile.left + i % kOut;
      if (row >= s.height || column >= s.width) continue;
      const int64_t p = ((tile.image * s.height + row) * s.width + column) * s.out + o;
      Vector v = y[i] + b;
      if (addend) v += load(addend + p, s.out - o);
      if (relu) v = v < 0 ? Vector{} : v;  // NaN stays
      store(out + p, v, s.out - o);
    }
  }
}

inline int blocks(int out) { return (out + kColumns - 1) / kColumns; }

}  // namespace

extern "C" {

int64_t convolution_packed_size(int out, int in) {
  return static_cast<int64_t>(kTaps) * blocks(out) * kColumns * in;
}

// weight (out, in, 3, 3) to G g G^T, laid out as `multiply` reads it: (36, out / kColumns, in, kColumns).
void convolution_pack(const float* weight, int out, int in, float* packed) {
  const double G[kIn][3] = {{1. / 4, 0, 0},           {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                            {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
  std::memset(packed, 0, sizeof(float) * convolution_packed_size(out, in));
  for (int o = 0; o < out; ++o)
    for (int c = 0; c < in; ++c)
      for (int i = 0; i < kTaps; ++i) {
        const float* g = weight + (static_cast<int64_t>(o) * in + c) * 9;
        double sum = 0;
        for (int k = 0; k < 9; ++k) sum += G[i / kIn][k / 3] * g[k] * G[i % kIn][k % 3];
        const int64_t block = static_cast<int64_t>(i) * blocks(out) + o / kColumns;
        packed[(block * in + c) * kColumns + o % kColumns] = static_cast<float>(sum);
      }
}

// size: batch, height, width, out, sources; channels of each of the maps (B, H, W, .) that are the input;
// bias: (B, out), rows bias_stride apart, or null; addend: (B, H, W, out) or null, added before the relu.
void convolution(const int* size, const int* channels, const float* const* maps, const float* packed,
                 const float* bias, int bias_stride, const float* addend, int relu, float* out, int threads) {
  const Shape s{size[0], size[1], size[2], size[3], size[4]};
  int in = 0;
  for (int i = 0; i < s.sources; ++i) in += channels[i];
  const int n = blocks(s.out) * kColumns;
  // shared out in the smallest pieces: few blocks would not be as many for each thread
  parallel((s.tiles() + kRows - 1) / kRows, threads, [=](int64_t first, int64_t last, int) {
    static thread_local std::vector<float> memory;  // kept: fresh pages cost as much as a tenth of the work
    const size_t needed = in + static_cast<size_t>(kTaps) * kTiles * (in + n);
    if (memory.size() < needed) memory.resize(needed);
    float* const zeros = memory.data();
    float* const U = zeros + in;                        // (36, kTiles, in)
    float* const M = U + int64_t{kTaps} * kTiles * in;  // (36, kTiles, n)
    std::fill(zeros, zeros + in, 0.f);
    const int64_t end = std::min(last * kRows, s.tiles());
    for (int64_t start = first * kRows; start < end; start += kTiles) {
      const int count = static_cast<int>(std::min<int64_t>(kTiles, end - start));
      for (int t = 0; t < count; ++t) {
        float* to = U + t * in;
        for (int i = 0; i < s.sources; to += channels[i++])
          gather(s, Tile(s, start + t), maps[i], channels[i], zeros, to, int64_t{kTiles} * in);
      }
      for (int i = 0; i < kTaps; ++i)
        for (int b = 0; b < blocks(s.out); ++b)
          for (int t = 0; t < count; t += kRows)
            multiply(U + (int64_t{i} * kTiles + t) * in, in, packed + (int64_t{i} * blocks(s.out) + b) * in * kColumns,
                     M + (int64_t{i} * kTiles + t) * n + b * kColumns, n);
      for (int t = 0; t < count; ++t) {
        const Tile tile(s, start + t);
        scatter(s, tile, M + t * n, int64_t{kTiles} * n, bias ? bias + tile.image * bias_stride : nullptr, addend,
                relu, out);
      }
    }
  });
}

}  // extern "C"
