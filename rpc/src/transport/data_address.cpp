#include "transport/data_address.hpp"

#include <cstdint>
#include <cstring>

#include "control/link_table.hpp"
#include "control/proof.hpp"

namespace troupe::rpc {
namespace {

struct Header {
  std::uint64_t magic = 0;
  std::uint64_t checksum = 0;
};
struct Entry {
  WayId way{};
  std::uint16_t zero = 0;
  std::uint32_t bytes = 0;
};
static_assert(sizeof(Header) == 16 && sizeof(Entry) == 8);

// Stands for the layout, for that of what the ways offer, and for the settings of UCX on which both sides
// must agree (ucx/context.cpp).
constexpr std::uint64_t kMagic = 0x3153796157757254;  // "TruWayS1"

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

}  // namespace

DataAddressWriter::DataAddressWriter() : bytes_(sizeof(Header)) {}

void DataAddressWriter::add(WayId way, std::span<const std::byte> offer) {
  if (offer.empty()) return;
  const Entry entry{way, 0, static_cast<std::uint32_t>(offer.size())};
  const auto entry_bytes = std::as_bytes(std::span(&entry, 1));
  bytes_.insert(bytes_.end(), entry_bytes.begin(), entry_bytes.end());
  bytes_.insert(bytes_.end(), offer.begin(), offer.end());
}

std::vector<std::byte> DataAddressWriter::finish() {
  const Header header{kMagic, checksum_of(std::span(bytes_).subspan(sizeof(Header)))};
  std::memcpy(bytes_.data(), &header, sizeof header);
  return std::move(bytes_);
}

bool is_data_address(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  bytes = bytes.subspan(sizeof header);
  if (header.magic != kMagic || header.checksum != checksum_of(bytes)) return false;
  while (!bytes.empty()) {
    Entry entry;
    if (bytes.size() < sizeof entry) return false;
    std::memcpy(&entry, bytes.data(), sizeof entry);
    bytes = bytes.subspan(sizeof entry);
    if (entry.bytes == 0 || entry.bytes > bytes.size()) return false;
    bytes = bytes.subspan(entry.bytes);
  }
  return true;
}

std::span<const std::byte> offer_in(std::span<const std::byte> data_address, WayId way) {
  for (auto bytes = data_address.subspan(sizeof(Header)); !bytes.empty();) {
    Entry entry;
    std::memcpy(&entry, bytes.data(), sizeof entry);
    bytes = bytes.subspan(sizeof entry);
    if (entry.way == way) return bytes.first(entry.bytes);
    bytes = bytes.subspan(entry.bytes);
  }
  return {};
}

Result<Token> secret_token(LinkId link) {
  const auto random = make_nonce();
  if (!random) return random.error();
  constexpr std::uint64_t kSlot = LinkTable<LinkId>::kMaxLinks - 1;
  Token token{};
  static_assert(sizeof token <= sizeof *random);
  std::memcpy(&token, random->data(), sizeof token);
  token[0] = (token[0] & ~kSlot) | (link & kSlot);
  return token;
}

}  // namespace troupe::rpc
