#include "peer.hpp"

#include <iostream>

namespace troupe::bench {

namespace {

using Load = std::function<double(PeerClient&)>;

Figure figure(const Peer& peer, const std::string& what, const std::string& unit,
              const std::string& transport, const Load& load) {
  return {"peer_" + peer.name + "_" + what + "_" + transport, unit, [=] {
            return between_processes([&](const Ready& ready) { peer.serve(transport, ready); },
                                     [&](const std::string& address) {
                                       const auto client = peer.connect(transport, address);
                                       return load(*client);
                                     });
          }};
}

std::vector<Figure> figures(const Peer& peer) {
  constexpr std::size_t kCalls = 2000;
  constexpr std::size_t kOpenCalls = 20000;
  std::vector<Figure> all;
  for (const std::string& transport : peer.transports) {
    all.push_back(figure(peer, "rpc_sync_64B", "us", transport, [](PeerClient& client) {
      return median_us_each(kCalls, [&] { client.calls(kCalls); });
    }));
    all.push_back(figure(peer, "rpc_async_64B", "calls/s", transport, [](PeerClient& client) {
      return median_per_second(kOpenCalls, [&] { client.open_calls(kOpenCalls, kCallWindow); });
    }));
    if (transport == "tcp")
      all.push_back(figure(peer, "rpc_async_64B_open_64", "calls/s", transport, [](PeerClient& client) {
        return median_per_second(kOpenCalls, [&] { client.open_calls(kOpenCalls, kFewOpen); });
      }));
    if (!peer.streams) continue;
    for (const std::size_t mib : {1, 16}) {
      const std::size_t bytes = mib * kMiB;
      const std::size_t count = bandwidth_count(bytes);
      all.push_back(
          figure(peer, "tensor_" + std::to_string(mib) + "MB", "GB/s", transport, [=](PeerClient& client) {
            return median_gb_per_s(count, bytes, [&] { client.stream(bytes, count); });
          }));
    }
  }
  return all;
}

}  // namespace

std::vector<std::vector<char>> data_to_send(std::size_t bytes) {
  return std::vector<std::vector<char>>(kDataWindow, std::vector<char>(bytes, 'd'));
}

int peer_main(const Peer& peer, int argc, char** argv) {
  const std::vector<std::string> parts(argv + 1, argv + argc);
  bool ok = true;
  for (const Figure& figure : figures(peer)) {
    if (!wanted(figure.name, parts)) continue;
    const auto value = figure.take();
    if (value) {
      print_json(figure.name, *value, figure.unit);
    } else {
      std::cerr << figure.name << ": no figure\n";
      ok = false;
    }
  }
  return ok ? 0 : 1;
}

}  // namespace troupe::bench
