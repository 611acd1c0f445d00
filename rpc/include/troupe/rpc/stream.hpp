#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include <troupe/rpc/client.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/rpc/stream_ends.hpp>

namespace troupe::rpc {

/// The result type, in signatures, of a method that answers with a stream of Ts.
template <class T>
struct Stream {};
template <class T>
struct Codec<Stream<T>> {
  static std::string name() { return "stream of " + Codec<T>::name(); }
  static constexpr std::uint64_t fingerprint() {
    return detail::mix(fnv1a("stream"), Codec<T>::fingerprint());
  }
};

/// The writing end of a stream. A method that has one as its first parameter (after the CallContext, if it
/// takes that) and returns nothing answers with a stream; it may keep the writer and write as long as it
/// likes:
///
///     methods.add("watch", [](State& self, StreamWriter<Event> out, int from) {
///       self.watchers.push_back(std::move(out));
///     });
///
/// With the turn of the node's loop. A writer dropped without end() ends its stream with kInternal. It must
/// not outlive its node, but its stream may have ended.
template <class T>
class StreamWriter {
 public:
  StreamWriter() = default;
  explicit StreamWriter(std::shared_ptr<detail::StreamSource> source) : source_(std::move(source)) {}
  StreamWriter(StreamWriter&&) noexcept = default;
  StreamWriter& operator=(StreamWriter&& other) noexcept {
    drop();
    source_ = std::move(other.source_);
    return *this;
  }
  ~StreamWriter() { drop(); }

  /// Sends an item, or keeps it until the reader gives room. Whether there is room for another: if not, wait
  /// for room() before the next. kCancelled, kUnavailable: nobody reads any more. kResourceExhausted: not
  /// taken, because too much was written without room.
  Result<bool> write(const T& item) {
    return source_->write([&](OutMessage& out) {
      out.values(1);
      Codec<T>::encode(out.value(0), item);
    });
  }
  /// Ready when there is room for an item; an error if the stream has ended.
  Future<void> room() { return source_->room(); }
  /// Ends the stream, after all items: the reader sees its end, or the error.
  void end(Result<void> outcome = {}) { source_->end(std::move(outcome)); }
  /// By end(), or because nobody reads any more.
  bool ended() const { return source_->ended(); }

 private:
  void drop() {
    if (source_) source_->drop();
  }
  std::shared_ptr<detail::StreamSource> source_;
};

/// The reading end of a stream. Any thread, one at a time. Dropping it cancels the stream.
template <class T>
class StreamReader {
 public:
  StreamReader(std::shared_ptr<detail::StreamSink> sink, std::string what)
      : sink_(std::move(sink)), what_(std::move(what)) {}
  StreamReader(StreamReader&&) noexcept = default;
  StreamReader& operator=(StreamReader&&) = delete;
  ~StreamReader() {
    if (sink_) cancel();
  }

  /// The next item, waiting for it while doing the loop's work; nothing at the stream's end.
  /// kDeadlineExceeded: none came within `timeout`, the stream goes on. Else the error that ended it: the
  /// writer's own, kUnavailable if its node died, kCancelled.
  Result<std::optional<T>> next(Duration timeout) {
    if (!sink_->detached() && sink_->loop().is_forked()) return with_context(HomeProcess::error(), what_);
    if (!sink_->detached() &&
        !sink_->loop().wait_until([&] { return sink_->ready(); }, sink_->loop().clock().now() + timeout))
      return Error{Code::kDeadlineExceeded, what_ + ": nothing came in time"};
    if (sink_->detached()) return decode(sink_->take(), what_);
    const Loop::Turn turn(sink_->loop());
    return decode(sink_->take(), what_);
  }
  /// The same without waiting. One at a time, and none beside next().
  Future<std::optional<T>> next_async(Duration timeout) {
    const Loop::Turn turn(sink_->loop());
    const TimePoint deadline = sink_->loop().clock().now() + timeout;
    auto promise = std::make_shared<Promise<std::optional<T>>>(sink_->loop(), deadline);
    auto future = promise->future();
    sink_->when_ready(deadline, [promise, what = what_](detail::StreamSink::Next next) {
      promise->set(decode(std::move(next), what));
    });
    return future;
  }
  /// Tells the writer that nobody reads any more. What has come and was not read is dropped.
  void cancel() {
    if (sink_->detached() || sink_->loop().is_forked()) return;
    const Loop::Turn turn(sink_->loop());
    sink_->cancel();
  }

