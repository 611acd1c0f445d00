#pragma once

#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/tensor.hpp>

#include "envelope_layout.hpp"
#include "flat.hpp"

namespace troupe::rpc {

/// An outgoing message. The envelope comes first, so that its fields can be set at any time; then the body's
/// words, which point only to one another, so that they can become a message of their own.
struct OutMessage::Impl {
  Impl(MemoryPool& memory, HeadPool* heads) : pool(memory), writer(memory, heads) {}

  /// Runs `write` unless the message has failed already; notes if it fails now.
  template <class F>
  void attempt(F&& write) {
    if (failure) return;
    try {
      write();
    } catch (const std::length_error& error) {
      failure =
          Error{Code::kInvalidArgument,
                std::string("a value does not fit in a message (send it as a tensor): ") + error.what()};
    } catch (const std::bad_alloc&) {
      failure = Error{Code::kResourceExhausted, "no memory for a message"};
    }
  }

  /// Notes the tensor and returns its index among the attachments, not counting a body.
  std::uint32_t attach(const Tensor& tensor) {
    tensors.push_back(tensor.contiguous(&pool));
    return static_cast<std::uint32_t>(tensors.size() - 1);
  }
  std::size_t tensor_bytes() const {
    std::size_t sum = 0;
    for (const Tensor& tensor : tensors) sum += tensor.bytes();
    return sum;
  }
  /// The length of the list of all tensors, in words.
  std::size_t table_words() const {
    std::size_t words = 1;
    for (const Tensor& tensor : tensors) words += AttachmentLayout::kLayout.words() + tensor.rank();
    return words;
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
  flat::Writer writer;
  struct Extras {
    TraceContext trace;
    std::uint64_t token = 0;
  };
  std::optional<Extras> extras;
  std::uint32_t envelope = 0;    // the struct's first word
  std::uint32_t body = 0;        // likewise; 0: not written yet
  std::uint32_t values = 0;      // the first of the body's values
  std::vector<Tensor> tensors;   // contiguous, in the order of the attachment table
  std::optional<Error> failure;  // why the message cannot be sent; then nothing more is written
};

/// What is known of an incoming message's segments.
struct InMessage::Impl {
  flat::Reader head;
  flat::Reader apart;  // the body's, if it is apart
  flat::StructView envelope;
  flat::StructView body;
  flat::StructsView values;
  flat::StructsView attachments;   // of the envelope
  flat::StructsView tensors;       // the list that values refer to
  std::uint32_t first_tensor = 0;  // 1 if a body comes first in `tensors`
  bool body_apart = false;
  /// Where the bytes of an entry of `tensors` are.
  struct Place {
    std::size_t part = SIZE_MAX;  // in parts_; SIZE_MAX: there are none
    std::size_t offset = 0;
  };
  std::vector<Place> places;

  /// Of the segment that the body lies in.
  flat::Reader& body_reader() { return body_apart ? apart : head; }
};

inline OutMessage::Impl& OutMessage::impl() {
  return *std::launder(reinterpret_cast<Impl*>(storage_));
}
inline InMessage::Impl& InMessage::impl() const {
  return *std::launder(reinterpret_cast<Impl*>(storage_));
}

}  // namespace troupe::rpc
