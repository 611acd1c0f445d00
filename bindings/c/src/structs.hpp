#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>

#include <troupe/troupe.h>
#include <troupe/runtime/result.hpp>

/// Structs that begin with their size, of programs that were compiled with another version of the header.
namespace troupe::c {

/// How large it was when it came: who knows less of it was not initialised by its _INIT.
template <class T>
inline constexpr std::size_t kFirstSize = 0;

// The last field that it had then. Fields that are added do not change this.
#define TROUPE_FIRST_VERSION(type, last) \
  template <>                            \
  inline constexpr std::size_t kFirstSize<type> = offsetof(type, last) + sizeof(type::last)
TROUPE_FIRST_VERSION(troupe_error, trace_id);
TROUPE_FIRST_VERSION(troupe_node_options, gpu_count);
TROUPE_FIRST_VERSION(troupe_tensor_info, bytes);
TROUPE_FIRST_VERSION(troupe_call_options, into);
TROUPE_FIRST_VERSION(troupe_table_options, worker);
TROUPE_FIRST_VERSION(troupe_push_result, dropped);
TROUPE_FIRST_VERSION(troupe_group_options, address);
TROUPE_FIRST_VERSION(troupe_collective, out);
TROUPE_FIRST_VERSION(troupe_zero_result, loss_scale);
#undef TROUPE_FIRST_VERSION

template <class T>
bool is_known(const T* given) {
  static_assert(std::is_trivially_copyable_v<T> && kFirstSize<T> > 0);
  constexpr std::size_t kLargest = 4096;
  return given->struct_size >= kFirstSize<T> && given->struct_size <= kLargest;
}

template <class T>
Result<void> check_struct(const T* given, const char* name) {
  if (is_known(given)) [[likely]]
    return {};
  return Error{Code::kInvalidArgument, std::string(name) + " says that it has " +
                                           std::to_string(given->struct_size) + " bytes, not " +
                                           std::to_string(sizeof(T)) + ": initialise it with its _INIT"};
}

/// Options that were given, as those of this version: what the caller's do not know is zero, and what we do
/// not know has to be.
template <class T>
Result<void> read_struct(const T* given, T& to) {
  if (given->struct_size == sizeof(T)) [[likely]] {
    to = *given;
    return {};
  }
  if (auto good = check_struct(given, "a struct of options"); !good) return good;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(T); i < given->struct_size; ++i)
    if (bytes[i] != 0)
      return Error{Code::kInvalidArgument, "an option is set that this version of the library does not know"};
  std::memset(&to, 0, sizeof(T));
  std::memcpy(&to, given, std::min(given->struct_size, sizeof(T)));
  to.struct_size = sizeof(T);
  return {};
}

/// A result for the caller, of which it gets what it knows. Precondition: is_known(to).
template <class T>
void write_struct(const T& result, T* to) {
  const std::size_t size = to->struct_size;
  std::memcpy(to, &result, std::min(size, sizeof(T)));
  to->struct_size = size;
}

}  // namespace troupe::c
