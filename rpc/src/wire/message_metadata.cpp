// A call's metadata in its message: small pairs in the body.
#include <utility>
#include <vector>

#include <troupe/rpc/message.hpp>

#include "wire/message_impl.hpp"

namespace troupe::rpc {

void OutMessage::Impl::write_metadata() {
  std::uint32_t at = writer.add_structs(slot_of(body, BodyLayout::kLayout, BodyLayout::kMetadata),
                                        metadata.pairs().size(), PairLayout::kLayout);
  for (const MetadataPair& pair : metadata.pairs()) {
    writer.put(at, PairLayout::kPassOn, static_cast<std::uint8_t>(pair.pass_on));
    writer.add_text(slot_of(at, PairLayout::kLayout, PairLayout::kKey), pair.key);
    writer.add_text(slot_of(at, PairLayout::kLayout, PairLayout::kValue), pair.value);
    at += static_cast<std::uint32_t>(PairLayout::kLayout.words());
  }
}

Result<void> InMessage::read_metadata() {
  Impl& message = impl();
  flat::Reader& reader = message.body_reader();
  flat::StructsView list;
  if (!reader.read(message.body, BodyLayout::kMetadata, list)) return malformed();
  if (list.count > Metadata::kMaxPairs) return corrupt("it has too much metadata");
  std::vector<MetadataPair> pairs;
  std::size_t bytes = 0;
  for (std::uint32_t i = 0; i < list.count; ++i) {
    std::string_view key, value;
    if (!reader.read(list[i], PairLayout::kKey, key) || !reader.read(list[i], PairLayout::kValue, value))
      return malformed();
    bytes += key.size() + value.size();
    if (key.empty() || bytes > Metadata::kMaxBytes)
      return corrupt("its metadata have no key, or are too long");
    pairs.push_back(
        {std::string(key), std::string(value), (list[i].get<std::uint8_t>(PairLayout::kPassOn) & 1) != 0});
  }
  header_.metadata = Metadata(std::move(pairs));
  return {};
}

}  // namespace troupe::rpc
