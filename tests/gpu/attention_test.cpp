// Attention, on the host and on a GPU, against its formula in double precision; the way back against that of
// the formula.
#include <troupe/kernels/attention.hpp>

#include <algorithm>
#include <cmath>

#include "matrix.hpp"
#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

struct Results {
  Doubles out, log_sums, queries, keys, values;  // the last three: gradients
};

std::size_t at_of(const Attention& shape, std::int64_t stride, std::int64_t s, std::int64_t t,
                  std::int64_t h) {
  return static_cast<std::size_t>((s * shape.length + t) * stride + h * shape.width);
}

double dot(const Doubles& a, std::size_t at_a, const Doubles& b, std::size_t at_b, std::int64_t n) {
  double sum = 0;
  for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) sum += a[at_a + j] * b[at_b + j];
  return sum;
}

/// What drop() makes of ones, one for each weight in the order of sequences, heads, positions and what these
/// attend to.
Doubles kept_weights(const Attention& shape) {
  std::vector<float> ones(
      static_cast<std::size_t>(shape.sequences * shape.heads * shape.length * shape.length), 1.0F);
  REQUIRE(drop(Place::host(), Element::kFloat32, ones.data(), static_cast<std::int64_t>(ones.size()),
               shape.dropout, ones.data())
              .ok());
  return Doubles(ones.begin(), ones.end());
}

/// Where nothing is written the results are -7, as what they are compared with.
Results expected_of(const Attention& shape, const Doubles& q, const Doubles& k, const Doubles& v,
                    const Doubles& given) {
  Results all;
  const Doubles kept = kept_weights(shape);
  all.out.assign(given.size(), -7);
  all.queries = all.keys = all.values = Doubles(q.size(), -7);
  const auto width = static_cast<std::size_t>(shape.width);
  for (std::int64_t s = 0; s < shape.sequences; ++s) {
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      for (std::int64_t t = 0; t < shape.length; ++t) {
        const std::size_t at = at_of(shape, shape.stride, s, t, h);
        for (Doubles* each : {&all.queries, &all.keys, &all.values})
          std::fill_n(each->begin() + static_cast<std::ptrdiff_t>(at), width, 0.0);
      }
      for (std::int64_t t = 0; t < shape.length; ++t) {
        const std::size_t mine = at_of(shape, shape.stride, s, t, h);
        const std::size_t out = at_of(shape, shape.out_stride, s, t, h);
        const std::int64_t seen = shape.causal ? t + 1 : shape.length;
        Doubles weights;
        for (std::int64_t u = 0; u < seen; ++u)
          weights.push_back(double{shape.scale} *
                            dot(q, mine, k, at_of(shape, shape.stride, s, u, h), shape.width));
        const double most = *std::max_element(weights.begin(), weights.end());
        double sum = 0;
        for (double& weight : weights) sum += weight = std::exp(weight - most);
        all.log_sums.push_back(most + std::log(sum));
        double along = 0;
        std::fill_n(all.out.begin() + static_cast<std::ptrdiff_t>(out), width, 0.0);
        Doubles slopes;
        const auto first =
            static_cast<std::size_t>(((s * shape.heads + h) * shape.length + t) * shape.length);
        for (std::size_t u = 0; u < weights.size(); ++u) {
          weights[u] /= sum;
          const std::size_t other = at_of(shape, shape.stride, s, static_cast<std::int64_t>(u), h);
          for (std::size_t j = 0; j < width; ++j) {
            all.out[out + j] += kept[first + u] * weights[u] * v[other + j];
            all.values[other + j] += kept[first + u] * weights[u] * given[out + j];
          }
          slopes.push_back(kept[first + u] * dot(given, out, v, other, shape.width));
          along += weights[u] * slopes[u];
        }
        for (std::size_t u = 0; u < weights.size(); ++u) {
          const std::size_t other = at_of(shape, shape.stride, s, static_cast<std::int64_t>(u), h);
          const double slope = double{shape.scale} * weights[u] * (slopes[u] - along);
          for (std::size_t j = 0; j < width; ++j) {
            all.queries[mine + j] += slope * k[other + j];
            all.keys[other + j] += slope * q[mine + j];
          }
        }
      }
    }
  }
  return all;
}

template <class Where>
void check(Where& at, const Attention& shape, std::size_t shift) {
  CAPTURE(static_cast<int>(shape.element));
  CAPTURE(shape.length);
  CAPTURE(shape.width);
  CAPTURE(shape.causal);
  CAPTURE(shift);
  const auto n = static_cast<std::size_t>(shape.sequences * shape.length * shape.stride);
  const auto n_out = static_cast<std::size_t>(shape.sequences * shape.length * shape.out_stride);
  const auto numbers = static_cast<std::size_t>(shape.sequences * shape.heads * shape.length);
  Matrix<Where> q(at, shape.element, random_floats(n, 51), shift);
  Matrix<Where> k(at, shape.element, random_floats(n, 52), shift);
  Matrix<Where> v(at, shape.element, random_floats(n, 53), shift);
  Matrix<Where> given(at, shape.element, random_floats(n_out, 54), shift);
  const Results expected = expected_of(shape, q.doubles, k.doubles, v.doubles, given.doubles);
  Matrix<Where> out(at, shape.element, std::vector<float>(n_out, -7.0F), shift);
  float* const log_sums = at.put(std::vector<float>(numbers, -7.0F));
  at.finish(attention(at.place(), shape, q.base(), k.base(), v.base(), out.base(), log_sums));
  // Weights and slopes are rounded to 16 bits on tensor cores, and `out` is for the way back.
  const double tolerance = 4 * tolerance_of(shape.element);
  CHECK(all_close(out.get(), expected.out, tolerance));
  CHECK(all_close(at.get(log_sums, numbers), expected.log_sums, 1e-4));
  Matrix<Where> dq(at, shape.element, std::vector<float>(n, -7.0F), shift);
  Matrix<Where> dk(at, shape.element, std::vector<float>(n, -7.0F), shift);
  Matrix<Where> dv(at, shape.element, std::vector<float>(n, -7.0F), shift);
  void* const workspace = at.put(std::vector<std::byte>(attention_workspace(shape)));
  at.finish(attention_backward(at.place(), shape, q.base(), k.base(), v.base(), out.base(), given.base(),
                               log_sums, dq.base(), dk.base(), dv.base(), workspace));
  CHECK(all_close(dq.get(), expected.queries, 4 * tolerance));
  CHECK(all_close(dk.get(), expected.keys, 4 * tolerance));
  CHECK(all_close(dv.get(), expected.values, 4 * tolerance));
}

}  // namespace

TEST_CASE_TEMPLATE("attention and its way back are their formulas', for parts that lie together, too", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t width : {1, 31, 33, 64, 128, 256}) {
      for (const std::int64_t length : {1, 2, 31, 33, 63, 64, 65, 97, 130}) {
        if (length > 64 && width != 64 && width != 128) continue;
        Attention shape;
        shape.element = element;
        shape.sequences = 2;
        shape.heads = length < 60 ? 3 : 2;
        shape.length = length;
        shape.width = width;
        shape.stride = 3 * shape.heads * width;
        shape.out_stride = shape.heads * width + 8;
        shape.scale = 1 / std::sqrt(static_cast<float>(width));
        for (const bool causal : {true, false}) {
          shape.causal = causal;
          check(at, shape, 0);
        }
        if (length == 33 && width == 64) check(at, shape, 1);
        if (length == 65 || (length == 33 && width <= 64)) {
          shape.dropout = {0.25F, static_cast<std::uint32_t>(7 + length)};
          check(at, shape, 0);
        }
      }
    }
  }
}
