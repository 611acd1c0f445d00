#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/rpc/by_hash.hpp>
#include <troupe/rpc/call.hpp>
#include <troupe/rpc/off_loop.hpp>

namespace troupe::rpc {

/// The methods of an actor whose state's type is forgotten. Immutable once built; share it freely.
class MethodTable : public std::enable_shared_from_this<MethodTable> {
 public:
  MethodTable() = default;
  MethodTable(const MethodTable&) = delete;
  MethodTable& operator=(const MethodTable&) = delete;

  /// What a method runs on. Who answers later keeps both until then.
  struct Target {
    const std::shared_ptr<void>& state;
    const MethodTable& table;
    MethodPool* pool = nullptr;  ///< null: all methods run on the loop
  };
  /// Of a method that takes whatever comes and looks at the types itself.
  static constexpr std::uint64_t kAnySignature = 0;
  struct Entry {
    std::string name;
    std::string signature_text;
    std::uint64_t signature;
    const void* direct_type;  ///< what callers within the process mean who need no message
    std::function<void(const Target& target, InboundCallPtr call)> invoke;
  };

  /// Precondition: no method of this name yet.
  void add(Entry entry);
  /// Runs the method that the call names on `state`, unless the call is cancelled already or its deadline has
  /// passed. kUnimplemented: there is none, the message lists those there are. kInvalidArgument: other types
  /// than the method's, the message says which it wants. Methods that are marked so run in `pool`.
  void invoke(const std::shared_ptr<void>& state, InboundCallPtr call, MethodPool* pool = nullptr) const;
  /// The same on a state that outlives every answer.
  void invoke(void* state, InboundCallPtr call) const {
    invoke(std::shared_ptr<void>(std::shared_ptr<void>(), state), std::move(call));
  }
  /// Null if there is none.
  const Entry* find(std::uint64_t name_hash) const { return by_name_.find(name_hash); }
  std::string names() const;  ///< "add, pull, push"
  std::vector<std::string_view> sorted_names() const;

 private:
  std::deque<Entry> entries_;
  detail::ByHash<const Entry> by_name_;
};

}  // namespace troupe::rpc
