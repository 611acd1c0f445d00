#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// How two sides of a link show each other that they know the shared secret without saying it: each
/// sends a fresh random number, and the HMAC-SHA-256 (RFC 2104, FIPS 180-4), under the secret, of its
/// role, both node ids and both numbers. Fresh numbers make a repeated proof worthless, the role one
/// that is sent back to its maker, the ids one that was made for another node.
inline constexpr std::size_t kNonceBytes = 32;
using Nonce = std::array<std::byte, kNonceBytes>;
using Proof = std::array<std::byte, 32>;

/// The only scheme of proof so far: the one above.
inline constexpr std::uint16_t kHmacSha256 = 1;
/// Shorter secrets could be guessed by a listener who was shown one proof.
inline constexpr std::size_t kMinSecretBytes = 16;

enum class MeetingRole : std::uint8_t { kDialling = 1, kListening = 2 };

/// What both sides have said on one link.
struct MeetingTerms {
  std::uint64_t dialling_node = 0, listening_node = 0;
  Nonce dialling_nonce{}, listening_nonce{};
};

/// From the operating system. kUnavailable: it has none to give.
Result<Nonce> make_nonce();
/// kInternal: the library has no memory.
Result<Proof> prove(std::string_view secret, MeetingRole who, const MeetingTerms& terms);
/// In a time that does not depend on where they differ.
bool same_proof(std::span<const std::byte> claimed, const Proof& expected);

}  // namespace troupe::rpc
