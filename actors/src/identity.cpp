#include "identity.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/files.hpp>
#include <troupe/runtime/text.hpp>

#include "user_secret.hpp"

namespace troupe {

namespace {
constexpr std::string_view kNoSecret = "none";
constexpr std::size_t kMostRole = 255;
constexpr std::size_t kMostAddress = 300;
constexpr std::size_t kMostMetadata = std::size_t{64} << 10;  // all together
}  // namespace

std::uint64_t random_node_id() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return id;
}

std::string SharedSecret::identity() const {
  return of_this_user ? "user:" + std::to_string(::geteuid()) : "secret";
}

Result<SharedSecret> shared_secret(const std::string& secret, const std::string& file) {
  if (trimmed(secret) == kNoSecret) return SharedSecret{};
  if (!secret.empty()) {
    if (trimmed(secret).empty()) return Error{Code::kInvalidArgument, "node.secret is nothing but spaces"};
    return SharedSecret{std::string(trimmed(secret)), false};
  }
  if (file.empty()) {
    auto own = user_secret();
    if (!own) return std::move(own).error();
    return SharedSecret{*std::move(own), true};
  }
  struct stat status {};
  if (::stat(file.c_str(), &status) == 0 && (status.st_mode & S_IRWXO) != 0)
    return Error{Code::kPermissionDenied,
                 "everybody on this machine can read the secret in " + file + ": chmod 600 " + file};
  const auto text = read_file(file);
  if (!text) return with_context(text.error(), "the shared secret");
  const std::string_view found = trimmed(*text);
  if (found.empty()) return Error{Code::kInvalidArgument, "there is no secret in " + file};
  return SharedSecret{std::string(found), false};
}

Result<void> check_member(const Member& member) {
  const auto no = [](const std::string& what, std::size_t most) {
    return Error{Code::kInvalidArgument, what + " may have at most " + std::to_string(most) + " bytes"};
  };
  if (member.name.empty() || member.node_id == 0)
    return Error{Code::kInvalidArgument, "a node needs a name and an id"};
  if (member.name.size() > rpc::kMostNodeName) return no("a node's name", rpc::kMostNodeName);
  if (member.role.size() > kMostRole) return no("a node's role", kMostRole);
  if (member.address.size() > kMostAddress) return no("a node's address", kMostAddress);
  std::size_t metadata = 0;
  for (const auto& [key, value] : member.metadata) metadata += key.size() + value.size();
  if (metadata > kMostMetadata) return no("a node's metadata", kMostMetadata);
  return {};
}

}  // namespace troupe
