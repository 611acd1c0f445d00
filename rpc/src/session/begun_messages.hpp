#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <utility>

#include <troupe/rpc/message.hpp>

namespace troupe::rpc {

/// Messages of a peer of which the head has come and been read, while their parts are received. They are
/// known by where the head lies, which stays in its memory until the message is whole. Most end in the order
/// in which they have begun.
class BegunMessages {
 public:
  void add(const std::byte* head, std::unique_ptr<InMessage> message) {
    (void)take(head);  // of one that was given up, and whose memory is another head's now
    begun_.emplace_back(head, std::move(message));
  }
  /// Null: none has begun so.
  std::unique_ptr<InMessage> take(const std::byte* head) {
    const auto found = std::ranges::find(begun_, head, &Begun::first);
    if (found == begun_.end()) return nullptr;
    auto message = std::move(found->second);
    begun_.erase(found);
    return message;
  }

 private:
  using Begun = std::pair<const std::byte*, std::unique_ptr<InMessage>>;
  std::deque<Begun> begun_;
};

}  // namespace troupe::rpc
