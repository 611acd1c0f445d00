#pragma once

#include <cmath>

#include "troupe/kernels/step.hpp"

#ifdef __CUDACC__
#define TROUPE_BOTH __host__ __device__ __forceinline__
#else
#define TROUPE_BOTH inline
#endif

/// The optimizers' formulas, compiled for the host and for GPUs.
namespace troupe::kernels {

/// A step's numbers, with what all rows have in common worked out.
struct Numbers {
  float n[5];
  float log_beta1;  ///< of Adam and its like
  float log_beta2;
};

inline Numbers numbers_of(const Step& step) {
  Numbers numbers{};
  for (int i = 0; i < 5; ++i) numbers.n[i] = step.numbers[i];
  // Finite for beta = 0 too, whose power is 0 from the first step on.
  const auto log_of = [](float beta) {
    return beta > 0.0F ? static_cast<float>(std::log(static_cast<double>(beta))) : -1e4F;
  };
  numbers.log_beta1 = log_of(step.numbers[1]);
  numbers.log_beta2 = log_of(step.numbers[2]);
  return numbers;
}

constexpr bool counts_steps(Rule rule) {
  return rule == Rule::kAdam || rule == Rule::kAdamW || rule == Rule::kLamb;
}

/// What the elements of a row, or of a tensor, have in common.
struct RowFacts {
  float scale =
      0;  ///< Adam: its rate with both corrections; row-wise Adagrad: rate over root; LAMB: rate * trust
  float epsilon = 0;  ///< Adam: with its correction
  float correction1 = 1;
  float correction2 = 1;
};

/// For rules that count, at step `steps`; for the others their rate.
template <Rule rule>
TROUPE_BOTH RowFacts facts_at(const Numbers& numbers, float steps) {
  RowFacts facts;
  facts.scale = numbers.n[0];
  if constexpr (counts_steps(rule)) {
    facts.correction1 = -std::expm1(numbers.log_beta1 * steps);
    facts.correction2 = -std::expm1(numbers.log_beta2 * steps);
    const float root = std::sqrt(facts.correction2);
    facts.scale = numbers.n[0] * root / facts.correction1;
    facts.epsilon = numbers.n[3] * root;
  }
  return facts;
}

/// One element's step. `a` and `b` are its state; rules that have less leave them alone. LAMB's moves its
/// moments only: see lamb_update().
template <Rule rule>
TROUPE_BOTH void step_element(const Numbers& numbers, const RowFacts& facts, float gradient, float& w,
                              float& a, float& b) {
  const float* n = numbers.n;
  if constexpr (rule == Rule::kSgd) {
    w -= n[0] * (gradient + n[1] * w);
  } else if constexpr (rule == Rule::kMomentum || rule == Rule::kNesterov) {
    const float g = gradient + n[2] * w;
    a = n[1] * a + g;
    w -= n[0] * (rule == Rule::kNesterov ? g + n[1] * a : a);
  } else if constexpr (rule == Rule::kAdagrad) {
    a += gradient * gradient;
    w -= n[0] * gradient / (std::sqrt(a) + n[1]);
  } else if constexpr (rule == Rule::kRowwiseAdagrad) {
    w -= facts.scale * gradient;
  } else if constexpr (rule == Rule::kAdam || rule == Rule::kAdamW) {
    a = n[1] * a + (1 - n[1]) * gradient;
    b = n[2] * b + (1 - n[2]) * gradient * gradient;
    if constexpr (rule == Rule::kAdamW) w *= 1 - n[0] * n[4];
    w -= facts.scale * a / (std::sqrt(b) + facts.epsilon);
  } else if constexpr (rule == Rule::kLamb) {
    a = n[1] * a + (1 - n[1]) * gradient;
    b = n[2] * b + (1 - n[2]) * gradient * gradient;
  } else if constexpr (rule == Rule::kRmsprop) {
    const float g = gradient + n[3] * w;
    a = n[1] * a + (1 - n[1]) * g * g;
    w -= n[0] * g / (std::sqrt(a) + n[2]);
  } else if constexpr (rule == Rule::kFtrl) {
    if (gradient == 0 || n[0] == 0) return;  // no step
    const float sum = b + gradient * gradient;
    const float root = std::sqrt(sum);
    a += gradient - (root - std::sqrt(b)) / n[0] * w;
    b = sum;
    const float shrunk = std::fabs(a) <= n[2] ? 0.0F : a - std::copysign(n[2], a);
    w = -shrunk / ((n[1] + root) / n[0] + n[3]);
  }
}

/// LAMB's u, of an element's moved moments.
TROUPE_BOTH float lamb_update(const Numbers& numbers, const RowFacts& facts, float w, float a, float b) {
  return a / facts.correction1 / (std::sqrt(b / facts.correction2) + numbers.n[3]) + numbers.n[4] * w;
}

/// Rate times trust, the ratio of the norms, whose squares are given; 1 if one is 0.
TROUPE_BOTH float lamb_scale(const Numbers& numbers, double weights, double updates) {
  const double trust = weights > 0 && updates > 0 ? std::sqrt(weights / updates) : 1.0;
  return static_cast<float>(static_cast<double>(numbers.n[0]) * trust);
}

/// Calls call.operator()<rule>() for a rule known at run time.
template <class Call>
auto for_rule(Rule rule, const Call& call) {
  switch (rule) {
    case Rule::kSgd:
      return call.template operator()<Rule::kSgd>();
    case Rule::kMomentum:
      return call.template operator()<Rule::kMomentum>();
    case Rule::kNesterov:
      return call.template operator()<Rule::kNesterov>();
    case Rule::kAdagrad:
      return call.template operator()<Rule::kAdagrad>();
    case Rule::kRowwiseAdagrad:
      return call.template operator()<Rule::kRowwiseAdagrad>();
    case Rule::kAdam:
      return call.template operator()<Rule::kAdam>();
    case Rule::kAdamW:
      return call.template operator()<Rule::kAdamW>();
    case Rule::kLamb:
      return call.template operator()<Rule::kLamb>();
    case Rule::kRmsprop:
      return call.template operator()<Rule::kRmsprop>();
    case Rule::kFtrl:
      break;
  }
  return call.template operator()<Rule::kFtrl>();
}

}  // namespace troupe::kernels
