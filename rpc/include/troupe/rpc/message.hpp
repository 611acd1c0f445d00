#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include <troupe/rpc/metadata.hpp>
#include <troupe/rpc/transport.hpp>
#include <troupe/rpc/value.hpp>
#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/memory_pool.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/runtime/trace.hpp>

namespace troupe::rpc {

class DeviceArrival;
class DeviceDeparture;
class HeadPool;
class PartMemory;

using troupe::TraceContext;

enum class MessageKind : std::uint8_t {
  kRequest,
  kOneWay,
  kReply,
  kCancel,
  kItem,
  kCredit,
  kRelease,
  kAskDone,
  kDone,
  kStage,
  kStaged,
};

namespace detail {
/// BadResult: it lies in device memory and is strided, which nobody here makes dense.
void require_sendable(const Tensor& tensor);
}  // namespace detail

/// The part of an envelope that is not the body.
struct MessageHeader {
  MessageKind kind = MessageKind::kRequest;
  std::uint64_t call_id = 0;
  std::uint64_t target = 0;
  std::uint64_t method = 0;
  std::uint64_t signature = 0;
  Duration remaining{0};
  TraceContext trace = {};  ///< of its flags only kSampled and kNotTraced mean anything
  std::uint64_t token = 0;  ///< of a call that may be repeated; 0: none
  Metadata metadata = {};
};

/// A message being written: the header, then either values or an error, then finish(). One use, one
/// thread. Made on the stack; its bytes lie in a pooled buffer.
class OutMessage {
 public:
  /// Memory comes from `heads` for short messages, if given, else from `pool`.
  OutMessage(MemoryPool& pool, const MessageHeader& header, HeadPool* heads = nullptr);
  ~OutMessage();
  OutMessage(const OutMessage&) = delete;
  OutMessage& operator=(const OutMessage&) = delete;

  /// Room for `count` values in the body. Called once, or error() instead.
  void values(std::uint32_t count);
  ValueWriter value(std::uint32_t index);
  void error(const Error& error);
  void set_call_id(std::uint64_t call_id);
  bool has_tensors();
  /// Whether one of its tensors lies in the same memory as a part of `other`.
  bool overlaps(const Tensor& other);
  /// It goes to another process: those of its tensors that lie in a SharedPool are leased until it is sent.
  void lease();
  /// The receiver maps those of its tensors that lie in a SharedPool, under leases counted by `next_lease`.
  void share(std::uint64_t& next_lease);
  bool has_device_tensors();
  /// It goes to another process: `departure` says how, for each of its tensors in device memory.
  void depart(DeviceDeparture& departure, std::size_t max_head_bytes);

  /// The frame to send: the envelope, and the attachments' bytes. An envelope longer than
  /// `max_head_bytes` has its body moved beside it. kInvalidArgument: a value was too long.
  Result<OutFrame> finish(std::size_t max_head_bytes);

 private:
  friend class ValueWriter;
  struct Impl;
  static constexpr std::size_t kImplBytes = 400;
  Impl& impl();
  OutFrame finish_with_body_apart(std::size_t max_head_bytes);
  alignas(16) std::byte storage_[kImplBytes];
};

/// Opens tensors in the memory of a message's sender.
class SharedTensors {
 public:
  virtual Result<Buffer> open(const SharedPool::Location& location, std::uint64_t lease,
                              std::uint64_t bytes) = 0;
  /// Whether tensors may be left in its device memory for the receiver to copy.
  virtual bool takes_device_slabs() const { return false; }
  /// Whether tensors may come whose bytes a device of the sender's is still writing.
  virtual bool follows_devices() const { return false; }

 protected:
  virtual ~SharedTensors() = default;
};

/// A received message: owns its bytes, checked as far as its header goes. Values are checked as they
/// are read. Heap object, passed on by unique_ptr.
class InMessage {
 public:
  ~InMessage();
  InMessage(const InMessage&) = delete;
  InMessage& operator=(const InMessage&) = delete;
  // From memory that is used again and again.
  static void* operator new(std::size_t size);
  static void operator delete(void* memory, std::size_t size);

  /// kDataLoss: not an envelope of this protocol, or with shared tensors, and there is no `shared`. Else
  /// also the errors of that. `head` is 8-byte aligned.
  static Result<std::unique_ptr<InMessage>> parse(Buffer&& head, std::vector<Buffer>&& parts,
                                                  SharedTensors* shared = nullptr);
  /// The same for a frame whose parts are still to come: begin() reads the head, which must stay where it is,
  /// finish() the rest. Between them only header() and allocate_parts() may be used. Errors as parse().
  static Result<std::unique_ptr<InMessage>> begin(std::span<const std::byte> head);
  static Result<std::unique_ptr<InMessage>> finish(std::unique_ptr<InMessage> begun, Buffer&& head,
                                                   std::vector<Buffer>&& parts,
                                                   SharedTensors* shared = nullptr);
  /// Makes a buffer for each of the attachments (from `pool`; the first tensor's is that of `into`, if it is
  /// as long and in host memory; what goes on to a device from `staging`, if that is given and has it), whose
  /// sizes must add up to `total_bytes`. kDataLoss: they do not.
  Result<void> allocate_parts(std::size_t total_bytes, MemoryPool& pool, std::vector<Buffer>& parts,
                              const Tensor* into = nullptr, PartMemory* staging = nullptr) const;
  /// Sees to it that the first tensor lies in `into`: it does already if allocate_parts() was given it, else
  /// it is copied. kInvalidArgument: there is none, or one of another dtype or shape. Nothing if this is an
  /// error.
  Result<void> receive_into(const Tensor& into);

  /// Whether its sender held tensors of it in device memory.
  bool from_device() const { return from_device_; }

  const MessageHeader& header() const { return header_; }
  /// Envelope and attachments, as they came, with device tensors that did not come beside them.
  std::size_t bytes() const { return bytes_; }
  /// The number of values in the body; 0 if it is an error.
  std::uint32_t value_count() const { return value_count_; }
  /// Precondition: index < value_count().
  ValueReader value(std::uint32_t index) const;
  bool is_error() const { return is_error_; }
  /// Precondition: is_error().
  Error error() const;

 private:
  friend class ValueReader;
  friend class DeviceArrival;
  struct Impl;
  static constexpr std::size_t kImplBytes = 304;
  InMessage(Buffer&& head, std::vector<Buffer>&& parts);
  /// The tensor of this number in the list that values refer to; false: there is none, or it is malformed.
  bool read_tensor(std::size_t number, Tensor& tensor) const;
  /// What is said of it, and nothing of its bytes.
  bool read_description(std::size_t number, DType& dtype, Shape& shape, std::size_t& bytes) const;
  Result<void> open_head(std::span<const std::byte> head);
  Result<void> open_rest(SharedTensors* shared);
  void count_bytes();
  Result<void> read_attachments();
  Result<void> check_attachments(SharedTensors* shared);
  Result<void> open_body();
  Result<void> read_metadata();
  Result<void> find_tensors();
  Impl& impl() const;  // what is read is charged to a budget in it

  Buffer head_;
  std::vector<Buffer> parts_;
  std::size_t bytes_ = 0;  // of both, as they came
  MessageHeader header_;
  std::uint32_t value_count_ = 0;
  bool is_error_ = false;
  bool from_device_ = false;
  alignas(16) mutable std::byte storage_[kImplBytes];
};

}  // namespace troupe::rpc
