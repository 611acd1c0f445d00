#include "ucx_raw.hpp"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#include "harness.hpp"

namespace troupe::bench {

namespace {

constexpr unsigned kMessage = 1;
constexpr std::size_t kBandwidthBytes = std::size_t{1} << 30;  // payload of one repetition, at most

void check(ucs_status_t status, const char* what) {
  if (status != UCS_OK) throw std::runtime_error(std::string(what) + ": " + ucs_status_string(status));
}

void transfer(int fd, void* data, std::size_t size, bool out) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = out ? ::write(fd, bytes, size) : ::read(fd, bytes, size);
    if (n <= 0) throw std::runtime_error("the other process has ended");
    bytes += n;
    size -= static_cast<std::size_t>(n);
  }
}

/// One process's UCX: a worker, an endpoint to the other process, and a count of what came.
class Side {
 public:
  Side(const std::string& tls, int fd, std::size_t receive_bytes) : sink_(receive_bytes) {
    ucp_config_t* config = nullptr;
    check(ucp_config_read(nullptr, nullptr, &config), "ucp_config_read");
    check(ucp_config_modify(config, "TLS", tls.c_str()), "TLS");
    if (tls != raw_tls("shm")) check(ucp_config_modify(config, "NET_DEVICES", "lo"), "NET_DEVICES");
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM;
    check(ucp_init(&params, config, &context_), "ucp_init");
    ucp_config_release(config);
    ucp_worker_params_t worker_params{};
    worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
    check(ucp_worker_create(context_, &worker_params, &worker_), "ucp_worker_create");
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kMessage;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = &Side::on_message;
    handler.arg = this;
    check(ucp_worker_set_am_recv_handler(worker_, &handler), "ucp_worker_set_am_recv_handler");
    connect(fd);
  }
  ~Side() {
    ucp_worker_destroy(worker_);
    ucp_cleanup(context_);
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  void send(const void* header, std::size_t header_bytes, const void* data, std::size_t bytes) {
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.send = [](void* request, ucs_status_t status, void* self) {
      check(status, "sending");
      ucp_request_free(request);
      --static_cast<Side*>(self)->pending;
    };
    params.user_data = this;
    void* request = ucp_am_send_nbx(endpoint_, kMessage, header, header_bytes, data, bytes, &params);
    if (UCS_PTR_IS_ERR(request)) check(UCS_PTR_STATUS(request), "ucp_am_send_nbx");
    if (request) ++pending;
  }
  void progress() { ucp_worker_progress(worker_); }
  void wait_for(std::uint64_t count) {
    while (received < count) progress();
  }
  void wait_sent(std::size_t at_most) {
    while (pending > at_most) progress();
  }

  std::uint64_t received = 0;
  std::size_t pending = 0;
  Receiver receiver = Receiver::kReadsNothing;
  std::uint64_t sum = 0;  // of all that was read

 private:
  void take(std::size_t bytes) {
    if (receiver == Receiver::kReadsAll) sum += sum_of(sink_.data(), bytes);
    ++received;
  }
  void connect(int fd) {
    ucp_address_t* address = nullptr;
    std::size_t size = 0;
    check(ucp_worker_get_address(worker_, &address, &size), "ucp_worker_get_address");
    transfer(fd, &size, sizeof size, true);
    transfer(fd, address, size, true);
    ucp_worker_release_address(worker_, address);
    transfer(fd, &size, sizeof size, false);
    std::vector<char> peer(size);
    transfer(fd, peer.data(), size, false);
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
    params.address = reinterpret_cast<const ucp_address_t*>(peer.data());
    check(ucp_ep_create(worker_, &params, &endpoint_), "ucp_ep_create");
  }

  static ucs_status_t on_message(void* arg, const void*, std::size_t, void* data, std::size_t size,
                                 const ucp_am_recv_param_t* param) {
    auto& self = *static_cast<Side*>(arg);
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
      if (size > 0) std::memcpy(self.sink_.data(), data, std::min(size, self.sink_.size()));
      self.take(size);
      return UCS_OK;
    }
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.recv_am = [](void* request, ucs_status_t status, std::size_t bytes, void* user_data) {
      check(status, "receiving");
      ucp_request_free(request);
      static_cast<Side*>(user_data)->take(bytes);
    };
    params.user_data = &self;
    void* request = ucp_am_recv_data_nbx(self.worker_, data, self.sink_.data(), size, &params);
    if (request == nullptr) self.take(size);
    return UCS_OK;
  }

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
  std::vector<char> sink_;
};

using Work = std::function<double(Side& side)>;

/// Runs `child_work` in a child on core 1 and `work` here on core 0, and returns the latter's value.
RawResult run_pair(const std::string& transports, std::size_t receive_bytes, const Work& work,
                   const Work& child_work) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) return {false, 0, "socketpair failed"};
  cpu_set_t before;
  ::sched_getaffinity(0, sizeof before, &before);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin_to_core(1);
    try {
      Side side(raw_tls(transports), ends[1], receive_bytes);
      child_work(side);
      char done = 0;
      transfer(ends[1], &done, 1, false);  // the other side goes first
    } catch (const std::exception&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  RawResult result;
  try {
    pin_to_core(0);
    Side side(raw_tls(transports), ends[0], receive_bytes);
    result.value = work(side);
    result.ok = true;
  } catch (const std::exception& exception) {
    result.error = exception.what();
  }
  ::close(ends[0]);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::sched_setaffinity(0, sizeof before, &before);
  return result;
}

