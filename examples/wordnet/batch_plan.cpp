#include "wordnet/batch_plan.hpp"

#include <cassert>

namespace troupe::wordnet {
namespace {

constexpr std::uint32_t kNoRow = 0xffffffff;

std::uint32_t row_of(std::uint32_t id, std::vector<std::uint32_t>& rows, std::vector<std::uint64_t>& keys) {
  assert(id < rows.size());
  if (rows[id] == kNoRow) {
    rows[id] = static_cast<std::uint32_t>(keys.size());
    keys.push_back(id);
  }
  return rows[id];
}

void forget(std::vector<std::uint32_t>& rows, const std::vector<std::uint64_t>& keys) {
  for (const std::uint64_t key : keys) rows[key] = kNoRow;
}

}  // namespace

BatchPlanner::BatchPlanner(std::size_t entity_count, std::size_t relation_count)
    : entity_rows_(entity_count, kNoRow), relation_rows_(relation_count, kNoRow) {}

void BatchPlanner::make(const Batch& batch, BatchPlan& plan) {
  plan.entity_keys.clear();
  plan.relation_keys.clear();
  plan.head_rows.resize(batch.size());
  plan.relation_rows.resize(batch.size());
  plan.tail_rows.resize(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    plan.tail_rows[i] = row_of(batch.tails[i], entity_rows_, plan.entity_keys);
  }
  for (const std::uint32_t entity : batch.negatives) row_of(entity, entity_rows_, plan.entity_keys);
  plan.candidate_count = plan.entity_keys.size();
  for (std::size_t i = 0; i < batch.size(); ++i) {
    plan.head_rows[i] = row_of(batch.heads[i], entity_rows_, plan.entity_keys);
    plan.relation_rows[i] = row_of(batch.relations[i], relation_rows_, plan.relation_keys);
  }
  forget(entity_rows_, plan.entity_keys);
  forget(relation_rows_, plan.relation_keys);
}

}  // namespace troupe::wordnet
