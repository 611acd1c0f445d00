#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <troupe/rpc/codec.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/rpc/stream.hpp>

/// What the fuzzed endpoint offers to callers, and what a peer says that meets it.
namespace troupe::rpc::fuzz {

struct Nested {
  std::int64_t number = 0;
  std::vector<std::string> names;
  std::optional<Tensor> tensor;
  std::map<std::string, std::vector<float>> rows;
};

struct Service {
  std::vector<StreamWriter<std::int64_t>> writers;

  static void methods(Methods<Service>& methods) {
    methods
        .add("add",
             [](Service&, std::int64_t a, std::int64_t b) {
               return static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b);
             })
        .add("text", [](Service&, std::string_view text) { return std::string(text); })
        .add("tensor", [](Service&, Tensor tensor) { return tensor; })
        .add("tensors", [](Service&, std::vector<Tensor> tensors) { return tensors; })
        .add("rows",
             [](Service&, const std::map<std::string, std::vector<float>>& rows) { return rows.size(); })
        .add("watch",
             [](Service& self, StreamWriter<std::int64_t> out, std::int64_t count) {
               for (std::int64_t i = 0; i < count && i < 20; ++i)
                 if (!out.write(i)) break;
               self.writers.push_back(std::move(out));
             })
        .add("nested", [](Service&, const std::vector<Nested>& all) { return all; });
  }
};

/// The control messages of a peer that meets the endpoint: hello, ready.
std::vector<std::vector<std::byte>> opening();

}  // namespace troupe::rpc::fuzz

template <>
struct troupe::rpc::Fields<troupe::rpc::fuzz::Nested> {
  static constexpr std::string_view name = "Nested";
  static constexpr auto fields =
      std::tuple(&fuzz::Nested::number, &fuzz::Nested::names, &fuzz::Nested::tensor, &fuzz::Nested::rows);
};
