// Each collective: what travels. Everything goes straight from member to member, all at once. A reduction is
// cut into a part for each member, who combines it in the order of the ranks, so that all have the same bits;
// what is short goes to everybody whole, which is one way less.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "communicators/gloo_communicator.hpp"

namespace troupe::shards {
namespace {

using Part = GlooMesh::Part;

std::span<std::byte> bytes_of(const Tensor& tensor) {
  return {tensor.data(), tensor.bytes()};
}

/// Where each member's elements lie, one after the other.
std::vector<Part> parts_of(const std::vector<std::int64_t>& counts, std::size_t width) {
  std::vector<Part> parts;
  std::size_t at = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    parts.push_back({static_cast<int>(i), at, static_cast<std::size_t>(counts[i]) * width});
    at += parts.back().bytes;
  }
  return parts;
}

}  // namespace

Work GlooCommunicator::all_reduce(Tensor tensor, ReduceOp op) {
  return begin(rules_.all_reduce(tensor, op),
               [this, tensor, op] { return run_all_reduce(tensor, combine_of(tensor.dtype(), op), op); });
}

Work GlooCommunicator::reduce(Tensor tensor, ReduceOp op, int root) {
  return begin(rules_.reduce(tensor, op, root), [this, tensor, op, root] {
    return run_reduce(tensor, combine_of(tensor.dtype(), op), op, root);
  });
}

Work GlooCommunicator::broadcast(Tensor tensor, int root) {
  return begin(rules_.broadcast(tensor, root), [this, tensor, root] { return run_broadcast(tensor, root); });
}

Work GlooCommunicator::all_gather(Tensor in, Tensor out) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size()), in.elements());
  return all_gather(std::move(in), std::move(out), std::move(counts));
}

Work GlooCommunicator::all_gather(Tensor in, Tensor out, std::vector<std::int64_t> counts) {
  Result<DescribedCall> call = rules_.all_gather(in, out, counts);
  return begin(std::move(call), [this, in, out, counts = std::move(counts)]() -> Result<void> {
    const std::vector<Part> takes = parts_of(counts, size_of(in.dtype()));
    std::vector<Part> sends;  // the same to all
    for (int i = 0; i < size(); ++i)
      if (i != rank()) sends.push_back({i, 0, in.bytes()});
    const Part& own = takes[static_cast<std::size_t>(rank())];
    if (own.bytes != 0 && out.data() + own.at != in.data())
      std::memmove(out.data() + own.at, in.data(), own.bytes);
    mesh_->exchange(slot(0), bytes_of(in), sends, bytes_of(out), others(takes));
    return {};
  });
}

Work GlooCommunicator::reduce_scatter(Tensor in, Tensor out, ReduceOp op) {
  return begin(rules_.reduce_scatter(in, out, op), [this, in, out, op]() -> Result<void> {
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(size()), out.elements());
    combine_part(in, parts_of(counts, size_of(in.dtype())), combine_of(in.dtype(), op), op, out.data());
    return {};
  });
}

Work GlooCommunicator::all_to_all(Tensor in, std::vector<std::int64_t> in_counts, Tensor out,
                                  std::vector<std::int64_t> out_counts) {
  Result<DescribedCall> call = rules_.all_to_all(in, in_counts, out, out_counts);
  return begin(std::move(call),
               [this, in, out, in_counts = std::move(in_counts),
                out_counts = std::move(out_counts)]() -> Result<void> {
                 const std::vector<Part> sends = parts_of(in_counts, size_of(in.dtype()));
                 const std::vector<Part> takes = parts_of(out_counts, size_of(out.dtype()));
                 const Part& from = sends[static_cast<std::size_t>(rank())];
                 const Part& to = takes[static_cast<std::size_t>(rank())];
                 if (from.bytes != 0) std::memmove(out.data() + to.at, in.data() + from.at, from.bytes);
                 mesh_->exchange(slot(0), bytes_of(in), others(sends), bytes_of(out), others(takes));
                 return {};
               });
}

Work GlooCommunicator::transfer(std::vector<Transfer> transfers) {
  Result<DescribedCall> call = rules_.transfer(transfers);
  return begin(std::move(call),
               [this, transfers = std::move(transfers)] { return run_transfers(transfers); });
}

// They are done one after the other; the whole ends behind the last.
Work GlooCommunicator::group(UniqueFunction<void()> calls) {
  calls();
  DescribedCall all;
  all.text = "group";
  return begin(std::move(all), [] { return Result<void>(); });
}

