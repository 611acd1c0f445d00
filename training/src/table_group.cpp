#include <troupe/training/table_group.hpp>

#include <algorithm>
#include <cassert>
#include <numeric>
#include <utility>

namespace troupe::training {

Result<std::unique_ptr<TableGroup>> TableGroup::open(Node& node, std::vector<shards::TableSpec> specs,
                                                     const std::vector<std::string>& servers) {
  if (specs.empty()) return Error{Code::kInvalidArgument, "a group of tables without a table"};
  std::unique_ptr<TableGroup> group(new TableGroup);
  for (shards::TableSpec& spec : specs) {
    auto opened = TableClient::open(node, std::move(spec), servers);
    if (!opened) return opened.error();
    group->tables_.push_back(std::move(*opened));
  }
  group->versions_.resize(group->tables_.size());
  group->away_ = true;  // each for itself, with a clock of its own
  if (auto joined = group->join(); !joined) return joined.error();
  return group;
}

Result<void> TableGroup::pull(const KeysByTable& keys, RowsByTable& rows) {
  assert(keys.size() == size());
  rows.resize(size());
  std::vector<rpc::Future<PulledVersions>> pulls;
  for (std::size_t t = 0; t < size(); ++t) {
    rows[t].resize(keys[t].size() * tables_[t]->spec().dim);
    pulls.push_back(tables_[t]->pull(keys[t], rows[t].data()));
  }
  // All of them, also after an error: they write into `rows`.
  std::optional<Error> failed;
  for (std::size_t t = 0; t < size(); ++t) {
    auto versions = pulls[t].get();
    if (versions)
      versions_[t] = std::move(*versions);
    else if (!failed)
      failed = versions.error();
  }
  if (failed) return *failed;
  return {};
}

Result<PushSummary> TableGroup::push(const KeysByTable& keys, const RowsByTable& gradients,
                                     std::optional<PushIdentity> identity, std::uint64_t samples) {
  assert(keys.size() == size() && gradients.size() == size());
  std::vector<rpc::Future<PushSummary>> pushes;
  for (std::size_t t = 0; t < size(); ++t) {
    assert(gradients[t].size() == keys[t].size() * tables_[t]->spec().dim);
    if (in_rounds(t)) identity.reset();
    pushes.push_back(tables_[t]->push(keys[t], gradients[t].data(), versions_[t], identity, samples));
  }
  std::optional<Error> failed;
  PushSummary all;
  for (auto& each : pushes) {
    const auto pushed = each.get();
    if (!pushed) {
      if (!failed) failed = pushed.error();
      continue;
    }
    all.staleness = std::max(all.staleness, pushed->staleness);
    all.applied = all.applied && pushed->applied;
    all.dropped = all.dropped || pushed->dropped;
  }
  if (failed) return *failed;
  return all;
}

void TableGroup::advance() {
  for (std::size_t t = 0; t < size(); ++t)
    if (!in_rounds(t)) tables_[t]->set_clock(tables_[t]->clock() + 1);
}

void TableGroup::leave() {
  if (std::exchange(away_, true)) return;
  for (auto& table : tables_) table->leave();
}

Result<void> TableGroup::join() {
  if (!away_) return {};
  std::vector<TableClient*> tables;
  for (auto& table : tables_) tables.push_back(table.get());
  if (auto joined = TableClient::join_together(tables); !joined) return joined;
  away_ = false;
  return {};
}

Result<std::vector<float>> TableGroup::read(std::size_t table, std::span<const std::uint64_t> keys) {
  constexpr std::size_t kPiece = 16384;
  const std::size_t dim = tables_[table]->spec().dim;
  std::vector<float> rows(keys.size() * dim);
  for (std::size_t begin = 0; begin < keys.size(); begin += kPiece) {
    const auto piece = keys.subspan(begin, std::min(kPiece, keys.size() - begin));
    if (auto read = tables_[table]->peek(piece, rows.data() + begin * dim).get(); !read) return read.error();
  }
  return rows;
}

Result<std::vector<float>> TableGroup::read_first(std::size_t table, std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  std::iota(keys.begin(), keys.end(), std::uint64_t{0});
  return read(table, keys);
}

}  // namespace troupe::training
