// Layers of dense models, on the host and on a GPU, against their formulas in double precision; the ways back
// against differences of the ways there.
#include <troupe/kernels/dense.hpp>

#include <algorithm>
#include <functional>
#include <numeric>

#include "matrix.hpp"
#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

const std::vector<std::int64_t> kColumns = {1, 3, 4, 31, 32, 33, 128, 255, 256, 257, 1024, 1028, 5001};
/// Some rows, fewer where they are long; past the number of pieces of column sums.
std::int64_t rows_for(std::int64_t columns) {
  return columns < 64 ? 300 : columns < 300 ? 130 : 3;
}

std::size_t at_of(std::int64_t row, std::int64_t column, std::int64_t columns) {
  return static_cast<std::size_t>(row * columns + column);
}

}  // namespace

TEST_CASE_TEMPLATE("cross entropy and its gradients are softmax's, also in place and for large logits", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t columns : kColumns) {
      CAPTURE(static_cast<int>(element));
      CAPTURE(columns);
      const std::int64_t rows = rows_for(columns);
      auto values = random_floats(static_cast<std::size_t>(rows * columns), 11, -8, 8);
      if (columns > 3) values[1] = 300;  // whose exponential is no float32
      Matrix<Where> logits(at, element, values);
      std::vector<std::int64_t> labels;
      labels.reserve(static_cast<std::size_t>(rows));
      for (std::int64_t r = 0; r < rows; ++r) labels.push_back(r % 7 == 3 ? -1 : (r * 31 + 1) % columns);
      Doubles losses;
      Doubles gradients;
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto first = logits.doubles.begin() + r * columns;
        const double most = *std::max_element(first, first + columns);
        double sum = 0;
        for (std::int64_t j = 0; j < columns; ++j) sum += std::exp(first[j] - most);
        const std::int64_t label = labels[static_cast<std::size_t>(r)];
        losses.push_back(label < 0 ? 0 : most + std::log(sum) - first[label]);
        for (std::int64_t j = 0; j < columns; ++j)
          gradients.push_back(label < 0 ? 0 : 0.5 * (std::exp(first[j] - most) / sum - (j == label ? 1 : 0)));
      }
      float* const out = at.put(std::vector<float>(losses.size(), -7.0F));
      const std::int64_t* const where = at.put(labels);
      at.finish(softmax_cross_entropy(at.place(), element, logits.base(), where, rows, columns, 0.5F, out,
                                      nullptr));
      CHECK(all_close(at.get(out, losses.size()), losses, 1e-5));
      at.finish(softmax_cross_entropy(at.place(), element, logits.base(), where, rows, columns, 0.5F, out,
                                      logits.base()));
      CHECK(all_close(at.get(out, losses.size()), losses, 1e-5));
      CHECK(all_close(logits.get(), gradients, tolerance_of(element)));
    }
  }
}

TEST_CASE_TEMPLATE("layer norm and its ways back are its formula's", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t columns : kColumns) {
      CAPTURE(static_cast<int>(element));
      CAPTURE(columns);
      const std::int64_t rows = rows_for(columns);
      const auto n = static_cast<std::size_t>(rows * columns);
      Matrix<Where> x(at, element, random_floats(n, 12));
      Matrix<Where> given(at, element, random_floats(n, 13));
      const auto gain = random_floats(static_cast<std::size_t>(columns), 14);
      const auto shift = random_floats(static_cast<std::size_t>(columns), 15);
      const double epsilon = 0.01;
      Doubles means, deviations, out(n), x_gradients(n), gain_gradients(gain.size()),
          shift_gradients(gain.size());
      for (std::int64_t r = 0; r < rows; ++r) {
        double mean = 0, variance = 0, sum = 0, along = 0;
        for (std::int64_t j = 0; j < columns; ++j)
          mean += x.doubles[at_of(r, j, columns)] / static_cast<double>(columns);
        for (std::int64_t j = 0; j < columns; ++j)
          variance += std::pow(x.doubles[at_of(r, j, columns)] - mean, 2) / static_cast<double>(columns);
        const double deviation = 1 / std::sqrt(variance + epsilon);
        means.push_back(mean), deviations.push_back(deviation);
        for (std::int64_t j = 0; j < columns; ++j) {
          const std::size_t i = at_of(r, j, columns);
          const auto c = static_cast<std::size_t>(j);
          const double normal = (x.doubles[i] - mean) * deviation;
          out[i] = normal * double{gain[c]} + double{shift[c]};
          gain_gradients[c] += given.doubles[i] * normal;
          shift_gradients[c] += given.doubles[i];
          sum += given.doubles[i] * double{gain[c]} / static_cast<double>(columns);
          along += given.doubles[i] * double{gain[c]} * normal / static_cast<double>(columns);
        }
        for (std::int64_t j = 0; j < columns; ++j) {
          const std::size_t i = at_of(r, j, columns);
          const double normal = (x.doubles[i] - mean) * deviation;
          x_gradients[i] = deviation * (given.doubles[i] * double{gain[static_cast<std::size_t>(j)]} - sum -
                                        normal * along);
        }
      }
      const float* const at_gain = at.put(gain);
      float* const at_means = at.put(std::vector<float>(means.size(), -7.0F));
      float* const at_deviations = at.put(std::vector<float>(means.size(), -7.0F));
      Matrix<Where> result(at, element, std::vector<float>(n, -7.0F));
      at.finish(layer_norm(at.place(), element, x.base(), rows, columns, at_gain, at.put(shift),
                           static_cast<float>(epsilon), result.base(), at_means, at_deviations));
      CHECK(all_close(result.get(), out, tolerance_of(element)));
      CHECK(all_close(at.get(at_means, means.size()), means, 1e-5));
      CHECK(all_close(at.get(at_deviations, means.size()), deviations, 1e-5));

      float* const at_gain_gradients = at.put(std::vector<float>(gain.size(), -7.0F));
      float* const at_shift_gradients = at.put(std::vector<float>(gain.size(), -7.0F));
      void* const workspace = at.put(std::vector<std::byte>(column_workspace(at.place(), columns)));
      at.finish(layer_norm_backward(at.place(), element, x.base(), given.base(), rows, columns, at_gain,
                                    at_means, at_deviations, given.base(), at_gain_gradients,
                                    at_shift_gradients, workspace));
      // Deviations are up to ten, and so are the gradients' errors.
      CHECK(all_close(given.get(), x_gradients, 10 * tolerance_of(element)));
      CHECK(all_close(at.get(at_gain_gradients, gain.size()), gain_gradients, 5e-5));
      CHECK(all_close(at.get(at_shift_gradients, gain.size()), shift_gradients, 5e-5));
    }
  }
}

