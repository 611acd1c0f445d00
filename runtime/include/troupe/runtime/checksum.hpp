#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace troupe {

/// CRC-32C (Castagnoli, as in iSCSI, RFC 3720 appendix B.4) of `bytes`. To go on over several pieces pass
/// the last result as `crc`. Uses the CPU's instruction where there is one. Any thread.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);
/// The same without that instruction.
std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t crc = 0);

}  // namespace troupe
