#pragma once

#include <cstdint>

#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/tensor.hpp>

/// The structures of DLPack's ABI, version 0.8, by which array libraries lend each other memory. Layout
/// and numbers are those of the public specification (https://dmlc.github.io/dlpack), so a pointer to
/// one of these may be cast to and from the library's own.
namespace troupe::dlpack {

enum DLDeviceType : std::int32_t {
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3,      // pinned
  kDLCUDAManaged = 13,  // migrates between host and device
};

struct DLDevice {
  DLDeviceType device_type;
  std::int32_t device_id;
};

enum DLDataTypeCode : std::uint8_t {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLOpaqueHandle = 3,
  kDLBfloat = 4,
  kDLComplex = 5,
  kDLBool = 6,
};

struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major without gaps
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

/// Lends `tensor` without copying: its memory lives until the borrower calls the deleter, on any thread.
/// Never null.
DLManagedTensor* export_tensor(const Tensor& tensor);

/// Borrows without copying. On success the Tensor owns `managed` and calls its deleter when the last
/// view of the memory goes, on whichever thread that is; on an error `managed` stays the caller's.
/// kInvalidArgument for what a Tensor cannot be: vector or complex elements, negative strides, more than
/// Shape::kMaxRank axes, another kind of device.
Result<Tensor> import_tensor(DLManagedTensor* managed);

// On a GPU both sides work in streams, and the protocol has the consumer name his (the argument `stream` of
// __dlpack__): what he gives it from then on comes after what the producer has given his.

/// As export_tensor(), for a consumer who will work on `consumer`: that is made to wait for who wrote the
/// tensor, on the device, and its memory is given to nobody else before `consumer` has passed what it has
/// been given when the deleter is called. Errors as of begin_read().
Result<DLManagedTensor*> export_tensor(const Tensor& tensor, const Stream& consumer);

/// As import_tensor(), where `consumer`, a stream of `gpu`, is the one that was named to the producer. The
/// deleter is called when all streams that used the tensor (begin_read(), begin_write()) have passed, and not
/// by someone who would wait for that. kInvalidArgument besides: it lies on another device than `gpu`.
Result<Tensor> import_tensor(DLManagedTensor* managed, const Gpu& gpu, const Stream& consumer);

}  // namespace troupe::dlpack
