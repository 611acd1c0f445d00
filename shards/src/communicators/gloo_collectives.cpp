// Each collective: what can be seen to be wrong at once, and what travels. Everything goes straight from
// member to member, all at once. A reduction is cut into a part for each member, who combines it in the order
// of the ranks, so that all have the same bits; what is short goes to everybody whole, which is one way less.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "communicators/gloo_communicator.hpp"

namespace troupe::shards {
namespace {

enum What : std::uint32_t {
  kAllReduce,
  kReduce,
  kBroadcast,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kBarrier
};

Error invalid(std::string text) {
  return {Code::kInvalidArgument, std::move(text)};
}

std::string described(const char* name, const Tensor& tensor) {
  return std::string(name) + " of " + tensor.to_string();
}

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

Error no_such_reduction(DType dtype, ReduceOp op) {
  return invalid("there is no " + std::string(to_string(op)) + " of " + std::string(to_string(dtype)) +
                 " elements");
}

/// FNV-1a, 64 bits.
std::uint64_t hash_of(const std::vector<std::int64_t>& counts) {
  std::uint64_t hash = 14695981039346656037U;
  for (const std::int64_t count : counts) hash = (hash ^ static_cast<std::uint64_t>(count)) * 1099511628211U;
  return hash;
}

/// One count a member, none below zero, and no more elements together than a tensor can have.
std::optional<Error> fault_of_counts(const std::vector<std::int64_t>& counts, int members, std::int64_t sum) {
  if (counts.size() != static_cast<std::size_t>(members))
    return invalid(std::to_string(counts.size()) + " counts for " + std::to_string(members) + " members");
  std::int64_t rest = sum;
  for (const std::int64_t count : counts) {
    if (count < 0 || count > rest)
      return invalid("the counts do not add up to the tensor's " + std::to_string(sum));
    rest -= count;
  }
  if (rest == 0) return {};
  return invalid("the counts do not add up to the tensor's " + std::to_string(sum));
}

}  // namespace

std::optional<Error> GlooCommunicator::fault_of(const Tensor& tensor, const char* what) const {
  std::string why;
  if (tensor.device().kind == MemoryKind::kDevice) why = "is not in host memory";
  if (!tensor.is_contiguous()) why = "is not contiguous";
  if (why.empty()) return {};
  return invalid(options_.name + ": " + described(what, tensor) + ": it " + why);
}

std::optional<Error> GlooCommunicator::fault_of_rank(int rank) const {
  if (rank >= 0 && rank < size()) return {};
  return invalid(options_.name + ": there is no member " + std::to_string(rank) + " among " +
                 std::to_string(size()));
}

namespace {

std::optional<Error> fault_of_output(const Tensor& tensor) {
  if (!tensor.read_only()) return {};
  return invalid("a tensor that is read-only cannot be written");
}

/// What is filled must not be what is still to be sent, unless it is `own`, a part that goes nowhere.
std::optional<Error> fault_of_overlap(const Tensor& in, const Tensor& out, bool own) {
  const std::byte* const begin = std::max(in.data(), out.data(), std::less<>());
  const std::byte* const end = std::min(in.data() + in.bytes(), out.data() + out.bytes(), std::less<>());
  if (own || in.bytes() == 0 || out.bytes() == 0 || !std::less<>()(begin, end)) return {};
  return invalid("what is filled, " + out.to_string() + ", overlaps what is sent, " + in.to_string());
}

template <class... Faults>
std::optional<Error> first_of(Faults... faults) {
  std::optional<Error> first;
  ((first = first ? std::move(first) : std::move(faults)), ...);
  return first;
}

}  // namespace

Work GlooCommunicator::all_reduce(Tensor tensor, ReduceOp op) {
  if (auto fault = first_of(fault_of(tensor, "all_reduce"), fault_of_output(tensor)))
    return ended_work(*fault);
  const Combine combine = combine_of(tensor.dtype(), op);
  if (combine == nullptr) return ended_work(no_such_reduction(tensor.dtype(), op));
  Job job;
  job.call = Call{0,
                  kAllReduce,
                  static_cast<std::uint32_t>(op),
                  static_cast<std::uint32_t>(tensor.dtype()),
                  0,
                  static_cast<std::uint64_t>(tensor.elements())};
  job.text = described("all_reduce", tensor);
  job.run = [this, tensor, combine, op] { return run_all_reduce(tensor, combine, op); };
  return begin(std::move(job));
}

Work GlooCommunicator::reduce(Tensor tensor, ReduceOp op, int root) {
  if (auto fault = first_of(fault_of(tensor, "reduce"), fault_of_rank(root))) return ended_work(*fault);
  if (root == rank())
    if (auto fault = fault_of_output(tensor)) return ended_work(*fault);
  const Combine combine = combine_of(tensor.dtype(), op);
  if (combine == nullptr) return ended_work(no_such_reduction(tensor.dtype(), op));
  Job job;
  job.call = Call{0,
                  kReduce,
                  static_cast<std::uint32_t>(op),
                  static_cast<std::uint32_t>(tensor.dtype()),
                  root,
                  static_cast<std::uint64_t>(tensor.elements())};
  job.text = described("reduce", tensor);
  job.run = [this, tensor, combine, op, root] { return run_reduce(tensor, combine, op, root); };
  return begin(std::move(job));
}

Work GlooCommunicator::broadcast(Tensor tensor, int root) {
  if (auto fault = first_of(fault_of(tensor, "broadcast"), fault_of_rank(root))) return ended_work(*fault);
  if (root != rank())
    if (auto fault = fault_of_output(tensor)) return ended_work(*fault);
  Job job;
  job.call = Call{0,    kBroadcast,
                  0,    static_cast<std::uint32_t>(tensor.dtype()),
                  root, static_cast<std::uint64_t>(tensor.elements())};
  job.text = described("broadcast", tensor);
  job.run = [this, tensor, root] { return run_broadcast(tensor, root); };
  return begin(std::move(job));
}

Work GlooCommunicator::all_gather(Tensor in, Tensor out) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size()), in.elements());
  return all_gather(std::move(in), std::move(out), std::move(counts));
}

