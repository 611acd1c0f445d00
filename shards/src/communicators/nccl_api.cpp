#include "communicators/nccl_api.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <string_view>

namespace troupe::shards {
namespace {

constexpr int kOldest = 21900;  // the first whose communicators can be made, split and ended without waiting

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

/// A variable of NCCL's environment that overrides what communicators are asked to be.
struct Forbidden {
  const char* name;
  std::string_view value;
};
constexpr Forbidden kForbidden[] = {
    {"NCCL_COMM_BLOCKING", "1"},               // forming could not be given up
    {"NCCL_COMM_SPLIT_SHARE_RESOURCES", "0"},  // who is inside a call could not be let go
};

}  // namespace

std::string nccl_version_text(int version) {
  return std::to_string(version / 10'000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

Result<std::shared_ptr<const NcclApi>> NcclApi::load(const std::string& library) {
  for (const auto& [name, value] : kForbidden) {
    const char* const set = std::getenv(name);
    if (set != nullptr && set == value)
      return Error{Code::kFailedPrecondition, std::string(name) + "=" + set +
                                                  " stands in the environment: groups could not be ended so"};
  }
  // Never closed: threads of NCCL's may live on.
  void* const opened = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    const char* const why = ::dlerror();
    return Error{Code::kUnavailable,
                 "NCCL cannot be loaded: " + std::string(why ? why : library) +
                     ". Install it (libnccl2, or the wheel nvidia-nccl-cu13) and say where it is"};
  }
  auto api = std::make_shared<NcclApi>();
  const char* missing = nullptr;
  const auto want = [&](const char* name, auto& function) {
    if (!find(opened, name, function)) missing = name;
  };
  want("ncclGetVersion", api->get_version);
  want("ncclGetUniqueId", api->get_unique_id);
  want("ncclCommInitRankConfig", api->init);
  want("ncclCommSplit", api->split);
  want("ncclCommAbort", api->abort);
  want("ncclCommGetAsyncError", api->async_error);
  want("ncclGetErrorString", api->error_string);
  want("ncclGetLastError", api->last_error);
  want("ncclAllReduce", api->all_reduce);
  want("ncclReduce", api->reduce);
  want("ncclBroadcast", api->broadcast);
  want("ncclAllGather", api->all_gather);
  want("ncclReduceScatter", api->reduce_scatter);
  want("ncclSend", api->send);
  want("ncclRecv", api->receive);
  want("ncclGroupStart", api->group_start);
  want("ncclGroupEnd", api->group_end);
  if (missing != nullptr)
    return Error{Code::kFailedPrecondition, library + " is no NCCL, or one too old: it has no " + missing};
  if (api->get_version(&api->version) != kNcclSuccess || api->version < kOldest)
    return Error{Code::kFailedPrecondition, library + " is NCCL " + nccl_version_text(api->version) +
                                                "; it must be " + nccl_version_text(kOldest) + " or newer"};
  return std::shared_ptr<const NcclApi>(std::move(api));
}

Error NcclApi::error_of(int status, const char* call, NcclComm comm) const {
  std::string text = std::string(call) + ": " + error_string(status);
  const char* const more = last_error(comm);
  if (more != nullptr && *more != '\0') text += " (" + std::string(more) + ")";
  const bool refused = status == kNcclInvalidArgument || status == kNcclInvalidUsage;
  const bool broken = status == kNcclCudaError || status == kNcclInternalError;
  const Code code = refused ? Code::kInvalidArgument : broken ? Code::kInternal : Code::kUnavailable;
  return {code, std::move(text)};
}

int nccl_dtype_of(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return 0;
    case DType::kUInt8:
      return 1;
    case DType::kInt32:
      return 2;
    case DType::kUInt32:
      return 3;
    case DType::kInt64:
      return 4;
    case DType::kUInt64:
      return 5;
    case DType::kFloat16:
      return 6;
    case DType::kFloat32:
      return 7;
    case DType::kFloat64:
      return 8;
    case DType::kBFloat16:
      return 9;
    default:
      return -1;
  }
}

int nccl_op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return 0;
    case ReduceOp::kProduct:
      return 1;
    case ReduceOp::kMax:
      return 2;
    case ReduceOp::kMin:
      return 3;
    case ReduceOp::kMean:
      return 4;
  }
  return 0;
}

}  // namespace troupe::shards
