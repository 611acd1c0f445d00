#include "troupe/kernels/optimizer.hpp"

#include <memory>

#include "support.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::testing;

namespace {

constexpr std::int64_t kSteps = 3;

// Rows with states of zeros, each in guarded memory of its own, and the same in double precision.
struct Batch {
  Batch(std::int64_t count, std::int64_t dim, std::int64_t state) : gradients(count * dim) {
    for (std::int64_t i = 0; i < count; ++i) {
      rows.push_back(std::make_unique<GuardedFloats>(dim + state, 0.0F));
      GuardedFloats weights(dim);
      randomize(weights, static_cast<std::uint64_t>(100 + i));
      for (std::int64_t j = 0; j < dim; ++j) (*rows.back())[j] = weights[j];
      pointers.push_back(rows.back()->data());
      expected.emplace_back(rows.back()->data(), rows.back()->data() + dim + state);
    }
  }

  void check() const {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      CAPTURE(i);
      CHECK(first_difference(*rows[i],
                             [&](std::int64_t j) { return expected[i][static_cast<std::size_t>(j)]; }) == -1);
    }
  }

  std::vector<std::unique_ptr<GuardedFloats>> rows;
  std::vector<float*> pointers;
  std::vector<std::vector<double>> expected;
  GuardedFloats gradients;
};

// Takes kSteps steps on batches of several shapes; `reference(row, gradient, dim)` is one row's step.
template <class Step, class Reference>
void check_steps(std::int64_t (*state)(std::int64_t), const Step& step, const Reference& reference) {
  on_each_target([&] {
    for (const std::int64_t dim : kSizes) {
      for (const std::int64_t count : {0, 1, 5, 37}) {
        CAPTURE(dim);
        CAPTURE(count);
        Batch batch(count, dim, state(dim));
        for (std::int64_t turn = 0; turn < kSteps; ++turn) {
          randomize(batch.gradients, static_cast<std::uint64_t>(turn), -1.0F, 1.0F);
          step(batch.pointers.data(), batch.gradients.data(), count, dim);
          for (std::int64_t i = 0; i < count; ++i) {
            reference(batch.expected[static_cast<std::size_t>(i)].data(), batch.gradients.data() + i * dim,
                      dim);
          }
        }
        batch.check();
      }
    }
  });
}

void reference_adam(double* row, const float* gradient, std::int64_t dim, const Adam& options, double t) {
  const double beta1 = options.beta1;
  const double beta2 = options.beta2;
  for (std::int64_t j = 0; j < dim; ++j) {
    double& mean = row[dim + j];
    double& square = row[2 * dim + j];
    mean = beta1 * mean + (1 - beta1) * gradient[j];
    square = beta2 * square + (1 - beta2) * gradient[j] * gradient[j];
    const double corrected_mean = mean / (1 - std::pow(beta1, t));
    const double corrected_square = square / (1 - std::pow(beta2, t));
    row[j] -= options.learning_rate * corrected_mean / (std::sqrt(corrected_square) + options.epsilon);
  }
}

}  // namespace

TEST_CASE("SGD rows follow the formula, with and without weight decay") {
  for (const float decay : {0.0F, 0.1F}) {
    CAPTURE(decay);
    const Sgd options{.learning_rate = 0.05F, .weight_decay = decay};
    check_steps(
        sgd_state,
        [&](float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim) {
          sgd_rows(rows, gradients, count, dim, options);
        },
        [&](double* row, const float* gradient, std::int64_t dim) {
          for (std::int64_t j = 0; j < dim; ++j) {
            row[j] -= static_cast<double>(options.learning_rate) *
                      (gradient[j] + static_cast<double>(decay) * row[j]);
          }
        });
  }
}

TEST_CASE("Adagrad rows follow the formula and keep their accumulators") {
  const Adagrad options{.learning_rate = 0.1F, .epsilon = 1e-6F};
  check_steps(
      adagrad_state,
      [&](float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim) {
        adagrad_rows(rows, gradients, count, dim, options);
      },
      [&](double* row, const float* gradient, std::int64_t dim) {
        for (std::int64_t j = 0; j < dim; ++j) {
          row[dim + j] += static_cast<double>(gradient[j]) * gradient[j];
          row[j] -= options.learning_rate * static_cast<double>(gradient[j]) /
                    (std::sqrt(row[dim + j]) + options.epsilon);
        }
      });
}

TEST_CASE("Adam rows follow the formula and count their own steps") {
  const Adam options{.learning_rate = 0.01F};
  check_steps(
      adam_state,
      [&](float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim) {
        adam_rows(rows, gradients, count, dim, options);
      },
      [&](double* row, const float* gradient, std::int64_t dim) {
        row[3 * dim] += 1;
        reference_adam(row, gradient, dim, options, row[3 * dim]);
      });
}

