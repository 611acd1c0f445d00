#pragma once

namespace troupe {

/// A flag that is true while this lives, however that ends: for work that must not be begun again within
/// itself.
class Raised {
 public:
  explicit Raised(bool& flag) : flag_(flag) { flag_ = true; }
  ~Raised() { flag_ = false; }
  Raised(const Raised&) = delete;
  Raised& operator=(const Raised&) = delete;

 private:
  bool& flag_;
};

}  // namespace troupe
