#include "troupe/tools/launcher.hpp"

#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>

#include <troupe/runtime/process.hpp>

#include "child.hpp"
#include "guard.hpp"
#include "job_record.hpp"
#include "orphans.hpp"
#include "screen.hpp"
#include "signals.hpp"

namespace troupe::tools {
namespace {

using SteadyClock = std::chrono::steady_clock;

// One process of the job while it runs and after.
struct Member {
  Child child;
  LineCutter out_lines, err_lines;
  bool running = false;
  bool asked = false;  // to end
  Ending ending;
};

size_t longest_name(const Job& job) {
  size_t longest = 0;
  for (const Process& process : job.processes) {
    if (!process.marks.console) longest = std::max(longest, process.name.size());
  }
  return longest;
}

std::string seconds_text(std::chrono::milliseconds time) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g s", std::chrono::duration<double>(time).count());
  return text;
}

// The console process is main when none is marked; with neither, all processes are.
void choose_main(Job& job) {
  auto& processes = job.processes;
  if (std::any_of(processes.begin(), processes.end(), [](const Process& p) { return p.marks.main; })) return;
  bool console =
      std::any_of(processes.begin(), processes.end(), [](const Process& p) { return p.marks.console; });
  for (Process& process : processes) process.marks.main = !console || process.marks.console;
}

}  // namespace

class Launcher::Impl {
 public:
  Impl(Job job, LaunchOptions options)
      : job_(std::move(job)),
        options_(std::move(options)),
        screen_(options_.out_fd, options_.err_fd, {options_.color, options_.status, longest_name(job_)}),
        members_(job_.processes.size()) {
    choose_main(job_);
  }

  int run() {
    started_ = SteadyClock::now();
    start_all();
    while (running_ > 0 || output_pending()) {
      update_status();
      wait_and_handle();
      if (phase_ == Phase::ending) ask_next();
      enforce_grace();
    }
    screen_.set_status("");
    tell_rest();
    while (screen_.err().pending()) screen_.err().write_some();
    return exit_code();
  }

 private:
  // running: nothing was asked yet; ending: all were asked; killing: SIGKILL was sent.
  enum class Phase { running, ending, killing };

  void start_all() {
    if (int error = guard_.start()) {
      screen_.message("no guard process (" + std::string(std::strerror(error)) +
                      "): if the launcher is killed, grandchildren stay");
    }
    for (size_t i = 0; i < members_.size() && phase_ == Phase::running; ++i) {
      if (int error = start_child(job_.processes[i], &members_[i].child)) {
        screen_.message("cannot start " + job_.processes[i].name + " (" + job_.processes[i].program +
                        "): " + std::strerror(error));
        fail(SIGTERM);
        break;
      }
      guard_.add(members_[i].child.pid);
      members_[i].running = true;
      ++running_;
    }
    if (!options_.quiet && phase_ == Phase::running) tell_start();
    write_record();
  }

  void tell_start() {
    std::string names;
    for (const Process& process : job_.processes) names += (names.empty() ? "" : ", ") + process.name;
    if (members_.size() > 8) names = std::to_string(members_.size()) + " processes";
    screen_.message(job_.name + " runs " + names +
                    (options_.job_json.empty() ? "" : "; process ids in " + options_.job_json.string()));
  }

  // ---- the loop -----------------------------------------------------------------------------------

  bool output_pending() { return screen_.out().pending() || screen_.err().pending(); }

  void wait_and_handle() {
    polled_.clear();
    handlers_.clear();
    watch(signals_.fd(), POLLIN, [this] { handle_signals(); });
    for (Outlet* outlet : {&screen_.out(), &screen_.err()}) {
      if (outlet->pending()) watch(outlet->fd(), POLLOUT, [this, outlet] { write_output(*outlet); });
    }
    bool full = screen_.out().full() || screen_.err().full();
    for (size_t i = 0; i < members_.size(); ++i) {
      Member& member = members_[i];
      if (!member.running) continue;
      watch(member.child.ended.get(), POLLIN, [this, i] { handle_end(i); });
      if (full) continue;
      for (bool is_err : {false, true}) {
        const UniqueFd& fd = is_err ? member.child.err : member.child.out;
        if (fd) watch(fd.get(), POLLIN, [this, i, is_err] { read_output(i, is_err); });
      }
    }
    int ready = poll(polled_.data(), polled_.size(), poll_timeout_ms());
    if (ready <= 0) return;
    for (size_t i = 0; i < polled_.size(); ++i) {
      if (polled_[i].revents != 0) handlers_[i]();
    }
  }

