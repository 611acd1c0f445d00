#include <chrono>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <troupe/actors/shard_server.hpp>
#include <troupe/shards/snapshot.hpp>

#include "handles.hpp"
#include "later.hpp"

using namespace troupe;
using namespace troupe::c;
using Json = nlohmann::json;

struct troupe_table {
  std::shared_ptr<NodeBox> box;
  std::vector<std::string> servers;
  std::shared_ptr<TableClient> client;
  std::string spec;
};

struct troupe_versions {
  PulledVersions versions;
};

namespace {

constexpr Duration kDiskPatience{std::chrono::minutes(10)};

/// What is not said has its usual value.
Result<shards::TableSpec> spec_of(const char* text) {
  Json given = Json::parse(text, nullptr, false);
  if (!given.is_object())
    return Error{Code::kInvalidArgument, "the table's spec is no JSON object: " + std::string(text)};
  Json whole = Json::parse(shards::TableSpec{}.to_json());
  whole.erase("name");
  whole.erase("dim");
  if (const auto optimizer = given.find("optimizer"); optimizer != given.end() && optimizer->is_object()) {
    const auto kind = optimizer->find("kind");
    const shards::OptimizerDef* const def =
        kind != optimizer->end() && kind->is_string()
            ? shards::builtin_optimizers().find(kind->get_ref<const std::string&>())
            : nullptr;
    for (const auto& each : def ? def->parameters : std::span<const shards::OptimizerParameter>())
      if (!optimizer->contains(each.name)) (*optimizer)[std::string(each.name)] = each.usual;
  }
  for (auto& [key, value] : given.items()) whole[key] = std::move(value);
  return shards::TableSpec::from_json(whole.dump());
}

Result<TableClient::Options> table_options(const troupe_table_options* options) {
  troupe_table_options given = TROUPE_TABLE_OPTIONS_INIT;
  if (options)
    if (auto read = read_struct(options, given); !read) return read.error();
  TableClient::Options how;
  how.timeout = timeout_of(given.timeout, how.timeout);
  how.worker = given.worker;
  return how;
}

Result<void> open_table(troupe_node* node, Result<shards::TableSpec> spec, std::vector<std::string> servers,
                        const TableClient::Options& how, troupe_table** table) {
  if (!spec) return spec.error();
  auto handle = std::make_unique<troupe_table>();
  auto opened = TableClient::open(**node, std::move(*spec), servers, how);
  if (!opened) return opened.error();
  handle->box = node->box;
  handle->servers = std::move(servers);
  handle->client = std::move(*opened);
  handle->spec = handle->client->spec().to_json();
  *table = handle.release();
  return {};
}

Result<std::span<const std::uint64_t>> keys_of(const troupe_table* table, const std::uint64_t* keys,
                                               std::size_t count, const void* rows, const char* name) {
  if (!table) return null_argument("table");
  if (!keys && count > 0) return null_argument("keys");
  if (!rows && count > 0) return null_argument(name);
  return std::span(keys, count);
}

void give(const PushSummary& summary, troupe_push_result& result) {
  troupe_push_result filled = TROUPE_PUSH_RESULT_INIT;
  filled.staleness = summary.staleness;
  filled.applied = summary.applied ? 1 : 0;
  filled.dropped = summary.dropped ? 1 : 0;
  write_struct(filled, &result);
}

Result<void> check(const troupe_push_result* result) {
  return result ? check_struct(result, "troupe_push_result") : Result<void>();
}

/// The first error, when all have answered: who still writes, or reads, must not be left alone.
template <class T, class Use>
Result<void> settle(std::vector<rpc::Future<T>>& calls, Use&& use) {
  Result<void> all;
  for (auto& call : calls) {
    auto answer = call.get();
    Result<void> used = answer ? use(std::move(*answer)) : Result<void>(answer.error());
    if (all && !used) all = std::move(used);
  }
  return all;
}

/// Begins something of a table's on its node's loop, unless the table has been ended when it is its turn.
template <class R, class Begin>
Result<void> start_on(rpc::CompletionQueue& queue, std::uint64_t tag, const troupe_table& table,
                      Begin begin) {
  Loop& loop = table.box->node->loop();
  return start_later<R>(queue, tag, loop,
                        [&loop, weak = std::weak_ptr<TableClient>(table.client), begin = std::move(begin)] {
                          if (const auto client = weak.lock()) return begin(*client);
                          rpc::Promise<R> none(loop);
                          none.set(Error{Code::kCancelled, "the table has been ended"});
                          return none.future();
                        });
}

Result<void> save(troupe_table* const* tables, std::size_t count, const char* folder, const char* metadata) {
  const troupe_table& first = *tables[0];
  shards::Manifest manifest;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    manifest.tables.push_back(tables[i]->client->spec());
    names.push_back(tables[i]->client->spec().name);
  }
  if (metadata) {
    if (!Json::parse(metadata, nullptr, false).is_object())
      return Error{Code::kInvalidArgument, "the checkpoint's metadata are no JSON object"};
    manifest.metadata = metadata;
  }
  const auto place = shards::checkpoint_place(folder);
  if (!place) return place.error();
  const auto lock = shards::CheckpointLock::take(*place);
  if (!lock) return lock.error();
  const auto remove_temporary = [&] {
    std::error_code ignored;
    std::filesystem::remove_all(place->temporary, ignored);
  };
  remove_temporary();
  std::vector<rpc::Future<std::vector<std::string>>> calls;
  for (const std::string& server : first.servers)
    calls.push_back(first.box->node->rpc_async_with<std::vector<std::string>>(
        {.timeout = kDiskPatience}, server, "save", place->temporary.string(), names));
  Result<void> saved = settle(calls, [&](const std::vector<std::string>& entries) -> Result<void> {
    for (const std::string& text : entries) {
      auto entry = shards::file_entry_from_json(text);
      if (!entry) return entry.error();
      manifest.files.push_back(std::move(*entry));
    }
    return {};
  });
  if (saved) saved = shards::commit(place->temporary, place->final, manifest);
  if (!saved) remove_temporary();
  return saved;
}

}  // namespace

