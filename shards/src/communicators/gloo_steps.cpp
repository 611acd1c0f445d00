// What travels in collectives of more than one step, and in transfers.
#include <algorithm>
#include <cstring>
#include <utility>

#include "communicators/gloo_communicator.hpp"

namespace troupe::shards {
namespace {

using Part = GlooMesh::Part;

constexpr std::size_t kShort = 8192;  // bytes

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
                                    ReduceOp op, std::byte* out) {
  const Part own = parts[static_cast<std::size_t>(rank())];
  const std::size_t n = own.bytes / size_of(tensor.dtype());
  // The others' versions of this member's part, each in its place by rank.
  const Tensor versions = Tensor::empty(tensor.dtype(), Shape{static_cast<std::int64_t>(n) * size()});
  std::vector<Part> takes;
  for (int i = 0; i < size(); ++i)
    if (i != rank()) takes.push_back({i, static_cast<std::size_t>(i) * own.bytes, own.bytes});
  mesh_->exchange(slot(0), bytes_of(tensor), others(parts), bytes_of(versions), takes);
  if (n == 0) return;
  const auto version = [&](int i) {
    return i == rank() ? tensor.data() + own.at : versions.data() + static_cast<std::size_t>(i) * own.bytes;
  };
  // The sum so far lies in `out`, unless that is this member's version, which is still to come.
  std::byte* sum = version(0);
  for (int i = 1; i < size(); ++i) {
    std::byte* const to = i < rank() ? versions.data() : out;
    combine(to, sum, version(i), n);
    sum = to;
  }
  if (sum != out) std::memmove(out, sum, own.bytes);
  if (op == ReduceOp::kMean) divide(tensor.dtype(), out, n, size());
}

Result<void> GlooCommunicator::run_all_reduce(const Tensor& tensor, Combine combine, ReduceOp op) {
  if (tensor.bytes() <= kShort) {
    const std::vector<Part> whole(static_cast<std::size_t>(size()), Part{rank(), 0, tensor.bytes()});
    std::vector<Part> parts = whole;
    for (int i = 0; i < size(); ++i) parts[static_cast<std::size_t>(i)].member = i;
    combine_part(tensor, parts, combine, op, tensor.data());
    return {};
  }
  const std::vector<Part> parts = shared_out(tensor, size());
  const Part own = parts[static_cast<std::size_t>(rank())];
  combine_part(tensor, parts, combine, op, tensor.data() + own.at);
  std::vector<Part> sends;
  for (int i = 0; i < size(); ++i)
    if (i != rank()) sends.push_back({i, own.at, own.bytes});
  mesh_->exchange(slot(1), bytes_of(tensor), sends, bytes_of(tensor), others(parts));
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
  const bool is_short = tensor.bytes() <= kShort;
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

Result<void> GlooCommunicator::run_transfers(const std::vector<Transfer>& transfers) {
  using Move = GlooMesh::Move;
  const auto is_send = [](const Transfer& each) { return each.kind == Transfer::Kind::kSend; };
  if (options_.check_calls) {
    struct Header {
      std::uint64_t bytes = 0;
      std::uint64_t dtype = 0;
    };
    std::vector<Header> headers(transfers.size());
    std::vector<Move> sends;
    std::vector<Move> takes;
    for (std::size_t i = 0; i < transfers.size(); ++i) {
      const Transfer& each = transfers[i];
      if (is_send(each)) headers[i] = {each.tensor.bytes(), static_cast<std::uint64_t>(each.tensor.dtype())};
      (is_send(each) ? sends : takes)
          .push_back({each.member, own_slot(8, each.tag), std::as_writable_bytes(std::span(&headers[i], 1))});
    }
    mesh_->exchange(sends, takes);
    for (std::size_t i = 0; i < transfers.size(); ++i) {
      const Transfer& each = transfers[i];
      if (is_send(each) || (headers[i].bytes == each.tensor.bytes() &&
                            headers[i].dtype == static_cast<std::uint64_t>(each.tensor.dtype())))
        continue;
      return Error{Code::kInvalidArgument, options_.name + ": member " + std::to_string(each.member) +
                                               " sends " + std::to_string(headers[i].bytes) +
                                               " bytes of type " + std::to_string(headers[i].dtype) +
                                               " where member " + std::to_string(rank()) + " expects " +
                                               each.tensor.to_string()};
    }
  }
  std::vector<Move> sends;
  std::vector<Move> takes;
  for (const Transfer& each : transfers)
    (is_send(each) ? sends : takes).push_back({each.member, own_slot(9, each.tag), bytes_of(each.tensor)});
  mesh_->exchange(sends, takes);
  return {};
}

}  // namespace troupe::shards
