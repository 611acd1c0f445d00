#pragma once

#include <utility>
#include <vector>

#include <caf/all.hpp>
#include <caf/stream_deserializer.hpp>
#include <caf/stream_serializer.hpp>
#include <caf/streambuf.hpp>

#include <troupe/runtime/tensor.hpp>

namespace troupe {

/// CAF's binary serializer, but tensors are put aside, to travel without being copied: see inspect() in
/// troupe/actors/caf.hpp.
class TensorSerializer final : public caf::stream_serializer<caf::vectorbuf> {
 public:
  TensorSerializer(caf::actor_system& system, std::vector<char>& out)
      : caf::stream_serializer<caf::vectorbuf>(system, out) {}
  void put(const Tensor& tensor) { tensors_.push_back(tensor); }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<Tensor> tensors_;
};

/// Its counterpart: tensors come from where they were put.
class TensorDeserializer final : public caf::stream_deserializer<caf::charbuf> {
 public:
  TensorDeserializer(caf::actor_system& system, std::vector<char>& in, std::vector<Tensor> tensors)
      : caf::stream_deserializer<caf::charbuf>(system, in.data(), in.size()), tensors_(std::move(tensors)) {}
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
