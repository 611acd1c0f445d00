#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "handles.hpp"

/// What calls of all kinds begin with.
namespace troupe::c {

/// A call as it was asked for.
struct CallOrder {
  rpc::CallOptions options;
  DynamicCalls::Method method;
};
/// Checks what was asked for, and writes it into `order`, a fresh one.
Result<void> read_order(CallOrder& order, const char* actor, const char* method,
                        const troupe_call_options* options, const troupe_value* arguments, std::size_t count);

/// A signature that this thread has parsed lately, or parses now.
struct KnownSignature {
  std::shared_ptr<const rpc::AnySignature> signature;
  std::uint64_t fingerprint = 0;
};
/// Until this thread calls it again.
Result<const KnownSignature*> signature_of(std::string_view text);

/// The answer that came. kDataLoss: it is malformed.
Result<void> fill(troupe_answer& answer, DynamicCalls::Answer message);

}  // namespace troupe::c
