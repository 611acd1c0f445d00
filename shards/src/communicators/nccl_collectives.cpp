// Each collective: what NCCL is asked to do. What is only moved goes as bytes, whatever its type.
#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "communicators/nccl_communicator.hpp"

namespace troupe::shards {
namespace {

std::size_t elements_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.elements());
}

/// What `each` gives for the parts, in one group: at the first fault, that.
template <class Each>
int grouped(const NcclApi& api, std::size_t parts, const Each& each) {
  int status = api.group_start();
  if (status != kNcclSuccess) return status;
  for (std::size_t i = 0; i < parts && (status == kNcclSuccess || status == kNcclInProgress); ++i)
    status = each(i);
  const int ended = api.group_end();
  return status != kNcclSuccess && status != kNcclInProgress ? status : ended;
}

/// Where each part begins, in bytes, and the end of the last.
std::vector<std::size_t> places_of(const std::vector<std::int64_t>& counts, std::size_t width) {
  std::vector<std::size_t> places{0};
  for (const std::int64_t count : counts)
    places.push_back(places.back() + static_cast<std::size_t>(count) * width);
  return places;
}

}  // namespace

NcclCommunicator::NcclCommunicator(std::shared_ptr<NcclQueue> queue, std::string library, Tensor scratch)
    : queue_(std::move(queue)),
      library_(std::move(library)),
      scratch_(std::move(scratch)),
      rules_(queue_->options().name, queue_->options().rank, queue_->options().size, queue_->gpu().device()) {
}

Result<DescribedCall> NcclCommunicator::reducible(Result<DescribedCall> call, DType dtype) const {
  if (!call || nccl_dtype_of(dtype) >= 0) return call;
  return Error{Code::kInvalidArgument,
               name() + ": NCCL has no reductions of " + std::string(to_string(dtype)) + " elements"};
}

int NcclCommunicator::op_of(ReduceOp op) const {
  // The mean of one member is its own; NCCL 2.28 leaves out the last elements of that.
  return nccl_op_of(op == ReduceOp::kMean && size() == 1 ? ReduceOp::kSum : op);
}

Work NcclCommunicator::all_reduce(Tensor tensor, ReduceOp op) {
  Result<DescribedCall> call = reducible(rules_.all_reduce(tensor, op), tensor.dtype());
  return queue_->begin({std::move(call), {}, {tensor}}, [this, tensor, op](NcclComm comm, NcclStream stream) {
    return queue_->api().all_reduce(tensor.data(), tensor.data(), elements_of(tensor),
                                    nccl_dtype_of(tensor.dtype()), op_of(op), comm, stream);
  });
}

Work NcclCommunicator::reduce(Tensor tensor, ReduceOp op, int root) {
  Result<DescribedCall> call = reducible(rules_.reduce(tensor, op, root), tensor.dtype());
  std::vector<Tensor> reads;
  std::vector<Tensor> writes;
  (rank() == root ? writes : reads).push_back(tensor);
  return queue_->begin({std::move(call), std::move(reads), std::move(writes)},
                       [this, tensor, op, root](NcclComm comm, NcclStream stream) {
                         return queue_->api().reduce(tensor.data(), rank() == root ? tensor.data() : nullptr,
                                                     elements_of(tensor), nccl_dtype_of(tensor.dtype()),
                                                     op_of(op), root, comm, stream);
                       });
}

Work NcclCommunicator::broadcast(Tensor tensor, int root) {
  Result<DescribedCall> call = rules_.broadcast(tensor, root);
  std::vector<Tensor> reads;
  std::vector<Tensor> writes;
  (rank() == root ? reads : writes).push_back(tensor);
  return queue_->begin({std::move(call), std::move(reads), std::move(writes)},
                       [this, tensor, root](NcclComm comm, NcclStream stream) {
                         return queue_->api().broadcast(tensor.data(), tensor.data(), tensor.bytes(),
                                                        kNcclBytes, root, comm, stream);
                       });
}

Work NcclCommunicator::all_gather(Tensor in, Tensor out) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size()), in.elements());
  return all_gather(std::move(in), std::move(out), std::move(counts));
}

Work NcclCommunicator::all_gather(Tensor in, Tensor out, std::vector<std::int64_t> counts) {
  Result<DescribedCall> call = rules_.all_gather(in, out, counts);
  if (!call) return ended_work(std::move(call).error());
  const std::vector<std::size_t> places = places_of(counts, size_of(out.dtype()));
  const bool equal = std::adjacent_find(counts.begin(), counts.end(), std::not_equal_to<>()) == counts.end();
  return queue_->begin({std::move(call), {in}, {out}}, [this, in, out, counts, places, equal](
                                                           NcclComm comm, NcclStream stream) {
    const NcclApi& api = queue_->api();
    if (equal) return api.all_gather(in.data(), out.data(), in.bytes(), kNcclBytes, comm, stream);
    return grouped(api, counts.size(), [&](std::size_t i) {
      const std::size_t bytes = places[i + 1] - places[i];
      if (bytes == 0) return static_cast<int>(kNcclSuccess);
      std::byte* const place = out.data() + places[i];
      const int root = static_cast<int>(i);
      return api.broadcast(root == rank() ? in.data() : place, place, bytes, kNcclBytes, root, comm, stream);
    });
  });
}

