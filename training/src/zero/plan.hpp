#pragma once

#include <cstdint>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/training/zero.hpp>

namespace troupe::training::zero {

/// Elements [at, at + n) of a region.
struct Range {
  std::int64_t at = 0;
  std::int64_t n = 0;
};

/// What is reduced or gathered at once: a range of a region that has as many elements for each member.
struct Segment {
  int region = 0;
  Range range;
  std::int64_t used = 0;    ///< without what fills it up
  std::int64_t own_at = 0;  ///< where this member's part begins among all that it steps
};

/// Parameters one after the other, in one piece of memory, filled up to a multiple of the members.
struct Region {
  int layer = -1;      ///< -1: whole at each member
  std::int64_t n = 0;  ///< filled up
  int first = 0;       ///< segment
  int segments = 0;
  std::int64_t own_at = 0;  ///< of its first segment
  std::int64_t own = 0;     ///< elements that this member steps
  bool whole() const { return layer < 0; }
};

/// Where a parameter lies.
struct Place {
  int region = 0;
  Range range;
};

/// A part of a parameter that lies in a range of a region.
struct Piece {
  int parameter = 0;
  std::int64_t from = 0;  ///< element of the parameter
  std::int64_t at = 0;    ///< element of the region
  std::int64_t n = 0;
};

/// Who has which elements of which parameters. Stages 0 to 2 have one region, stage 3 one for each layer and
/// one for the small parameters of all layers. Follows from options, shapes and the group's size alone.
class Plan {
 public:
  Plan(const std::vector<ZeroParameter>& parameters, const ZeroOptions& options, int rank, int members);

  int rank() const { return rank_; }
  int members() const { return members_; }
  int parameters() const { return static_cast<int>(places_.size()); }
  bool cut() const { return cut_; }
  const std::vector<Region>& regions() const { return regions_; }
  const std::vector<Segment>& segments() const { return segments_; }
  const Place& place(int parameter) const { return places_[static_cast<std::size_t>(parameter)]; }
  int layers() const { return static_cast<int>(layer_regions_.size()); }
  /// -1: nothing of the layer is to be gathered.
  int region_of_layer(int layer) const { return layer_regions_[static_cast<std::size_t>(layer)]; }
  std::int64_t own() const { return own_; }  ///< elements that this member steps
  std::int64_t largest_segment() const { return largest_; }

  /// A member's share of a segment, in its region.
  Range share(const Segment& segment) const { return share_of(segment, rank_); }
  /// What this member steps of it: its share, or all of it where nothing is cut.
  Range stepped(const Segment& segment) const { return cut_ ? share(segment) : segment.range; }
  /// The parts of parameters in a range, ascending.
  std::vector<Piece> pieces(int region, Range range) const;
  /// The segments that a parameter lies in.
  Range segments_of(int parameter) const;

 private:
  Range share_of(const Segment& segment, int rank) const {
    const std::int64_t n = segment.range.n / members_;
    return {segment.range.at + n * rank, n};
  }
  void add_region(int layer, const std::vector<int>& parameters, const std::vector<std::int64_t>& sizes,
                  std::int64_t bucket);

  int rank_;
  int members_;
  bool cut_;
  std::vector<Place> places_;
  std::vector<std::vector<int>> inside_;  // parameters of each region, ascending
  std::vector<Region> regions_;
  std::vector<Segment> segments_;
  std::vector<int> layer_regions_;
  std::int64_t own_ = 0;
  std::int64_t largest_ = 0;
};

}  // namespace troupe::training::zero
