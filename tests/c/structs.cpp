// Structs that begin with their size grow: programs compiled with the header of another version.
#include "structs.hpp"

#include <cstdio>

namespace {
struct First {
  std::size_t struct_size;
  std::int64_t timeout;
};
/// The same, a version later.
struct Later {
  std::size_t struct_size;
  std::int64_t timeout;
  std::int64_t added;
};
}  // namespace

namespace troupe::c {
template <>
inline constexpr std::size_t kFirstSize<First> = sizeof(First);
template <>
inline constexpr std::size_t kFirstSize<Later> = sizeof(First);
}  // namespace troupe::c

int main() {
  using namespace troupe::c;
  int failures = 0;
  const auto check = [&failures](bool good, const char* what) {
    if (good) return;
    ++failures;
    std::printf("%s\n", what);
  };

  // An older program, of which the later field is something else.
  struct {
    First options{sizeof(First), 5};
    std::int64_t other = 77;
  } older;
  auto* const as_later = reinterpret_cast<Later*>(&older);
  Later read{0, 0, 99};
  check(static_cast<bool>(read_struct(as_later, read)), "an older program's options are refused");
  check(read.timeout == 5 && read.added == 0, "a field that it does not know is not zero");
  check(is_known(as_later), "an older program's struct for results is refused");
  write_struct(Later{sizeof(Later), 6, 88}, as_later);
  check(older.options.timeout == 6 && older.other == 77, "more was written than it has");
  check(older.options.struct_size == sizeof(First), "its size was changed");

  // A newer one.
  Later newer{sizeof(Later), 7, 0};
  auto* const as_first = reinterpret_cast<First*>(&newer);
  First known{};
  check(read_struct(as_first, known) && known.timeout == 7, "a newer program's options are refused");
  newer.added = 1;
  check(!read_struct(as_first, known), "an option that is not known is taken");
  write_struct(First{sizeof(First), 8}, as_first);
  check(newer.timeout == 8 && newer.added == 1, "what is not known was written");

  newer.struct_size = sizeof(First) - 1;
  check(!read_struct(&newer, read) && !is_known(&newer), "a struct that was never so small is taken");
  newer.struct_size = 1 << 20;
  check(!read_struct(&newer, read) && !is_known(&newer), "a struct without a size is taken");
  return failures;
}
