#include "meeting_reasons.hpp"

#include <algorithm>

#include <troupe/runtime/config.hpp>

namespace troupe {

namespace {
/// More are not of use to anybody.
constexpr std::size_t kMost = 3;
}  // namespace

void MeetingReasons::add(const Error& why) {
  std::erase_if(different_, [&](const Error& known) { return known.message == why.message; });
  different_.push_back(why);
  if (different_.size() > kMost) different_.erase(different_.begin());
}

Error MeetingReasons::error(const std::string& address, Duration time) const {
  const std::string within = " within " + to_string(time);
  if (different_.empty())
    return {Code::kUnavailable, "no first node answers at " + address + within +
                                    ": is its machine up, and does a firewall let this port through?"};
  // A refusal has come from somebody: it says more than that nobody was there before, or after.
  const auto refusal = std::ranges::find(different_, Code::kResourceExhausted, &Error::code);
  const Error& telling = refusal == different_.end() ? different_.back() : *refusal;
  Error all = telling;
  all.message =
      (refusal == different_.end() ? "no first node answers at " : "the first node has no room at ") +
      address + within + ": " + telling.message;
  std::string others;
  for (const Error& other : different_)
    if (&other != &telling) others += (others.empty() ? "" : "; ") + other.message;
  if (!others.empty()) all.message += " (other attempts: " + others + ")";
  return all;
}

}  // namespace troupe
