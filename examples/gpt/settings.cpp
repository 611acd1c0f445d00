#include "gpt/settings.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>

#include <troupe/runtime/random.hpp>

namespace troupe::gpt {

Result<void> Settings::validate() const {
  const auto wrong = [](const std::string& what) { return Error{Code::kInvalidArgument, what}; };
  ModelShape with_tokens = shape;
  with_tokens.vocabulary = std::max<std::int64_t>(shape.vocabulary, 1);
  if (auto valid = with_tokens.validate(); !valid) return valid;
  if (steps < 1) return wrong("--steps 0: at least one");
  if (members < 1 || members > 64) return wrong("--members takes 1 to 64");
  if (threads < 0 || threads > 256) return wrong("--threads takes 0 to 256");
  if (zero > 3) return wrong("--zero takes the stages 0 to 3");
  if (members > 1 && zero < 0) return wrong("several --members train together with --zero 0 to 3");
  if (batch < 1 || batch % members != 0)
    return wrong("--batch " + std::to_string(batch) + " cannot be divided among " + std::to_string(members) +
                 " members");
  if (evaluation_texts < 1 || evaluation_texts % members != 0)
    return wrong("--evaluation-texts " + std::to_string(evaluation_texts) + " cannot be divided among " +
                 std::to_string(members) + " members");
  if (zero >= 0 && device != "cpu") return wrong("--zero trains on CPUs today: leave --device out");
  if (zero >= 0 && element != kernels::Element::kFloat32)
    return wrong("--zero trains in float32 here: leave --dtype out");
  if (!(dropout >= 0 && dropout < 1)) return wrong("--dropout takes 0 and more, below 1");
  if (!(validation > 0 && validation < 1)) return wrong("--validation takes a share above 0 and below 1");
  if (!(rate > 0 && least_rate >= 0 && least_rate <= rate))
    return wrong("--rate is above 0, and --least-rate from 0 to --rate");
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1))
    return wrong("--beta1 and --beta2 take 0 and more, below 1");
  if (!(weight_decay >= 0) || !(max_norm >= 0)) return wrong("--weight-decay and --max-norm take 0 or more");
  if (evaluate_every < 1) return wrong("--evaluate-every takes 1 or more");
  if (sample_tokens < 1) return wrong("--sample-tokens takes 1 or more");
  return {};
}

float Settings::rate_at(std::uint64_t step) const {
  if (step < warmup)
    return static_cast<float>(rate * static_cast<double>(step + 1) / static_cast<double>(warmup + 1));
  if (step >= steps) return static_cast<float>(least_rate);
  const double done =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::uint64_t>(steps - warmup, 1));
  return static_cast<float>(least_rate + (rate - least_rate) * (1 + std::cos(std::numbers::pi * done)) / 2);
}

std::uint32_t Settings::dropout_seed(std::uint64_t step, int member) const {
  Random random = Random(seed ^ 0x64726f70U).split(step * 4096 + static_cast<std::uint64_t>(member));
  return static_cast<std::uint32_t>(random());
}

int Settings::thread_count() const {
  if (threads > 0) return threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace troupe::gpt
