#include "peer_programs.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace troupe::bench {

PeerPrograms::PeerPrograms(std::string folder) : folder_(std::move(folder)) {
  if (folder_.empty()) return;
  for (const std::string peer : {"grpc", "zmq", "zmqcalls", "tensorpipe"})
    if (std::filesystem::exists(folder_ + "/peer_" + peer)) peers_.push_back(peer);
}

std::vector<std::string> PeerPrograms::names(const std::string& what, const std::string& tls) const {
  std::vector<std::string> names;
  names.reserve(peers_.size());
  for (const std::string& peer : peers_) {
    const bool has_shared_memory = peer == "tensorpipe";
    const std::string transport = tls == "shm" && !has_shared_memory ? "unix" : tls;
    names.push_back("peer_" + peer + "_" + what + "_" + transport);
  }
  return names;
}

std::optional<double> PeerPrograms::take(const std::string& name) const {
  constexpr std::string_view kPrefix = "peer_";
  const std::string program = name.substr(0, name.find('_', kPrefix.size()));
  FILE* pipe = popen(("'" + folder_ + "/" + program + "' " + name).c_str(), "r");
  if (!pipe) return std::nullopt;
  std::string text;
  std::array<char, 1024> buffer;
  while (const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe))
    text.append(buffer.data(), got);
  constexpr std::string_view kValue = "\"value\": ";
  const auto value = text.find(kValue);
  if (pclose(pipe) != 0 || value == std::string::npos) return std::nullopt;
  return std::strtod(text.c_str() + value + kValue.size(), nullptr);
}

}  // namespace troupe::bench
