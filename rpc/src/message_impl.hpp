#pragma once

#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/tensor.hpp>

#include "capnp_support.hpp"

namespace troupe::rpc {

inline void write_attachment(wire::Attachment::Builder out, const Tensor& tensor) {
  out.setDtype(static_cast<std::uint8_t>(tensor.dtype()));
  out.setMemoryKind(static_cast<std::uint8_t>(tensor.device().kind));
  auto shape = out.initShape(static_cast<unsigned>(tensor.rank()));
  for (unsigned axis = 0; axis < tensor.rank(); ++axis) shape.set(axis, tensor.shape()[axis]);
  out.setBytes(tensor.bytes());
}

/// The entry of bytes that are no tensor.
inline void write_bytes_attachment(wire::Attachment::Builder out, std::size_t bytes) {
  out.setDtype(static_cast<std::uint8_t>(DType::kUInt8));
  out.initShape(1).set(0, static_cast<std::int64_t>(bytes));
  out.setBytes(bytes);
}

struct OutMessage::Impl {
  Impl(MemoryPool& memory, HeadPool* heads)
      : pool(memory), builder(memory, heads), envelope(builder.initRoot<wire::Envelope>()) {}

  /// Notes the tensor and returns its index among the attachments, not counting a body.
  std::uint32_t attach(const Tensor& tensor) {
    tensors.push_back(tensor.contiguous(&pool));
    return static_cast<std::uint32_t>(tensors.size() - 1);
  }

  /// Writes the tensors' entries into `list`, from `next` on.
  void list_tensors(capnp::List<wire::Attachment>::Builder list, unsigned next) const {
    for (const Tensor& tensor : tensors) write_attachment(list[next++], tensor);
  }
  std::size_t tensor_bytes() const {
    std::size_t sum = 0;
    for (const Tensor& tensor : tensors) sum += tensor.bytes();
    return sum;
  }

  /// The tensors' bytes, without copying them.
  void add_parts(OutFrame& frame) const {
    for (const Tensor& tensor : tensors) {
      if (tensor.bytes() == 0) continue;
      const auto offset = static_cast<std::size_t>(tensor.data() - tensor.buffer().data());
      frame.parts.push_back(tensor.buffer().slice(offset, tensor.bytes()));
    }
  }

  MemoryPool& pool;
  PooledBuilder builder;
  wire::Envelope::Builder envelope;
  capnp::List<wire::Value>::Builder values;
  std::vector<Tensor> tensors;   // contiguous, in the order of the attachment table
  std::optional<Error> failure;  // why the message cannot be sent; then nothing more is written
};

struct InMessage::Impl {
  wire::Envelope::Reader open_head(std::span<const std::byte> bytes) {
    head.emplace(
        kj::arrayPtr(reinterpret_cast<const capnp::word*>(bytes.data()), bytes.size() / sizeof(capnp::word)),
        reader_options(bytes.size()));
    return envelope = head->getRoot<wire::Envelope>();
  }
  wire::Body::Reader open_body(std::span<const std::byte> bytes) {
    body = std::make_unique<capnp::FlatArrayMessageReader>(
        kj::arrayPtr(reinterpret_cast<const capnp::word*>(bytes.data()), bytes.size() / sizeof(capnp::word)),
        reader_options(bytes.size()));
    return body_root = body->getRoot<wire::Body>();
  }

  std::optional<capnp::FlatArrayMessageReader> head;
  std::unique_ptr<capnp::FlatArrayMessageReader> body;  // rare: see Envelope.bodyApart
  wire::Envelope::Reader envelope;
  capnp::List<wire::Value>::Reader values;
  wire::ErrorInfo::Reader error;
  capnp::List<wire::Attachment>::Reader attachments;
  wire::Body::Reader body_root;                   // of a body apart
  capnp::List<wire::Attachment>::Reader tensors;  // the list that values refer to
  std::uint32_t first_tensor = 0;                 // 1 if a body comes first in `tensors`
  /// Where the bytes of an entry of `tensors` are.
  struct Place {
    std::size_t part = SIZE_MAX;  // in parts_; SIZE_MAX: there are none
    std::size_t offset = 0;
  };
  std::vector<Place> places;
};

inline OutMessage::Impl& OutMessage::impl() {
  return *std::launder(reinterpret_cast<Impl*>(storage_));
}
inline InMessage::Impl& InMessage::impl() {
  return *std::launder(reinterpret_cast<Impl*>(storage_));
}
inline const InMessage::Impl& InMessage::impl() const {
  return *std::launder(reinterpret_cast<const Impl*>(storage_));
}

}  // namespace troupe::rpc
