#pragma once

#include "wire/flat.hpp"

/// Where schema/wire.capnp's fields lie in their structs, as the Cap'n Proto compiler lays them out
/// (`capnp compile -ocapnp` prints it): bytes from the struct's beginning, indices of its pointers.
/// tests/rpc/flat_test.cpp compares with the library's own reading of every field.
namespace troupe::rpc {

struct EnvelopeLayout {
  static constexpr flat::Layout kLayout{6, 3};
  static constexpr std::size_t kKind = 0, kFlags = 2, kCallId = 8, kTarget = 16, kMethod = 24,
                               kSignature = 32, kRemaining = 40;
  static constexpr std::uint8_t kBodyApart = 1, kNotTraced = 2;  // bits of kFlags
  static constexpr unsigned kExtras = 0, kAttachments = 1, kBody = 2;
};

struct ExtrasLayout {
  static constexpr flat::Layout kLayout{5, 0};
  static constexpr std::size_t kTraceHigh = 0, kTraceLow = 8, kSpan = 16, kFlags = 24, kToken = 32;
};

struct BodyLayout {
  static constexpr flat::Layout kLayout{1, 2};
  static constexpr std::size_t kWhich = 0;
  static constexpr std::uint16_t kValues = 0, kError = 1;
  static constexpr unsigned kContent = 0, kAttachments = 1, kMetadata = 2;
  static constexpr flat::Layout kWithMetadata{1, 3};
};

struct PairLayout {
  static constexpr flat::Layout kLayout{1, 2};
  static constexpr std::size_t kPassOn = 0;
  static constexpr unsigned kKey = 0, kValue = 1;
};

struct ErrorLayout {
  static constexpr flat::Layout kLayout{2, 4};
  static constexpr std::size_t kCode = 0, kTraceId = 8;
  static constexpr unsigned kMessage = 0, kNode = 1, kCause = 2, kException = 3;
};

struct ValueLayout {
  static constexpr flat::Layout kLayout{2, 1};
  static constexpr std::size_t kWidth = 0, kBool = 1, kWhich = 2, kNumber = 8;
  static constexpr unsigned kContent = 0;
};

struct AttachmentLayout {
  static constexpr flat::Layout kLayout{2, 1};
  static constexpr flat::Layout kSharedLayout{5, 1};  // of lists with a shared one
  static constexpr flat::Layout kDeviceLayout{7, 2};  // with one of device memory: all that there is
  static constexpr std::size_t kDtype = 0, kMemoryKind = 1, kGpu = 2, kTarget = 3, kFd = 4, kBytes = 8,
                               kLease = 16, kCookie = 24, kOffset = 32, kSlab = 40, kWritten = 48;
  static constexpr unsigned kShape = 0, kHandle = 1;
};

}  // namespace troupe::rpc