TEST_CASE_TEMPLATE("GELU, its way back, biases and sums over rows are their formulas'", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t columns : kColumns) {
      CAPTURE(static_cast<int>(element));
      CAPTURE(columns);
      const std::int64_t rows = rows_for(columns);
      const auto n = static_cast<std::size_t>(rows * columns);
      Matrix<Where> x(at, element, random_floats(n, 16, -6, 6));
      Matrix<Where> given(at, element, random_floats(n, 17));
      const auto bias = random_floats(static_cast<std::size_t>(columns), 18);
      Doubles plus, with, without, back, tanh_with, tanh_back, sums(bias.size());
      const auto below = [](double u) { return 0.5 * (1 + std::erf(u / std::sqrt(2.0))); };
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t c = i % static_cast<std::size_t>(columns);
        const double u = x.doubles[i] + double{bias[c]};
        plus.push_back(u);
        with.push_back(u * below(u));
        without.push_back(x.doubles[i] * below(x.doubles[i]));
        const double slope = below(u) + u * std::exp(-u * u / 2) / std::sqrt(2 * std::acos(-1.0));
        back.push_back(given.doubles[i] * slope);
        const double root = std::sqrt(2 / std::acos(-1.0));
        const double bent = std::tanh(root * (u + 0.044715 * u * u * u));
        tanh_with.push_back(u / 2 * (1 + bent));
        tanh_back.push_back(given.doubles[i] *
                            ((1 + bent) / 2 + u / 2 * (1 - bent * bent) * root * (1 + 3 * 0.044715 * u * u)));
        sums[c] += x.doubles[i];
      }
      const double tolerance = tolerance_of(element);
      const float* const at_bias = at.put(bias);
      Matrix<Where> out(at, element, std::vector<float>(n, -7.0F));
      at.finish(add_bias(at.place(), element, x.base(), at_bias, rows, columns, out.base()));
      CHECK(all_close(out.get(), plus, tolerance));
      at.finish(gelu(at.place(), element, x.base(), at_bias, rows, columns, out.base()));
      CHECK(all_close(out.get(), with, tolerance));
      at.finish(gelu(at.place(), element, x.base(), at_bias, rows, columns, out.base(), GeluKind::kTanh));
      CHECK(all_close(out.get(), tanh_with, tolerance));
      at.finish(gelu_backward(at.place(), element, x.base(), at_bias, given.base(), rows, columns, out.base(),
                              GeluKind::kTanh));
      CHECK(all_close(out.get(), tanh_back, tolerance));
      at.finish(
          gelu_backward(at.place(), element, x.base(), at_bias, given.base(), rows, columns, given.base()));
      CHECK(all_close(given.get(), back, tolerance));
      float* const at_sums = at.put(std::vector<float>(bias.size(), -7.0F));
      void* const workspace = at.put(std::vector<std::byte>(column_workspace(at.place(), columns)));
      at.finish(column_sums(at.place(), element, x.base(), rows, columns, at_sums, workspace));
      CHECK(all_close(at.get(at_sums, bias.size()), sums, 5e-5));
      at.finish(gelu(at.place(), element, x.base(), nullptr, rows, columns, x.base()));
      CHECK(all_close(x.get(), without, tolerance));
    }
  }
}