  void watch(int fd, short events, std::function<void()> handler) {
    polled_.push_back({fd, events, 0});
    handlers_.push_back(std::move(handler));
  }

  int poll_timeout_ms() const {
    int timeout = -1;
    if (phase_ == Phase::ending && running_ > 0) {
      auto left =
          std::chrono::ceil<std::chrono::milliseconds>(std::min(kill_time_, next_time_) - SteadyClock::now())
              .count();
      timeout = static_cast<int>(std::clamp<long>(left, 0, 1 << 30));
    }
    if (screen_.has_status()) timeout = timeout < 0 ? 1000 : std::min(timeout, 1000);
    return timeout;
  }

  void write_output(Outlet& outlet) {
    outlet.write_some();
    if (outlet.closed() && phase_ == Phase::running) fail(SIGTERM);
  }

  // One read at a time, so that a process that never stops printing does not shut out the others.
  // False when there was nothing.
  bool read_output(size_t i, bool is_err) {
    UniqueFd& fd = is_err ? members_[i].child.err : members_[i].child.out;
    if (!fd) return false;
    std::array<char, 1 << 16> buffer;
    ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) return true;
    if (got < 0 && errno == EAGAIN) return false;
    LineCutter& cutter = is_err ? members_[i].err_lines : members_[i].out_lines;
    auto print = [&](std::string_view line) {
      screen_.process_line(i, job_.processes[i].name, line,
                           is_err ? Screen::Stream::err : Screen::Stream::out);
    };
    if (got <= 0) {
      cutter.finish(print);
      fd.reset();
      return false;
    }
    cutter.add({buffer.data(), static_cast<size_t>(got)}, print);
    return true;
  }

  // ---- ends ---------------------------------------------------------------------------------------

  void handle_end(size_t i) {
    Member& member = members_[i];
    const Process& process = job_.processes[i];
    guard_.remove(member.child.pid);
    member.ending = reap_child(member.child);
    member.running = false;
    --running_;
    reap_orphans();
    drain(i);
    if (worth_telling(member.ending)) tell_end(process, member.ending);
    write_record();
    if (phase_ != Phase::running) return;
    if (process.marks.critical && !member.ending.well()) {
      screen_.message("ending the job: " + process.name + " is critical");
      fail(SIGTERM);
    } else if (main_has_ended() && running_ > 0) {
      ask_to_end(SIGTERM);
    }
  }

  void reap_orphans() {
    orphans_.reap([this](pid_t pid) {
      if (pid == guard_.pid()) {
        guard_.gone();
        return false;
      }
      return std::any_of(members_.begin(), members_.end(),
                         [&](const Member& member) { return member.running && member.child.pid == pid; });
    });
  }

  void tell_end(const Process& process, const Ending& ending) {
    const std::string text = process.name + " " + describe(ending);
    if (!options_.quiet || !has_console()) return screen_.message(text);
    if (!process.marks.console) {
      untold_.push_back(text);
    } else if (ending.signal != 0) {
      screen_.message(text);  // one that exits by itself has told why
    }
  }

  void tell_rest() {
    if (exit_code() == 0 || interrupted_by_ != 0) return;
    for (const std::string& text : untold_) screen_.message(text);
  }

  bool has_console() const {
    return std::any_of(job_.processes.begin(), job_.processes.end(),
                       [](const Process& process) { return process.marks.console; });
  }

  // All that the process wrote is in its pipes by now. A descendant that left the group may hold them
  // open: take what is there and close.
  void drain(size_t i) {
    for (bool is_err : {false, true}) {
      while (read_output(i, is_err)) {
      }
      UniqueFd& fd = is_err ? members_[i].child.err : members_[i].child.out;
      if (!fd) continue;
      (is_err ? members_[i].err_lines : members_[i].out_lines).finish([&](std::string_view line) {
        screen_.process_line(i, job_.processes[i].name, line,
                             is_err ? Screen::Stream::err : Screen::Stream::out);
      });
      fd.reset();
    }
  }

  // Ends by the signals that we sent are no news.
  bool worth_telling(const Ending& ending) const {
    if (ending.well()) return false;
    if (phase_ == Phase::running) return true;
    bool by_signal = ending.signal == asked_with_ || ending.signal == SIGKILL;
    bool as_a_shell = ending.code == 128 + asked_with_;
    return !by_signal && !as_a_shell;
  }

  bool main_has_ended() const {
    for (size_t i = 0; i < members_.size(); ++i) {
      if (job_.processes[i].marks.main && members_[i].running) return false;
    }
    return true;
  }

  void fail(int signal) {
    failed_ = true;
    ask_to_end(signal);
  }

  void ask_to_end(int signal) {
    phase_ = Phase::ending;
    asked_with_ = signal;
    asked_at_ = SteadyClock::now();
    kill_time_ = asked_at_ + options_.grace;
    // Ctrl-C is somebody's who waits; and after a failure there is nothing left that others could finish.
    in_order_ = options_.in_order && signal != SIGINT && !failed_;
    stages_ = 0;
    stages_asked_ = 0;
    for (size_t i = 0; i < members_.size(); ++i) {
      members_[i].asked = false;
      if (i == 0 || job_.processes[i].role != job_.processes[i - 1].role) ++stages_;
    }
    next_time_ = asked_at_;
    ask_next();
  }

  // Role by role, the last one first, for the first ones serve the later ones. Each has its share of the
  // time, or until it has ended.
  void ask_next() {
    while (next_time_ != SteadyClock::time_point::max()) {
      const bool waits = std::any_of(members_.begin(), members_.end(),
                                     [](const Member& member) { return member.running && member.asked; });
      if (waits && SteadyClock::now() < next_time_) return;
      size_t last = members_.size();
      while (last > 0 && (!members_[last - 1].running || members_[last - 1].asked)) --last;
      if (last == 0) {
        next_time_ = SteadyClock::time_point::max();
        return;
      }
      const std::string& role = job_.processes[last - 1].role;
      for (size_t i = 0; i < members_.size(); ++i) {
        if (!in_order_ || job_.processes[i].role == role) ask(members_[i]);
      }
      ++stages_asked_;
      next_time_ = std::max(next_time_, asked_at_ + options_.grace * stages_asked_ / std::max(1, stages_));
    }
  }

  void ask(Member& member) {
    if (!member.running) return;
    member.asked = true;
    kill(-member.child.pid, asked_with_);
    kill(-member.child.pid, SIGCONT);  // a stopped process would not hear it
  }

  void signal_all(int signal) {
    for (const Member& member : members_) {
      if (member.running) kill(-member.child.pid, signal);
    }
  }

  void enforce_grace() {
    if (phase_ != Phase::ending || running_ == 0 || SteadyClock::now() < kill_time_) return;
    for (size_t i = 0; i < members_.size(); ++i) {
      if (!members_[i].running) continue;
      screen_.message(job_.processes[i].name + " did not end within " + seconds_text(options_.grace) +
                      ": killed");
    }
    kill_all();
  }

  void kill_all() {
    phase_ = Phase::killing;
    signal_all(SIGKILL);
  }

  void handle_signals() {
    while (int signal = signals_.next()) {
      if (signal == SIGCHLD) {
        reap_orphans();
      } else if (signal == SIGWINCH) {
        for (size_t i = 0; i < members_.size(); ++i) {
          if (members_[i].running && job_.processes[i].marks.console) kill(members_[i].child.pid, SIGWINCH);
        }
      } else if (signal == SIGTSTP) {
        pause_job();
      } else if (running_ == 0) {
        screen_.out().clear();  // nothing is left but output that nobody reads
        screen_.err().clear();
        interrupted_by_ = signal;
      } else if (interrupted_by_ != 0) {
        screen_.message("again: killing what still runs");
        kill_all();
      } else {
        interrupted_by_ = signal;
        ask_to_end(signal);
      }
    }
  }

  // Ctrl-Z stops the whole job; continuing the launcher continues it.
  void pause_job() {
    signal_all(SIGSTOP);
    raise(SIGSTOP);
    signal_all(SIGCONT);
  }

  int exit_code() const {
    if (interrupted_by_ != 0) return 128 + interrupted_by_;
    if (failed_) return 1;
    for (size_t i = 0; i < members_.size(); ++i) {
      if (job_.processes[i].marks.main && !members_[i].ending.well()) return members_[i].ending.exit_code();
    }
    return 0;
  }

  // ---- what people see ----------------------------------------------------------------------------

  void write_record() {
    if (options_.job_json.empty() || record_failed_) return;
    std::vector<ProcessRecord> records;
    for (size_t i = 0; i < members_.size(); ++i) {
      const Member& member = members_[i];
      if (member.child.pid <= 0) continue;
      const Process& process = job_.processes[i];
      records.push_back({process.name, process.role, member.child.pid, member.running,
                         describe(member.ending), member.ending.exit_code()});
    }
    record_failed_ = !write_job_record(options_.job_json, job_, records);
    if (record_failed_) screen_.message("cannot write " + options_.job_json.string());
  }

  // `ps 2 running · worker 2 running, 1 ended badly · 12 s`
  void update_status() {
    if (!screen_.has_status()) return;
    struct Tally {
      int running = 0, done = 0, bad = 0;
    };
    std::map<std::string, Tally> tallies;
    for (size_t i = 0; i < members_.size(); ++i) {
      Tally& tally = tallies[job_.processes[i].role];
      if (members_[i].running)
        ++tally.running;
      else if (members_[i].ending.well())
        ++tally.done;
      else
        ++tally.bad;
    }
    std::string text = "[";
    for (const auto& [role, tally] : tallies) {
      text += role + ":";
      if (tally.running > 0) text += " " + std::to_string(tally.running) + " running";
      if (tally.done > 0) text += " " + std::to_string(tally.done) + " done";
      if (tally.bad > 0) text += " " + std::to_string(tally.bad) + " failed";
      text += " | ";
    }
    auto age = std::chrono::duration_cast<std::chrono::seconds>(SteadyClock::now() - started_);
    text += std::to_string(age.count()) + " s" + (phase_ == Phase::running ? "]" : ", ending]");
    // A line that wraps could not be erased.
    winsize size{};
    size_t width = ioctl(options_.err_fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
    screen_.set_status(running_ > 0 ? text.substr(0, width) : "");
  }

  Job job_;
  LaunchOptions options_;
  SignalWatch signals_;
  Guard guard_;
  Orphans orphans_;
  Screen screen_;
  std::vector<Member> members_;
  std::vector<pollfd> polled_;
  std::vector<std::function<void()>> handlers_;
  std::vector<std::string> untold_;  // ends that are told after the console process
  size_t running_ = 0;
  Phase phase_ = Phase::running;
  int asked_with_ = 0;
  bool in_order_ = false;
  int stages_ = 0, stages_asked_ = 0;
  int interrupted_by_ = 0;
  bool failed_ = false;
  bool record_failed_ = false;
  SteadyClock::time_point asked_at_, kill_time_;
  SteadyClock::time_point next_time_ = SteadyClock::time_point::max();  // when the next ones are asked
  SteadyClock::time_point started_;
};

// Before anything is opened: else one of ours becomes standard error, and is never ready to be written to.
Launcher::Launcher(Job job, LaunchOptions options)
    : impl_((open_standard_descriptors(), std::make_unique<Impl>(std::move(job), std::move(options)))) {}

Launcher::~Launcher() = default;

int Launcher::run() {
  return impl_->run();
}

}  // namespace troupe::tools
