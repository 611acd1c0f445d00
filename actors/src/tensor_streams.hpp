#pragma once

#include <utility>
#include <vector>

#include <troupe/runtime/tensor.hpp>

#include "caf_internals.hpp"

namespace troupe {

/// CAF's binary serializer, but tensors are put aside, to travel without being copied: see inspect() in
/// troupe/actors/caf_compat.hpp.
class TensorSerializer final : public BinarySink {
 public:
  using BinarySink::BinarySink;
  void put(const Tensor& tensor) { tensors_.push_back(tensor); }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<Tensor> tensors_;
};

/// Its counterpart: tensors come from where they were put.
class TensorDeserializer final : public BinarySource {
 public:
  TensorDeserializer(caf::actor_system& system, Bytes& in, std::vector<Tensor> tensors)
      : BinarySource(system, in), tensors_(std::move(tensors)) {}
  /// False if there is none left.
  bool take(Tensor& tensor) {
    if (next_ == tensors_.size()) return false;
    tensor = std::move(tensors_[next_++]);
    return true;
  }

 private:
  std::vector<Tensor> tensors_;
  std::size_t next_ = 0;
};

}  // namespace troupe
