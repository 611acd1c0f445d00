#include "identity.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <random>

#include <troupe/runtime/files.hpp>

namespace troupe {

std::uint64_t random_node_id() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return id;
}

Result<std::string> shared_secret(const std::string& secret, const std::string& file) {
  if (!secret.empty() || file.empty()) return secret;
  struct stat status {};
  if (::stat(file.c_str(), &status) == 0 && (status.st_mode & S_IRWXO) != 0)
    return Error{Code::kPermissionDenied,
                 "everybody on this machine can read the secret in " + file + ": chmod 600 " + file};
  auto text = read_file(file);
  if (!text) return with_context(text.error(), "the shared secret");
  constexpr std::string_view kSpace = " \t\r\n";
  const auto begin = std::min(text->find_first_not_of(kSpace), text->size());
  const auto end = text->find_last_not_of(kSpace) + 1;
  if (begin >= end) return Error{Code::kInvalidArgument, "there is no secret in " + file};
  return text->substr(begin, end - begin);
}

}  // namespace troupe
