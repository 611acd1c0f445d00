#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/tensor.hpp>

namespace troupe::rpc {

class OutMessage;
class InMessage;
namespace flat {
struct StructView;
}

/// What a value on the wire is. Numbers carry their C++ type as a DType beside it.
enum class ValueKind : std::uint8_t {
  kNone,
  kBool,
  kInt,
  kUInt,
  kReal,
  kText,
  kData,
  kTensor,
  kNumbers,
  kList
};

std::string_view to_string(ValueKind kind);

/// A place in an outgoing message for one value; exactly one of its functions is called, once. Valid
/// while the message is being written. The vendor's type stays inside. What does not fit (a string, or
/// a vector, of 512 MiB) makes the whole message fail: see OutMessage::finish().
class ValueWriter {
 public:
  void none();
  void boolean(bool value);
  void integer(std::int64_t value, DType width);
  void unsigned_integer(std::uint64_t value, DType width);
  void real(double value, DType width);
  void text(std::string_view value);
  void data(std::span<const std::byte> value);
  /// The tensor's bytes are not copied: they travel beside the message (packed first if strided).
  void tensor(const Tensor& value);
  /// `bytes` are packed numbers of type `width`.
  void numbers(DType width, std::span<const std::byte> bytes);
  /// A list of `count` places; item(i) gives each. Only after list().
  void list(std::size_t count);
  ValueWriter item(std::uint32_t index) const;

 private:
  friend class OutMessage;
  ValueWriter(OutMessage& message, std::uint32_t word) : message_(&message), word_(word) {}
  void blob(ValueKind kind, DType width, std::span<const std::byte> bytes, std::size_t zeros);
  OutMessage* message_;
  std::uint32_t word_;       // where the value lies in the message
  std::uint32_t items_ = 0;  // where its first item lies, after list()
};

class ValueReader;

/// The values of a list in an incoming message, which must outlive it.
class ValueList {
 public:
  ValueList() = default;
  std::uint32_t size() const { return size_; }
  /// Precondition: index < size(). Of kind kNone if the message is malformed there.
  ValueReader operator[](std::uint32_t index) const;

 private:
  friend class ValueReader;
  friend class InMessage;
  const InMessage* message_ = nullptr;
  const std::byte* words_ = nullptr;
  std::uint32_t size_ = 0;
  std::uint16_t data_words_ = 0, pointers_ = 0;  // of each value
  std::uint8_t depth_ = 0;
};

/// One value of an incoming message, which must outlive it. Each read function says whether the value
/// is of its kind and fits; nothing is thrown and nothing is trusted.
class ValueReader {
 public:
  ValueKind kind() const;
  DType width() const;
  bool read(bool& value) const;
  /// Integers of either sign and any width are read if the value fits.
  bool read_integer(std::int64_t& value) const;
  bool read_unsigned(std::uint64_t& value) const;
  bool read_real(double& value) const;  ///< also accepts integers
  bool read(std::string_view& text) const;
  bool read(std::span<const std::byte>& data) const;
  /// Shares the received bytes.
  bool read(Tensor& tensor) const;
  bool read_numbers(DType width, std::span<const std::byte>& bytes) const;
  bool read(ValueList& list) const;

 private:
  friend class InMessage;
  friend class ValueList;
  ValueReader(const InMessage& message, const std::byte* words, std::uint16_t data_words,
              std::uint16_t pointers, std::uint8_t depth)
      : message_(&message), words_(words), data_words_(data_words), pointers_(pointers), depth_(depth) {}
  flat::StructView view() const;
  bool read_blob(ValueKind kind, std::span<const std::byte>& bytes) const;
  const InMessage* message_;
  const std::byte* words_;
  std::uint16_t data_words_, pointers_;
  std::uint8_t depth_;  // of lists in lists
};

/// For messages to people: "int8[3]" of a tensor, "string" of a string.
std::string describe(const ValueReader& value);

}  // namespace troupe::rpc
