#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/error.hpp>
#include <troupe/runtime/trace.hpp>

namespace troupe {

/// What part a span has in its trace; the numbers are OpenTelemetry's.
enum class SpanKind : std::uint8_t { kInternal = 1, kServer = 2, kClient = 3, kProducer = 4, kConsumer = 5 };

/// One piece of work in a trace: a call at its caller or at its callee, or the application's own.
/// Texts that come again and again are a SpanBuffer's; null: not known.
struct Span {
  TraceContext context;
  std::uint64_t parent_id = 0;  ///< 0: the trace begins here
  SpanKind kind = SpanKind::kInternal;
  Code code = Code::kOk;
  std::uint32_t attempt = 0;  ///< of a call that may be repeated, from 1; 0: of another
  std::uint64_t method_hash = 0;
  TimePoint start, end;
  const std::string* actor = nullptr;
  const std::string* method = nullptr;  ///< or the name of the application's span
  const std::string* peer = nullptr;    ///< the node at the other end
  std::string error;                    ///< message, if `code` is not kOk
};

/// Where finished spans wait until somebody takes them: a ring without locks between the loop that writes
/// and the one thread that reads. What finds no room is dropped and counted.
class SpanBuffer {
 public:
  /// Actors by their number, methods and work of the application by their name's hash, nodes by their id.
  enum class Name : std::uint8_t { kActor, kMethod, kNode, kWork };

  /// `capacity`: spans, rounded up to a power of two.
  explicit SpanBuffer(std::size_t capacity);
  SpanBuffer(const SpanBuffer&) = delete;
  SpanBuffer& operator=(const SpanBuffer&) = delete;

  // ---- The writer: one thread at a time ---------------------------------------------------------------
  void push(Span&& span);
  /// `text`, which always belongs to `key`, kept as long as this object. Null if it is empty, or if there are
  /// more names than kMaxNames of the kind already.
  const std::string* keep(Name kind, std::uint64_t key, std::string_view text);
  /// The same for a name that was kept before, else null.
  const std::string* kept(Name kind, std::uint64_t key) const;
  static constexpr std::size_t kMaxNames = std::size_t{1} << 16;
  /// `wake` is called when the buffer is half full, once until take(). Before the first span.
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }

  // ---- The reader -------------------------------------------------------------------------------------
  /// Moves up to `most` spans, the oldest first, to the end of `spans`.
  void take(std::vector<Span>& spans, std::size_t most);

  // ---- Any thread -------------------------------------------------------------------------------------
  std::uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }
  std::size_t capacity() const { return ring_.size(); }

 private:
  std::vector<Span> ring_;
  alignas(64) std::atomic<std::uint64_t> written_{0};
  std::atomic<std::uint64_t> dropped_{0};
  alignas(64) std::atomic<std::uint64_t> read_{0};
  std::atomic<bool> woken_{false};
  std::function<void()> wake_;
  std::unordered_map<std::uint64_t, std::string> names_[4];  // nodes of the map do not move
};

}  // namespace troupe
