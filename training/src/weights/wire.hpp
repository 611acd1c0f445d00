#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <troupe/rpc/codec.hpp>

/// What the ends of a stream of weights say to each other.
namespace troupe::training {

/// Answer of "join" at the publisher.
struct WeightPlace {
  std::uint64_t generation = 0;
  std::string parent;       ///< the actor to ask for versions
  bool same_place = false;  ///< whether that one is of the reader's machine
  std::uint64_t part_bytes = 0;
  std::uint64_t piece_bytes = 0;  ///< 0: changes are not looked for
  // The layout; nothing if the reader has it.
  std::vector<std::string> names;
  std::vector<std::uint8_t> dtypes;
  std::vector<std::vector<std::int64_t>> shapes;
};

/// Answer of "next": a version that can be fetched.
struct WeightNews {
  std::uint64_t generation = 0;
  std::uint64_t number = 0;  ///< 0: none yet
  std::map<std::string, std::string> metadata;
  /// Whether `pieces` says what has changed since the version that the reader has; else all may have.
  bool changes_known = false;
  /// Runs of changed pieces: first and count, in turns.
  std::vector<std::uint64_t> pieces;
};

}  // namespace troupe::training

template <>
struct troupe::rpc::Fields<troupe::training::WeightPlace> {
  using Place = troupe::training::WeightPlace;
  static constexpr std::string_view name = "WeightPlace";
  static constexpr auto fields =
      std::tuple(&Place::generation, &Place::parent, &Place::same_place, &Place::part_bytes,
                 &Place::piece_bytes, &Place::names, &Place::dtypes, &Place::shapes);
};
template <>
struct troupe::rpc::Fields<troupe::training::WeightNews> {
  using News = troupe::training::WeightNews;
  static constexpr std::string_view name = "WeightNews";
  static constexpr auto fields =
      std::tuple(&News::generation, &News::number, &News::metadata, &News::changes_known, &News::pieces);
};
