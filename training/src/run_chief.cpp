#include <cstdio>
#include <cstdlib>
#include <utility>

#include <troupe/actors/stop_signals.hpp>
#include <troupe/kernels/blas.hpp>

#include "chief.hpp"

namespace troupe::training {

namespace {
constexpr std::chrono::milliseconds kInterruptPatience{3000};  // the launcher's is 5 s
}

int run_chief(const Place& place, const Program& program, const FlagWords& flags, const Resume& resume,
              const std::string& command) {
  kernels::set_blas_threads(1);
  JobSettings settings = program.defaults;
  auto task = program.make_task();
  if (auto set = apply(flags, settings, *task); !set) {
    std::fprintf(stderr, "%s: %s\n", program.name.c_str(), set.error().message.c_str());
    return 2;
  }
  Chief chief(place, program, flags, std::move(settings), std::move(task), command);
  StopSignals signals;  // whose handler uses the chief
  signals.start([&](int) {
    chief.interrupt();
    // Loading data, for instance, knows no interruption.
    if (signals.ends_within(kInterruptPatience)) return;
    std::fprintf(stderr, "%s: interrupted\n%s\n", program.name.c_str(), chief.hint().c_str());
    std::_Exit(130);
  });
  const auto outcome = chief.run(resume);
  if (outcome) return 0;
  chief.tell_failure(outcome.error());
  switch (outcome.error().code) {
    case Code::kCancelled:
      return 130;
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kFailedPrecondition:
    case Code::kDataLoss:
      return chief.has_begun() ? 1 : 2;  // before that it is the input that is bad
    default:
      return 1;
  }
}

}  // namespace troupe::training
