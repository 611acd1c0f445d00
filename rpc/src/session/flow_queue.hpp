#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <utility>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/clock.hpp>

namespace troupe::rpc {

/// The messages that wait for room on the way to one peer, in lanes. Within a lane they are sent in order;
/// lanes do not wait for each other: short calls overtake long ones, as they do on the wire, and answers
/// wait for no call. Says nothing about when there is room.
class FlowQueue {
 public:
  enum class Lane : std::uint8_t { kReplies, kShort, kLong };
  static constexpr std::array kLanes{Lane::kReplies, Lane::kShort, Lane::kLong};

  struct Entry {
    OutFrame frame;
    std::size_t bytes = 0;
    std::uint64_t call_id = 0;  // of the open call that it makes; 0: it makes none
    TimePoint deadline;         // not worth sending after it
  };
  /// Where an entry is; valid until it is taken or erased.
  struct Position {
    Lane lane{};
    std::list<Entry>::iterator entry;
  };

  /// Of several queues together.
  struct Total {
    std::size_t calls = 0;
    std::size_t call_bytes = 0;
  };
  /// What waits here is counted in `all`, too.
  explicit FlowQueue(Total& all) : all_(all) {}
  ~FlowQueue() {
    all_.calls -= calls_;
    all_.call_bytes -= call_bytes_;
  }
  FlowQueue(const FlowQueue&) = delete;
  FlowQueue& operator=(const FlowQueue&) = delete;

  Position push(Lane lane, Entry entry) {
    const std::size_t bytes = entry.bytes;
    auto& list = lanes_[index(lane)];
    list.push_back(std::move(entry));
    if (lane == Lane::kReplies) {
      reply_bytes_ += bytes;
    } else {
      ++calls_, ++all_.calls;
      call_bytes_ += bytes, all_.call_bytes += bytes;
    }
    return {lane, std::prev(list.end())};
  }
  /// Precondition: something waits in the lane.
  const Entry& front(Lane lane) const { return lanes_[index(lane)].front(); }
  Entry pop(Lane lane) {
    auto& list = lanes_[index(lane)];
    Entry entry = std::move(list.front());
    list.pop_front();
    count_out(lane, entry.bytes);
    return entry;
  }
  void erase(Position position) {
    const std::size_t bytes = position.entry->bytes;
    lanes_[index(position.lane)].erase(position.entry);
    count_out(position.lane, bytes);
  }

  bool empty() const { return calls_ == 0 && lanes_[index(Lane::kReplies)].empty(); }
  bool empty(Lane lane) const { return lanes_[index(lane)].empty(); }
  /// Of answers and of items of streams.
  std::size_t reply_bytes() const { return reply_bytes_; }
  /// Calls and one-way messages: what is bounded here.
  std::size_t calls() const { return calls_; }
  std::size_t call_bytes() const { return call_bytes_; }

 private:
  static std::size_t index(Lane lane) { return static_cast<std::size_t>(lane); }
  void count_out(Lane lane, std::size_t bytes) {
    if (lane == Lane::kReplies) {
      reply_bytes_ -= bytes;
      return;
    }
    --calls_, --all_.calls;
    call_bytes_ -= bytes, all_.call_bytes -= bytes;
  }

  Total& all_;
  std::array<std::list<Entry>, kLanes.size()> lanes_;
  std::size_t calls_ = 0;
  std::size_t call_bytes_ = 0;
  std::size_t reply_bytes_ = 0;
};

}  // namespace troupe::rpc