Work NcclCommunicator::reduce_scatter(Tensor in, Tensor out, ReduceOp op) {
  Result<DescribedCall> call = reducible(rules_.reduce_scatter(in, out, op), in.dtype());
  return queue_->begin({std::move(call), {in}, {out}}, [this, in, out, op](NcclComm comm, NcclStream stream) {
    return queue_->api().reduce_scatter(in.data(), out.data(), elements_of(out), nccl_dtype_of(in.dtype()),
                                        op_of(op), comm, stream);
  });
}

Work NcclCommunicator::all_to_all(Tensor in, std::vector<std::int64_t> in_counts, Tensor out,
                                  std::vector<std::int64_t> out_counts) {
  Result<DescribedCall> call = rules_.all_to_all(in, in_counts, out, out_counts);
  if (!call) return ended_work(std::move(call).error());
  const std::vector<std::size_t> sends = places_of(in_counts, size_of(in.dtype()));
  const std::vector<std::size_t> takes = places_of(out_counts, size_of(out.dtype()));
  return queue_->begin(
      {std::move(call), {in}, {out}},
      [this, in, out, sends, takes, parts = in_counts.size()](NcclComm comm, NcclStream stream) {
        const NcclApi& api = queue_->api();
        return grouped(api, parts, [&](std::size_t i) {
          const int member = static_cast<int>(i);
          int status = kNcclSuccess;
          if (const std::size_t bytes = sends[i + 1] - sends[i]; bytes != 0)
            status = api.send(in.data() + sends[i], bytes, kNcclBytes, member, comm, stream);
          if (status != kNcclSuccess && status != kNcclInProgress) return status;
          if (const std::size_t bytes = takes[i + 1] - takes[i]; bytes != 0)
            status = api.receive(out.data() + takes[i], bytes, kNcclBytes, member, comm, stream);
          return status;
        });
      });
}

Work NcclCommunicator::transfer(std::vector<Transfer> transfers) {
  NcclQueue::Given given{rules_.transfer(transfers), {}, {}};
  // NCCL has no tags: what lies between two members goes in their order, which is the same at both.
  std::stable_sort(transfers.begin(), transfers.end(),
                   [](const Transfer& a, const Transfer& b) { return a.tag < b.tag; });
  for (const Transfer& each : transfers)
    (each.kind == Transfer::Kind::kSend ? given.reads : given.writes).push_back(each.tensor);
  given.transfers = transfers;
  return queue_->begin(std::move(given), [this, transfers](NcclComm comm, NcclStream stream) {
    const NcclApi& api = queue_->api();
    return grouped(api, transfers.size(), [&](std::size_t i) {
      const Transfer& each = transfers[i];
      if (each.tensor.bytes() == 0) return static_cast<int>(kNcclSuccess);
      if (each.kind == Transfer::Kind::kSend)
        return api.send(each.tensor.data(), each.tensor.bytes(), kNcclBytes, each.member, comm, stream);
      return api.receive(each.tensor.data(), each.tensor.bytes(), kNcclBytes, each.member, comm, stream);
    });
  });
}

Work NcclCommunicator::barrier() {
  return queue_->begin({rules_.barrier(), {}, {scratch_}}, [this](NcclComm comm, NcclStream stream) {
    return queue_->api().all_reduce(scratch_.data(), scratch_.data(), scratch_.bytes(), kNcclBytes,
                                    nccl_op_of(ReduceOp::kMax), comm, stream);
  });
}

Result<std::unique_ptr<Communicator>> NcclCommunicator::split(int color, int key) {
  const auto due = NcclQueue::Steady::now() + queue_->options().timeout;
  if (const Result<void> there = state(); !there) return there.error();
  auto control = queue_->control().split(color, key);
  if (!control) return std::move(control).error();
  if (*control == nullptr) return std::unique_ptr<Communicator>();
  CommunicatorOptions options = queue_->options();
  options.name = (*control)->name();
  options.rank = (*control)->rank();
  options.size = (*control)->size();
  // Its own kind: made by that of this communicator.
  std::unique_ptr<GlooCommunicator> own(static_cast<GlooCommunicator*>(control->release()));
  return form_nccl(std::move(options), {queue_->gpu(), library_}, std::move(own), due);
}

}  // namespace troupe::shards