Work GlooCommunicator::all_gather(Tensor in, Tensor out, std::vector<std::int64_t> counts) {
  if (auto fault = first_of(fault_of(in, "all_gather"), fault_of(out, "all_gather"), fault_of_output(out),
                            fault_of_counts(counts, size(), out.elements())))
    return ended_work(*fault);
  if (in.dtype() != out.dtype() || counts[static_cast<std::size_t>(rank())] != in.elements())
    return ended_work(invalid(options_.name + ": all_gather of " + in.to_string() + " into " +
                              out.to_string() + ": this member's part has " +
                              std::to_string(counts[static_cast<std::size_t>(rank())]) + " elements"));
  std::int64_t before = 0;
  for (int i = 0; i < rank(); ++i) before += counts[static_cast<std::size_t>(i)];
  const std::byte* const place = out.data() + static_cast<std::size_t>(before) * size_of(out.dtype());
  if (auto fault = fault_of_overlap(in, out, in.data() == place)) return ended_work(*fault);
  Job job;
  job.call = Call{0,
                  kAllGather,
                  0,
                  static_cast<std::uint32_t>(in.dtype()),
                  0,
                  static_cast<std::uint64_t>(out.elements()),
                  hash_of(counts)};
  job.text = described("all_gather", in);
  job.run = [this, in, out, counts = std::move(counts)]() -> Result<void> {
    const std::size_t width = size_of(in.dtype());
    const std::vector<Part> takes = parts_of(counts, width);
    std::vector<Part> sends;  // the same to all
    for (int i = 0; i < size(); ++i)
      if (i != rank()) sends.push_back({i, 0, in.bytes()});
    const Part& own = takes[static_cast<std::size_t>(rank())];
    if (own.bytes != 0 && out.data() + own.at != in.data())
      std::memmove(out.data() + own.at, in.data(), own.bytes);
    mesh_->exchange(slot(0), bytes_of(in), sends, bytes_of(out), others(takes));
    return {};
  };
  return begin(std::move(job));
}

