#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/future.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe::rpc {

/// How much of a stream may be on its way or wait unread at the reader: items, and bytes of them, past which
/// the writer has no more room. One item may be longer than all the bytes.
struct StreamWindow {
  std::uint64_t items = 64;  ///< at most 1 << 20
  std::uint64_t bytes = std::uint64_t{4} << 20;
};

/// How a stream is opened.
struct StreamOptions {
  std::uint64_t items = StreamWindow{}.items;  ///< of the window
  std::uint64_t bytes = StreamWindow{}.bytes;  ///< likewise
  Metadata metadata = {};                      ///< what the outer call passes on is added

  StreamWindow window() const { return {items, bytes}; }
};

namespace detail {

/// The callee's end of a stream, of items whose type is forgotten. With the turn.
class StreamSource final : public std::enable_shared_from_this<StreamSource> {
 public:
  /// `call` is the stream's request; null from it: its first arguments are no credit.
  static std::shared_ptr<StreamSource> open(InboundCallPtr call);
  ~StreamSource();
  StreamSource(const StreamSource&) = delete;
  StreamSource& operator=(const StreamSource&) = delete;

  Result<bool> write(const BodyWriter& item);
  Future<void> room();
  /// Once; what was written before goes first.
  void end(Result<void> outcome);
  bool ended() const { return state_ != State::kOpen; }
  /// The last writer has gone, which ends the stream with an error.
  void drop();
  /// The method that got the writer has returned, or thrown: a drop waits for it, to give the better error.
  void handler_ended(Result<void> outcome);

  // From the endpoint.
  void on_credit(std::uint64_t items, std::uint64_t bytes);
  /// The reader has cancelled, or is gone, or the endpoint goes: nothing more is sent.
  void end_by_reader(const Error& why);

 private:
  enum class State : std::uint8_t {
    kOpen,
    kEnding,  // end() was called; what was written waits for credit still
    kEnded,
  };
  struct Waiting {
    OutFrame frame;
    std::size_t bytes;
  };
  explicit StreamSource(InboundCallPtr call);
  bool has_credit() const { return sent_items_ < credit_items_ && sent_bytes_ < credit_bytes_; }
  bool has_room() const { return waiting_.empty() && has_credit(); }
  void send_waiting();
  void finish();
  void tell_writer(const Result<void>& outcome);

  EndpointCore& endpoint_;
  Loop& loop_;
  InboundCallPtr call_;        // null: kEnded
  InboundCallPtr ended_call_;  // that is answered, while the handler may look at its arguments
  State state_ = State::kOpen;
  bool in_handler_ = true;  // the method that got the writer runs
  bool dropped_ = false;
  Result<void> outcome_;  // of end(), or why it ended
  std::deque<Waiting> waiting_;
  std::uint64_t written_ = 0;
  std::uint64_t sent_items_ = 0, sent_bytes_ = 0;
  std::uint64_t credit_items_ = 0, credit_bytes_ = 0;
  std::vector<Promise<void>> waiting_for_room_;
};

/// The caller's end. With the turn, but once detached() any one thread.
class StreamSink final : public std::enable_shared_from_this<StreamSink>,
                         public ReplySink,
                         private TimerNode {
 public:
  /// An item, or null at the stream's end.
  using Next = Result<std::unique_ptr<InMessage>>;

  StreamSink(Endpoint& endpoint, StreamWindow window);
  /// `start(sink) -> call id` makes the call.
  template <class F>
  static void begin(const std::shared_ptr<StreamSink>& sink, F&& start) {
    sink->self_ = sink;
    try {
      const std::uint64_t call_id = start(*sink);
      sink->call_id_ = call_id;
    } catch (...) {
      sink->self_.reset();  // there is no call
      throw;
    }
  }

  Loop& loop() const { return loop_; }
  const StreamWindow& window() const { return window_; }
  /// The stream has ended, and nothing of the loop or the endpoint is used any more.
  bool detached() const { return detached_.load(std::memory_order_acquire); }
  bool ready() const;
  /// Precondition: ready().
  Next take();
  /// Calls `continuation` once with the next item, the end, or kDeadlineExceeded.
  void when_ready(TimePoint deadline, UniqueFunction<void(Next)> continuation);
  void cancel();
  void set_called(std::string_view method) { called_ = method; }

 private:
  std::string called() const override { return called_; }
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override;
  void on_item(std::unique_ptr<InMessage> item) override;
  bool has_items(std::uint64_t count) const override { return received_ >= count; }
  void on_timer() override;
  void give_credit();
  void tell_reader();

  EndpointCore& endpoint_;
  Loop& loop_;
  const StreamWindow window_;
  std::shared_ptr<StreamSink> self_;  // while the call is open
  std::string called_;
  std::uint64_t call_id_ = 0;
  std::vector<std::unique_ptr<InMessage>> items_;  // item n at n modulo the window, from taken_ on
  std::uint64_t received_ = 0, received_bytes_ = 0, longest_ = 0;
  std::uint64_t taken_ = 0, taken_bytes_ = 0;
  std::uint64_t credit_items_, credit_bytes_;
  bool ended_ = false;
  std::optional<Error> error_;  // of the end
  std::atomic<bool> detached_{false};
  UniqueFunction<void(Next)> continuation_;
};

}  // namespace detail

}  // namespace troupe::rpc
