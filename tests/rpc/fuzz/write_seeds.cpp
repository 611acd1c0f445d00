// Writes the seeds of the fuzzers' corpus, a folder for each kind: wire_seeds FOLDER. The corpus in the
// repository is these, and what broke something once (found_*).
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "fuzz/conversation.hpp"
#include "fuzz/wire_input.hpp"

namespace {

bool write(const std::filesystem::path& folder, const auto& seeds) {
  std::filesystem::create_directories(folder);
  for (const auto& seed : seeds) {
    std::ofstream file(folder / seed.name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.bytes.data()),
               static_cast<std::streamsize>(seed.bytes.size()));
    if (!file) return false;
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fputs("usage: wire_seeds FOLDER\n", stderr);
    return 2;
  }
  const std::filesystem::path folder = arguments[1];
  bool written = write(folder / "wire", troupe::rpc::fuzz::wire_seeds());
  for (const auto kind : troupe::rpc::conversation::kKinds)
    written = written && write(folder / troupe::rpc::conversation::name_of(kind),
                               troupe::rpc::conversation::seeds(kind));
  if (!written) std::perror(arguments[1]);
  return written ? 0 : 1;
}