Work GlooCommunicator::reduce_scatter(Tensor in, Tensor out, ReduceOp op) {
  if (auto fault =
          first_of(fault_of(in, "reduce_scatter"), fault_of(out, "reduce_scatter"), fault_of_output(out)))
    return ended_work(*fault);
  const Combine combine = combine_of(in.dtype(), op);
  if (combine == nullptr) return ended_work(no_such_reduction(in.dtype(), op));
  if (in.dtype() != out.dtype() || in.elements() % size() != 0 || in.elements() / size() != out.elements())
    return ended_work(invalid(options_.name + ": reduce_scatter of " + in.to_string() + " into " +
                              out.to_string() + ": it must have " + std::to_string(size()) +
                              " times its elements, of the same type"));
  const std::byte* const place = in.data() + static_cast<std::size_t>(rank()) * out.bytes();
  if (auto fault = fault_of_overlap(in, out, out.data() == place)) return ended_work(*fault);
  Job job;
  job.call = Call{0,
                  kReduceScatter,
                  static_cast<std::uint32_t>(op),
                  static_cast<std::uint32_t>(in.dtype()),
                  0,
                  static_cast<std::uint64_t>(in.elements())};
  job.text = described("reduce_scatter", in);
  job.run = [this, in, out, combine, op]() -> Result<void> {
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(size()), out.elements());
    combine_part(in, parts_of(counts, size_of(in.dtype())), combine, op, out.data());
    return {};
  };
  return begin(std::move(job));
}

Work GlooCommunicator::all_to_all(Tensor in, std::vector<std::int64_t> in_counts, Tensor out,
                                  std::vector<std::int64_t> out_counts) {
  if (auto fault = first_of(fault_of(in, "all_to_all"), fault_of(out, "all_to_all"), fault_of_output(out),
                            fault_of_counts(in_counts, size(), in.elements()),
                            fault_of_counts(out_counts, size(), out.elements())))
    return ended_work(*fault);
  const auto own = static_cast<std::size_t>(rank());
  if (in.dtype() != out.dtype() || in_counts[own] != out_counts[own])
    return ended_work(invalid(options_.name + ": all_to_all of " + in.to_string() + " into " +
                              out.to_string() + ": types, or what goes to this member itself, differ"));
  if (auto fault = fault_of_overlap(in, out, false)) return ended_work(*fault);
  Job job;
  job.call = Call{0, kAllToAll, 0, static_cast<std::uint32_t>(in.dtype())};
  job.sends = in_counts;
  job.takes = out_counts;
  job.text = described("all_to_all", in);
  job.run = [this, in, out, in_counts = std::move(in_counts),
             out_counts = std::move(out_counts)]() -> Result<void> {
    const std::vector<Part> sends = parts_of(in_counts, size_of(in.dtype()));
    const std::vector<Part> takes = parts_of(out_counts, size_of(out.dtype()));
    const Part& from = sends[static_cast<std::size_t>(rank())];
    const Part& to = takes[static_cast<std::size_t>(rank())];
    if (from.bytes != 0) std::memmove(out.data() + to.at, in.data() + from.at, from.bytes);
    mesh_->exchange(slot(0), bytes_of(in), others(sends), bytes_of(out), others(takes));
    return {};
  };
  return begin(std::move(job));
}

Work GlooCommunicator::transfer(std::vector<Transfer> transfers) {
  for (const Transfer& each : transfers) {
    const bool receives = each.kind == Transfer::Kind::kReceive;
    if (auto fault = first_of(fault_of(each.tensor, "transfer"), fault_of_rank(each.member),
                              receives ? fault_of_output(each.tensor) : std::optional<Error>()))
      return ended_work(*fault);
    if (each.member == rank())
      return ended_work(invalid(options_.name + ": a transfer between a member and itself"));
  }
  Job job;
  job.text = std::to_string(transfers.size()) + " transfers";
  job.run = [this, transfers = std::move(transfers)] { return run_transfers(transfers); };
  return begin(std::move(job));
}

Work GlooCommunicator::barrier() {
  Job job;
  job.call = Call{0, kBarrier};
  job.text = "barrier";
  job.run = [this]() -> Result<void> {
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
  };
  return begin(std::move(job));
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
