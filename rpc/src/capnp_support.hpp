#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/memory_pool.hpp>
#include <troupe/runtime/result.hpp>

#include "head_pool.hpp"
#include "schema/wire.capnp.h"

namespace troupe::rpc {

/// Bytes before the first segment in a flat message: the segment table for one segment.
inline constexpr std::size_t kSegmentTableBytes = 8;

/// A message builder whose first segment is a pooled buffer with room for the segment table in front
/// of it, so that a message of one segment is ready to be sent without copying. Unlike capnp's own
/// builder on scratch space it leaves the bytes alone when it is destroyed.
class PooledBuilder final : public capnp::MessageBuilder {
 public:
  /// With the table: a block of HeadPool's second kind, as Endpoint makes it.
  static constexpr std::size_t kFirstBytes = 512;

  /// First segments come from `heads`, if there is one and `first_words` are not more than it has.
  explicit PooledBuilder(MemoryPool& pool, HeadPool* heads = nullptr,
                         std::size_t first_words = kFirstBytes / sizeof(capnp::word) - 1)
      : pool_(pool), heads_(heads), first_words_(std::min(first_words, kMaxSegmentWords)) {}

  kj::ArrayPtr<capnp::word> allocateSegment(kj::uint minimum_words) override {
    const bool first = segments_ == 0;
    const std::size_t growth = first ? first_words_ : first_words_ << (2 * std::min(segments_, 8));
    const std::size_t words = std::max<std::size_t>(minimum_words, std::min(growth, kMaxSegmentWords));
    const std::size_t bytes = kSegmentTableBytes + words * sizeof(capnp::word);
    Buffer buffer =
        first && heads_ && bytes <= heads_->max_bytes() ? heads_->acquire(bytes) : pool_.allocate(bytes);
    std::memset(buffer.data(), 0, bytes);
    auto* data = reinterpret_cast<capnp::word*>(buffer.data() + kSegmentTableBytes);
    if (first)
      first_ = std::move(buffer);
    else
      more_.push_back(std::move(buffer));
    ++segments_;
    return kj::arrayPtr(data, words);
  }

  /// Size of what flat() would give.
  std::size_t flat_bytes() {
    const auto segments = getSegmentsForOutput();
    if (segments.size() == 1) return kSegmentTableBytes + segments[0].size() * sizeof(capnp::word);
    return capnp::computeSerializedSizeInWords(segments) * sizeof(capnp::word);
  }

  /// The message in the standard stream framing. Copies only if it has several segments.
  Buffer flat() {
    auto segments = getSegmentsForOutput();
    if (segments.size() == 1) {
      const auto words = static_cast<std::uint32_t>(segments[0].size());
      const std::uint32_t table[2] = {0, words};
      std::memcpy(first_.data(), table, sizeof(table));
      return first_.slice(0, kSegmentTableBytes + words * sizeof(capnp::word));
    }
    auto words = capnp::messageToFlatArray(segments);
    auto bytes = words.asBytes();
    Buffer buffer = pool_.allocate(bytes.size());
    std::memcpy(buffer.data(), bytes.begin(), bytes.size());
    return buffer;
  }

 private:
  static constexpr std::size_t kMaxSegmentWords = (std::size_t{1} << 29) - 1;  // capnp's bound
  MemoryPool& pool_;
  HeadPool* heads_;
  std::size_t first_words_;
  Buffer first_;
  std::vector<Buffer> more_;
  int segments_ = 0;
};

/// Sizes as capnp takes them; too large ones are thrown, to be caught by attempt_to_write().
inline unsigned blob_size(std::size_t bytes) {
  KJ_REQUIRE(bytes < (std::size_t{1} << 29) - 2, "a string or vector is too long for a message", bytes);
  return static_cast<unsigned>(bytes);
}
inline unsigned list_size(std::size_t count) {
  KJ_REQUIRE(count < (std::size_t{1} << 29) / 4, "a list is too long for a message", count);
  return static_cast<unsigned>(count);
}

/// Runs `write`, which fills a message; why it could not, if so.
template <class F>
std::optional<Error> attempt_to_write(F&& write) {
  try {
    write();
    return std::nullopt;
  } catch (const kj::Exception& exception) {
    return Error{Code::kInvalidArgument, "a value does not fit in a message (send it as a tensor): " +
                                             std::string(exception.getDescription().cStr())};
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted, "no memory for a message"};
  }
}

/// Fills a Text that was just initialised with text.size().
inline void copy_text(capnp::Text::Builder out, std::string_view text) {
  if (!text.empty()) std::memcpy(out.begin(), text.data(), text.size());
}
inline void copy_data(capnp::Data::Builder out, std::span<const std::byte> data) {
  if (!data.empty()) std::memcpy(out.begin(), data.data(), data.size());
}
inline std::span<const std::byte> bytes_of(capnp::Data::Reader data) {
  return {reinterpret_cast<const std::byte*>(data.begin()), data.size()};
}
inline std::string_view to_view(capnp::Text::Reader text) {
  return {text.begin(), text.size()};
}

/// Options for reading `bytes` of untrusted message: a reader may follow each word a few times, no
/// more, so that aliased pointers cannot make a small message into endless work.
inline capnp::ReaderOptions reader_options(std::size_t bytes) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 1024 + 16 * (bytes / sizeof(capnp::word));
  options.nestingLimit = 64;
  return options;
}

/// The item at `index`, an empty one if the message is malformed there.
template <class List>
auto read_item(const List& list, std::uint32_t index) -> decltype(list[index]) {
  try {
    return list[index];
  } catch (const kj::Exception&) {
    return {};
  }
}

/// What an exception of Cap'n Proto's says, in one line.
inline std::string describe(const kj::Exception& exception) {
  return std::string(exception.getDescription().cStr());
}

/// Builds a Control message with `write(control)` and sends it.
template <class F>
void send_control(Transport& transport, LinkId link, F&& write) {
  capnp::MallocMessageBuilder builder;
  write(builder.initRoot<wire::Control>());
  auto words = capnp::messageToFlatArray(builder);
  auto bytes = words.asBytes();
  transport.send_control(link, {reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()});
}

void write_error(wire::ErrorInfo::Builder out, const Error& error);
Error read_error(wire::ErrorInfo::Reader in);

}  // namespace troupe::rpc