TEST_CASE("Adam at a given step uses it and leaves the rows' counts alone") {
  const Adam options{.learning_rate = 0.01F, .beta1 = 0.0F, .beta2 = 0.99F};
  check_steps(
      adam_state,
      [&](float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim) {
        adam_rows_at_step(rows, gradients, count, dim, options, 12);
      },
      [&](double* row, const float* gradient, std::int64_t dim) {
        reference_adam(row, gradient, dim, options, 12);
      });
}

TEST_CASE("Adam rows of different ages in one batch are each corrected by their own") {
  on_each_target([] {
    for (const Adam& options : {Adam{}, Adam{.beta1 = 0.0F, .beta2 = 0.0F}, Adam{.beta2 = 0.99999F}}) {
      constexpr std::int64_t dim = 6;
      constexpr std::int64_t count = 40;
      Batch batch(count, dim, adam_state(dim));
      randomize(batch.gradients, 3);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto age = static_cast<float>(i < 30 ? i * i : 1 << (i - 20));
        batch.pointers[static_cast<std::size_t>(i)][3 * dim] = age;
        double* row = batch.expected[static_cast<std::size_t>(i)].data();
        row[3 * dim] = age + 1;
        reference_adam(row, batch.gradients.data() + i * dim, dim, options, row[3 * dim]);
      }
      adam_rows(batch.pointers.data(), batch.gradients.data(), count, dim, options);
      batch.check();
    }
  });
}

TEST_CASE("a row that occurs twice in a batch takes both steps in order") {
  on_each_target([] {
    constexpr std::int64_t dim = 19;
    GuardedFloats gradients(2 * dim);
    randomize(gradients, 5);
    const auto check = [&](std::int64_t state, const auto& step) {
      Batch twice(1, dim, state);
      Batch in_turn(1, dim, state);
      float* const rows[] = {twice.pointers[0], twice.pointers[0]};
      step(rows, gradients.data(), 2);
      step(in_turn.pointers.data(), gradients.data(), 1);
      step(in_turn.pointers.data(), gradients.data() + dim, 1);
      CHECK(first_difference(
                *twice.rows[0], [&](std::int64_t j) { return static_cast<double>((*in_turn.rows[0])[j]); },
                0) == -1);
    };
    check(sgd_state(dim), [](float* const* rows, const float* values, std::int64_t count) {
      sgd_rows(rows, values, count, dim, Sgd{});
    });
    check(adagrad_state(dim), [](float* const* rows, const float* values, std::int64_t count) {
      adagrad_rows(rows, values, count, dim, Adagrad{});
    });
    check(adam_state(dim), [](float* const* rows, const float* values, std::int64_t count) {
      adam_rows(rows, values, count, dim, Adam{});
    });
  });
}

TEST_CASE("a gradient of zero on a fresh row leaves its weights as they were") {
  on_each_target([] {
    constexpr std::int64_t dim = 21;
    GuardedFloats gradient(dim, 0.0F);
    Batch adagrad(1, dim, adagrad_state(dim));
    adagrad_row(adagrad.pointers[0], gradient.data(), dim, Adagrad{});
    adagrad.check();
    Batch adam(1, dim, adam_state(dim));
    adam_row(adam.pointers[0], gradient.data(), dim, Adam{});
    adam.expected[0][3 * dim] = 1;
    adam.check();
    Batch sgd(1, dim, 0);
    sgd_row(sgd.pointers[0], gradient.data(), dim, Sgd{});
    sgd.check();
  });
}

TEST_CASE("Adagrad keeps its precision for gradients of any size") {
  on_each_target([] {
    constexpr std::int64_t dim = 35;
    for (int exponent = -22; exponent <= 18; ++exponent) {
      CAPTURE(exponent);
      GuardedFloats gradient(dim), row(dim + adagrad_state(dim), 0.0F);
      randomize(gradient, 9, 0.5F, 1.0F);
      for (std::int64_t j = 0; j < dim; ++j) {
        gradient[j] *= std::pow(10.0F, static_cast<float>(exponent));
        row[dim + j] = gradient[j] * gradient[j];
      }
      adagrad_row(row.data(), gradient.data(), dim, Adagrad{.learning_rate = 1.0F, .epsilon = 1e-20F});
      for (std::int64_t j = 0; j < dim; ++j) {
        const double g = gradient[j];
        // From the sum as a float, which is not exact when squares are subnormal.
        const double expected = -g / (std::sqrt(static_cast<double>(row[dim + j])) + 1e-20F);
        CHECK(std::abs(row[j] / expected - 1.0) < 1e-6);
      }
    }
  });
}
