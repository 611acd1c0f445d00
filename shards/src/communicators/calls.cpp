// What can be seen to be wrong with a collective at once, and what the members tell each other of it.
#include "communicators/calls.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "communicators/reduction.hpp"

namespace troupe::shards {
namespace {

Error invalid(std::string text) {
  return {Code::kInvalidArgument, std::move(text)};
}

std::string described(const char* name, const Tensor& tensor) {
  return std::string(name) + " of " + tensor.to_string();
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

Call call_of(What what, const Tensor& tensor) {
  Call call;
  call.what = what;
  call.dtype = static_cast<std::uint32_t>(tensor.dtype());
  call.elements = static_cast<std::uint64_t>(tensor.elements());
  return call;
}

DescribedCall reduction(What what, const Tensor& tensor, ReduceOp op, int root = 0) {
  DescribedCall made;
  made.call = call_of(what, tensor);
  made.call->op = static_cast<std::uint32_t>(op);
  made.call->root = root;
  made.text = described(kCallNames[what], tensor);
  return made;
}

}  // namespace

std::optional<Error> CallRules::fault_of(const Tensor& tensor, const char* what) const {
  std::string why;
  if (gpu_ && tensor.device() != *gpu_) why = "is not in memory of GPU " + std::to_string(gpu_->ordinal);
  if (!gpu_ && tensor.device().kind == MemoryKind::kDevice) why = "is not in host memory";
  if (!tensor.is_contiguous()) why = "is not contiguous";
  if (why.empty()) return {};
  return invalid(name_ + ": " + described(what, tensor) + ": it " + why);
}

std::optional<Error> CallRules::fault_of_rank(int rank) const {
  if (rank >= 0 && rank < size_) return {};
  return invalid(name_ + ": there is no member " + std::to_string(rank) + " among " + std::to_string(size_));
}

Result<DescribedCall> CallRules::all_reduce(const Tensor& tensor, ReduceOp op) const {
  if (auto fault = first_of(fault_of(tensor, "all_reduce"), fault_of_output(tensor))) return *fault;
  if (combine_of(tensor.dtype(), op) == nullptr) return no_such_reduction(tensor.dtype(), op);
  return reduction(kAllReduce, tensor, op);
}

Result<DescribedCall> CallRules::reduce(const Tensor& tensor, ReduceOp op, int root) const {
  if (auto fault = first_of(fault_of(tensor, "reduce"), fault_of_rank(root))) return *fault;
  if (root == rank_)
    if (auto fault = fault_of_output(tensor)) return *fault;
  if (combine_of(tensor.dtype(), op) == nullptr) return no_such_reduction(tensor.dtype(), op);
  return reduction(kReduce, tensor, op, root);
}

Result<DescribedCall> CallRules::broadcast(const Tensor& tensor, int root) const {
  if (auto fault = first_of(fault_of(tensor, "broadcast"), fault_of_rank(root))) return *fault;
  if (root != rank_)
    if (auto fault = fault_of_output(tensor)) return *fault;
  DescribedCall made;
  made.call = call_of(kBroadcast, tensor);
  made.call->root = root;
  made.text = described("broadcast", tensor);
  return made;
}

Result<DescribedCall> CallRules::all_gather(const Tensor& in, const Tensor& out,
                                            const std::vector<std::int64_t>& counts) const {
  if (auto fault = first_of(fault_of(in, "all_gather"), fault_of(out, "all_gather"), fault_of_output(out),
                            fault_of_counts(counts, size_, out.elements())))
    return *fault;
  const std::int64_t own = counts[static_cast<std::size_t>(rank_)];
  if (in.dtype() != out.dtype() || own != in.elements())
    return invalid(name_ + ": all_gather of " + in.to_string() + " into " + out.to_string() +
                   ": this member's part has " + std::to_string(own) + " elements");
  std::int64_t before = 0;
  for (int i = 0; i < rank_; ++i) before += counts[static_cast<std::size_t>(i)];
  const std::byte* const place = out.data() + static_cast<std::size_t>(before) * size_of(out.dtype());
  if (auto fault = fault_of_overlap(in, out, in.data() == place)) return *fault;
  DescribedCall made;
  made.call = call_of(kAllGather, out);
  made.call->counts = hash_of(counts);
  made.text = described("all_gather", in);
  return made;
}

Result<DescribedCall> CallRules::reduce_scatter(const Tensor& in, const Tensor& out, ReduceOp op) const {
  if (auto fault =
          first_of(fault_of(in, "reduce_scatter"), fault_of(out, "reduce_scatter"), fault_of_output(out)))
    return *fault;
  if (combine_of(in.dtype(), op) == nullptr) return no_such_reduction(in.dtype(), op);
  if (in.dtype() != out.dtype() || in.elements() % size_ != 0 || in.elements() / size_ != out.elements())
    return invalid(name_ + ": reduce_scatter of " + in.to_string() + " into " + out.to_string() +
                   ": it must have " + std::to_string(size_) + " times its elements, of the same type");
  const std::byte* const place = in.data() + static_cast<std::size_t>(rank_) * out.bytes();
  if (auto fault = fault_of_overlap(in, out, out.data() == place)) return *fault;
  return reduction(kReduceScatter, in, op);
}

Result<DescribedCall> CallRules::all_to_all(const Tensor& in, const std::vector<std::int64_t>& in_counts,
                                            const Tensor& out,
                                            const std::vector<std::int64_t>& out_counts) const {
  if (auto fault = first_of(fault_of(in, "all_to_all"), fault_of(out, "all_to_all"), fault_of_output(out),
                            fault_of_counts(in_counts, size_, in.elements()),
                            fault_of_counts(out_counts, size_, out.elements())))
    return *fault;
  const auto own = static_cast<std::size_t>(rank_);
  if (in.dtype() != out.dtype() || in_counts[own] != out_counts[own])
    return invalid(name_ + ": all_to_all of " + in.to_string() + " into " + out.to_string() +
                   ": types, or what goes to this member itself, differ");
  if (auto fault = fault_of_overlap(in, out, false)) return *fault;
  DescribedCall made;
  made.call = call_of(kAllToAll, in);
  made.call->elements = 0;  // not the same at all
  made.sends = in_counts;
  made.takes = out_counts;
  made.text = described("all_to_all", in);
  return made;
}

Result<DescribedCall> CallRules::transfer(const std::vector<Transfer>& transfers) const {
  for (const Transfer& each : transfers) {
    const bool receives = each.kind == Transfer::Kind::kReceive;
    if (auto fault = first_of(fault_of(each.tensor, "transfer"), fault_of_rank(each.member),
                              receives ? fault_of_output(each.tensor) : std::optional<Error>()))
      return *fault;
    if (each.member == rank_) return invalid(name_ + ": a transfer between a member and itself");
  }
  DescribedCall made;
  made.text = std::to_string(transfers.size()) + " transfers";
  return made;
}

DescribedCall CallRules::barrier() const {
  DescribedCall made;
  made.call = Call{0, kBarrier};
  made.text = "barrier";
  return made;
}

std::optional<Error> fault_of(const CommunicatorOptions& options) {
  constexpr int kMostMembers = 4096;
  if (options.size < 1 || options.size > kMostMembers || options.rank < 0 || options.rank >= options.size)
    return invalid(options.name + ": rank " + std::to_string(options.rank) + " of " +
                   std::to_string(options.size) + " members: ranks go from 0 on, and there are at most " +
                   std::to_string(kMostMembers));
  if (options.timeout <= Duration::zero() || options.max_waiting == 0)
    return invalid(options.name + ": timeout and max_waiting must be above 0");
  return {};
}

}  // namespace troupe::shards
