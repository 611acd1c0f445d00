#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/runtime/tensor.hpp>

namespace troupe::shards {

/// How a reduction combines the members' elements. kMean: of floating-point types only.
enum class ReduceOp : std::uint8_t { kSum, kMean, kProduct, kMin, kMax };
std::string_view to_string(ReduceOp op);

/// A collective that is under way or has ended. A small value that may be copied; any thread, also after its
/// communicator has gone, which ends it.
class Work {
 public:
  class State;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  bool done() const;
  /// Waits until it has ended, which it does within the communicator's timeout of its turn; on a GPU what is
  /// given up is ended there first, which may take up to ten seconds more. Errors: those of the collective,
  /// see Communicator. Not from then().
  Result<void> wait() const;
  /// kDeadlineExceeded if it has not ended within `timeout`; it goes on.
  Result<void> wait(Duration timeout) const;
  /// What `stream` is given from now on comes after it. On a GPU that is said to the device, and nobody waits
  /// here; a collective of tensors in host memory is waited for. Errors: the stream's, or what is known to
  /// have ended the collective.
  Result<void> before(const Stream& stream) const;
  /// Runs `told` once it has ended, at once if it has; on the communicator's thread, which does nothing else
  /// meanwhile, or on that of somebody who waits. In the order of the calls. It must not throw.
  void then(UniqueFunction<void(const Result<void>& ended)> told) const;

 private:
  std::shared_ptr<State> state_;
};

/// One tensor to be sent to a member, or to be filled by one.
struct Transfer {
  enum class Kind : std::uint8_t { kSend, kReceive };
  Kind kind = Kind::kSend;
  Tensor tensor;
  int member = 0;         ///< to whom, or from whom: a rank
  std::uint32_t tag = 0;  ///< of two transfers between the same members, those of one tag meet in order
};

/// A fixed group of members, each with a rank, who work on tensors together. All call the same collectives
/// in the same order, with tensors of the same type and size where nothing else is said; each is done after
/// those that were called before it. Tensors are contiguous; they are kept until the work has ended, and not
/// touched after that.
///
/// Errors of a collective: kInvalidArgument, at once, for what this member alone can see to be wrong: dtypes,
/// sizes, ranks. Everything else ends the communicator: what is under way, what waits and what is called
/// later fails with the same error. kInvalidArgument: the members called different things.
/// kDeadlineExceeded: a member did not come within the timeout, or is stuck. kUnavailable: a member has
/// died. Whoever lives on forms another communicator without it.
///
/// All functions: any thread. The destructor ends what is under way with kCancelled and waits for its thread,
/// so it must not be called from Work::then().
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual const std::string& name() const = 0;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// tensor = the members' tensors combined; the same bits at each member.
  virtual Work all_reduce(Tensor tensor, ReduceOp op) = 0;
  /// The same at `root` alone; the others' tensors keep what they hold.
  virtual Work reduce(Tensor tensor, ReduceOp op, int root) = 0;
  /// tensor = the root's.
  virtual Work broadcast(Tensor tensor, int root) = 0;
  /// out = the members' `in`, one after the other; out has size() times the elements of `in`, which may be
  /// its own part of `out`. Here and below `in` and `out` must not overlap otherwise: kInvalidArgument.
  virtual Work all_gather(Tensor in, Tensor out) = 0;
  /// The same with counts[r] elements from member r; all give the same counts.
  virtual Work all_gather(Tensor in, Tensor out, std::vector<std::int64_t> counts) = 0;
  /// out = the rank-th part of the members' `in` combined, all of which have size() times the elements of
  /// `out`, which may be this part. The order of the sum is that of the ranks.
  virtual Work reduce_scatter(Tensor in, Tensor out, ReduceOp op) = 0;
  /// in_counts[r] elements of `in` go to member r, and out_counts[r] come from it, each in the order of
  /// ranks.
  virtual Work all_to_all(Tensor in, std::vector<std::int64_t> in_counts, Tensor out,
                          std::vector<std::int64_t> out_counts) = 0;
  /// All of these at once, so that two members may send to each other. Members that have no part in it do not
  /// call anything.
  virtual Work transfer(std::vector<Transfer> transfers) = 0;
  virtual Work barrier() = 0;
  /// The collectives that `calls` makes of this communicator, as one: on a GPU they are given to the device
  /// together, with one launch where NCCL has one for them, and pass together. Those that are refused by
  /// themselves are left out. What they return ends with the whole, and is not waited for inside of `calls`;
  /// calls of other threads wait until it has returned. All members make the same groups.
  virtual Work group(UniqueFunction<void()> calls) {
    calls();
    return barrier();
  }

