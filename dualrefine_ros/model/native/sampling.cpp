// Bilinear sampling fused with what follows it, for the CPU.
//
// Maps are channels-last: (B, h, w, C) floats. Pixels count in the (h, w) map whatever the resolution of
// the sampled one; outside counts as zero, as in grid_sample(align_corners=False, padding_mode="zeros"). What is
// sampled at coordinates that are not finite is NaN; features that are not touch their neighbourhood only.
// Plain C interface, loaded through ctypes: no PyTorch headers, so it compiles in a second or two.

#include <cmath>
#include <cstring>

#include "parallel.h"

namespace {

constexpr float kFarOutside = -1e6f;

// Added to what is sampled there: 0, or NaN where a coordinate is not finite.
inline float doubt(float x, float y) { return std::isfinite(x) && std::isfinite(y) ? 0.f : NAN; }

// The four taps of a bilinear sample; outside taps read zeros, which are as many as there are channels.
struct Taps {
  const float* at[4];
  int64_t index[4];
  float weight[4];
  float dx[4];  // derivative of the weight by the column, and by the row
  float dy[4];
};

inline float finite(float x) { return std::fabs(x) < 1e6f ? x : kFarOutside; }

inline Taps taps(const float* map, const float* zeros, int height, int width, int channels, float x, float y) {
  x = finite(x);
  y = finite(y);
  const float x0 = std::floor(x), y0 = std::floor(y);
  const float fx = x - x0, fy = y - y0;
  const float wx[2] = {1 - fx, fx}, wy[2] = {1 - fy, fy};
  Taps t;
  for (int i = 0; i < 4; ++i) {
    const int column = static_cast<int>(x0) + (i & 1), row = static_cast<int>(y0) + (i >> 1);
    const bool inside = column >= 0 && column < width && row >= 0 && row < height;
    t.index[i] = inside ? (static_cast<int64_t>(row) * width + column) * channels : 0;
    t.at[i] = inside ? map + t.index[i] : zeros;
    t.weight[i] = inside ? wx[i & 1] * wy[i >> 1] : 0.f;
    t.dx[i] = inside ? ((i & 1) ? wy[i >> 1] : -wy[i >> 1]) : 0.f;
    t.dy[i] = inside ? ((i >> 1) ? wx[i & 1] : -wx[i & 1]) : 0.f;
  }
  return t;
}

inline float mix(const Taps& t, const float* weight, int c) {
  return t.at[0][c] * weight[0] + t.at[1][c] * weight[1] + t.at[2][c] * weight[2] + t.at[3][c] * weight[3];
}

struct Size {
  int batch, candidates, height, width, channels, map_height, map_width;
  float scale_x() const { return static_cast<float>(map_width) / width; }
  float scale_y() const { return static_cast<float>(map_height) / height; }
  int64_t plane() const { return static_cast<int64_t>(height) * width; }
  int64_t map() const { return static_cast<int64_t>(map_height) * map_width * channels; }
};

// kC > 0 fixes the number of channels at compile time, which lets the compiler unroll.
template <int kC>
void cost_forward(const Size& s, const float* cur, const float* prev, const float* pixels, float* cost,
                  int64_t cost_stride, int threads) {
  const int C = kC > 0 ? kC : s.channels;
  const float sx = s.scale_x(), sy = s.scale_y();
  parallel(static_cast<int64_t>(s.batch) * s.height, threads, [=](int64_t first, int64_t last, int) {
    const std::vector<float> zeros(C);
    for (int64_t row = first; row < last; ++row) {
      const int64_t b = row / s.height, v = row % s.height;
      const float* map = prev + b * s.map();
      for (int u = 0; u < s.width; ++u) {
        const int64_t p = v * s.width + u;
        const float* a = cur + (b * s.plane() + p) * C;
        for (int k = 0; k < s.candidates; ++k) {
          const float* at = pixels + (b * 2 * s.candidates + k) * s.plane() + p;
          const float x = (at[0] + 0.5f) * sx - 0.5f;
          const float y = (at[s.candidates * s.plane()] + 0.5f) * sy - 0.5f;
          const Taps t = taps(map, zeros.data(), s.map_height, s.map_width, C, x, y);
          float sum = 0;
          for (int c = 0; c < C; ++c) sum += std::fabs(a[c] - mix(t, t.weight, c));
          cost[b * cost_stride + k * s.plane() + p] = sum / C + doubt(x, y);
        }
      }
    }
  });
}

// The candidates of one level at one pixel: first all taps, without a branch, then all channels, so that both
// loops run in vectors.
template <int kC>
void search_level(const Size& s, const float* a, const float* map, const float* zeros, const float* x, const float* y,
                  float* cost) {
  constexpr int kMost = 64;
  const int C = kC > 0 ? kC : s.channels, count = s.candidates;
  int32_t index[4][kMost];
  float weight[4][kMost];
  const float right = s.map_width - 1, bottom = s.map_height - 1;
  for (int k = 0; k < count; ++k) {
    const float u = finite(x[k]), v = finite(y[k]), u0 = std::floor(u), v0 = std::floor(v);
    const float column[2] = {u0, u0 + 1}, row[2] = {v0, v0 + 1};
    const float wx[2] = {column[1] - u, u - u0}, wy[2] = {row[1] - v, v - v0};
    int at_x[2], at_y[2];
    bool in[2], on[2];
    for (int i = 0; i < 2; ++i) {
      const float cx = std::min(std::max(column[i], 0.f), right), cy = std::min(std::max(row[i], 0.f), bottom);
      at_x[i] = static_cast<int>(cx);
      at_y[i] = static_cast<int>(cy) * s.map_width;
      in[i] = cx == column[i];
      on[i] = cy == row[i];
    }
    for (int i = 0; i < 4; ++i) {
      index[i][k] = in[i & 1] && on[i >> 1] ? (at_y[i >> 1] + at_x[i & 1]) * C : -1;
      weight[i][k] = wx[i & 1] * wy[i >> 1];
    }
  }
  for (int k = 0; k < count; ++k) {
    const auto at = [&](int i) { return index[i][k] < 0 ? zeros : map + index[i][k]; };
    const float *p0 = at(0), *p1 = at(1), *p2 = at(2), *p3 = at(3);
    const float w0 = weight[0][k], w1 = weight[1][k], w2 = weight[2][k], w3 = weight[3][k];
    float sum = 0;
    for (int c = 0; c < C; ++c)
      sum += std::fabs(a[c] - (p0[c] * w0 + p1[c] * w1 + p2[c] * w2 + p3[c] * w3));
    cost[k] = sum / C + doubt(x[k], y[k]);
  }
}

template <int kC>
void search(const Size& s, int levels, const int* map_sizes, const float* cur, const float* const* maps,
            const float* depth, const float* max_update, const float* T_prev_cur, const float* intrinsics,
            float max_inverse_depth, float* cost, int threads) {
  const int C = kC > 0 ? kC : s.channels, radius = s.candidates / 2, costs = levels * s.candidates;
  parallel(static_cast<int64_t>(s.batch) * s.height, threads, [=](int64_t first, int64_t last, int) {
    std::vector<float> x(s.candidates), y(s.candidates);
    const std::vector<float> zeros(C);
    for (int64_t row = first; row < last; ++row) {
      const int64_t b = row / s.height;
      const float *T = T_prev_cur + b * 16, *K = intrinsics + b * 4;
      const float ray_y = (row % s.height - K[3]) / K[1];
      for (int u = 0; u < s.width; ++u) {
        const int64_t p = row * s.width + u;
        const float ray_x = (u - K[2]) / K[0];
        float ray[3];  // rotated
        for (int i = 0; i < 3; ++i) ray[i] = T[4 * i] * ray_x + T[4 * i + 1] * ray_y + T[4 * i + 2];
        for (int level = 0; level < levels; ++level) {
          Size at = s;
          at.map_height = map_sizes[2 * level];
          at.map_width = map_sizes[2 * level + 1];
          const float sx = at.scale_x(), sy = at.scale_y(), step = max_update[p] * (1 << level) / radius;
          for (int k = 0; k < s.candidates; ++k) {
            const float d = depth[p] + (k - radius) * step;
            const float inverse = 1 / (d * ray[2] + T[11]);
            const float inv_z = inverse > max_inverse_depth ? max_inverse_depth : inverse;  // NaN stays
            x[k] = (K[0] * (d * ray[0] + T[3]) * inv_z + K[2] + 0.5f) * sx - 0.5f;
            y[k] = (K[1] * (d * ray[1] + T[7]) * inv_z + K[3] + 0.5f) * sy - 0.5f;
          }
          search_level<kC>(at, cur + p * C, maps[level] + b * at.map(), zeros.data(), x.data(), y.data(),
                           cost + p * costs + level * s.candidates);
        }
      }
    }
  });
}

template <int kC>
void cost_backward(const Size& s, const float* cur, const float* prev, const float* pixels,
                   const float* grad_cost, int64_t cost_stride, float* grad_cur, float* grad_prev,
                   float* grad_pixels, int threads) {
  const int C = kC > 0 ? kC : s.channels;
  const float sx = s.scale_x(), sy = s.scale_y();
  // pixels of different rows sample the same places: each thread sums into a map of its own
  std::vector<std::vector<float>> partial(std::max(1, threads));
  parallel(static_cast<int64_t>(s.batch) * s.height, threads, [&](int64_t first, int64_t last, int thread) {
    std::vector<float>& mine = partial[thread];
    mine.assign(s.batch * s.map(), 0.f);
    const std::vector<float> zeros(C);
    std::vector<float> signed_grad(C);
    for (int64_t row = first; row < last; ++row) {
      const int64_t b = row / s.height, v = row % s.height;
      const float* map = prev + b * s.map();
      float* grad_map = mine.data() + b * s.map();
      for (int u = 0; u < s.width; ++u) {
        const int64_t p = v * s.width + u;
        const float* a = cur + (b * s.plane() + p) * C;
        float* __restrict grad_a = grad_cur + (b * s.plane() + p) * C;
        for (int k = 0; k < s.candidates; ++k) {
          const int64_t i = (b * 2 * s.candidates + k) * s.plane() + p;
          const int64_t j = i + s.candidates * s.plane();
          const float x = (pixels[i] + 0.5f) * sx - 0.5f, y = (pixels[j] + 0.5f) * sy - 0.5f;
          const Taps t = taps(map, zeros.data(), s.map_height, s.map_width, C, x, y);
          const float g = doubt(x, y) == 0 ? grad_cost[b * cost_stride + k * s.plane() + p] / C : 0.f;
          float gx = 0, gy = 0;
          float* __restrict d = signed_grad.data();
          for (int c = 0; c < C; ++c) {
            const float difference = a[c] - mix(t, t.weight, c);
            d[c] = difference > 0 ? g : (difference < 0 ? -g : 0.f);
          }
          for (int c = 0; c < C; ++c) {
            gx -= d[c] * mix(t, t.dx, c);
            gy -= d[c] * mix(t, t.dy, c);
          }
          for (int c = 0; c < C; ++c) grad_a[c] += d[c];
          for (int tap = 0; tap < 4; ++tap) {
            const float weight = t.weight[tap];
            float* __restrict target = grad_map + t.index[tap];
            if (weight != 0)
              for (int c = 0; c < C; ++c) target[c] -= d[c] * weight;
          }
          grad_pixels[i] = gx * sx;
          grad_pixels[j] = gy * sy;
        }
      }
    }
  });
  for (const auto& mine : partial)
    for (size_t i = 0; i < mine.size(); ++i) grad_prev[i] += mine[i];
}

template <int kC>
void moments(const Size& s, const float* cur, const float* prev, const float* pixels, float* out, int threads) {
  const int C = kC > 0 ? kC : s.channels;
  parallel(static_cast<int64_t>(s.batch) * s.height, threads, [=](int64_t first, int64_t last, int) {
    const std::vector<float> zeros(C);
    for (int64_t row = first; row < last; ++row) {
      const int64_t b = row / s.height, v = row % s.height;
      const float* map = prev + b * s.map();
      for (int u = 0; u < s.width; ++u) {
        const int64_t p = v * s.width + u;
        const float* a = cur + (b * s.plane() + p) * C;
        const float x = pixels[b * 2 * s.plane() + p], y = pixels[(b * 2 + 1) * s.plane() + p];
        const auto at = [&](float dx, float dy) {
          return taps(map, zeros.data(), s.map_height, s.map_width, C, x + dx, y + dy);
        };
        const Taps here = at(0, 0), left = at(-1, 0), right = at(1, 0), above = at(0, -1), below = at(0, 1);
        float uu = 0, uv = 0, vv = 0, eu = 0, ev = 0, ee = 0;
        for (int c = 0; c < C; ++c) {
          const float e = a[c] - mix(here, here.weight, c);
          const float gu = 0.5f * (mix(right, right.weight, c) - mix(left, left.weight, c));
          const float gv = 0.5f * (mix(below, below.weight, c) - mix(above, above.weight, c));
          uu += gu * gu;
          uv += gu * gv;
          vv += gv * gv;
          eu += gu * e;
          ev += gv * e;
          ee += e * e;
        }
        const float sums[6] = {uu, uv, vv, eu, ev, ee};
        for (int i = 0; i < 6; ++i) out[(b * 6 + i) * s.plane() + p] = sums[i] + doubt(x, y);
      }
    }
  });
}

}  // namespace

