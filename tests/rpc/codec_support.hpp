#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/rpc/codec.hpp>
#include <troupe/rpc/message.hpp>

namespace troupe::rpc::testing {

constexpr std::size_t kMaxHead = 4096;

/// A message with `values` as its body, as it is sent.
template <class... T>
OutFrame frame_of(MemoryPool& pool, const T&... values) {
  OutMessage out(pool, {MessageKind::kRequest, 7, 8, 9, 10, Duration(11), {}});
  out.values(sizeof...(T));
  [[maybe_unused]] std::uint32_t i = 0;
  (Codec<T>::encode(out.value(i++), values), ...);
  return std::move(out.finish(kMaxHead)).value();
}

/// The same as it is received: its parts lie in memory that the receiver made.
inline std::unique_ptr<InMessage> receive(MemoryPool& pool, const OutFrame& frame) {
  std::size_t total = 0;
  for (const Buffer& part : frame.parts) total += part.size();
  std::vector<std::byte> bytes;
  for (const Buffer& part : frame.parts) bytes.insert(bytes.end(), part.bytes().begin(), part.bytes().end());
  std::vector<Buffer> parts;
  Buffer head = Buffer::copy_of(frame.head.bytes());
  std::unique_ptr<InMessage> begun;
  if (total > 0) {
    begun = std::move(InMessage::begin(head.bytes())).value();
    begun->allocate_parts(total, pool, parts).value();
  }
  const std::byte* from = bytes.data();
  for (Buffer& part : parts) {
    std::copy_n(from, part.size(), part.data());
    from += part.size();
  }
  return begun ? std::move(InMessage::finish(std::move(begun), std::move(head), std::move(parts))).value()
               : std::move(InMessage::parse(std::move(head), std::move(parts))).value();
}

template <class... T>
std::unique_ptr<InMessage> sent(const T&... values) {
  MemoryPool pool;
  return receive(pool, frame_of(pool, values...));
}

template <class T>
T round_trip(const T& value) {
  const auto message = sent(value);
  REQUIRE(message->value_count() == 1);
  T result{};
  REQUIRE(Codec<T>::decode(message->value(0), result));
  return result;
}

/// Whether a T can be read where a U was written.
template <class T, class U>
bool reads_as(const U& value) {
  T result{};
  return Codec<T>::decode(sent(value)->value(0), result);
}

}  // namespace troupe::rpc::testing
