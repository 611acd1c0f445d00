#pragma once

#include <array>
#include <cstdint>

namespace troupe::shards {

/// Which of one worker's sequence numbers have been applied: all that matters for applying each once.
/// Numbers may come in any order as long as none is kSize or more behind the highest. A plain value.
class SequenceWindow {
 public:
  static constexpr std::uint64_t kSize = 1024;
  static constexpr std::size_t kWords = kSize / 64;

  enum class Seen : std::uint8_t {
    kNew,      ///< not applied yet
    kApplied,  ///< applied before
    kTooOld,   ///< too far behind to know
  };
  Seen look(std::uint64_t sequence) const;
  /// Marks `sequence` as applied. Precondition: look(sequence) is kNew.
  void mark(std::uint64_t sequence);
  /// Marks everything that `other` has marked.
  void merge(const SequenceWindow& other);

  bool empty() const { return empty_; }
  std::uint64_t highest() const { return highest_; }
  /// Bit s % kSize says whether s is applied, for s in (highest - kSize, highest].
  const std::array<std::uint64_t, kWords>& words() const { return words_; }
  static SequenceWindow restore(std::uint64_t highest, const std::array<std::uint64_t, kWords>& words);

  friend bool operator==(const SequenceWindow&, const SequenceWindow&) = default;

 private:
  void set(std::uint64_t sequence, bool value);
  bool get(std::uint64_t sequence) const;

  bool empty_ = true;
  std::uint64_t highest_ = 0;
  std::array<std::uint64_t, kWords> words_{};
};

}  // namespace troupe::shards