troupe_status troupe_node_serve_shards(troupe_node* node, const char* actor, uint32_t index, uint32_t count) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!actor) return null_argument("actor");
    if (index >= count)
      return Error{Code::kInvalidArgument,
                   "server " + std::to_string(index) + " of " + std::to_string(count) + ": there is none"};
    return (**node).spawn<ShardServer>(actor, index, count, **node);
  });
}

troupe_status troupe_table_open(troupe_node* node, const char* spec, const char* const* servers,
                                size_t server_count, const troupe_table_options* options,
                                troupe_table** table) {
  if (table) *table = nullptr;
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!spec) return null_argument("spec");
    if (!table) return null_argument("table");
    auto names = texts_of(servers, server_count, "servers");
    if (!names) return names.error();
    const auto how = table_options(options);
    if (!how) return how.error();
    return open_table(node, spec_of(spec), std::move(*names), *how, table);
  });
}

troupe_status troupe_table_connect(troupe_node* node, const char* name, const char* const* servers,
                                   size_t server_count, const troupe_table_options* options,
                                   troupe_table** table) {
  if (table) *table = nullptr;
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!name) return null_argument("name");
    if (!table) return null_argument("table");
    auto names = texts_of(servers, server_count, "servers");
    if (!names) return names.error();
    if (names->empty()) return Error{Code::kInvalidArgument, "a table lies on one server at least"};
    const auto how = table_options(options);
    if (!how) return how.error();
    auto specs = (**node).rpc_sync_with<std::vector<std::string>>({.timeout = how->timeout}, names->front(),
                                                                  "table_specs");
    if (!specs) return specs.error();
    for (const std::string& text : *specs)
      if (auto spec = shards::TableSpec::from_json(text); spec && spec->name == name)
        return open_table(node, std::move(spec), std::move(*names), *how, table);
    return Error{Code::kNotFound, "'" + names->front() + "' has no table '" + name + "'"};
  });
}

void troupe_table_free(troupe_table* table) {
  guard([&]() -> Result<void> {
    delete table;
    return {};
  });
}

const char* troupe_table_spec(const troupe_table* table) {
  return table ? table->spec.c_str() : "";
}

uint64_t troupe_table_dim(const troupe_table* table) {
  return table ? table->client->spec().dim : 0;
}

troupe_status troupe_table_pull(troupe_table* table, const uint64_t* keys, size_t count, float* rows,
                                troupe_versions** versions) {
  if (versions) *versions = nullptr;
  return guard([&]() -> Result<void> {
    auto all = keys_of(table, keys, count, rows, "rows");
    if (!all) return all.error();
    auto handle = std::make_unique<troupe_versions>();
    auto pulled = table->client->pull(*all, rows).get();
    if (!pulled) return pulled.error();
    if (!versions) return {};
    handle->versions = std::move(*pulled);
    *versions = handle.release();
    return {};
  });
}

troupe_status troupe_table_peek(troupe_table* table, const uint64_t* keys, size_t count, float* rows) {
  return guard([&]() -> Result<void> {
    auto all = keys_of(table, keys, count, rows, "rows");
    if (!all) return all.error();
    auto pulled = table->client->peek(*all, rows).get();
    return pulled ? Result<void>() : pulled.error();
  });
}

troupe_status troupe_table_push(troupe_table* table, const uint64_t* keys, size_t count,
                                const float* gradients, const troupe_versions* versions,
                                troupe_push_result* result) {
  return guard([&]() -> Result<void> {
    auto all = keys_of(table, keys, count, gradients, "gradients");
    if (!all) return all.error();
    if (auto good = check(result); !good) return good;
    auto pushed =
        table->client->push(*all, gradients, versions ? versions->versions : PulledVersions()).get();
    if (!pushed) return pushed.error();
    if (result) give(*pushed, *result);
    return {};
  });
}

void troupe_versions_free(troupe_versions* versions) {
  delete versions;
}

