#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/result.hpp>

#include "transport/data_way.hpp"

namespace troupe::rpc {

/// What the ways of one side of a link offer, one after the other, as Transport::data_address() gives it out:
/// a magic number, a checksum of all that follows (UCX trusts what it unpacks), then for each way its WayId,
/// the bytes of its offer (two and four bytes, after each two that are 0), and these.
class DataAddressWriter {
 public:
  DataAddressWriter();
  /// An empty offer is left out.
  void add(WayId way, std::span<const std::byte> offer);
  std::vector<std::byte> finish();

 private:
  std::vector<std::byte> bytes_;
};

/// Whether it is whole and well formed, so that offer_in() may be asked.
bool is_data_address(std::span<const std::byte> bytes);
/// Empty: there is none.
std::span<const std::byte> offer_in(std::span<const std::byte> data_address, WayId way);

/// Where to find the link, and bits that nobody can guess, because whoever finds a port of ours can send to
/// it. Only a peer that has met us properly is told.
Result<Token> secret_token(LinkId link);

}  // namespace troupe::rpc
