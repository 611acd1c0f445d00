#include "ucx/context.hpp"

#include <dlfcn.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>
#include <unistd.h>

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace troupe::rpc {

namespace {

/// Stands before UCX's own log handler, which ends the process after a message of the level "fatal". UCX
/// 1.13 gives that level to a failed copy from the memory of a peer that has died, on an endpoint
/// without UCX's failure handling (which does not exist for shared memory); the copy's error is then
/// returned as any other, so there is nothing fatal about it for us. Real assertions of UCX do not pass
/// here. Other messages go on to where they would have gone.
ucs_log_func_rc_t on_ucx_log(const char* file, unsigned line, const char* function, ucs_log_level_t level,
                             const ucs_log_component_config_t* component, const char* message,
                             va_list arguments) {
  if (level != UCS_LOG_LEVEL_FATAL) return UCS_LOG_FUNC_RC_CONTINUE;
  if (component->log_level >= UCS_LOG_LEVEL_ERROR) {
    ucs_log_default_handler(file, line, function, UCS_LOG_LEVEL_ERROR, component, message, arguments);
  }
  return UCS_LOG_FUNC_RC_STOP;
}

/// UCX is loaded with habits of a whole program: before main() it installs handlers for faults (which
/// print a backtrace, and may wait for a debugger) and for SIGHUP (which thereafter no longer ends the
/// process), it writes warnings to the standard output, for instance when a peer dies, and it may end
/// the process then. None of that is a library's business, and there are no settings per context for
/// it. So the signal handlers are given back to who had them before, if they are UCX's; the log is
/// lowered to fatal errors, unless somebody chose its level (UCX_LOG_LEVEL); and on_ucx_log() takes the
/// sting out of those. Idempotent; the first transport of a process does it.
///
/// What cannot be undone from inside: on being loaded UCX patches mmap, munmap, brk and madvise in libc, for
/// its cache of memory registered with network cards. UCX_MEM_EVENTS=n in the environment prevents it;
/// ThreadSanitizer needs that, because it does not survive the patched madvise at a thread's end.
void make_ucx_a_quiet_guest() {
  for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGHUP}) {
    struct sigaction action {};
    Dl_info owner{};
    if (sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_DFL ||
        action.sa_handler == SIG_IGN) {
      continue;
    }
    if (dladdr(reinterpret_cast<void*>(action.sa_sigaction), &owner) == 0 || !owner.dli_fname) continue;
    if (std::string_view(owner.dli_fname).find("libucs") != std::string_view::npos)
      ucs_debug_disable_signal(signal);
  }
  char level[32] = {};
  if (ucs_global_opts_get_value("LOG_LEVEL", level, sizeof level) == UCS_OK &&
      std::string_view(level) == "WARN") {
    ucs_global_opts_set_value("LOG_LEVEL", "FATAL");
  }
  // UCX's list of handlers is the process's, so this is once a process, too.
  static const bool pushed = (ucs_log_push_handler(&on_ucx_log), true);
  static_cast<void>(pushed);
}

/// What UCX finds on this machine: "posix/memory, tcp/lo, ...".
std::string offered_resources() {
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM;
  ucp_context_h context = nullptr;
  if (ucp_init(&params, nullptr, &context) != UCS_OK) return "nothing";
  char* text = nullptr;
  std::size_t size = 0;
  std::string result;
  if (std::FILE* stream = open_memstream(&text, &size)) {
    ucp_context_print_info(context, stream);
    std::fclose(stream);
    const std::string_view all(text, size);
    for (auto at = all.find("-- "); at != std::string_view::npos; at = all.find("-- ", at + 1)) {
      const auto end = all.find('\n', at);
      std::string_view name = all.substr(at + 3, end - at - 3);
      while (name.starts_with(' ')) name.remove_prefix(1);
      result += (result.empty() ? "" : ", ") + std::string(name);
    }
    std::free(text);
  }
  ucp_cleanup(context);
  return result;
}

