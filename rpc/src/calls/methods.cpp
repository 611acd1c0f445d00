#include <troupe/rpc/methods.hpp>

#include <cxxabi.h>

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <typeinfo>
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

void MethodTable::invoke(const std::shared_ptr<void>& state, InboundCallPtr call, MethodPool* pool) const {
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
  entry->invoke({state, *this, pool}, std::move(call));
}

namespace detail {

Error wrong_argument(const InMessage& message, std::uint32_t index, const std::string& wanted) {
  return {Code::kInvalidArgument, "argument " + std::to_string(index + 1) + " is to be " + wanted + ", not " +
                                      describe(message.value(index))};
}

namespace {
/// Of what is being caught: as the program writes it, without the library's inner namespaces.
std::string name_of_exception() {
  const std::type_info* const type = abi::__cxa_current_exception_type();
  if (!type) return {};
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> plain(
      abi::__cxa_demangle(type->name(), nullptr, nullptr, &status), std::free);
  std::string name = plain ? plain.get() : type->name();
  constexpr std::string_view kInner = "__cxx11::";
  for (auto at = name.find(kInner); at != std::string::npos; at = name.find(kInner))
    name.erase(at, kInner.size());
  return name;
}
}  // namespace

Error current_exception_error(std::string_view who) {
  std::string type = name_of_exception();
  const auto thrown = [&](Code code, std::string_view how) {
    return Error{code, std::string(who) + std::string(how), {}, {}, 0, std::move(type)};
  };
  try {
    throw;
  } catch (const BadResult& bad) {
    return bad.error();
  } catch (const std::bad_alloc&) {
    return thrown(Code::kResourceExhausted, " ran out of memory");
  } catch (const std::exception& exception) {
    return thrown(Code::kInternal, std::string(" threw: ") + exception.what());
  } catch (...) {
    return thrown(Code::kInternal, " threw something that is no std::exception");
  }
}

}  // namespace detail
}  // namespace troupe::rpc
