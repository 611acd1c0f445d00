#pragma once

#include <cstdint>

/// Optimizer steps on rows of parameters, each in one pass over the row's memory.
///
/// A row and its optimizer state are one allocation of float32: [weights, dim][state,
/// <optimizer>_state(dim)]. State starts as zeros. A batch is given as `count` pointers to rows and gradients
/// [count, dim], contiguous. A row may appear more than once in a batch: its steps are then taken one after
/// the other, in order. Gradients must not overlap rows, nor different rows each other.
///
/// Every function may be called from any thread at once on different rows. Results agree between
/// instruction sets to a few units in the last place, not bit for bit. Gradients must be below 1e19 in size:
/// the step is undefined once a square overflows.
namespace troupe::kernels {

/// Stochastic gradient descent with L2 regularisation (Robbins and Monro 1951; Krogh and Hertz 1991, eq. 3):
///   w -= learning_rate * (g + weight_decay * w)
struct Sgd {
  float learning_rate = 0.01F;
  float weight_decay = 0.0F;
};

/// Adagrad, diagonal form (Duchi, Hazan, Singer 2011, section 1.1, eq. 1), epsilon outside the root:
///   s += g^2;  w -= learning_rate * g / (sqrt(s) + epsilon)
struct Adagrad {
  float learning_rate = 0.1F;
  float epsilon = 1e-10F;  ///< > 0
};

/// Adam (Kingma and Ba 2015, algorithm 1), t = number of steps taken, this one included:
///   m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
///   w -= learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
struct Adam {
  float learning_rate = 0.001F;
  float beta1 = 0.9F;     ///< in [0, 1)
  float beta2 = 0.999F;   ///< in [0, 1)
  float epsilon = 1e-8F;  ///< > 0
};

/// Floats of state behind the weights of a row.
constexpr std::int64_t sgd_state(std::int64_t) {
  return 0;
}
/// [s, dim]
constexpr std::int64_t adagrad_state(std::int64_t dim) {
  return dim;
}
/// [m, dim][v, dim][t, 1]: the row's own step count is a float, exact up to 2^24, after which it stands
/// still: both corrections are 1 long before. So a row that is seldom touched is corrected by its own age.
constexpr std::int64_t adam_state(std::int64_t dim) {
  return 2 * dim + 1;
}

void sgd_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
              const Sgd& options);

void adagrad_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                  const Adagrad& options);

/// Counts each row's steps in the row's state.
void adam_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
               const Adam& options);

/// With `step` >= 1 as every row's t; the counts in the rows are neither read nor written.
void adam_rows_at_step(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                       const Adam& options, std::int64_t step);

/// One row, such as a dense parameter of any size.
inline void sgd_row(float* row, const float* gradient, std::int64_t dim, const Sgd& options) {
  sgd_rows(&row, gradient, 1, dim, options);
}

inline void adagrad_row(float* row, const float* gradient, std::int64_t dim, const Adagrad& options) {
  adagrad_rows(&row, gradient, 1, dim, options);
}

inline void adam_row(float* row, const float* gradient, std::int64_t dim, const Adam& options) {
  adam_rows(&row, gradient, 1, dim, options);
}

}  // namespace troupe::kernels
