#include "wire/flat_writer.hpp"

#include <algorithm>

namespace troupe::rpc::flat {

void Writer::grow(std::size_t words) {
  const std::size_t needed = used_ + words;
  if (needed > kMaxCount) throw std::length_error("its values are too long for a message");
  const std::size_t capacity = std::min(std::max(needed, std::size_t{capacity_} * 4), kMaxCount);
  Buffer larger = pool_.allocate(kTableBytes + capacity * kWord);
  std::memcpy(larger.data() + kTableBytes, base_, std::size_t{used_} * kWord);
  buffer_ = std::move(larger);
  base_ = buffer_.data() + kTableBytes;
  capacity_ = static_cast<std::uint32_t>((buffer_.size() - kTableBytes) / kWord);
}

}  // namespace troupe::rpc::flat