extern "C" {

// pixels (B, 2, N, h, w); cost and its gradient (B, N, h, w) inside rows of cost_stride floats per image.
void epipolar_cost_forward(const int* size, const float* cur, const float* prev, const float* pixels,
                           float* cost, int64_t cost_stride, int threads) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5], size[6]};
  if (s.channels == 64)
    cost_forward<64>(s, cur, prev, pixels, cost, cost_stride, threads);
  else
    cost_forward<0>(s, cur, prev, pixels, cost, cost_stride, threads);
}

void epipolar_cost_backward(const int* size, const float* cur, const float* prev, const float* pixels,
                            const float* grad_cost, int64_t cost_stride, float* grad_cur, float* grad_prev,
                            float* grad_pixels, int threads) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5], size[6]};
  if (s.channels == 64)
    cost_backward<64>(s, cur, prev, pixels, grad_cost, cost_stride, grad_cur, grad_prev, grad_pixels, threads);
  else
    cost_backward<0>(s, cur, prev, pixels, grad_cost, cost_stride, grad_cur, grad_prev, grad_pixels, threads);
}

// Coordinates and costs in one: depth and max_update (B, h, w), T_prev_cur (B, 4, 4), intrinsics (B, 4), as
// many maps as levels with (height, width) in map_sizes; cost (B, h, w, levels * candidates), candidates < 64.
void epipolar_search(const int* size, int levels, const int* map_sizes, const float* cur, const float* const* maps,
                     const float* depth, const float* max_update, const float* T_prev_cur, const float* intrinsics,
                     float max_inverse_depth, float* cost, int threads) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5], size[6]};
  const auto run = s.channels == 64 ? search<64> : search<0>;
  run(s, levels, map_sizes, cur, maps, depth, max_update, T_prev_cur, intrinsics, max_inverse_depth, cost, threads);
}

// pixels (B, 2, h, w); out (B, 6, h, w): sums over channels of gu^2, gu gv, gv^2, gu e, gv e, e^2.
void alignment_moments(const int* size, const float* cur, const float* prev, const float* pixels, float* out,
                       int threads) {
  const Size s{size[0], size[1], size[2], size[3], size[4], size[5], size[6]};
  if (s.channels == 64)
    moments<64>(s, cur, prev, pixels, out, threads);
  else
    moments<0>(s, cur, prev, pixels, out, threads);
}

}  // extern "C"
