// Calls that say where their answer is to lie: what memory will do, and which is taken already.
#include <iterator>
#include <string>

#include "device/device_tensors.hpp"
#include "endpoint/core.hpp"

namespace troupe::rpc {

/// kInvalidArgument: nothing can ever be received there. kFailedPrecondition: not now.
Result<void> EndpointCore::check_into(const Tensor& into) const {
  const auto refuse = [&](Code code, const std::string& why) {
    return Error{code, "an answer cannot be received into the tensor " + into.to_string() + ": " + why};
  };
  if (into.device().kind == MemoryKind::kDevice && !(devices_ && devices_->lane_of(into.device())))
    return refuse(
        Code::kInvalidArgument,
        "it lies in device memory, and its GPU is not among those of this node (NodeOptions::gpus)");
  if (!into.is_contiguous()) return refuse(Code::kInvalidArgument, "it is strided, not contiguous");
  if (into.bytes() == 0) return {};
  if (into.read_only())
    return refuse(
        Code::kInvalidArgument,
        "it is read-only, because it lies in another process's memory; clone() makes one that can be "
        "written");
  const auto next = into_.lower_bound(into.data() + into.bytes());  // the first behind it
  if (next != into_.begin() && std::prev(next)->second > into.data())
    return refuse(Code::kInvalidArgument, "another open call receives into its memory");
  if (SharedPool::is_leased(into.buffer()))
    return refuse(
        Code::kFailedPrecondition,
        "another process may still read it (SharedPool::is_leased); use another one until it is done");
  return {};
}

void EndpointCore::claim_into(const Tensor& into) {
  if (into.bytes() == 0) return;
  into_.emplace(into.data(), into.data() + into.bytes());
}

void EndpointCore::release_into(const Tensor& into) {
  if (into.bytes() > 0) into_.erase(into.data());
}

}  // namespace troupe::rpc