// Measured on 16 idle cores with tests/bench/ucx_raw_bench and UCX_<setting> in the environment.
//
// A shared-memory message that fits into an element of the receiver's queue needs no second buffer. The
// default of 128 bytes is just too little for our envelopes of about 100: round trip 1.84 us; with 256
// bytes 1.35, with 512 1.12 (raw UCX, 64 bytes and its own default: 1.24). UCX computes places in the
// peer's queue with its own setting, so both sides must have the same: when it changes here, change the
// magic number of data addresses (transport.cpp), too. UCX_POSIX_FIFO_ELEM_SIZE and its kin in the
// environment are overruled by this. The name is of the table that both shared-memory transports share,
// because UCX 1.13 knows "POSIX_..." only from the environment.
constexpr const char* kFifoElement = "512";
// Where rendezvous (one copy by the kernel, or fewer wake-ups) overtakes eager messages (two or three
// copies). Shared memory, GB/s eager/rendezvous: 16 KiB 10.0/6.3, 32 KiB 10.0/8.9, 64 KiB 10.3/13 to 16,
// 1 MiB 9.2/13. UCX's own choice is 8 KiB. Loopback TCP: 64 KiB 3.8/2.8, 128 KiB 4.2/5.0, 256 KiB 3.9/6.6,
// 1 MiB 3.5/8.0; its own choice follows from a made-up bandwidth of the loopback device.
constexpr const char* kRendezvous = "48k";
constexpr const char* kTcpRendezvous = "96k";

// Bytes of a large message that one round of UCX copies out of the sender's memory before it looks at
// everything else again. A small message waits for up to two such pieces (UCX looks for messages, then
// copies, then we deliver): at 5 GB/s 128 KiB take 26 us. Smaller pieces cost bandwidth (1 MiB from and to
// the processor's cache, GB/s: 64 KiB 9.8, 128 KiB 11.0, 256 KiB 11.4, UCX's own choice of 512 KiB 12.5).
constexpr const char* kCopiedPerRound = "128k";

// Processes of one machine meet in our own rings (shm/), not in UCX's shared memory: there all peers write
// into one queue, and one that is killed after it has taken a place in it, and before it has filled it, stops
// all that the queue's owner receives, for ever (UCX 1.13).
std::string tls_list(const std::string& transports) {
  if (transports == "auto" || transports == "ucx") return "^posix,sysv,cma";
  if (transports == "shm") return "self";
  if (transports == "tcp") return "tcp,self";
  return transports;
}

std::vector<std::pair<std::string, std::string>> settings(const TransportOptions& options) {
  std::vector<std::pair<std::string, std::string>> list;
  list.emplace_back("TLS", tls_list(options.transports));
  if (options.transports != "shm" && !options.net_devices.empty()) {
    list.emplace_back("NET_DEVICES", options.net_devices);
  }
  const bool over_tcp = options.transports.starts_with("tcp") || (options.transports == "ucx" && !has_rdma());
  list.emplace_back("RNDV_THRESH", over_tcp ? kTcpRendezvous : kRendezvous);
  if (!uses_network_only(options)) {
    list.emplace_back("MM_FIFO_ELEM_SIZE", kFifoElement);
    list.emplace_back("SCOPY_SEG_SIZE", kCopiedPerRound);
  }
  return list;
}

}  // namespace

bool has_rdma() {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/infiniband", none)) {
    const bool is_device = entry.path().filename().string().starts_with("uverbs");
    if (is_device && ::access(entry.path().c_str(), R_OK | W_OK) == 0) return true;
  }
  return false;
}

bool uses_network_only(const TransportOptions& options) {
  return options.transports == "ucx" || options.transports.starts_with("tcp");
}

Error ucx_error(ucs_status_t status, const std::string& what) {
  const Code code = status == UCS_ERR_NO_MEMORY ? Code::kResourceExhausted : Code::kUnavailable;
  return {code, what + ": " + ucs_status_string(status)};
}

Result<std::unique_ptr<UcxContext>> UcxContext::create(const TransportOptions& options) {
  make_ucx_a_quiet_guest();
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return ucx_error(status, "reading UCX's configuration");
  const std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> owner(config, &ucp_config_release);
  for (const auto& [name, value] : settings(options)) {
    status = ucp_config_modify(config, name.c_str(), value.c_str());
    if (status != UCS_OK) return ucx_error(status, "setting UCX's " + name + " to '" + value + "'");
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 0;
  ucp_context_h context = nullptr;
  status = ucp_init(&params, config, &context);
  if (status != UCS_OK) {
    Error error =
        ucx_error(status, "UCX cannot be set up with transports '" + options.transports + "'" +
                              (options.net_devices.empty() ? "" : " on '" + options.net_devices + "'"));
    error.message += "; it offers here: " + offered_resources();
    return error;
  }
  return std::unique_ptr<UcxContext>(new UcxContext(context));
}

UcxContext::~UcxContext() {
  ucp_cleanup(context_);
}

}  // namespace troupe::rpc
