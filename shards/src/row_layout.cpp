#include <troupe/shards/row_layout.hpp>

namespace troupe::shards {

std::uint64_t RowLayout::state_floats() const {
  std::uint64_t floats = 0;
  for (std::size_t i = 0; i < state.size(); ++i) floats += extent(i);
  return floats;
}

std::size_t RowLayout::field_offset(std::size_t index) const {
  std::size_t offset = state_offset();
  for (std::size_t i = 0; i < index; ++i) offset += static_cast<std::size_t>(extent(i)) * sizeof(float);
  return offset;
}

}  // namespace troupe::shards
