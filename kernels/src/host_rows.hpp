#pragma once

#include <cstdint>
#include <vector>

#include "host_row.hpp"

namespace troupe::kernels {

/// A matrix' rows as float32: those of float32 where they lie, others by way of a row that is kept.
class HostRows {
 public:
  HostRows(Element element, const void* base, std::int64_t columns)
      : element_(element), base_(const_cast<void*>(base)), columns_(columns) {
    if (element != Element::kFloat32) kept_.resize(static_cast<std::size_t>(columns));
  }

  const float* read(std::int64_t row) {
    if (element_ == Element::kFloat32) return floats(row);
    HostRow(element_, base_, row * columns_).read(columns_, kept_.data());
    return kept_.data();
  }
  /// Where a row is to be written; then comes end_write().
  float* begin_write(std::int64_t row) { return element_ == Element::kFloat32 ? floats(row) : kept_.data(); }
  void end_write(std::int64_t row) {
    if (element_ != Element::kFloat32) HostRow(element_, base_, row * columns_).write(kept_.data(), columns_);
  }

 private:
  float* floats(std::int64_t row) { return static_cast<float*>(base_) + row * columns_; }

  Element element_;
  void* base_;
  std::int64_t columns_;
  std::vector<float> kept_;
};

}  // namespace troupe::kernels
