#include <troupe/runtime/span_exporter.hpp>

#include <pthread.h>
#include <signal.h>

#include <algorithm>

#include "otlp.hpp"
#include "span_output.hpp"

namespace troupe {

namespace {

TimePoint steady_now() {
  return RealClock().now();
}

/// Signals are for the application's threads; and a collector that has gone must not end the process with
/// SIGPIPE. Inherited by threads that are made meanwhile.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

Duration offset_to_system_time(const Clock& clock) {
  // The clocks cannot be read at once: of several tries, that in which least time went by counts.
  Duration offset{0};
  Duration least = Duration::max();
  for (int i = 0; i < 8; ++i) {
    const TimePoint before = clock.now();
    const Duration system = std::chrono::system_clock::now().time_since_epoch();
    const Duration took = clock.now() - before;
    if (took >= least) continue;
    least = took;
    offset = system - Duration(before.ns) - took / 2;
  }
  return offset;
}

Result<std::unique_ptr<SpanExporter>> SpanExporter::open(SpanExportOptions options) {
  std::vector<std::unique_ptr<SpanOutput>> outputs;
  const auto add = [&](Result<std::unique_ptr<SpanOutput>> output) -> Result<void> {
    if (!output) return std::move(output).error();
    outputs.push_back(std::move(*output));
    return {};
  };
  if (!options.file.empty())
    if (auto added = add(open_span_file(options.file)); !added) return std::move(added).error();
  if (!options.endpoint.empty())
    if (auto added = add(open_span_post(options.endpoint)); !added) return std::move(added).error();
  if (outputs.empty())
    return Error{Code::kInvalidArgument, "spans are exported to a file or to an endpoint; name one"};
  std::unique_ptr<SpanExporter> exporter(new SpanExporter(std::move(options), std::move(outputs)));
  if (auto begun = exporter->begin(); !begun) return begun.error();
  return exporter;
}

SpanExporter::SpanExporter(SpanExportOptions options, std::vector<std::unique_ptr<SpanOutput>> outputs)
    : options_(std::move(options)), outputs_(std::move(outputs)), spans_(options_.buffered_spans) {
  spans_.set_wake([this] {
    // No lock, for the loop calls this: a wake-up that is missed costs no more than the interval.
    changed_.notify_all();
  });
}

Result<void> SpanExporter::begin() {
  const NoSignals inherited;
  auto thread = start_thread([this] { run(); });
  if (!thread) {
    ended_ = true;
    return thread.error();
  }
  thread_ = std::move(*thread);
  return {};
}

SpanExporter::~SpanExporter() {
  close();
}

void SpanExporter::close() {
  if (process_.left()) {  // the thread is not here to be waited for
    if (thread_.joinable()) thread_.detach();
    new (&changed_) std::condition_variable;
    return;
  }
  {
    std::unique_lock lock(mutex_);
    if (!closing_) close_by_ = steady_now() + options_.close_timeout;
    closing_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, options_.close_timeout, [&] { return ended_; });
  }
  for (const auto& output : outputs_) output->stop();
  std::thread thread;
  {
    const std::lock_guard lock(mutex_);
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

bool SpanExporter::flush(Duration timeout) {
  std::unique_lock lock(mutex_);
  const std::uint64_t wanted = rounds_ + 1;  // the one that is on, if any, may have passed by what came last
  due_ = true;
  changed_.notify_all();
  return changed_.wait_for(lock, timeout, [&] { return rounds_done_ >= wanted || ended_; });
}

SpanExporter::Stats SpanExporter::stats() const {
  return {exported_.load(), lost_.load() + spans_.dropped()};
}

// ---- The exporter's thread ----------------------------------------------------------------------

void SpanExporter::run() {
  for (bool last = false; !last;) {
    {
      std::unique_lock lock(mutex_);
      if (!closing_ && !due_) changed_.wait_for(lock, options_.interval);
      last = closing_;
      due_ = false;
      ++rounds_;
    }
    export_batches();
    tell_of_full_buffer();
    const std::lock_guard lock(mutex_);
    rounds_done_ = rounds_;
    changed_.notify_all();
  }
  const Stats all = stats();
  if (all.dropped > 0)
    options_.log.warn("spans were dropped", {{"dropped", all.dropped}, {"exported", all.exported}});
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void SpanExporter::export_batches() {
  const OtlpWriter writer(options_.resource, options_.clock_offset);
  // What comes meanwhile waits for the next round, or this one would have no end.
  for (std::size_t left = spans_.capacity(); left > 0;) {
    batch_.clear();
    spans_.take(batch_, std::min(left, options_.batch_spans));
    if (batch_.empty()) return;
    left -= batch_.size();
    send(writer.request(batch_), batch_.size());
  }
}

void SpanExporter::send(const std::string& request, std::size_t spans) {
  bool sent = true;
  for (const auto& output : outputs_) sent = send_to(*output, request) && sent;
  (sent ? exported_ : lost_) += spans;
  if (sent && std::exchange(failing_, false))
    options_.log.info("spans are exported again", {{"dropped", std::exchange(lost_since_told_, 0)}});
  if (!sent) lost_since_told_ += spans;
}

bool SpanExporter::send_to(SpanOutput& output, const std::string& request) {
  Duration backoff = options_.first_backoff;
  for (int attempt = 1;; ++attempt) {
    const Duration timeout = std::min(options_.post_timeout, time_left());
    const Result<void> sent = timeout > Duration::zero()
                                  ? output.send(request, timeout)
                                  : Error{Code::kDeadlineExceeded, "the node ended before they were sent"};
    if (sent) return true;
    const bool again = sent.error().code == Code::kUnavailable && attempt < options_.post_attempts;
    if (!again || !pause(backoff)) {
      // Once for each time that it fails, not for each batch.
      if (!std::exchange(failing_, true)) options_.log.error("spans cannot be exported", sent.error());
      return false;
    }
    backoff *= 2;
  }
}

void SpanExporter::tell_of_full_buffer() {
  const std::uint64_t dropped = spans_.dropped();
  if (dropped == told_of_) return;
  // Each time that the number has doubled.
  if (dropped < 2 * told_of_) return;
  options_.log.warn("spans come faster than they are exported: some are dropped; sample fewer",
                    {{"dropped", dropped}, {"buffer", spans_.capacity()}});
  told_of_ = dropped;
}

bool SpanExporter::pause(Duration time) {
  std::unique_lock lock(mutex_);
  if (!closing_) {
    changed_.wait_for(lock, time, [&] { return closing_; });
    return true;
  }
  const Duration left = close_by_ - steady_now();
  if (time >= left) return false;
  lock.unlock();
  std::this_thread::sleep_for(time);
  return true;
}

Duration SpanExporter::time_left() const {
  const std::lock_guard lock(mutex_);
  return closing_ ? close_by_ - steady_now() : options_.post_timeout;
}

}  // namespace troupe
