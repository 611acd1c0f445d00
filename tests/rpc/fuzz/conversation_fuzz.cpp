// The libFuzzer target of whole conversations, one program for each kind: ./dev fuzz.
#include "fuzz/conversation.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace troupe::rpc::conversation;
  static_cast<void>(converse(TROUPE_CONVERSATION_KIND, {data, size}));
  return 0;
}
