#pragma once

#include <string>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// Why the attempts to meet the first node have failed: what each has learnt, so that who gives up at last
/// hears of all of it.
class MeetingReasons {
 public:
  void add(const Error& why);
  /// Whether another attempt may have another end.
  static bool may_change(const Error& why) {
    return why.code == Code::kUnavailable || why.code == Code::kResourceExhausted;
  }
  /// After all of `time`.
  Error error(const std::string& address, Duration time) const;

 private:
  std::vector<Error> different_;  // the latest last
};

}  // namespace troupe
