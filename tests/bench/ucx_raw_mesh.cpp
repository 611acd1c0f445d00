#include "ucx_raw_mesh.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>
#include <vector>

#include "ucx_raw.hpp"

namespace troupe::bench {

namespace {

constexpr unsigned kHello = 1;

void check(ucs_status_t status, const char* what) {
  if (status == UCS_OK) return;
  std::cerr << what << ": " << ucs_status_string(status) << "\n";
  std::abort();
}

ucp_context_h make_context(const std::string& tls) {
  ucp_config_t* config = nullptr;
  check(ucp_config_read(nullptr, nullptr, &config), "ucp_config_read");
  check(ucp_config_modify(config, "TLS", raw_tls(tls).c_str()), "TLS");
  if (tls == "tcp") check(ucp_config_modify(config, "NET_DEVICES", "lo"), "NET_DEVICES");
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM;
  ucp_context_h context = nullptr;
  check(ucp_init(&params, config, &context), "ucp_init");
  ucp_config_release(config);
  return context;
}

ucp_worker_h make_worker(ucp_context_h context, std::size_t& received) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  ucp_worker_h worker = nullptr;
  check(ucp_worker_create(context, &params, &worker), "ucp_worker_create");
  ucp_am_handler_param_t handler{};
  handler.field_mask =
      UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kHello;
  handler.arg = &received;
  handler.cb = [](void* count, const void*, std::size_t, void*, std::size_t, const ucp_am_recv_param_t*) {
    ++*static_cast<std::size_t*>(count);
    return UCS_OK;
  };
  check(ucp_worker_set_am_recv_handler(worker, &handler), "ucp_worker_set_am_recv_handler");
  return worker;
}

void publish(ucp_worker_h worker, MeshBoard::Slot& slot) {
  ucp_address_t* address = nullptr;
  std::size_t size = 0;
  check(ucp_worker_get_address(worker, &address, &size), "ucp_worker_get_address");
  if (size > sizeof slot.address) std::abort();
  std::memcpy(slot.address, address, size);
  slot.size.store(static_cast<std::uint32_t>(size), std::memory_order_release);
  ucp_worker_release_address(worker, address);
}

ucp_ep_h connect(ucp_worker_h worker, const MeshBoard::Slot& slot) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
  params.address = reinterpret_cast<const ucp_address_t*>(slot.address);
  ucp_ep_h endpoint = nullptr;
  check(ucp_ep_create(worker, &params, &endpoint), "ucp_ep_create");
  return endpoint;
}

}  // namespace

MeshBoard& make_mesh_board() {
  void* memory =
      ::mmap(nullptr, sizeof(MeshBoard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  return *new (memory) MeshBoard;
}

void hold_raw_mesh(MeshBoard& board, std::size_t index, std::size_t count, const std::string& tls,
                   const std::function<void()>& connected) {
  std::size_t received = 0;
  ucp_context_h context = make_context(tls);
  ucp_worker_h worker = make_worker(context, received);
  publish(worker, board.slots[index]);
  const auto progress_until = [&](const auto& done) {
    while (!done()) {
      ucp_worker_progress(worker);
      ::sched_yield();  // there are more processes than cores
    }
  };
  const std::string text(64, 'x');
  for (std::size_t peer = 0; peer < count; ++peer) {
    if (peer == index) continue;
    progress_until([&] { return board.slots[peer].size.load(std::memory_order_acquire) > 0; });
    const ucp_request_param_t params{};
    void* request = ucp_am_send_nbx(connect(worker, board.slots[peer]), kHello, text.data(), text.size(),
                                    nullptr, 0, &params);
    if (UCS_PTR_IS_ERR(request)) check(UCS_PTR_STATUS(request), "ucp_am_send_nbx");
    if (!request) continue;
    progress_until([&] { return ucp_request_check_status(request) != UCS_INPROGRESS; });
    ucp_request_free(request);
  }
  progress_until([&] { return received == count - 1; });
  ++board.finished;
  progress_until([&] { return board.finished == count; });
  connected();
  for (;;) ::pause();
}

}  // namespace troupe::bench
