#include <troupe/rpc/methods.hpp>

#include <algorithm>
#include <cassert>
#include <vector>

namespace troupe::rpc {

void MethodTable::add(Entry entry) {
  const std::uint64_t hash = fnv1a(entry.name);
  assert(!find(hash) && "two methods of one name");
  if (find(hash)) return;
  entries_.push_back(std::move(entry));
  by_name_.add(hash, entries_.back());
}

std::vector<std::string_view> MethodTable::sorted_names() const {
  std::vector<std::string_view> sorted;
  for (const Entry& entry : entries_) sorted.push_back(entry.name);
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

std::string MethodTable::names() const {
  std::string text;
  for (std::string_view name : sorted_names()) (text += text.empty() ? "" : ", ") += name;
  return text;
}

void MethodTable::invoke(const std::shared_ptr<void>& state, InboundCallPtr call) const {
  // Nobody waits: it shall not begin. A repeat of it, which has a token, may.
  if (!call->loop()) return;
  if (call->cancelled())
    return call->refuse({Code::kCancelled, "the caller had given it up when its turn came"});
  if (call->expired())
    return call->refuse({Code::kDeadlineExceeded, "the deadline had passed when its turn came"});
  const MessageHeader& header = call->header();
  const Entry* entry = find(header.method);
  if (!entry)
    return call->reply_error({Code::kUnimplemented,
                              "there is no such method" + std::string(detail::kThereAre) + names(),
                              {},
                              std::string(detail::kNoSuchMethod)});
  if (header.signature != 0 && entry->signature != MethodTable::kAnySignature &&
      header.signature != entry->signature)
    return call->reply_error({Code::kInvalidArgument,
                              "called with other types than " + entry->name + entry->signature_text,
                              {},
                              std::string(detail::kTypesDiffer)});
  entry->invoke({state, *this}, std::move(call));
}

namespace detail {

Error wrong_argument(const InMessage& message, std::uint32_t index, const std::string& wanted) {
  return {Code::kInvalidArgument, "argument " + std::to_string(index + 1) + " is to be " + wanted + ", not " +
                                      describe(message.value(index))};
}

Error current_exception_error(std::string_view who) {
  try {
    throw;
  } catch (const BadResult& bad) {
    return bad.error();
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted, std::string(who) + " ran out of memory"};
  } catch (const std::exception& exception) {
    return Error{Code::kInternal, std::string(who) + " threw: " + exception.what()};
  } catch (...) {
    return Error{Code::kInternal, std::string(who) + " threw something that is no std::exception"};
  }
}

}  // namespace detail
}  // namespace troupe::rpc
