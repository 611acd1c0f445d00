// Tables: rows that lie at shard servers, pulled and pushed as arrays.
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <troupe/actors/shard_server.hpp>
#include <troupe/actors/table_client.hpp>

#include "node.hpp"
#include "tensor.hpp"
#include "waits.hpp"

namespace troupe::python {
namespace {

/// What is under way at a table. The continuation keeps it, and so the memory that is written meanwhile.
template <class T>
struct Work {
  std::shared_ptr<Node> node;
  Tensor rows;  ///< of pulls
  std::optional<Result<T>> result;
  std::atomic<bool> ready{false};
};

/// With the GIL.
template <class T, class Begin>
std::shared_ptr<Work<T>> begin(const std::shared_ptr<Node>& node, Tensor rows, Begin begin_it) {
  auto work = std::make_shared<Work<T>>();
  work->node = node;
  work->rows = std::move(rows);
  const NoGil free;
  rpc::Future<T> future = begin_it(*work);
  future.then([work](Result<T> result) {
    work->result.emplace(std::move(result));
    work->ready.store(true, std::memory_order_release);
  });
  return work;
}

template <class T>
Result<T>& wait(Work<T>& work, nb::handle timeout) {
  const auto ready = [&] { return work.ready.load(std::memory_order_acquire); };
  if (!ready() && !wait_for(work.node->loop(), ready, timeout_of(timeout, rpc::kNoDeadline))) {
    if (work.node->loop().is_forked()) raise(HomeProcess::error());
    raise({Code::kDeadlineExceeded, "the table has not answered in time"});
  }
  if (!*work.result) raise(work.result->error());
  return *work.result;
}

struct Versions {
  PulledVersions versions;
};
using Pull = Work<PulledVersions>;
using Push = Work<PushSummary>;

std::span<const std::uint64_t> keys_of(const Tensor& keys) {
  return keys.as<const std::uint64_t>();
}

class Table {
 public:
  Table(std::shared_ptr<Node> node, std::unique_ptr<TableClient> client)
      : node_(std::move(node)), client_(std::move(client)) {}
  ~Table() { close(); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  static std::unique_ptr<Table> open(const NodeHandle& handle, const std::string& spec,
                                     std::vector<std::string> servers, nb::handle timeout,
                                     std::uint64_t worker) {
    const std::shared_ptr<Node> node = handle.node();
    const shards::TableSpec parsed = value_or_raise(shards::TableSpec::from_json(spec));
    TableClient::Options options;
    options.timeout = timeout_of(timeout, options.timeout);
    options.worker = worker;
    auto client = value_or_raise(aside_unless_in_turn<std::unique_ptr<TableClient>>(
        node->loop(), [=] { return TableClient::open(*node, parsed, servers, options); }));
    return std::make_unique<Table>(node, std::move(client));
  }
  /// Leaves the table.
  void close() {
    std::shared_ptr<TableClient> client = std::exchange(client_, nullptr);
    if (!client || node_->loop().is_forked()) return;
    // Where a pull still uses it, or an actor drops it, somebody else ends it.
    const NoGil free;
    client.reset();
  }
  /// To be held for as long as it is used: another thread may close the table.
  std::shared_ptr<TableClient> client() const {
    if (!client_) raise({Code::kFailedPrecondition, "the table is closed"});
    return client_;
  }

  std::shared_ptr<Pull> pull(nb::handle keys, nb::handle out, bool peek) const {
    const std::shared_ptr<TableClient> table = client();
    const Tensor names = tensor_of(keys);
    Tensor rows = tensor_of(out);
    const auto asked = keys_of(names);
    float* const to = rows.as<float>().data();
    if (rows.elements() != static_cast<std::int64_t>(asked.size() * table->spec().dim))
      throw nb::value_error("the rows are to be [keys, dim]");
    return begin<PulledVersions>(node_, std::move(rows), [&](Pull&) {
      return peek ? table->peek(asked, to) : table->pull(asked, to);
    });
  }
  std::shared_ptr<Push> push(nb::handle keys, nb::handle gradients, const Versions* versions,
                             std::uint64_t samples) const {
    const std::shared_ptr<TableClient> table = client();
    const Tensor names = tensor_of(keys);
    const Tensor numbers = tensor_of(gradients);
    const auto given = keys_of(names);
    const float* const from = numbers.as<const float>().data();
    if (numbers.elements() != static_cast<std::int64_t>(given.size() * table->spec().dim))
      throw nb::value_error("the gradients are to be [keys, dim]");
    const PulledVersions none;
    return begin<PushSummary>(node_, {}, [&](Push&) {
      return table->push(given, from, versions ? versions->versions : none, {}, samples);
    });
  }

 private:
  std::shared_ptr<Node> node_;
  std::shared_ptr<TableClient> client_;
};

nb::dict optimizer_parameters(const std::string& name) {
  const shards::OptimizerDef* def = shards::builtin_optimizers().find(name);
  if (!def) throw nb::value_error(("there is no optimizer named '" + name + "'").c_str());
  nb::dict numbers;
  for (const shards::OptimizerParameter& each : def->parameters)
    numbers[nb::cast(std::string(each.name))] = each.usual;
  return numbers;
}

void serve_shards(const NodeHandle& handle, const std::string& name, std::uint32_t index,
                  std::uint32_t count) {
  const std::shared_ptr<Node> node = handle.node();
  if (index >= count) throw nb::value_error("a server's index is less than their number");
  const Result<void> spawned = [&] {
    const NoGil free;
    return node->spawn<ShardServer>(name, index, count, *node);
  }();
  value_or_raise(spawned);
}

nb::object push_outcome(Push& self, nb::handle timeout) {
  const PushSummary& summary = *wait(self, timeout);
  return nb::make_tuple(summary.staleness, summary.applied, summary.dropped);
}

}  // namespace

void bind_tables(nb::module_& module) {
  using namespace nb::literals;
  const auto none = nb::none();
  nb::class_<Versions>(module, "Versions", "What a pull saw; it goes back with the push made from it.");
  nb::class_<Pull>(module, "Pull", "Rows that are under way.")
      .def(
          "result", [](Pull& self, nb::handle timeout) { return Versions{*wait(self, timeout)}; },
          "timeout"_a = none)
      .def("done", [](const Pull& self) { return self.ready.load(); });
  nb::class_<Push>(module, "Push", "Gradients that are under way.")
      .def("result", &push_outcome, "timeout"_a = none)
      .def("done", [](const Push& self) { return self.ready.load(); });
  nb::class_<Table>(module, "Table", "One worker's access to a table.")
      .def_static("open", &Table::open, "node"_a, "spec"_a, "servers"_a, "timeout"_a = none, "worker"_a = 0)
      .def_prop_ro("dim", [](const Table& self) { return self.client()->spec().dim; })
      .def_prop_ro("spec", [](const Table& self) { return self.client()->spec().to_json(); })
      .def_prop_rw(
          "clock", [](const Table& self) { return self.client()->clock(); },
          [](const Table& self, std::uint64_t clock) { self.client()->set_clock(clock); })
      .def("pull", &Table::pull, "keys"_a, "out"_a, "peek"_a = false)
      .def("push", &Table::push, "keys"_a, "gradients"_a, "versions"_a = none, "samples"_a = 1)
      .def("close", &Table::close);
  module.def("optimizer_parameters", &optimizer_parameters, "name"_a);
  module.def("serve_shards", &serve_shards, "node"_a, "name"_a, "index"_a, "count"_a);
}

}  // namespace troupe::python
