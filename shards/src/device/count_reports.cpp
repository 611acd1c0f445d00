#include "device/count_reports.hpp"

#include <cstddef>
#include <utility>

namespace troupe::shards {
namespace {

/// Under way at most: who asks for more waits for the first.
constexpr std::size_t kMostReports = 64;

}  // namespace

Result<std::unique_ptr<CountReports>> CountReports::create(DeviceWork& work) {
  std::unique_ptr<CountReports> reports(new CountReports(work));
  auto device = work.device_memory(sizeof(kernels::RowCounts));
  if (!device) return device.error();
  auto pinned = work.pinned_memory(kMostReports * sizeof(kernels::RowCounts));
  if (!pinned) return pinned.error();
  reports->asked_.reserve(kMostReports);
  reports->device_ = *std::move(device);
  reports->pinned_ = *std::move(pinned);
  if (auto cleared = work.stream().fill(reports->device_.data(), 0, sizeof(kernels::RowCounts)); !cleared)
    return cleared.error();
  return reports;
}

void CountReports::look() {
  std::size_t told = 0;
  while (told < asked_.size() && asked_[told].told.done()) ++told;
  if (told == 0) return;
  known_ = *place(asked_[told - 1].place);
  asked_.erase(asked_.begin(), asked_.begin() + static_cast<std::ptrdiff_t>(told));
}

const kernels::RowCounts& CountReports::known() {
  look();
  return known_;
}

std::uint64_t CountReports::under_way() {
  look();
  std::uint64_t keys = unasked_;
  for (const Asked& each : asked_) keys += each.keys;
  return keys;
}

Result<Event> CountReports::ask() {
  if (asked_.size() == kMostReports) {
    if (auto passed = asked_.front().told.wait(kPatience); !passed) return passed.error();
    look();
  }
  if (auto copied = work_.copy(place(next_), device_.data(), sizeof(kernels::RowCounts)); !copied)
    return copied.error();
  auto told = work_.seal();
  if (!told) return told.error();
  asked_.push_back({next_, unasked_, *told});
  unasked_ = 0;
  next_ = (next_ + 1) % kMostReports;
  return told;
}

Result<void> CountReports::wait() {
  if (unasked_ > 0) {
    if (auto asked = ask(); !asked) return asked.error();
  }
  if (!asked_.empty()) {
    if (auto passed = asked_.back().told.wait(kPatience); !passed) return passed;
  }
  look();
  return {};
}

}  // namespace troupe::shards
