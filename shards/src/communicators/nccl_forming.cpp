// How the members of a communicator over NCCL come together.
#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>
#include <new>
#include <utility>

#include <troupe/runtime/gpu_memory.hpp>

#include "communicators/nccl_communicator.hpp"

namespace troupe::shards {
namespace {

using Steady = NcclQueue::Steady;
using Over = std::function<std::optional<Error>()>;

constexpr auto kEndsWithin = std::chrono::seconds(10);

/// Ends them unless they have become somebody's.
class EndsComms {
 public:
  explicit EndsComms(std::shared_ptr<NcclComms> comms) : comms_(std::move(comms)) {}
  ~EndsComms() {
    if (comms_) comms_->end(kEndsWithin);
  }
  EndsComms(const EndsComms&) = delete;
  EndsComms& operator=(const EndsComms&) = delete;
  void release() { comms_.reset(); }

 private:
  std::shared_ptr<NcclComms> comms_;
};

/// What a member says of itself first; the first of them also under which id they meet.
struct Introduction {
  std::int32_t version = 0;  ///< 0: it has no NCCL
  NcclId id = {};
};

/// The work's end, or, before that, why nobody waits for it any more.
Result<void> wait_for(const Work& work, const Over& over) {
  constexpr auto kLook = std::chrono::milliseconds(20);
  for (;;) {
    const Result<void> ended = work.wait(kLook);
    if (ended || work.done()) return work.wait();
    if (std::optional<Error> why = over()) return *std::move(why);
  }
}

/// This member's NCCL, and the id under which all meet.
Result<std::shared_ptr<const NcclApi>> meet(GlooCommunicator& control, const NcclOptions& nccl, NcclId& id,
                                            const Over& over) {
  Introduction mine;
  Result<std::shared_ptr<const NcclApi>> api = NcclApi::load(nccl.library);
  if (Result<void> checked = nccl.gpu.check(); !checked) api = checked.error();
  if (api && control.rank() == 0)
    if (const int status = (*api)->get_unique_id(&mine.id); status != kNcclSuccess)
      api = (*api)->error_of(status, "ncclGetUniqueId", nullptr);
  if (api) mine.version = (*api)->version;
  // Whoever cannot go on says so: the others are not left waiting.
  const auto members = static_cast<std::int64_t>(control.size());
  const auto bytes = static_cast<std::int64_t>(sizeof(Introduction));
  const Tensor in = Tensor::of(std::span(reinterpret_cast<const std::uint8_t*>(&mine), sizeof(Introduction)));
  const Tensor out = Tensor::zeros(DType::kUInt8, Shape{members * bytes});
  if (auto told = wait_for(control.all_gather(in, out), over); !told) return told.error();
  if (!api) return with_context(api.error(), control.name());
  for (int i = 0; i < control.size(); ++i) {
    Introduction theirs;
    std::memcpy(&theirs, out.data() + i * bytes, sizeof(theirs));
    if (i == 0) id = theirs.id;
    if (theirs.version == mine.version) continue;
    const std::string who = control.name() + ": member " + std::to_string(i);
    if (theirs.version == 0) return Error{Code::kUnavailable, who + " has no NCCL, or a GPU that has failed"};
    return Error{Code::kFailedPrecondition, who + " has NCCL " + nccl_version_text(theirs.version) +
                                                ", this one " + nccl_version_text(mine.version)};
  }
  return api;
}

Result<std::unique_ptr<Communicator>> form(CommunicatorOptions options, NcclOptions nccl,
                                           std::unique_ptr<GlooCommunicator> control,
                                           Steady::time_point due) {
  const Over over = [&]() -> std::optional<Error> {
    if (options.given_up)
      if (std::optional<Error> why = options.given_up()) return why;
    if (Result<void> state = control->state(); !state) return state.error();
    if (Steady::now() < due) return {};
    return Error{Code::kDeadlineExceeded, options.name + ": not all members came within the timeout"};
  };
  const auto failed = [&](Error why) {
    // Which member was lost says more than what NCCL makes of it.
    if (why.code != Code::kInvalidArgument)
      if (Result<void> state = control->state(); !state) why = state.error();
    control->abort(why);
    return why;
  };
  NcclId id;
  auto api = meet(*control, nccl, id, over);
  if (!api) return failed(std::move(api).error());
  const auto comms = NcclComms::make(nccl.gpu, *api);
  EndsComms ends(comms);
  if (auto formed = comms->form(id, options.rank, options.size, over); !formed)
    return failed(with_context(formed.error(), options.name));
  auto stream = nccl.gpu.make_stream();
  if (!stream) return failed(stream.error());
  constexpr std::size_t kLine = 512;
  GpuPool pool(nccl.gpu, {.limit_bytes = kLine, .slab_bytes = kLine});  // no part of another's large slab
  auto scratch = pool.empty(DType::kUInt8, Shape{16}, *stream);
  if (!scratch) return failed(scratch.error());
  auto given_up = std::exchange(options.given_up, {});
  const auto queue = std::make_shared<NcclQueue>(std::move(options), nccl.gpu, *std::move(stream), comms,
                                                 std::move(control));
  auto made = std::make_unique<NcclCommunicator>(queue, std::move(nccl.library), *std::move(scratch));
  ends.release();
  queue->start(std::move(given_up), due);
  // Connects the members, which NCCL leaves to the first collective, and shows that all have come so far.
  if (auto all = made->barrier().wait(); !all) return std::move(all).error();
  queue->formed();
  return std::unique_ptr<Communicator>(std::move(made));
}

}  // namespace

Result<std::unique_ptr<Communicator>> form_nccl(CommunicatorOptions options, NcclOptions nccl,
                                                std::unique_ptr<GlooCommunicator> control,
                                                Steady::time_point due) {
  const std::string name = options.name;
  try {
    return form(std::move(options), std::move(nccl), std::move(control), due);
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted, name + ": no memory to form it"};
  } catch (const std::exception& error) {
    return Error{Code::kResourceExhausted, name + ": it cannot be formed: " + error.what()};
  }
}

Result<std::unique_ptr<Communicator>> make_nccl_communicator(CommunicatorOptions options, NcclOptions nccl,
                                                             AddressExchange exchange) {
  const auto due = Steady::now() + std::min<Duration>(options.timeout, kLongestTimeout);
  options.timeout = std::min<Duration>(options.timeout, kLongestTimeout);
  CommunicatorOptions connected = options;
  constexpr std::size_t kRoom = 1024;  // each of few collectives has one of its own there
  if (connected.max_waiting != 0) connected.max_waiting = kRoom;
  auto control = make_gloo(std::move(connected), std::move(exchange));
  if (!control) return std::move(control).error();
  return form_nccl(std::move(options), std::move(nccl), *std::move(control), due);
}

}  // namespace troupe::shards
