#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// One of a call's metadata. With `pass_on` it goes with the calls, too, that are made within that call.
struct MetadataPair {
  std::string key;
  std::string value;
  bool pass_on = false;
  friend bool operator==(const MetadataPair&, const MetadataPair&) = default;
};
/// For MetadataPair::pass_on.
inline constexpr bool kPassOn = true;

/// Small things that go with a call beside its arguments: on whose behalf it is made, under which request of
/// the world outside. Copies share the pairs, which do not change any more. Any thread.
///
///     node->rpc_sync_with<int>({.metadata = {{"tenant", "a", rpc::kPassOn}, {"try", "2"}}}, "shard",
///     "count");
class Metadata {
 public:
  // What a call may carry, what is passed on included; keys and values count.
  static constexpr std::size_t kMaxPairs = 32;
  static constexpr std::size_t kMaxBytes = 8192;

  Metadata() = default;
  Metadata(std::initializer_list<MetadataPair> pairs) : Metadata(std::vector<MetadataPair>(pairs)) {}
  explicit Metadata(std::vector<MetadataPair> pairs) {
    if (!pairs.empty()) pairs_ = std::make_shared<const std::vector<MetadataPair>>(std::move(pairs));
  }

  bool empty() const { return !pairs_; }
  const std::vector<MetadataPair>& pairs() const;
  /// The value of the first pair with this key; null if there is none. Valid as long as this is.
  const std::string* find(std::string_view key) const;
  /// kInvalidArgument: too many, too long, or one without a key.
  Result<void> check() const;
  /// Those that are passed on.
  Metadata passed_on() const;
  /// These, and those of `outer` whose keys are not among them.
  Metadata within(const Metadata& outer) const;

 private:
  std::shared_ptr<const std::vector<MetadataPair>> pairs_;  // null: none
};

}  // namespace troupe::rpc