 private:
  static Result<std::optional<T>> decode(detail::StreamSink::Next next, const std::string& what) {
    if (!next) return with_context(std::move(next).error(), what);
    if (!*next) return std::optional<T>();
    try {
      T value{};
      if ((*next)->value_count() != 1 || !Codec<T>::decode((*next)->value(0), value))
        return Error{Code::kInvalidArgument, what + ": an item is not of type " + Codec<T>::name()};
      return std::optional<T>(std::move(value));
    } catch (...) {
      return with_context(detail::current_exception_error("decoding an item"), what);
    }
  }

  std::shared_ptr<detail::StreamSink> sink_;
  std::string what_;
};

namespace detail {

/// A method whose first parameter is a writer: its arguments follow the stream's credit.
template <class T, class... P>
struct Entries<void, std::tuple<StreamWriter<T>, P...>> {
  template <class Bind>
  static MethodTable::Entry make(std::string name, Bind bind) {
    return {std::move(name), signature_text<Stream<T>, std::decay_t<P>...>(),
            signature_fingerprint<Stream<T>, std::decay_t<P>...>(), nullptr,
            [bind](const MethodTable::Target& target, InboundCallPtr call) {
              void* state = target.state.get();
              run([&](const CallContext& context,
                      auto&&... arguments) { bind(state, context, std::move(arguments)...); },
                  std::move(call), std::index_sequence_for<P...>{});
            }};
  }

 private:
  template <class Handler, std::size_t... I>
  static void run(Handler&& handler, InboundCallPtr call, std::index_sequence<I...>) {
    std::tuple<std::decay_t<P>...> arguments{};
    try {
      const InMessage& message = call->message();
      if (message.value_count() != 2 + sizeof...(P) ||
          !(Codec<std::decay_t<P>>::decode(message.value(2 + I), std::get<I>(arguments)) && ...))
        return call->reply_error(
            {Code::kInvalidArgument, "opens a stream (node.stream) with the arguments " +
                                         signature_text<Stream<T>, std::decay_t<P>...>()});
    } catch (...) {
      return call->reply_error(current_exception_error("the handler"));
    }
    Loop& loop = *call->loop();
    const CallContext of_call(*call);
    const CallContext context = CallContext(of_call);  // a copy outlives the call, which may end meanwhile
    const Loop::Context within(loop, context.active());
    const auto source = StreamSource::open(std::move(call));
    if (!source) return;
    try {
      handler(context, StreamWriter<T>(source), std::move(std::get<I>(arguments))...);
      source->handler_ended({});
    } catch (...) {
      source->handler_ended(current_exception_error("the handler"));
    }
  }
};

}  // namespace detail

/// Opens a stream: `start(MethodId, CallOptions, BodyWriter, ReplySink&) -> call id` makes the call. Its
/// errors come with the first next(). Any thread.
template <class T, class Start, class... Args>
StreamReader<T> open_stream_with(Endpoint& endpoint, const StreamOptions& options, std::string_view method,
                                 std::string what, Start start, const Args&... args) {
  const MethodId id{fnv1a(method), signature_fingerprint<Stream<T>, WireType<Args>...>(), method};
  const Loop::Turn turn(endpoint.loop());
  auto sink = std::make_shared<detail::StreamSink>(endpoint, options.window());
  sink->set_called(method);
  const auto body = [&](OutMessage& out) {
    out.values(2 + sizeof...(Args));
    std::uint32_t i = 0;
    Codec<std::uint64_t>::encode(out.value(i++), sink->window().items);
    Codec<std::uint64_t>::encode(out.value(i++), sink->window().bytes);
    (Codec<WireType<Args>>::encode(out.value(i++), args), ...);
  };
  // Part of no other call: what waits for items has deadlines.
  const CallOptions call{.timeout = kNoDeadline,
                         .detached = true,
                         .metadata = options.metadata.within(detail::passed_on_metadata(endpoint.loop()))};
  detail::StreamSink::begin(sink, [&](ReplySink& to) { return start(id, call, BodyWriter(body), to); });
  return StreamReader<T>(std::move(sink), std::move(what));
}

/// open_stream_with for a callee that is known already.
template <class T, class... Args>
StreamReader<T> open_stream(Endpoint& endpoint, CallTarget target, std::string_view method, std::string what,
                            const StreamOptions& options, const Args&... args) {
  return open_stream_with<T>(
      endpoint, options, method, std::move(what),
      [&](MethodId id, const CallOptions& call, const BodyWriter& body, ReplySink& sink) {
        return endpoint.call(target, id, call, body, sink);
      },
      args...);
}

}  // namespace troupe::rpc
