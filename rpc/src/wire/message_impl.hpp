#pragma once

#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/tensor.hpp>

#include "device/departure.hpp"
#include "session/session_memory.hpp"
#include "wire/envelope_layout.hpp"
#include "wire/flat_reader.hpp"
#include "wire/flat_writer.hpp"

namespace troupe::rpc {

/// Where a pointer of a structure lies.
constexpr std::uint32_t slot_of(std::uint32_t structure, flat::Layout layout, unsigned pointer) {
  return structure + layout.data + pointer;
}

inline Error corrupt(std::string what) {
  return Error{Code::kDataLoss, "a peer's message is not valid: " + std::move(what)};
}
inline Error malformed() {
  return corrupt("a pointer in it leads nowhere");
}

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
    } catch (const BadResult& bad) {
      failure = bad.error();
    }
  }

  /// Notes the tensor and returns its index among the attachments, not counting a body.
  std::uint32_t attach(const Tensor& tensor) {
    detail::require_sendable(tensor);
    has_devices |= tensor.device().kind == MemoryKind::kDevice;
    tensors.push_back(tensor.contiguous(&pool));
    return static_cast<std::uint32_t>(tensors.size() - 1);
  }
  std::size_t tensor_bytes() const {
    std::size_t sum = 0;
    for (const Tensor& tensor : tensors) sum += tensor.bytes();
    return sum;
  }
  flat::Layout table_layout() const {
    if (places && places->any_stays) return AttachmentLayout::kDeviceLayout;
    return locations.empty() ? AttachmentLayout::kLayout : AttachmentLayout::kSharedLayout;
  }
  /// How a tensor in device memory leaves; null: it is in the host's, or goes nowhere.
  const DevicePlace* place_of(std::size_t index) const {
    return places && places->of[index].is_device ? &places->of[index] : nullptr;
  }
  bool stays(std::size_t index) const {
    const DevicePlace* const place = place_of(index);
    return place && place->lease != 0;
  }
  bool waits_for_memory(std::size_t index) const {
    const DevicePlace* const place = place_of(index);
    return place && place->later;
  }
  static constexpr std::size_t kHandleWords = sizeof(GpuSlab::handle) / flat::kWord;
  /// The length of the list of all tensors, in words.
  std::size_t table_words() const {
    std::size_t words = 1;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      words += table_layout().words() + tensors[i].rank() + (stays(i) ? kHandleWords : 0);
    return words;
  }
  static Buffer bytes_of(const Tensor& tensor) {
    const auto offset = static_cast<std::size_t>(tensor.data() - tensor.buffer().data());
    return tensor.buffer().slice(offset, tensor.bytes());
  }
  bool is_shared(std::size_t index) const { return !locations.empty() && locations[index].offset != 0; }
  /// Finds the tensors that are passed by mapping.
  void find_shared() {
    if (!next_lease) return;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].bytes() < SharedPool::kSmallest) continue;
      const auto location = SharedPool::locate(bytes_of(tensors[i]));
      if (!location) continue;
      locations.resize(tensors.size());
      locations[i] = *location;
    }
  }
  void write_table(flat::Writer& to, std::uint32_t at);
  flat::Layout body_layout() const {
    return metadata.empty() ? BodyLayout::kLayout : BodyLayout::kWithMetadata;
  }
  void write_metadata();
  /// The tensors' bytes, without copying them. `first_attachment`: the first tensor's number in the
  /// envelope's list, if it stands there.
  void add_parts(OutFrame& frame, std::uint32_t first_attachment) const {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].bytes() == 0) continue;
      if (stays(i)) {
        FrameLeases& kept = leases_in(frame);
        kept.device.emplace_back(places->of[i].lease, places->of[i].memory);
        kept.device_leases.emplace_back(places->of[i].lease, tensors[i].bytes());
        kept.device_bytes += tensors[i].bytes();
        continue;
      }
      if (waits_for_memory(i)) {
        FrameLeases& kept = leases_in(frame);
        const DevicePlace& place = places->of[i];
        kept.later.push_back({first_attachment + static_cast<std::uint32_t>(i), frame.parts.size(),
                              place.may_share, place.may_follow, place.after, place.memory});
        kept.device_bytes += tensors[i].bytes();
        frame.parts.emplace_back();
        continue;
      }
      if (!is_shared(i)) {
        frame.parts.push_back(leased ? SharedPool::leased(bytes_of(tensors[i])) : bytes_of(tensors[i]));
        continue;
      }
      FrameLeases& kept = leases_in(frame);
      if (place_of(i)) {
        kept.device_leases.emplace_back(first_lease + kept.leases.size(), tensors[i].bytes());
        kept.device_bytes += tensors[i].bytes();
      }
      kept.leases.emplace_back(bytes_of(tensors[i]));
    }
    if (places) leases_in(frame).waits = places->waits;
  }
  FrameLeases& leases_in(OutFrame& frame) const {
    if (!frame.leases) frame.leases = std::make_shared<FrameLeases>(FrameLeases{.first = first_lease});
    return *frame.leases;
  }

  MemoryPool& pool;
  flat::Writer writer;
  struct Extras {
    TraceContext trace;
    std::uint64_t token = 0;
  };
  std::optional<Extras> extras;
  Metadata metadata;
  std::uint32_t envelope = 0;                   // the struct's first word
  std::uint32_t body = 0;                       // likewise; 0: not written yet
  std::uint32_t values = 0;                     // the first of the body's values
  std::vector<Tensor> tensors;                  // contiguous, in the order of the attachment table
  bool leased = false;                          // what is of a SharedPool is, until it has been sent
  std::uint64_t* next_lease = nullptr;          // null: nothing is shared
  std::uint64_t first_lease = 0;                // of those taken for this message
  std::vector<SharedPool::Location> locations;  // of the tensors; offset 0: not shared. Empty: none is
  bool has_devices = false;                     // some lie in device memory
  std::unique_ptr<DevicePlaces> places;         // of those that go to another process
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
  bool attachments_read = false;
  /// Where the bytes of an entry of `tensors` are.
  struct Location {
    std::size_t part = SIZE_MAX;  // in parts_; SIZE_MAX: there are none
    std::size_t offset = 0;
  };
  std::vector<Location> locations;
  std::size_t own_parts = 0;        // those that came; the rest is shared
  std::vector<std::uint32_t> left;  // attachments of the envelope that are in their sender's device

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
