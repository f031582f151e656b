// Bilinear sampling fused with what follows it, for the CPU.
//
// Maps are channels-last: (B, h, w, C) floats. Pixels count in the (h, w) map whatever the resolution of
// the sampled one; outside counts as zero, as in grid_sample(align_corners=False, padding_mode="zeros").
// Plain C interface, loaded through ctypes: no PyTorch headers, so it compiles in a second or two.

#include <cmath>
#include <cstring>

#include "parallel.h"

namespace {

constexpr float kFarOutside = -1e6f;

// The four taps of a bilinear sample; an outside tap points at pixel 0 with weight 0.
struct Taps {
  const float* at[4];
  int64_t index[4];
  float weight[4];
  float dx[4];  // derivative of the weight by the column, and by the row
  float dy[4];
};

inline float finite(float x) { return std::fabs(x) < 1e6f ? x : kFarOutside; }

inline Taps taps(const float* map, int height, int width, int channels, float x, float y) {
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
    t.at[i] = map + t.index[i];
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
          const Taps t = taps(map, s.map_height, s.map_width, C, x, y);
          float sum = 0;
          for (int c = 0; c < C; ++c) sum += std::fabs(a[c] - mix(t, t.weight, c));
          cost[b * cost_stride + k * s.plane() + p] = sum / C;
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
          const Taps t = taps(map, s.map_height, s.map_width, C, x, y);
          const float g = grad_cost[b * cost_stride + k * s.plane() + p] / C;
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
    for (int64_t row = first; row < last; ++row) {
      const int64_t b = row / s.height, v = row % s.height;
      const float* map = prev + b * s.map();
      for (int u = 0; u < s.width; ++u) {
        const int64_t p = v * s.width + u;
        const float* a = cur + (b * s.plane() + p) * C;
        const float x = pixels[b * 2 * s.plane() + p], y = pixels[(b * 2 + 1) * s.plane() + p];
        const auto at = [&](float dx, float dy) {
          return taps(map, s.map_height, s.map_width, C, x + dx, y + dy);
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
        float* to = out + b * 6 * s.plane() + p;
        to[0] = uu;
        to[s.plane()] = uv;
        to[2 * s.plane()] = vv;
        to[3 * s.plane()] = eu;
        to[4 * s.plane()] = ev;
        to[5 * s.plane()] = ee;
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
