#include "top_command.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <iostream>
#include <optional>

#include <troupe/actors/node_config.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/runtime/process.hpp>

#include "src/top_keys.hpp"
#include "src/top_table.hpp"

extern char** environ;

using namespace troupe;

namespace {

std::atomic<int> ended_by{0};
static_assert(std::atomic<int>::is_always_lock_free);

/// Ctrl-C and its kin end the view between two looks, so that the terminal is put back.
void end_on_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { ended_by = signal; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int complain(const std::string& text, int code) {
  std::cerr << "troupe top: " << text << "\n";
  return code;
}

int complain(const Error& error) {
  return complain(error.message, error.code == Code::kInvalidArgument ? 2 : 1);
}

/// The node's settings that matter to who only looks, from the environment and the flags.
Result<ObserverOptions> observer_options(const std::vector<std::string>& flags) {
  ConfigSchema schema;
  add_node_settings(schema);
  auto config = Config::load(std::move(schema), "", environ, flags);
  if (!config) return std::move(config).error();
  const NodeOptions node = node_options(*config, {});
  ObserverOptions options;
  options.secret = node.secret;
  options.secret_file = node.secret_file;
  options.transport = node.transport;
  return options;
}

Duration seconds(double count) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(count));
}

constexpr const char* kEnterScreen = "\033[?1049h\033[?25l";
constexpr const char* kLeaveScreen = "\033[?25h\033[?1049l";

/// The terminal's other screen, without a cursor, while it lives.
class OtherScreen {
 public:
  explicit OtherScreen(bool wanted) : wanted_(wanted) {
    if (wanted_) std::cout << kEnterScreen << std::flush;
  }
  ~OtherScreen() {
    if (wanted_) std::cout << kLeaveScreen << std::flush;
  }
  OtherScreen(const OtherScreen&) = delete;
  OtherScreen& operator=(const OtherScreen&) = delete;

 private:
  bool wanted_;
};

std::string title(const std::string& address, const std::vector<tools::TopRow>& rows) {
  double calls = 0;
  for (const tools::TopRow& row : rows) calls += row.calls_in;
  return "cluster at " + address + ": " + std::to_string(rows.size()) + " nodes, " +
         tools::short_number(calls) + " calls/s";
}

}  // namespace

void TopCommand::declare(CLI::App& app) {
  app.footer(
      "OUT and IN are calls made and answered; their times are of those that ended since the last look.\n"
      "OPEN: calls without an answer yet. BUSY: the share of its time in which a node's loop had something\n"
      "to do. STALE: staleness of the pushes to a shard server. A node that does not answer in time is "
      "busy.\n\n"
      "Keys: q quits; n, r, o, i, m, p, e, b sort by name, role, OUT/s, IN/s, MB/s, OPEN, ERR/s, BUSY, the "
      "same\n"
      "key again turns it round; arrows and page keys scroll; h shows the keys.\n\n"
      "The secret of the cluster, if it has one: --secret-file, TROUPE_NODE_SECRET_FILE or\n"
      "TROUPE_NODE_SECRET.\n\n"
      "Exit code: 0, also after q; 1 when the cluster cannot be reached, or ends; 2 for bad input; 130 after "
      "Ctrl-C.");
  app.add_option("--address", address_, "Where the cluster's first node listens")
      ->required()
      ->option_text("HOST:PORT");
  app.add_option("--secret-file", secret_file_, "File that holds the cluster's secret")->option_text("FILE");
  app.add_option("--transport", transport_, "UCX transports (default auto)")->option_text("NAMES");
  app.add_option("--interval", interval_s_, "Time between two looks (default 1)")
      ->check(CLI::Range(0.1, 3600.0))
      ->option_text("SECONDS");
  app.add_option("--timeout", timeout_s_, "How long to wait for an answer (default 3)")
      ->check(CLI::Range(0.1, 60.0))
      ->option_text("SECONDS");
  app.add_flag("--once", once_, "Print one table and end");
  app.add_flag("--targets", targets_, "Print where the nodes serve metrics, as Prometheus's file_sd_configs");
}

