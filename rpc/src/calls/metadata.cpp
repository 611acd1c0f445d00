#include <troupe/rpc/metadata.hpp>

#include <algorithm>

namespace troupe::rpc {

const std::vector<MetadataPair>& Metadata::pairs() const {
  static const std::vector<MetadataPair> none;
  return pairs_ ? *pairs_ : none;
}

const std::string* Metadata::find(std::string_view key) const {
  for (const MetadataPair& pair : pairs())
    if (pair.key == key) return &pair.value;
  return nullptr;
}

Result<void> Metadata::check() const {
  if (!pairs_) return {};
  std::size_t bytes = 0;
  for (const MetadataPair& pair : *pairs_) {
    if (pair.key.empty()) return Error{Code::kInvalidArgument, "a call's metadata have a pair without a key"};
    bytes += pair.key.size() + pair.value.size();
  }
  if (pairs_->size() <= kMaxPairs && bytes <= kMaxBytes) return {};
  return Error{Code::kInvalidArgument, "a call's metadata are " + std::to_string(pairs_->size()) +
                                           " pairs and " + std::to_string(bytes) +
                                           " bytes with what the outer call passes on; at most " +
                                           std::to_string(kMaxPairs) + " and " + std::to_string(kMaxBytes) +
                                           " may be: send the rest as arguments"};
}

Metadata Metadata::passed_on() const {
  std::vector<MetadataPair> passed;
  for (const MetadataPair& pair : pairs())
    if (pair.pass_on) passed.push_back(pair);
  return passed.size() == pairs().size() ? *this : Metadata(std::move(passed));
}

Metadata Metadata::within(const Metadata& outer) const {
  if (empty()) return outer;
  std::vector<MetadataPair> all = pairs();
  for (const MetadataPair& pair : outer.pairs())
    if (!find(pair.key)) all.push_back(pair);
  return all.size() == pairs().size() ? *this : Metadata(std::move(all));
}

}  // namespace troupe::rpc