troupe_status troupe_table_set_clock(troupe_table* table, uint64_t clock) {
  return guard([&]() -> Result<void> {
    if (!table) return null_argument("table");
    table->client->set_clock(clock);
    return {};
  });
}

uint64_t troupe_table_clock(const troupe_table* table) {
  return guard_value(std::uint64_t{0}, [&] { return table ? table->client->clock() : 0; });
}

troupe_status troupe_table_leave(troupe_table* table) {
  return guard([&]() -> Result<void> {
    if (!table) return null_argument("table");
    table->client->leave();
    return {};
  });
}

troupe_status troupe_table_join(troupe_table* table) {
  return guard([&]() -> Result<void> {
    if (!table) return null_argument("table");
    return table->client->join();
  });
}

// ---- Without waiting ------------------------------------------------------------------------------

troupe_status troupe_queue_pull(troupe_queue* queue, troupe_table* table, uint64_t tag, const uint64_t* keys,
                                size_t count, float* rows) {
  return guard([&]() -> Result<void> {
    if (!queue) return null_argument("queue");
    auto all = keys_of(table, keys, count, rows, "rows");
    if (!all) return all.error();
    auto own = std::make_shared<std::vector<std::uint64_t>>(all->begin(), all->end());
    return start_on<PulledVersions>(*queue->queue, tag, *table, [own, rows](TableClient& client) {
      // The keys live until the end.
      return client.pull(*own, rows).then([own](Result<PulledVersions> pulled) { return pulled; });
    });
  });
}

troupe_status troupe_queue_push(troupe_queue* queue, troupe_table* table, uint64_t tag, const uint64_t* keys,
                                size_t count, const float* gradients, const troupe_versions* versions) {
  return guard([&]() -> Result<void> {
    if (!queue) return null_argument("queue");
    auto all = keys_of(table, keys, count, gradients, "gradients");
    if (!all) return all.error();
    struct Work {
      std::vector<std::uint64_t> keys;
      std::vector<float> gradients;
      PulledVersions versions;
    };
    auto work = std::make_shared<Work>();
    work->keys.assign(all->begin(), all->end());
    work->gradients.assign(gradients, gradients + count * table->client->spec().dim);
    if (versions) work->versions = versions->versions;
    return start_on<PushSummary>(*queue->queue, tag, *table, [work](TableClient& client) {
      return client.push(work->keys, work->gradients.data(), work->versions)
          .then([work](Result<PushSummary> pushed) { return pushed; });
    });
  });
}

troupe_status troupe_answer_versions(const troupe_answer* answer, troupe_versions** versions) {
  if (versions) *versions = nullptr;
  return guard([&]() -> Result<void> {
    if (!answer) return null_argument("answer");
    if (!versions) return null_argument("versions");
    if (!answer->versions) return Error{Code::kInvalidArgument, "this is no answer to a pull"};
    *versions = new troupe_versions{*answer->versions};
    return {};
  });
}

troupe_status troupe_answer_pushed(const troupe_answer* answer, troupe_push_result* result) {
  return guard([&]() -> Result<void> {
    if (!answer) return null_argument("answer");
    if (!result) return null_argument("result");
    if (auto good = check(result); !good) return good;
    if (!answer->pushed) return Error{Code::kInvalidArgument, "this is no answer to a push"};
    give(*answer->pushed, *result);
    return {};
  });
}

// ---- Checkpoints ----------------------------------------------------------------------------------

troupe_status troupe_checkpoint_save(troupe_table* const* tables, size_t count, const char* folder,
                                     const char* metadata) {
  return guard([&]() -> Result<void> {
    if (!tables || count == 0) return null_argument("tables");
    if (!folder) return null_argument("folder");
    for (std::size_t i = 0; i < count; ++i) {
      if (!tables[i]) return null_argument("one of tables");
      if (tables[i]->servers != tables[0]->servers)
        return Error{Code::kInvalidArgument, "the tables of a checkpoint lie on the same servers"};
    }
    return with_text(save(tables, count, folder, metadata), "writing a checkpoint");
  });
}

troupe_status troupe_checkpoint_restore(troupe_node* node, const char* const* servers, size_t server_count,
                                        const char* folder, uint64_t* rows) {
  if (rows) *rows = 0;
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!folder) return null_argument("folder");
    auto names = texts_of(servers, server_count, "servers");
    if (!names) return names.error();
    const auto place = shards::checkpoint_place(folder);
    if (!place) return place.error();
    const auto found = shards::find_checkpoint(place->final, shards::Older::kRefused);
    if (!found) return found.error();
    std::vector<rpc::Future<std::uint64_t>> calls;
    for (const std::string& server : *names)
      calls.push_back((**node).rpc_async_with<std::uint64_t>({.timeout = kDiskPatience}, server, "restore",
                                                             found->folder.string()));
    std::uint64_t all = 0;
    auto restored = settle(calls, [&](std::uint64_t count) -> Result<void> {
      all += count;
      return {};
    });
    if (restored && rows) *rows = all;
    return restored;
  });
}