  Work send(Tensor tensor, int to, std::uint32_t tag = 0);
  Work receive(Tensor tensor, int from, std::uint32_t tag = 0);

  /// A communicator of those who give the same color, ranked by `key` and then by rank; null for those who
  /// give a negative color. A collective which waits.
  virtual Result<std::unique_ptr<Communicator>> split(int color, int key) = 0;

  /// Ends it, also what is under way: with `why` here, the others see kUnavailable. The first call counts.
  virtual void abort(Error why) = 0;
  /// What ended it, if something did.
  virtual Result<void> state() const = 0;
};

struct CommunicatorOptions {
  std::string name = "communicator";  ///< in errors
  int rank = 0;
  int size = 1;
  /// This machine's address, in numbers, that the others can reach.
  std::string address = "127.0.0.1";
  /// For forming it, and for each collective from its turn on.
  Duration timeout = std::chrono::seconds(30);
  /// Before each collective the members tell each other what they are about to do. Costs a round trip;
  /// without it members that do different things get wrong numbers, or end by a signal.
  bool check_calls = true;
  /// Collectives that may wait. Past it kResourceExhausted; on GPUs the call waits for room instead, from 100
  /// on in any case.
  std::size_t max_waiting = 1024;
  /// Asked now and then, by another thread, while the members connect: an error ends that, with this error.
  /// Not asked if empty.
  std::function<std::optional<Error>()> given_up = {};
};

/// How members that are not connected yet tell each other where they are: called once by each member, with
/// its bytes; returns all members', by rank. Waits for at most `timeout`.
using AddressExchange = UniqueFunction<Result<std::vector<std::string>>(std::string mine, Duration timeout)>;

/// For tensors in host memory, over TCP, by Gloo. Waits until all members are connected, which all call it.
/// kInvalidArgument: options that cannot be; kDeadlineExceeded, kUnavailable: they did not come together.
///
/// Whoever reaches the ports that are open while it is formed can disturb that; what is sent is not
/// encrypted: a network for collectives is one that is trusted.
Result<std::unique_ptr<Communicator>> make_gloo_communicator(CommunicatorOptions options,
                                                             AddressExchange exchange);

struct NcclOptions {
  Gpu gpu;  ///< where the tensors lie; each member needs another one
  /// Where NCCL is: a path, or a name that the dynamic linker finds. 2.19 or newer, the same for all members.
  std::string library = "libnccl.so.2";
};

/// For tensors in the memory of a GPU, by NCCL, which is loaded here: nothing of ours is linked to it. The
/// members also keep a connection over TCP, as make_gloo_communicator's, over which they form the group, hear
/// of each other's death, and say what they are about to do if calls are checked.
///
/// A collective is given to a stream of the communicator's own by the thread that calls it, and the call
/// returns; only the first between two members waits for their connection. It comes after what has been
/// written into its tensors, and whoever reads them by begin_read() comes after it: see gpu_memory.hpp. For
/// memory that does not know who uses it, let the writers finish first and readers begin by Work::before().
/// Its timeout runs from when the collective before it has passed on this GPU. When a member is lost, NCCL's
/// kernels are ended on this GPU; what the tensors hold then is undefined.
///
/// Of what lies in two transfers of one call, those of one tag meet; transfers of different calls meet in
/// their order. NCCL has no reductions of int16 and uint16.
///
/// Errors as for make_gloo_communicator(), and kUnavailable: no NCCL is there; kFailedPrecondition: it is too
/// old, or the members' are not the same.
Result<std::unique_ptr<Communicator>> make_nccl_communicator(CommunicatorOptions options, NcclOptions nccl,
                                                             AddressExchange exchange);

}  // namespace troupe::shards
