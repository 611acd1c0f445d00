#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/result.hpp>

#include "schema/wire.capnp.h"

/// Control messages are written and read with Cap'n Proto's library; envelopes are not: see flat.hpp.
namespace troupe::rpc {

/// A code as it came from a peer.
inline Code code_from_wire(std::uint16_t number) {
  const bool known = number > 0 && number <= static_cast<std::uint16_t>(Code::kUnauthenticated);
  return known ? static_cast<Code>(number) : Code::kUnknown;
}

/// Bounds on the texts of control messages, in bytes; those of a refusal together fit in what a stranger may
/// be sent (1,024).
constexpr std::size_t kMostReason = 600;

/// The beginning of `text`, at most so many bytes, and no character of UTF-8 cut in two.
inline std::string_view clipped(std::string_view text, std::size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0U) == 0x80U) --most;
  return text.substr(0, most);
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
