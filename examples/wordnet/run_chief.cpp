#include <cstdio>
#include <cstdlib>

#include <troupe/actors/stop_signals.hpp>
#include <troupe/kernels/blas.hpp>

#include "wordnet/chief.hpp"

namespace troupe::wordnet {

namespace {
constexpr std::chrono::milliseconds kInterruptPatience{3000};  // the launcher's is 5 s
}

int run_chief(const Place& place, const JobSettings& settings, bool resume, const std::string& command,
              const std::optional<std::string>& reference_file) {
  kernels::set_blas_threads(1);
  Chief chief(place, settings, command);
  StopSignals signals;  // whose handler uses the chief
  signals.start([&](int) {
    chief.interrupt();
    // Loading data, for instance, knows no interruption.
    if (signals.ends_within(kInterruptPatience)) return;
    std::fprintf(stderr, "wordnet: interrupted\n%s\n", chief.hint().c_str());
    std::_Exit(130);
  });
  const auto outcome = chief.run(resume, reference_file);
  if (outcome) return 0;
  chief.tell_failure(outcome.error());
  switch (outcome.error().code) {
    case Code::kCancelled:
      return 130;
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
      return chief.has_begun() ? 1 : 2;  // before that it is the input that is bad
    default:
      return 1;
  }
}

}  // namespace troupe::wordnet
