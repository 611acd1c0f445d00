#pragma once

#include <cstdint>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/runtime/trace.hpp>

namespace troupe::rpc {

/// Change fields of an encoded envelope of ours that has been kept, to be sent later or again. The buffer
/// must not be on its way already, and is written in place. `head`: OutFrame::head.
void patch_call_id(const Buffer& head, std::uint64_t call_id);
void patch_target(const Buffer& head, std::uint64_t target);
void patch_remaining(const Buffer& head, Duration remaining);
/// Precondition: it has extras, as all calls with a token do.
void patch_trace(const Buffer& head, const TraceContext& trace);

/// Attachment number `index` is shared after all. Precondition: it lies in a list that has room to say so.
void patch_shared(const Buffer& head, std::uint32_t index, const SharedPool::Location& location,
                  std::uint64_t lease, bool follows);

}  // namespace troupe::rpc