/// Sends `count` messages, then waits for the receiver's word that it has them all.
void stream(Side& side, std::size_t count, std::size_t window, const std::vector<char>& header,
            const std::vector<char>& data) {
  const std::uint64_t answer = side.received + 1;
  for (std::size_t i = 0; i < count; ++i) {
    side.wait_sent(window - 1);
    side.send(header.data(), header.size(), data.data(), data.size());
    if (i % 16 == 0) side.progress();
  }
  side.wait_sent(0);
  side.wait_for(answer);
}

}  // namespace

RawResult raw_am_rtt(std::size_t bytes, const std::string& tls, std::size_t iterations) {
  const std::vector<char> header(bytes, 1);
  const std::uint64_t rounds = iterations * kRepetitions + 100;
  const Work ping = [&](Side& side) {
    std::vector<double> microseconds;
    const auto turns = [&](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        side.send(header.data(), bytes, nullptr, 0);
        side.wait_for(side.received + 1);
      }
    };
    turns(100);
    for (int i = 0; i < kRepetitions; ++i) {
      const auto begin = SteadyClock::now();
      turns(iterations);
      microseconds.push_back(seconds_since(begin) * 1e6 / static_cast<double>(iterations));
    }
    return median(microseconds);
  };
  const Work pong = [&](Side& side) {
    for (std::uint64_t i = 1; i <= rounds; ++i) {
      side.wait_for(i);
      side.send(header.data(), bytes, nullptr, 0);
    }
    side.wait_sent(0);
    for (;;) side.progress();
    return 0.0;
  };
  return run_pair(tls, bytes, ping, pong);
}

namespace {

/// Seconds of one repetition of `count` messages.
RawResult one_way(std::size_t header_bytes, std::size_t data_bytes, std::size_t window,
                  const std::string& tls, std::size_t count, Receiver kind = Receiver::kReadsNothing) {
  const std::vector<char> header(header_bytes, 1);
  const std::vector<char> data(data_bytes, 2);
  const Work sender = [&](Side& side) {
    std::vector<double> seconds;
    stream(side, std::min<std::size_t>(count, 1000), window, header, data);
    for (int i = 0; i < kRepetitions; ++i) {
      const auto begin = SteadyClock::now();
      stream(side, count, window, header, data);
      seconds.push_back(seconds_since(begin));
    }
    return median(seconds);
  };
  const Work receiver = [&](Side& side) {
    side.receiver = kind;
    std::uint64_t expected = std::min<std::size_t>(count, 1000);
    for (int i = 0; i <= kRepetitions; ++i) {
      side.wait_for(expected);
      if (kind == Receiver::kReadsAll && side.sum == 0) throw std::runtime_error("nothing was read");
      side.send(header.data(), header.size(), nullptr, 0);
      expected += count;
    }
    for (;;) side.progress();
    return 0.0;
  };
  return run_pair(tls, std::max<std::size_t>(data_bytes, 1), sender, receiver);
}

}  // namespace

RawResult raw_am_rate(std::size_t bytes, std::size_t window, const std::string& tls, std::size_t iterations) {
  RawResult result = one_way(bytes, 0, window, tls, iterations);
  if (result.ok) result.value = static_cast<double>(iterations) / result.value;
  return result;
}

RawResult raw_am_bandwidth(std::size_t bytes, std::size_t window, const std::string& tls, Receiver receiver) {
  const std::size_t count = std::clamp<std::size_t>(kBandwidthBytes / bytes / 2, 16, 4000);
  RawResult result = one_way(16, bytes, window, tls, count, receiver);
  if (result.ok) result.value = static_cast<double>(count * bytes) / 1e9 / result.value;
  return result;
}

std::uint64_t sum_of(const void* data, std::size_t bytes) {
  // Four places at once, a cache line at each: a processor fetches ahead for each of them.
  constexpr std::size_t kPlaces = 4;
  constexpr std::size_t kLine = 8;
  std::uint64_t sums[kLine] = {};
  const auto* words = static_cast<const std::uint64_t*>(data);
  const std::size_t part = bytes / sizeof *words / kPlaces;
  for (std::size_t i = 0; i + kLine <= part; i += kLine)
    for (std::size_t place = 0; place < kPlaces; ++place)
      for (std::size_t word = 0; word < kLine; ++word) sums[word] += words[place * part + i + word];
  std::uint64_t sum = 0;
  for (const std::uint64_t each : sums) sum += each;
  return sum;
}

std::string raw_tls(const std::string& transports) {
  if (transports == "auto") return "all";
  if (transports == "shm") return "posix,sysv,cma,self";
  if (transports == "tcp") return "tcp,self";
  return transports;
}

}  // namespace troupe::bench