int TopCommand::run() {
  std::vector<std::string> flags;
  if (!secret_file_.empty()) flags.push_back("node.secret_file=" + secret_file_);
  if (!transport_.empty()) flags.push_back("node.transport=" + transport_);
  auto options = observer_options(flags);
  if (!options) return complain(options.error());
  options->address = address_;
  options->timeout = seconds(timeout_s_);
  end_on_signals();
  auto observer = ClusterObserver::connect(std::move(*options));
  if (!observer) return complain(observer.error());
  return targets_ ? print_targets(**observer) : watch(**observer);
}

int TopCommand::watch(ClusterObserver& observer) {
  terminal_ = terminal_draws(1) && !once_;
  std::optional<Error> gone;
  {
    const OtherScreen screen(terminal_);
    gone = draw_until_ended(observer);
  }
  if (ended_by != 0) return 128 + ended_by;
  if (gone) return complain("the cluster at " + address_ + " does not answer any more: " + gone->message, 1);
  return 0;
}

/// An error: the cluster has gone.
std::optional<Error> TopCommand::draw_until_ended(ClusterObserver& observer) {
  tools::Keys keys(terminal_);
  std::vector<NodeView> before;
  for (bool first = true; ended_by == 0 && !view_.quit; first = false) {
    auto now = observer.look();
    if (!now) return std::move(now).error();
    if (!once_ || !first) {
      rows_ = tools::top_rows(before, *now);
      draw();
    }
    if ((once_ && !first) || !std::cout) break;  // or nobody reads any more
    before = std::move(*now);
    wait(observer, keys);
  }
  return std::nullopt;
}

/// Until the next look is due; what is typed shows at once.
void TopCommand::wait(ClusterObserver& observer, tools::Keys& keys) {
  const auto due = std::chrono::steady_clock::now() + seconds(interval_s_);
  for (;;) {
    const auto left = std::chrono::duration_cast<Duration>(due - std::chrono::steady_clock::now());
    if (left <= Duration::zero() || ended_by != 0 || view_.quit) return;
    std::string typed;
    observer.wait(
        left,
        [&] {
          typed += keys.typed();
          return ended_by != 0 || !typed.empty();
        },
        keys.descriptor());
    if (typed.empty()) continue;
    view_.type(typed, nodes_on_screen());
    if (!view_.quit) draw();
  }
}

namespace {
/// Nothing is known of a terminal that tells no size.
winsize window_size() {
  winsize window{};
  if (ioctl(1, TIOCGWINSZ, &window) != 0 || window.ws_col == 0 || window.ws_row == 0) {
    window.ws_col = 80;
    window.ws_row = 24;
  }
  return window;
}
}  // namespace

std::size_t TopCommand::nodes_on_screen() const {
  const std::size_t rows = window_size().ws_row;
  return rows > 3 ? rows - 3 : 1;
}

void TopCommand::draw() {
  std::string text;
  if (terminal_) {
    const winsize window = window_size();
    const auto lines = tools::fit(tools::screen_lines(title(address_, rows_), rows_, view_, window.ws_row),
                                  window.ws_col, window.ws_row);
    // No line end after the last one, which would scroll the first one away.
    text = "\033[H";
    for (std::size_t i = 0; i < lines.size(); ++i) text += (i > 0 ? "\r\n" : "") + lines[i] + "\033[K";
    text += "\033[J";
  } else {
    text = title(address_, rows_) + "\n";
    for (const std::string& line : tools::top_lines(rows_)) text += line + "\n";
    if (!once_) text += "\n";
  }
  std::cout << text << std::flush;
}

int TopCommand::print_targets(ClusterObserver& observer) {
  auto views = observer.look();
  if (!views) return complain(views.error());
  auto targets = nlohmann::json::array();
  for (const NodeView& view : *views) {
    const auto address = view.member.metadata.find("metrics_address");
    if (address == view.member.metadata.end()) continue;
    targets.push_back({{"targets", {address->second}}, {"labels", {{"role", view.member.role}}}});
  }
  std::cout << targets.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  return 0;
}
