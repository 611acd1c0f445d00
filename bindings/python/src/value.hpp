#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <troupe/rpc/value.hpp>

#include "type.hpp"

/// Between Python and the wire. What is sent is first taken out of Python's objects, with the GIL, and
/// written into the message later, with the turn and without the GIL. What comes is read straight into
/// Python's objects.
namespace troupe::python {

/// Something that can be written into a message without the GIL.
class Value {
 public:
  struct Integer {
    std::int64_t value;
    DType width;
  };
  struct Unsigned {
    std::uint64_t value;
    DType width;
  };
  struct Real {
    double value;
    DType width;
  };
  struct Text {
    std::string text;
  };
  struct Data {
    std::string bytes;
  };
  struct Numbers {
    std::string bytes;
    DType width;
  };
  using List = std::vector<Value>;
  using Held = std::unique_ptr<const Tensor>;

  Value() = default;
  template <class T>
  explicit Value(T value) : value_(std::move(value)) {}

  void write(rpc::ValueWriter out) const;

 private:
  std::variant<std::monostate, bool, Integer, Unsigned, Real, Text, Data, Numbers, List, Held> value_;
};

/// Writes several as a message's values.
void write_values(rpc::OutMessage& out, const std::vector<Value>& values);

// With the GIL. Errors are Python's: TypeError and ValueError, which say what was to be there.

/// Of an argument, or a result.
Value take(const Type& type, nb::handle object);
std::vector<Value> take_all(const std::vector<TypePtr>& types, nb::handle tuple);
/// What `in` is, as `type` says. Precondition of the second: it is a list.
nb::object give(const Type& type, const rpc::ValueReader& in);
/// The only value of an answer; None if there is none.
nb::object give_answer(const Type& type, const rpc::InMessage& message);

// Of natural and Python types (any_value.cpp).
Value take_natural(nb::handle object);
Value take_python(nb::handle object);
nb::object give_natural(const rpc::ValueReader& in);
nb::object give_python(const rpc::ValueReader& in);

/// Pairs of a dict as it is now: others may change it while they are taken.
nb::list items_of(nb::handle dict);
/// Whether an integer of this width can be `value`.
bool fits(DType width, std::int64_t value);
/// Of any width.
nb::object give_integer(const rpc::ValueReader& in);
/// A list of numbers that are packed in `bytes`.
nb::object list_of_numbers(DType width, std::span<const std::byte> bytes);
/// Packs a sequence of numbers. TypeError: there is something else in it.
Value::Numbers pack_numbers(DType width, nb::handle sequence);
[[noreturn]] void refuse(const std::string& wanted, nb::handle object);

}  // namespace troupe::python
