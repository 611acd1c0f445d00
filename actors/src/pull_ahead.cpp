#include <string>
#include <utility>

#include <troupe/actors/pull_ahead.hpp>

#include "table_core.hpp"

namespace troupe {

PullAhead::PullAhead(TableClient& table, Limits limits) : table_(table), limits_(limits) {}

PullAhead::~PullAhead() {
  cancel();
}

Result<void> PullAhead::begin(std::vector<std::uint64_t> keys) {
  TableClient::Core& core = *table_.core_;
  const std::size_t bytes = keys.size() * core.spec.dim * sizeof(float);
  if (!batches_.empty() && (batches_.size() >= limits_.batches || bytes_ + bytes > limits_.bytes))
    return Error{Code::kResourceExhausted, "table '" + core.spec.name +
                                               "': " + std::to_string(batches_.size()) +
                                               " batches are pulled ahead already: take one first"};
  auto batch = std::make_shared<Batch>();
  batch->rows = Tensor::empty(
      DType::kFloat32, {static_cast<std::int64_t>(keys.size()), static_cast<std::int64_t>(core.spec.dim)},
      &core.node.endpoint().pool());
  batch->keys = std::move(keys);
  auto pulled = core.read(batch->keys, batch->rows.as<float>().data(), true, core.deadline(), batch);
  bytes_ += bytes;
  batches_.push_back({std::move(batch), std::move(pulled), bytes});
  return {};
}

Result<PullAhead::Batch> PullAhead::next() {
  if (batches_.empty()) return Error{Code::kFailedPrecondition, "no batch was begun to be pulled ahead"};
  Pulling oldest = std::move(batches_.front());
  batches_.pop_front();
  bytes_ -= oldest.bytes;
  auto versions = oldest.pulled.get();
  if (!versions) return versions.error();
  // A copy of the tensor shares its memory; the other one goes with the pull.
  return Batch{std::move(oldest.batch->keys), oldest.batch->rows, std::move(*versions)};
}

void PullAhead::cancel() {
  for (Pulling& each : batches_) each.pulled.cancel();
  batches_.clear();
  bytes_ = 0;
}

}  // namespace troupe
