#include <troupe/actors/stop_signals.hpp>

#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <utility>

namespace troupe {

namespace {
sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

/// On a thread that does not have the signals blocked, because it was there before us (OpenBLAS starts its
/// threads when it is loaded): blocks the signal for that thread and sends it again, to be taken by ours.
void pass_on(int signal, siginfo_t*, void* context) {
  sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, signal);
  kill(getpid(), signal);
}
}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = stop_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  struct sigaction action {};
  action.sa_sigaction = pass_on;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

void StopSignals::start(std::function<void(int)> handler) {
  thread_ = std::thread([this, handler = std::move(handler)] {
    const sigset_t set = stop_set();
    const timespec patience{0, 100'000'000};  // how soon it sees that it is to end
    while (!ends_within(std::chrono::milliseconds(0))) {
      const int signal = sigtimedwait(&set, nullptr, &patience);
      if (signal > 0) handler(signal);
    }
  });
}

bool StopSignals::ends_within(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, patience, [&] { return ending_; });
}

StopSignals::~StopSignals() {
  stop();
}

void StopSignals::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace troupe
