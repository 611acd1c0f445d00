#pragma once

#include <climits>
#include <cstddef>
#include <memory>
#include <string>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>
#include <troupe/shards/communicator.hpp>

/// The few of NCCL's functions that are used, found in the library when it is loaded: nothing of it is needed
/// to build. Names and numbers are those of its documentation.
namespace troupe::shards {

struct NcclId {
  char bytes[128];
};
using NcclComm = struct NcclCommOpaque*;
using NcclStream = void*;  // a cudaStream_t

/// What NCCL returns.
enum NcclStatus : int {
  kNcclSuccess = 0,
  kNcclCudaError = 1,
  kNcclInternalError = 3,
  kNcclInvalidArgument = 4,
  kNcclInvalidUsage = 5,
  kNcclInProgress = 7,
};

/// ncclConfig_t as of 2.19. Later ones have more at the end, and know by `size` and `version` what is not
/// there.
struct NcclConfig {
  std::size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21900;
  int blocking = INT_MIN;  // INT_MIN and null: what NCCL takes by itself
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
  int traffic_class = INT_MIN;  // of 2.25; in what was padding before
};

struct NcclApi {
  /// kUnavailable: there is no such library; kFailedPrecondition: it is too old, or something else.
  static Result<std::shared_ptr<const NcclApi>> load(const std::string& library);

  /// NCCL's error as ours; `comm` may be null.
  Error error_of(int status, const char* call, NcclComm comm) const;

  int version = 0;  ///< 22809: 2.28.9
  int (*get_version)(int* version) = nullptr;
  int (*get_unique_id)(NcclId* id) = nullptr;
  int (*init)(NcclComm* comm, int members, NcclId id, int rank, NcclConfig* config) = nullptr;
  int (*split)(NcclComm comm, int color, int key, NcclComm* made, NcclConfig* config) = nullptr;
  int (*abort)(NcclComm comm) = nullptr;
  int (*async_error)(NcclComm comm, int* status) = nullptr;
  const char* (*error_string)(int status) = nullptr;
  const char* (*last_error)(NcclComm comm) = nullptr;
  int (*all_reduce)(const void* in, void* out, std::size_t n, int dtype, int op, NcclComm,
                    NcclStream) = nullptr;
  int (*reduce)(const void* in, void* out, std::size_t n, int dtype, int op, int root, NcclComm,
                NcclStream) = nullptr;
  int (*broadcast)(const void* in, void* out, std::size_t n, int dtype, int root, NcclComm,
                   NcclStream) = nullptr;
  int (*all_gather)(const void* in, void* out, std::size_t n_in, int dtype, NcclComm, NcclStream) = nullptr;
  int (*reduce_scatter)(const void* in, void* out, std::size_t n_out, int dtype, int op, NcclComm,
                        NcclStream) = nullptr;
  int (*send)(const void* in, std::size_t n, int dtype, int to, NcclComm, NcclStream) = nullptr;
  int (*receive)(void* out, std::size_t n, int dtype, int from, NcclComm, NcclStream) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
};

/// "2.28.9".
std::string nccl_version_text(int version);
/// ncclDataType_t; below 0: it has none.
int nccl_dtype_of(DType dtype);
inline constexpr int kNcclBytes = 0;  // ncclInt8: what is only moved
/// ncclRedOp_t.
int nccl_op_of(ReduceOp op);

}  // namespace troupe::shards
