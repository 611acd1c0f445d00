// Writes the seeds of the wire fuzzer's corpus into a folder: wire_seeds FOLDER.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "fuzz/wire_input.hpp"

int main(int count, char** arguments) {
  if (count != 2) {
    std::fputs("usage: wire_seeds FOLDER\n", stderr);
    return 2;
  }
  std::filesystem::create_directories(arguments[1]);
  for (const auto& seed : troupe::rpc::fuzz::wire_seeds()) {
    std::ofstream file(std::filesystem::path(arguments[1]) / seed.name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.bytes.data()),
               static_cast<std::streamsize>(seed.bytes.size()));
    if (!file) {
      std::perror(arguments[1]);
      return 1;
    }
  }
  return 0;
}
