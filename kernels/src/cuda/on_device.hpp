#pragma once

#include "troupe/kernels/place.hpp"

namespace troupe::kernels::gpu {

/// Makes a device the calling thread's, as launches need it, and leaves the thread as it was at the end: also
/// one that has never chosen a device and stands at the first, where to choose that for it would make a
/// context, of half a gigabyte.
class OnDevice {
 public:
  explicit OnDevice(int device);
  explicit OnDevice(const Place& place) : OnDevice(place.device()) {}
  ~OnDevice() {
    if (before_ != kStays) go_back();
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  static constexpr int kStays = -1, kPops = -2;
  void go_back() const;

  int before_ = kStays;
};

}  // namespace troupe::kernels::gpu
