// How the members of a communicator over NCCL come together.
#include <algorithm>
#include <cstring>
#include <utility>

#include <troupe/runtime/gpu_memory.hpp>

#include "communicators/nccl_communicator.hpp"

namespace troupe::shards {
namespace {

using Steady = NcclQueue::Steady;
using Over = std::function<std::optional<Error>()>;

constexpr auto kEndsWithin = std::chrono::seconds(10);

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
Result<std::shared_ptr<const NcclApi>> meet(GlooCommunicator& control, const std::string& library, NcclId& id,
                                            const Over& over) {
  Introduction mine;
  Result<std::shared_ptr<const NcclApi>> api = NcclApi::load(library);
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
    if (theirs.version == 0) return Error{Code::kUnavailable, who + " cannot load NCCL"};
    return Error{Code::kFailedPrecondition, who + " has NCCL " + nccl_version_text(theirs.version) +
                                                ", this one " + nccl_version_text(mine.version)};
  }
  return api;
}

}  // namespace

Result<std::unique_ptr<Communicator>> form_nccl(CommunicatorOptions options, NcclOptions nccl,
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
  auto api = meet(*control, nccl.library, id, over);
  if (!api) return failed(std::move(api).error());
  const auto comms = std::make_shared<NcclComms>(nccl.gpu, *api);
  const auto given_up = [&](const Error& why) {
    Error told = failed(why);
    NcclComms::end(comms, kEndsWithin);
    return told;
  };
  if (auto formed = comms->form(id, options.rank, options.size, over); !formed)
    return given_up(with_context(formed.error(), options.name));
  auto stream = nccl.gpu.make_stream();
  if (!stream) return given_up(stream.error());
  constexpr std::size_t kLine = 512;
  GpuPool pool(nccl.gpu, {.slab_bytes = kLine});
  auto scratch = pool.empty(DType::kUInt8, Shape{16}, *stream);
  if (!scratch) return given_up(scratch.error());
  const auto given = std::exchange(options.given_up, {});
  const auto queue =
      std::make_shared<NcclQueue>(options, nccl.gpu, *std::move(stream), comms, std::move(control));
  auto made = std::make_unique<NcclCommunicator>(queue, std::move(nccl.library), *std::move(scratch));
  queue->start();
  // Connects the members, which NCCL leaves to the first collective, and shows that all have come so far.
  const auto late = [&]() -> std::optional<Error> {
    std::optional<Error> why = given ? given() : std::nullopt;
    if (!why && Steady::now() >= due)
      why = Error{Code::kDeadlineExceeded, options.name + ": not all members came within the timeout"};
    return why;
  };
  if (auto all = wait_for(made->barrier(), late); !all) return std::move(all).error();
  return std::unique_ptr<Communicator>(std::move(made));
}

Result<std::unique_ptr<Communicator>> make_nccl_communicator(CommunicatorOptions options, NcclOptions nccl,
                                                             AddressExchange exchange) {
  const auto due = Steady::now() + std::min<Duration>(options.timeout, kLongestTimeout);
  if (Result<void> checked = nccl.gpu.check(); !checked) return with_context(checked.error(), options.name);
  options.timeout = std::min<Duration>(options.timeout, kLongestTimeout);
  CommunicatorOptions connected = options;
  connected.max_waiting += 16;  // each collective has one of its own there
  auto control = make_gloo(std::move(connected), std::move(exchange));
  if (!control) return std::move(control).error();
  return form_nccl(std::move(options), std::move(nccl), *std::move(control), due);
}

}  // namespace troupe::shards