Work GlooCommunicator::barrier() {
  return begin(rules_.barrier(), [this]() -> Result<void> {
    if (options_.check_calls) return {};  // all have said that they are there
    std::vector<std::byte> from(1);
    std::vector<std::byte> to(static_cast<std::size_t>(size()));
    std::vector<Part> sends;
    std::vector<Part> takes;
    for (int i = 0; i < size(); ++i) {
      if (i == rank()) continue;
      sends.push_back({i, 0, 1});
      takes.push_back({i, static_cast<std::size_t>(i), 1});
    }
    mesh_->exchange(slot(0), from, sends, to, takes);
    return {};
  });
}

Work GlooCommunicator::agree_on(DescribedCall call) {
  return begin(
      std::move(call), []() -> Result<void> { return {}; }, /*timed=*/false);
}

Work GlooCommunicator::agree_on(std::vector<Transfer> transfers) {
  Result<DescribedCall> call = DescribedCall{{}, {}, {}, std::to_string(transfers.size()) + " transfers"};
  return begin(
      std::move(call),
      [this, transfers = std::move(transfers)] { return check_transfers(transfers, /*by_tag=*/false); },
      /*timed=*/false);
}

Result<std::unique_ptr<Communicator>> GlooCommunicator::split(int color, int key) {
  const auto members = static_cast<std::size_t>(size());
  const Tensor all = Tensor::zeros(DType::kInt32, Shape{static_cast<std::int64_t>(2 * members)});
  if (Result<void> told = all_gather(Tensor::of<std::int32_t>({color, key}), all).wait(); !told)
    return told.error();
  const auto colors = all.as<const std::int32_t>();
  std::vector<std::size_t> group;  // ranks here, in the order of those there
  for (std::size_t i = 0; i < members; ++i)
    if (color >= 0 && colors[2 * i] == color) group.push_back(i);
  std::stable_sort(group.begin(), group.end(),
                   [&](std::size_t a, std::size_t b) { return colors[2 * a + 1] < colors[2 * b + 1]; });

  // Everybody takes part in the exchange, those who will be in no group as well.
  bool exchanged = false;
  const auto exchange = [&](const std::string& mine, Duration) -> Result<std::vector<std::string>> {
    exchanged = true;
    const Tensor lengths = Tensor::zeros(DType::kInt64, Shape{static_cast<std::int64_t>(members)});
    Result<void> told =
        all_gather(Tensor::of<std::int64_t>({static_cast<std::int64_t>(mine.size())}), lengths).wait();
    if (!told) return told.error();
    const auto counts = lengths.as<const std::int64_t>();
    const std::int64_t sum = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    constexpr std::int64_t kMostBytes = 1 << 30;
    if (*std::min_element(counts.begin(), counts.end()) < 0 || sum > kMostBytes)
      return Error{Code::kInternal, options_.name + ": addresses of " + std::to_string(sum) + " bytes"};
    const Tensor in = Tensor::of(std::span(reinterpret_cast<const std::uint8_t*>(mine.data()), mine.size()));
    const Tensor out = Tensor::zeros(DType::kUInt8, Shape{sum});
    told = all_gather(in, out, std::vector<std::int64_t>(counts.begin(), counts.end())).wait();
    if (!told) return told.error();
    std::vector<std::string> theirs;
    for (const std::size_t member : group) {
      const std::int64_t at = std::accumulate(
          counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(member), std::int64_t{0});
      theirs.emplace_back(reinterpret_cast<const char*>(out.data()) + at,
                          static_cast<std::size_t>(counts[member]));
    }
    return theirs;
  };
  if (color < 0) {
    const Result<std::vector<std::string>> done = exchange("", options_.timeout);
    if (!done) return done.error();
    return std::unique_ptr<Communicator>();
  }
  CommunicatorOptions options = options_;
  options.name += "/" + std::to_string(color);
  options.size = static_cast<int>(group.size());
  options.rank = static_cast<int>(std::find(group.begin(), group.end(), static_cast<std::size_t>(rank())) -
                                  group.begin());
  Result<std::unique_ptr<Communicator>> made = make_gloo_communicator(std::move(options), exchange);
  if (!exchanged) (void)exchange("", options_.timeout);  // without sockets; the others are not left waiting
  return made;
}

}  // namespace troupe::shards
