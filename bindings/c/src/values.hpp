#pragma once

#include <cstddef>
#include <forward_list>
#include <memory>
#include <string>
#include <vector>

#include <troupe/troupe.h>
#include <troupe/rpc/any_type.hpp>
#include <troupe/rpc/message.hpp>
#include <troupe/rpc/value.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/runtime/tensor.hpp>

struct troupe_tensor {
  troupe::Tensor tensor;
};

/// Between troupe_value and the values of messages.
namespace troupe::c {

/// Memory for lists and tensors that values refer to.
class ValueTree {
 public:
  /// The value as it came; texts and bytes lie in its message.
  troupe_value read(const rpc::ValueReader& reader);
  /// A copy that owns all that it refers to; tensors share their elements.
  troupe_value copy(const troupe_value& value);

 private:
  std::forward_list<std::vector<troupe_value>> lists_;
  std::forward_list<troupe_tensor> tensors_;
  std::forward_list<std::string> bytes_;
};

/// Arguments that a call has taken over.
class OwnedValues {
 public:
  OwnedValues(const troupe_value* values, std::size_t count);
  const troupe_value* data() const { return values_.data(); }
  std::size_t size() const { return values_.size(); }

 private:
  void lease(const troupe_value& value);
  ValueTree tree_;
  std::vector<troupe_value> values_;
  std::vector<SharedLease> leases_;
};

/// kInvalidArgument: what is wrong with it, whatever its type is to be.
Result<void> check_value(const troupe_value& value);
/// Whether a good value is of this type.
bool fits(const rpc::AnyType& type, const troupe_value& value);
/// "string", "int8[3]": for messages to people.
std::string describe(const troupe_value& value);
/// check_value() of each, and fits() if there is a signature; the error names the argument.
Result<void> check_arguments(const rpc::AnySignature* signature, const troupe_value* values,
                             std::size_t count);

/// Precondition: check_value(), and fits() if there is a type.
void write(rpc::ValueWriter out, const rpc::AnyType* type, const troupe_value& value);
void write_arguments(rpc::OutMessage& out, const rpc::AnySignature* signature, const troupe_value* values,
                     std::size_t count);

}  // namespace troupe::c
