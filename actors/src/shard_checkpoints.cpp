// How a shard server's tables are made, saved and restored: what takes long is done by another thread, or in
// pages between other calls.
#include <algorithm>
#include <utility>

#include "shard_deciding.hpp"
#include "shard_saving.hpp"
#include "table_work.hpp"

namespace troupe {

namespace {

/// Pages that wait for the disk at most, a megabyte each.
constexpr int kPagesOnTheirWay = 4;
/// Dense shards up to so many bytes are made at once.
constexpr std::uint64_t kMadeAtOnce_bytes = std::uint64_t{4} << 20;

}  // namespace

// ---- Making tables ------------------------------------------------------------------------------

shards::SlotSet ShardServer::own_slots(const shards::TableSpec& spec) const {
  return shards::SlotMap::balanced(spec.slots, count_).slots_of(index_);
}

/// Any thread: nothing of this that it reads changes.
Result<std::unique_ptr<ShardServer::Table>> ShardServer::make_table(const shards::TableSpec& spec,
                                                                    shards::SlotSet slots) const {
  auto shard = shards::TableShard::create(spec, std::move(slots));
  if (!shard) return shard.error();
  return std::make_unique<Table>(std::move(*shard), node_.loop());
}

rpc::Future<void> ShardServer::create_table(const rpc::CallContext& context, const std::string& spec_text) {
  auto spec = shards::TableSpec::from_json(spec_text, known_);
  if (spec) return make_if_missing(context, *spec, own_slots(*spec));
  rpc::Promise<void> promise(node_.loop(), context.deadline);
  promise.set(spec.error());
  return promise.future();
}

rpc::Future<void> ShardServer::make_if_missing(const rpc::CallContext& context, const shards::TableSpec& spec,
                                               shards::SlotSet slots) {
  rpc::Promise<void> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  const std::string name = spec.name;
  const auto known = tables_.find(name);
  const auto making = making_.find(name);
  const shards::TableSpec* present = known != tables_.end()    ? &known->second->shard.spec()
                                     : making != making_.end() ? &making->second.spec
                                                               : nullptr;
  const auto place = [this, name](Result<std::unique_ptr<Table>> table) -> Result<void> {
    if (!table) return table.error();
    (*table)->generation = generation_;
    tables_.emplace(name, std::move(*table));
    return {};
  };
  if (present && *present != spec) {
    promise.set(Error{Code::kFailedPrecondition,
                      "table '" + name + "' exists with another specification: " + present->to_json()});
  } else if (known != tables_.end()) {
    promise.set(Result<void>());
  } else if (making != making_.end()) {
    making->second.waiting.push_back(std::move(promise));
  } else if (spec.rows <=
             kMadeAtOnce_bytes / spec.optimizer.layout(spec.weights, spec.dim).bytes() * count_) {
    promise.set(place(make_table(spec, std::move(slots))));
  } else {
    making_[name].spec = spec;
    making_[name].waiting.push_back(std::move(promise));
    on_disk([this, spec, slots = std::move(slots)] { return make_table(spec, slots); },
            [this, name, place](Result<std::unique_ptr<Table>> table) {
              auto made = making_.extract(name);
              if (made.empty()) return;
              const Result<void> placed = tables_.contains(name)
                                              ? Result<void>()
                                              : place(std::move(table));  // a restore came between
              for (auto& waiting : made.mapped().waiting) waiting.set(placed);
            });
  }
  return future;
}

// ---- Restoring ----------------------------------------------------------------------------------

Result<void> ShardServer::check_idle() const {
  if (!saving_ && !restoring_) return {};
  return Error{Code::kFailedPrecondition, std::string("a checkpoint is being ") +
                                              (saving_ ? "written" : "read") + " already: wait for its end"};
}

/// Any thread: nothing of this that it reads changes.
Result<ShardServer::Restored> ShardServer::read_checkpoint(const std::string& folder) const {
  auto manifest = shards::read_manifest(folder, known_);
  if (!manifest) return manifest.error();
  Restored restored;
  for (const shards::TableSpec& spec : manifest->tables) {
    auto table = make_table(spec, own_slots(spec));
    if (!table) return table.error();
    auto loaded = shards::load_rows(folder, *manifest, spec.name, (*table)->shard);
    if (!loaded) return loaded.error();
    restored.rows += *loaded;
    restored.tables.emplace(spec.name, std::move(*table));
  }
  return restored;
}

Result<std::uint64_t> ShardServer::restore_now(const std::string& folder) {
  if (auto idle = check_idle(); !idle) return idle.error();
  auto restored = read_checkpoint(folder);
  if (!restored) return restored.error();
  // Only now, so that a damaged checkpoint leaves what was there.
  put_in_place(std::move(restored->tables));
  return restored->rows;
}

/// Rows are those of the checkpoint; where tables lie and who takes part in them stays as it is, but for
/// tables that are not there any more. Pushes for what was there before are known by its generation.
void ShardServer::put_in_place(Tables tables) {
  ++generation_;
  for (auto& [name, table] : tables) {
    table->generation = generation_;
    const auto before = tables_.find(name);
    if (before == tables_.end()) continue;
    table->route = before->second->route;
    table->shard.set_active_groups(before->second->shard.groups().active());
    table->shard.begin_orders_at(before->second->shard.order_number());
  }
  std::swap(tables_, tables);
  std::vector<std::shared_ptr<Deciding>> gone, kept;
  for (auto at = deciding_.begin(); at != deciding_.end();) {
    const auto table = tables_.find(at->first);
    const bool stays = table != tables_.end() && table->second->shard.spec() == at->second->spec;
    (stays ? kept : gone).push_back(at->second);
    at = stays ? std::next(at) : deciding_.erase(at);
  }
  drop(std::move(tables));
  // Last: those who waited may do anything.
  for (const auto& deciding : kept) deciding->clocks.lose_offers();
  for (const auto& deciding : gone) deciding->close();
}

/// Giving back much memory takes a while.
void ShardServer::drop(Tables tables) {
  const auto waiting = take_work(tables);
  on_disk(
      [tables = std::move(tables)]() mutable -> Result<void> {
        tables.clear();
        return {};
      },
      [](const Result<void>&) {});
}

rpc::Future<std::uint64_t> ShardServer::restore(const rpc::CallContext& context, const std::string& folder) {
  rpc::Promise<std::uint64_t> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  if (auto idle = check_idle(); !idle) {
    promise.set(idle.error());
    return future;
  }
  restoring_.emplace(std::move(promise));
  on_disk([this, folder] { return read_checkpoint(folder); },
          [this](Result<Restored> restored) {
            rpc::Promise<std::uint64_t> waiting = std::move(*restoring_);
            restoring_.reset();
            if (!restored) return waiting.set(restored.error());
            put_in_place(std::move(restored->tables));
            waiting.set(restored->rows);
          });
  return future;
}

// ---- Saving -------------------------------------------------------------------------------------

rpc::Future<std::vector<std::string>> ShardServer::save(const rpc::CallContext& context,
                                                        const std::string& folder,
                                                        const std::vector<std::string>& tables) {
  rpc::Promise<std::vector<std::string>> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  if (auto idle = check_idle(); !idle) {
    promise.set(idle.error());
    return future;
  }
  saving_ = std::make_unique<Saving>(*this, folder, std::move(promise));
  saving_->begin(tables);
  return future;
}

ShardServer::Saving::~Saving() {
  for (const Part& part : parts_) part.table->shard.close_cut();
}

Result<void> ShardServer::Saving::open(const std::string& name) {
  auto table = server_.find(name);
  if (!table) return table.error();
  auto rows = (*table)->shard.open_cut();
  if (!rows) return rows.error();
  parts_.push_back({name, *table, nullptr, {}});
  parts_.back().writer = shards::ShardFileWriter::create(folder_, server_.index_, (*table)->shard, *rows);
  return {};
}

void ShardServer::Saving::begin(const std::vector<std::string>& tables) {
  names_ = tables;
  unsettled_ = 1;
  for (const std::string& name : tables) {
    const auto table = server_.find(name);
    if (!table || std::find(held_.begin(), held_.end(), *table) != held_.end()) continue;
    held_.push_back(*table);
    ++unsettled_;
    (*table)->work->hold([this] { settled(); });
  }
  settled();
}

/// No table is in the middle of something: all are cut at this moment.
void ShardServer::Saving::settled() {
  if (--unsettled_ > 0) return;
  for (const std::string& name : names_) {
    const auto opened = open(name);
    if (opened) continue;
    error_ = with_context(opened.error(), "saving table '" + name + "'");
    break;
  }
  for (Table* table : std::exchange(held_, {})) table->work->let_go();
  go_on();
}

void ShardServer::Saving::go_on() {
  scheduled_ = false;
  // Nobody waits for it any more.
  if (whole_.ready() && !error_) error_ = Error{Code::kCancelled, "the checkpoint is not wanted any more"};
  if (error_ || at_ == parts_.size()) {
    if (on_their_way_ == 0) end();
    return;
  }
  Part& part = parts_[at_];
  if (!part.page.done) {
    if (on_their_way_ < kPagesOnTheirWay) copy_page(part);
  } else if (on_their_way_ == 0) {
    finish_file(part);
  }
}

void ShardServer::Saving::copy_page(Part& part) {
  shards::RowBatch rows;
  auto page = part.table->shard.read_cut(part.page.next_cursor, part.writer->page_rows(), rows);
  if (!page) return fail(page.error());
  part.page = *page;
  if (!rows.keys.empty()) {
    ++on_their_way_;
    server_.on_disk([writer = part.writer.get(), rows = std::move(rows)] { return writer->append(rows); },
                    [this](const Result<void>& result) { wrote(result); });
  }
  if (std::exchange(scheduled_, true)) return;
  server_.node_.loop().post([this, alive = std::weak_ptr<int>(server_.alive_)] {
    if (!alive.expired()) go_on();
  });
}

void ShardServer::Saving::wrote(const Result<void>& result) {
  --on_their_way_;
  if (!result) return fail(result.error());
  if (!scheduled_) go_on();
}

void ShardServer::Saving::finish_file(Part& part) {
  ++on_their_way_;
  server_.on_disk([writer = part.writer.get()] { return writer->finish(); },
                  [this](Result<shards::FileEntry> entry) { finished(std::move(entry)); });
}

void ShardServer::Saving::finished(Result<shards::FileEntry> entry) {
  --on_their_way_;
  if (!entry) return fail(entry.error());
  entries_.push_back(shards::to_json(*entry));
  ++at_;
  go_on();
}

void ShardServer::Saving::fail(const Error& error) {
  if (!error_) {
    error_ = at_ < parts_.size() ? with_context(error, "saving table '" + parts_[at_].name + "'") : error;
  }
  if (on_their_way_ == 0 && !scheduled_) end();
}

void ShardServer::Saving::end() {
  const std::unique_ptr<Saving> self = std::move(server_.saving_);  // and with it the cuts, before the answer
  rpc::Promise<std::vector<std::string>> promise = std::move(promise_);
  for (const Part& part : parts_) part.table->shard.close_cut();
  parts_.clear();
  if (error_) {
    promise.set(std::move(*error_));
  } else {
    promise.set(std::move(entries_));
  }
}

}  // namespace troupe
