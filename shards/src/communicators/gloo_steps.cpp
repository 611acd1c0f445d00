// What travels in collectives of more than one step, and in transfers.
#include <algorithm>
#include <cstring>
#include <utility>

#include "communicators/gloo_communicator.hpp"

namespace troupe::shards {
namespace {

using Part = GlooMesh::Part;

constexpr std::size_t kShort = 8192;  // bytes

/// A part travels in segments, so that one is combined while the next is on its way.
std::size_t segment(const Part& part) {
  constexpr std::size_t kShortest = std::size_t{256} << 10;  // each costs wake-ups on both sides
  constexpr std::size_t kLongest = std::size_t{1} << 20;
  return std::clamp(part.bytes / 4 / 64 * 64, kShortest, kLongest);
}

std::span<std::byte> bytes_of(const Tensor& tensor) {
  return {tensor.data(), tensor.bytes()};
}

/// A part of the elements for each member, as equal as can be.
std::vector<Part> shared_out(const Tensor& tensor, int members) {
  const std::size_t width = size_of(tensor.dtype());
  const auto elements = static_cast<std::size_t>(tensor.elements());
  std::vector<Part> parts;
  std::size_t at = 0;
  for (int i = 0; i < members; ++i) {
    const auto of = static_cast<std::size_t>(members);
    const std::size_t count = elements / of + (static_cast<std::size_t>(i) < elements % of ? 1 : 0);
    parts.push_back({i, at, count * width});
    at += count * width;
  }
  return parts;
}

}  // namespace

std::vector<Part> GlooCommunicator::others(std::vector<Part> parts) const {
  std::erase_if(parts, [&](const Part& part) { return part.member == rank(); });
  return parts;
}

void GlooCommunicator::combine_part(const Tensor& tensor, const std::vector<Part>& parts, Combine combine,
                                    ReduceOp op, std::byte* out,
                                    const std::function<void(std::size_t at, std::size_t bytes)>& combined) {
  const Part own = parts[static_cast<std::size_t>(rank())];
  const std::size_t width = size_of(tensor.dtype());
  // The others' versions of this member's part, each in its place by rank.
  const std::span<std::byte> versions = scratch(own.bytes * static_cast<std::size_t>(size()));
  const auto version = [&](int i, std::size_t at) {
    return i == rank() ? tensor.data() + own.at + at
                       : versions.data() + static_cast<std::size_t>(i) * own.bytes + at;
  };
  GlooMesh::Exchange exchange(*mesh_, bytes_of(tensor), versions);
  for (std::size_t at = 0; at < own.bytes; at += segment(own))
    for (int i = 0; i < size(); ++i)
      if (i != rank())
        exchange.receive(slot(0), {i, static_cast<std::size_t>(i) * own.bytes + at,
                                   std::min(segment(own), own.bytes - at)});
  // Each segment of all before the next ones, so that all members have something to combine.
  bool more = true;
  for (std::size_t step = 0; more; ++step) {
    more = false;
    for (const Part& part : others(parts)) {
      const std::size_t at = step * segment(part);
      if (at >= part.bytes) continue;
      exchange.send(slot(0), {part.member, part.at + at, std::min(segment(part), part.bytes - at)});
      more = true;
    }
  }
  for (std::size_t at = 0; at < own.bytes;) {
    const std::size_t bytes = std::min(segment(own), own.bytes - at);
    for (int i = 0; i < size(); ++i)
      if (i != rank()) exchange.wait_received(i);
    // The sum so far lies in `out`, unless that is this member's version, which is still to come.
    const std::size_t n = bytes / width;
    std::byte* sum = version(0, at);
    for (int i = 1; i < size(); ++i) {
      std::byte* const to = i < rank() ? versions.data() + at : out + at;
      combine(to, sum, version(i, at), n);
      sum = to;
    }
    if (sum != out + at) std::memmove(out + at, sum, bytes);
    if (op == ReduceOp::kMean) divide(tensor.dtype(), out + at, n, size());
    if (combined) combined(at, bytes);
    at += bytes;
  }
  exchange.finish();
}

std::span<std::byte> GlooCommunicator::scratch(std::size_t bytes) {
  constexpr std::size_t kMostKept = std::size_t{256} << 20;
  if (scratch_.size() < bytes || scratch_.size() > kMostKept) scratch_ = Buffer::allocate(bytes);
  return {scratch_.data(), bytes};
}

Result<void> GlooCommunicator::run_all_reduce(const Tensor& tensor, Combine combine, ReduceOp op) {
  if (tensor.bytes() <= kShort) {
    std::vector<Part> parts(static_cast<std::size_t>(size()), Part{0, 0, tensor.bytes()});
    for (int i = 0; i < size(); ++i) parts[static_cast<std::size_t>(i)].member = i;
    // What goes to the others must not change before it has gone.
    const Tensor sum = Tensor::empty(tensor.dtype(), tensor.shape());
    combine_part(tensor, parts, combine, op, sum.data());
    if (tensor.bytes() != 0) std::memcpy(tensor.data(), sum.data(), tensor.bytes());
    return {};
  }
  const std::vector<Part> parts = shared_out(tensor, size());
  const Part own = parts[static_cast<std::size_t>(rank())];
  // A member's combined segment comes after it has had this member's version of it: so it may be written
  // there.
  GlooMesh::Exchange gather(*mesh_, bytes_of(tensor), bytes_of(tensor));
  for (const Part& part : others(parts))
    for (std::size_t at = 0; at < part.bytes; at += segment(part))
      gather.receive(slot(1), {part.member, part.at + at, std::min(segment(part), part.bytes - at)});
  combine_part(tensor, parts, combine, op, tensor.data() + own.at, [&](std::size_t at, std::size_t bytes) {
    for (int i = 0; i < size(); ++i)
      if (i != rank()) gather.send(slot(1), {i, own.at + at, bytes});
  });
  gather.finish();
  return {};
}

Result<void> GlooCommunicator::run_reduce(const Tensor& tensor, Combine combine, ReduceOp op, int root) {
  // The parts are combined in memory of their own: only the root's tensor changes.
  const std::vector<Part> parts = shared_out(tensor, size());
  const Part own = parts[static_cast<std::size_t>(rank())];
  const Tensor combined = Tensor::empty(DType::kUInt8, Shape{static_cast<std::int64_t>(own.bytes)});
  combine_part(tensor, parts, combine, op, combined.data());
  if (rank() != root) {
    const Part send{root, 0, own.bytes};
    mesh_->exchange(slot(1), bytes_of(combined), std::span(&send, 1), {}, {});
    return {};
  }
  if (own.bytes != 0) std::memcpy(tensor.data() + own.at, combined.data(), own.bytes);
  mesh_->exchange(slot(1), {}, {}, bytes_of(tensor), others(parts));
  return {};
}

Result<void> GlooCommunicator::run_broadcast(const Tensor& tensor, int root) {
  const bool is_short = tensor.bytes() <= kShort || size() == 2;
  std::vector<Part> parts = shared_out(tensor, size());
  if (is_short)
    for (Part& part : parts) part = {part.member, 0, tensor.bytes()};
  const Part own = parts[static_cast<std::size_t>(rank())];
  if (rank() == root) {
    mesh_->exchange(slot(0), bytes_of(tensor), others(parts), {}, {});
    if (is_short) return {};
    // The root's own part.
    std::vector<Part> sends;
    for (int i = 0; i < size(); ++i)
      if (i != rank()) sends.push_back({i, own.at, own.bytes});
    mesh_->exchange(slot(1), bytes_of(tensor), sends, {}, {});
    return {};
  }
  const Part from_root{root, own.at, own.bytes};
  mesh_->exchange(slot(0), {}, {}, bytes_of(tensor), std::span(&from_root, 1));
  if (is_short) return {};
  std::vector<Part> sends;
  for (int i = 0; i < size(); ++i)
    if (i != rank() && i != root) sends.push_back({i, own.at, own.bytes});
  mesh_->exchange(slot(1), bytes_of(tensor), sends, bytes_of(tensor), others(parts));
  return {};
}

Result<void> GlooCommunicator::check_transfers(const std::vector<Transfer>& transfers, bool by_tag) {
  struct Header {
    std::uint64_t bytes = 0;
    std::uint32_t dtype = 0;
    std::uint32_t tag = 0;
  };
  const auto header_of = [](const Transfer& each) {
    return Header{each.tensor.bytes(), static_cast<std::uint32_t>(each.tensor.dtype()), each.tag};
  };
  std::vector<Header> headers(transfers.size());
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(headers));
  GlooMesh::Exchange exchange(*mesh_, bytes, bytes);
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    const Transfer& each = transfers[i];
    const Part part{each.member, i * sizeof(Header), sizeof(Header)};
    const std::uint64_t slot = own_slot(8, by_tag ? each.tag : 0);
    if (each.kind == Transfer::Kind::kReceive) {
      exchange.receive(slot, part);
      continue;
    }
    headers[i] = header_of(each);
    exchange.send(slot, part);
  }
  exchange.finish();
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    const Transfer& each = transfers[i];
    const Header& theirs = headers[i];
    const Header mine = header_of(each);
    if (theirs.bytes == mine.bytes && theirs.dtype == mine.dtype && theirs.tag == mine.tag) continue;
    return Error{Code::kInvalidArgument,
                 options_.name + ": member " + std::to_string(each.member) + " sends " +
                     std::to_string(theirs.bytes) + " bytes of type " + std::to_string(theirs.dtype) +
                     ", tag " + std::to_string(theirs.tag) + ", where member " + std::to_string(rank()) +
                     " expects " + each.tensor.to_string() + ", tag " + std::to_string(each.tag)};
  }
  return {};
}

Result<void> GlooCommunicator::run_transfers(const std::vector<Transfer>& transfers) {
  const auto is_send = [](const Transfer& each) { return each.kind == Transfer::Kind::kSend; };
  if (options_.check_calls)
    if (Result<void> checked = check_transfers(transfers, /*by_tag=*/true); !checked) return checked;
  std::vector<std::unique_ptr<GlooMesh::Exchange>> exchanges;
  for (const Transfer& each : transfers) {
    const Part part{each.member, 0, each.tensor.bytes()};
    exchanges.push_back(
        std::make_unique<GlooMesh::Exchange>(*mesh_, bytes_of(each.tensor), bytes_of(each.tensor)));
    if (is_send(each))
      exchanges.back()->send(own_slot(9, each.tag), part);
    else
      exchanges.back()->receive(own_slot(9, each.tag), part);
  }
  for (const auto& exchange : exchanges) exchange->finish();
  return {};
}

}  // namespace troupe::shards
