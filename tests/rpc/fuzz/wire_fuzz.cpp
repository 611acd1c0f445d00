// The libFuzzer target of the wire decoder: ./dev fuzz.
#include "fuzz/wire_input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static_cast<void>(troupe::rpc::fuzz::run_wire_input({data, size}));
  return 0;
}
