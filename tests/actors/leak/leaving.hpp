#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/remote.hpp>

/// What a process can hold of another one when that dies.
namespace troupe::test {

/// In the node's shared pool, all 1: others map it.
inline Tensor pooled_ones(Node& node, std::int64_t elements) {
  Tensor made = Tensor::empty(DType::kFloat32, Shape({elements}), node.endpoint().shared_pool());
  std::fill_n(made.as<float>().data(), made.elements(), 1.0F);
  return made;
}

/// Gives memory that others map, and streams that do not end by themselves.
struct Giver {
  explicit Giver(Node& own_node) : node(own_node) {}
  Node& node;
  std::vector<rpc::StreamWriter<std::int64_t>> writers;

  static void methods(rpc::Methods<Giver>& methods) {
    methods.add("pooled", [](Giver& self, std::int64_t elements) { return pooled_ones(self.node, elements); })
        .add("endless",
             [](Giver& self, rpc::StreamWriter<std::int64_t> out) {
               for (std::int64_t i = 0; i < 3; ++i) (void)out.write(i);
               self.writers.push_back(std::move(out));
             })
        .add("forget", [](Giver& self) { self.writers.clear(); });
  }
};

/// An object to be made at other nodes.
struct Pebble {
  static constexpr std::string_view type_name = "Pebble";
  explicit Pebble(std::int64_t own_weight) : weight(own_weight) {}
  std::int64_t weight;
  static void methods(rpc::Methods<Pebble>& methods) {
    methods.add("weight", [](Pebble& self) { return self.weight; });
  }
};

/// What one process has open at another one, and never ends.
struct Leaning {
  std::vector<rpc::Future<std::int64_t>> calls;
  std::vector<rpc::StreamReader<std::int64_t>> streams;
  std::vector<RemoteRef<Pebble>> objects;
};

/// `holder` and `giver` are actors at the node named `where`. False: something was refused.
inline bool lean(Node& node, const std::string& where, const std::string& holder, const std::string& giver,
                 Leaning& leaning) {
  for (int i = 0; i < 10; ++i) leaning.calls.push_back(node.rpc_async<std::int64_t>(holder, "hold"));
  leaning.streams.push_back(node.stream<std::int64_t>(giver, "endless"));
  const bool streamed = leaning.streams.back().next(std::chrono::seconds(30)).ok();
  leaning.objects.push_back(node.remote<Pebble>(where, std::int64_t{1}));
  return streamed && leaning.objects.back().created().get().ok();
}

}  // namespace troupe::test
