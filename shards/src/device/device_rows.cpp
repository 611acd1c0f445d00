#include "device/device_rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>

#include "hashing.hpp"
#include "initial_of.hpp"
#include "optimizers/device_step.hpp"

namespace troupe::shards {
namespace {

constexpr std::size_t kMostPiece_keys = 65536;
constexpr std::size_t kPiece_row = 64;   // bytes of rows that a key of a piece of keys stands for
constexpr std::size_t kFirstSlabs = 64;  // addresses there is room for
constexpr std::int64_t kRecordAlignment = 16;

std::int64_t aligned(std::int64_t bytes, std::int64_t to) {
  return (bytes + to - 1) / to * to;
}

/// Cuts arrays from a buffer.
class Carver {
 public:
  explicit Carver(std::byte* memory) : at_(memory) {}
  template <class T>
  T* take(std::size_t count) {
    auto* const taken = reinterpret_cast<T*>(at_);
    at_ += bytes_of<T>(count);
    return taken;
  }
  template <class T>
  static std::size_t bytes_of(std::size_t count) {
    return static_cast<std::size_t>(aligned(static_cast<std::int64_t>(count * sizeof(T)), 64));
  }

 private:
  std::byte* at_;
};

kernels::RecordShape shape_of(const RowLayout& layout) {
  kernels::RecordShape shape;
  shape.element = optimizers::element_of(layout.weights);
  shape.dim = static_cast<std::int64_t>(layout.dim);
  shape.state_at = static_cast<std::int64_t>(layout.state_offset());
  shape.bytes = static_cast<std::int64_t>(layout.bytes());
  shape.fields = static_cast<int>(layout.state.size());
  for (std::size_t i = 0; i < layout.state.size(); ++i) {
    shape.field_floats[i] = static_cast<std::int64_t>(layout.extent(i));
    shape.first_values[i] = layout.state[i].first_value;
  }
  return shape;
}

}  // namespace

// ---- Slabs --------------------------------------------------------------------------------------

Result<void> SlabTable::grow(DeviceWork& work) {
  const std::size_t bytes = std::max(2 * host_.size(), kFirstSlabs * sizeof(std::byte*));
  auto host = work.pinned_memory(bytes);
  if (!host) return host.error();
  auto device = work.device_memory(bytes);
  if (!device) return device.error();
  if (auto passed = work.finish(); !passed) return passed;  // the host is about to write
  if (!host_.empty()) std::memcpy(host->data(), host_.data(), host_.size());
  if (auto copied = work.copy(device->data(), host->data(), host_.size()); !copied) return copied;
  host_ = *std::move(host);
  device_ = *std::move(device);
  return {};
}

Result<void> SlabTable::add(DeviceWork& work, Buffer slab) {
  const std::size_t at = slabs_.size() * sizeof(std::byte*);
  if (at == host_.size()) {
    if (auto grown = grow(work); !grown) return grown;
  }
  slabs_.reserve(slabs_.size() + 1);
  std::byte* const address = slab.data();
  std::memcpy(host_.data() + at, &address, sizeof(address));
  if (auto copied = work.copy(device_.data() + at, host_.data() + at, sizeof(address)); !copied)
    return copied;
  slabs_.push_back(std::move(slab));
  return {};
}

DeviceRows::DeviceRows(const TableSpec& spec, DeviceWork work)
    : spec_(spec),
      layout_(spec.optimizer.layout(spec.weights, spec.dim)),
      shape_(shape_of(layout_)),
      initial_(initial_of(spec)),
      work_(std::move(work)) {}

Result<std::unique_ptr<DeviceRows>> DeviceRows::create(const TableSpec& spec, const DeviceHome& home) {
  const RowLayout layout = spec.optimizer.layout(spec.weights, spec.dim);
  const auto refused = [&](const std::string& why) {
    return Error{Code::kInvalidArgument, "table '" + spec.name + "': optimizer '" +
                                             std::string(spec.optimizer.name()) + "' " + why +
                                             ", so its rows cannot lie in device memory"};
  };
  if (spec.optimizer.def().device_step == nullptr) return refused("has no step for devices (device_step)");
  if (layout.state.size() > kernels::RecordShape::kMostFields)
    return refused("has more than " + std::to_string(kernels::RecordShape::kMostFields) + " fields of state");
  const std::size_t row = spec.dim * sizeof(float);
  const std::size_t value_bytes = std::max({home.piece_bytes, row, layout.bytes()});
  const std::size_t piece_rows = std::clamp<std::size_t>(value_bytes / row, 1, kMostPiece_keys);
  // Of keys alone more go in one.
  const std::size_t piece_keys =
      std::clamp<std::size_t>(value_bytes / kPiece_row, piece_rows, kMostPiece_keys);
  auto work = DeviceWork::create(home, 2 * Carver::bytes_of<std::uint64_t>(piece_keys) + value_bytes);
  if (!work) return work.error();
  std::unique_ptr<DeviceRows> rows(new DeviceRows(spec, *std::move(work)));
  rows->value_bytes_ = value_bytes;
  rows->piece_keys_ = piece_keys;
  rows->piece_rows_ = piece_rows;
  rows->page_rows_ = std::clamp<std::size_t>(value_bytes / layout.bytes(), 1, piece_keys);
  rows->stride_ = aligned(static_cast<std::int64_t>(layout.bytes()), kRecordAlignment);
  constexpr std::int64_t kBesides = 17;  // bytes: key, what is kept, mark
  const auto fit =
      static_cast<std::uint64_t>(static_cast<std::int64_t>(home.slab_bytes) / (rows->stride_ + kBesides));
  rows->shift_ = fit < 2 ? 0 : static_cast<unsigned>(std::bit_width(fit) - 1);
  const std::int64_t slab_rows = std::int64_t{1} << rows->shift_;
  rows->keys_at_ = slab_rows * rows->stride_;
  rows->kept_at_ = rows->keys_at_ + slab_rows * 8;
  rows->marks_at_ = rows->kept_at_ + slab_rows * 8;
  if (auto made = rows->make_scratch(); !made) return made.error();
  return rows;
}

Result<void> DeviceRows::make_scratch() {
  const std::size_t words = Carver::bytes_of<std::uint64_t>(piece_keys_);
  auto scratch = work_.device_memory(5 * words + Carver::bytes_of<std::uint8_t>(piece_keys_) + value_bytes_);
  if (!scratch) return scratch.error();
  auto spare = work_.pinned_memory(std::max(value_bytes_, words));
  if (!spare) return spare.error();
  scratch_ = *std::move(scratch);
  spare_ = *std::move(spare);
  Carver carver(scratch_.data());
  for (std::uint64_t** array :
       {&piece_.keys, &piece_.numbers, &piece_.slots, &piece_.rows, &piece_.block_counts})
    *array = carver.take<std::uint64_t>(piece_keys_);
  piece_.is_new = carver.take<std::uint8_t>(piece_keys_);
  piece_.values = carver.take<std::byte>(value_bytes_);
  return {};
}

kernels::RecordSlabs DeviceRows::view() const {
  return {.slabs = slabs_.on_device(),
          .shift = shift_,
          .stride = stride_,
          .keys_at = keys_at_,
          .kept_at = kept_at_,
          .marks_at = marks_at_};
}

kernels::KeptSlabs DeviceRows::kept_view() const {
  return {.slabs = kept_.on_device(), .shift = shift_, .stride = stride_};
}

Result<void> DeviceRows::reserve(std::uint64_t count) {
  while (capacity() < count) {
    auto slab = work_.device_memory(slab_bytes());
    if (!slab) return slab.error();
    const auto besides = static_cast<std::size_t>(kept_at_);
    if (auto cleared = work_.stream().fill(slab->data() + besides, 0, slab_bytes() - besides); !cleared)
      return cleared;
    if (auto added = slabs_.add(work_, *std::move(slab)); !added) return added;
  }
  return {};
}

std::optional<RowBatch> last_of_each(const RowBatch& rows, std::size_t record_bytes, std::uint64_t seed) {
  std::unordered_map<std::uint64_t, std::size_t, KeyHash> last(rows.keys.size(), KeyHash{seed});
  for (std::size_t i = 0; i < rows.keys.size(); ++i) last[rows.keys[i]] = i;
  if (last.size() == rows.keys.size()) return {};
  RowBatch once;
  for (std::size_t i = 0; i < rows.keys.size(); ++i) {
    if (last[rows.keys[i]] != i) continue;
    const std::byte* const from = rows.records.data() + i * record_bytes;
    once.keys.push_back(rows.keys[i]);
    once.records.insert(once.records.end(), from, from + record_bytes);
  }
  return once;
}

// ---- Pieces -------------------------------------------------------------------------------------

Result<void> DeviceRows::bring(std::uint64_t* to, std::span<const std::uint64_t> keys, const void* extra,
                               std::size_t extra_bytes) {
  auto staged = work_.stage();
  if (!staged) return staged.error();
  std::byte* const values = *staged + Carver::bytes_of<std::uint64_t>(piece_keys_);
  std::memcpy(*staged, keys.data(), keys.size_bytes());
  if (extra_bytes > 0) std::memcpy(values, extra, extra_bytes);
  if (auto copied = work_.copy(to, *staged, keys.size_bytes()); !copied) return copied;
  return work_.copy(piece_.values, values, extra_bytes);
}

Result<std::span<const std::uint64_t>> DeviceRows::fetch_numbers(std::size_t count) {
  if (auto copied = work_.copy(spare_.data(), piece_.numbers, count * sizeof(std::uint64_t)); !copied)
    return copied.error();
  if (auto passed = work_.finish(); !passed) return passed.error();
  return std::span(reinterpret_cast<const std::uint64_t*>(spare_.data()), count);
}

Result<void> DeviceRows::make(std::size_t count, bool all) const {
  return work_.launch([slabs = view(), shape = shape_, initial = initial_, piece = piece_, all,
                       n = static_cast<std::int64_t>(count)](kernels::Place place) {
    return kernels::make_records(place, slabs, shape, initial, piece.keys, piece.numbers,
                                 all ? nullptr : piece.is_new, n);
  });
}

// One launch finds the rows and brings them, also to pinned memory.
Result<void> DeviceRows::read(std::size_t count, const kernels::RowIndex& index, RowsOut out,
                              std::size_t first, Absent absent, DeviceReading& reading) const {
  const std::size_t bytes = count * spec_.dim * sizeof(float);
  float* const to = out.data + first * spec_.dim;
  Buffer memory;
  if (out.memory == MemoryKind::kHost) {
    if (auto pinned = work_.pinned_memory(bytes)) memory = *std::move(pinned);
  }
  // Rows that are there can be read whatever memory there is: by way of what is kept for this.
  const bool by_spare = out.memory == MemoryKind::kHost && memory.empty();
  auto* const values = by_spare          ? reinterpret_cast<float*>(spare_.data())
                       : !memory.empty() ? reinterpret_cast<float*>(memory.data())
                                         : to;
  const std::uint64_t* const keys = index.slots == 0 ? piece_.numbers : piece_.keys;
  auto given = work_.launch([index, slabs = view(), shape = shape_, initial = initial_, keys, values, absent,
                             n = static_cast<std::int64_t>(count)](kernels::Place place) {
    return kernels::pull_rows(place, index, slabs, shape, initial, keys, n, values, absent.word,
                              absent.ticket);
  });
  if (!given) return given;
  if (!memory.empty()) reading.copy_later(std::move(memory), to);
  if (!by_spare) return {};
  if (auto passed = work_.stream().finish(kPatience); !passed) return passed;
  std::memcpy(to, spare_.data(), bytes);
  return {};
}

Result<void> DeviceRows::step(std::size_t count, float scale) const {
  std::array<float, OptimizerDef::kMaxParameters> parameters{};
  const std::span<const float> numbers = spec_.optimizer.numbers();
  std::copy(numbers.begin(), numbers.end(), parameters.begin());
  parameters[0] *= scale;  // the learning rate
  const kernels::RowTable table = kernels::table_of(shape_);
  DeviceStepBatch batch{.base = static_cast<std::byte*>(table.weights),
                        .stride = table.state_stride * static_cast<std::int64_t>(sizeof(float)),
                        .state_at = shape_.state_at,
                        .rows = piece_.rows,
                        .gradients = reinterpret_cast<const float*>(piece_.values),
                        .count = static_cast<std::int64_t>(count),
                        .dim = shape_.dim,
                        .weights = spec_.weights,
                        .parameters = {}};
  return work_.launch([slabs = view(), piece = piece_, batch, parameters, used = numbers.size(),
                       step = spec_.optimizer.def().device_step](kernels::Place place) mutable {
    const kernels::Launch found = kernels::find_records(place, slabs, piece.numbers, batch.count, piece.rows);
    if (!found.ok()) return found;
    batch.stream = place.stream();
    batch.device = place.device();
    batch.parameters = std::span<const float>(parameters.data(), used);
    const DeviceStepOutcome outcome = step(batch);
    return kernels::Launch{outcome.kernel, outcome.error};
  });
}

Result<void> DeviceRows::write(std::size_t count) const {
  return work_.launch([slabs = view(), bytes = shape_.bytes, piece = piece_,
                       n = static_cast<std::int64_t>(count)](kernels::Place place) {
    const kernels::Launch done = kernels::find_records(place, slabs, piece.numbers, n, piece.rows);
    if (!done.ok()) return done;
    return kernels::write_records(place, slabs, bytes, piece.values, piece.numbers, n);
  });
}

Result<void> DeviceRows::mask(std::size_t count, std::uint8_t mask) const {
  return work_.launch(
      [slabs = view(), piece = piece_, mask, n = static_cast<std::int64_t>(count)](kernels::Place place) {
        return kernels::mask_marks(place, slabs, piece.numbers, n, mask);
      });
}

Result<void> DeviceRows::mask_all(std::uint64_t rows, std::uint8_t mask) const {
  return work_.launch([slabs = view(), mask, n = static_cast<std::int64_t>(rows)](kernels::Place place) {
    return kernels::mask_all_marks(place, slabs, n, mask);
  });
}

// ---- Pages --------------------------------------------------------------------------------------

std::span<const std::uint64_t> DeviceRows::Page::keys() const {
  return {reinterpret_cast<const std::uint64_t*>(memory.data()), count};
}

std::span<const std::uint8_t> DeviceRows::Page::flags() const {
  const std::byte* const at = memory.data() + Carver::bytes_of<std::uint64_t>(count);
  return {reinterpret_cast<const std::uint8_t*>(at), count};
}

const std::byte* DeviceRows::Page::record(std::size_t i) const {
  return memory.data() + Carver::bytes_of<std::uint64_t>(count) + Carver::bytes_of<std::uint8_t>(count) +
         i * record_bytes;
}

Result<DeviceRows::Page> DeviceRows::begin_page(std::uint64_t first, std::size_t count, PageOf what) {
  Page page{.first = first,
            .count = count,
            .record_bytes = what == PageOf::kMarks ? 0 : layout_.bytes(),
            .memory = {},
            .ready = {}};
  const std::size_t keys_bytes = Carver::bytes_of<std::uint64_t>(count);
  const std::size_t flags_bytes = Carver::bytes_of<std::uint8_t>(count);
  const std::size_t records_bytes = count * page.record_bytes;
  auto memory = work_.pinned_memory(std::max<std::size_t>(1, keys_bytes + flags_bytes + records_bytes));
  if (!memory) return memory.error();
  page.memory = *std::move(memory);
  auto given = work_.launch([slabs = view(), kept = what == PageOf::kCut ? kept_view() : kernels::KeptSlabs{},
                             listed = what == PageOf::kListed, first, n = static_cast<std::int64_t>(count),
                             piece = piece_,
                             bytes = static_cast<std::int64_t>(page.record_bytes)](kernels::Place place) {
    return kernels::read_records(place, slabs, kept, first, listed ? piece.numbers : nullptr, n, bytes,
                                 piece.keys, piece.is_new, piece.values);
  });
  std::byte* const to = page.memory.data();
  if (given) given = work_.copy(to, piece_.keys, count * sizeof(std::uint64_t));
  if (given) given = work_.copy(to + keys_bytes, piece_.is_new, count);
  if (given) given = work_.copy(to + keys_bytes + flags_bytes, piece_.values, records_bytes);
  if (!given) return given.error();
  auto ready = work_.seal();
  if (!ready) return ready.error();
  page.ready = *std::move(ready);
  return page;
}

void DeviceRows::append(const Page& page, std::size_t i, RowBatch& into) const {
  into.keys.push_back(page.keys()[i]);
  into.records.insert(into.records.end(), page.record(i), page.record(i) + layout_.bytes());
}

Result<void> DeviceRows::append_listed(std::size_t count, RowBatch& into) {
  auto page = begin_page(0, count, PageOf::kListed);
  if (!page) return page.error();
  if (auto there = wait_for(*page); !there) return there;
  for (std::size_t i = 0; i < count; ++i) {
    if (page->flags()[i] == 0) return Error{Code::kInternal, "a row to be copied is not there"};
    append(*page, i, into);
  }
  return {};
}

// ---- Cuts ---------------------------------------------------------------------------------------

Result<void> DeviceRows::reserve_kept(std::uint64_t count) {
  if (!cut_ || cut_->next >= cut_->end) return {};
  const std::uint64_t needed = std::min(count, cut_->end);
  while ((std::uint64_t{kept_.size()} << shift_) < needed) {
    auto slab = work_.pinned_memory(static_cast<std::size_t>(keys_at_));
    if (!slab) return slab.error();
    if (auto added = kept_.add(work_, *std::move(slab)); !added) return added;
  }
  return {};
}

Result<void> DeviceRows::keep(std::size_t count, kernels::RowCounts* counts) const {
  if (!cut_ || cut_->next >= cut_->end) return {};
  return work_.launch([slabs = view(), kept = kept_view(), bytes = shape_.bytes, counts, piece = piece_,
                       next = cut_->next, end = cut_->end,
                       n = static_cast<std::int64_t>(count)](kernels::Place place) {
    return kernels::keep_records(place, slabs, kept, bytes, counts, next, end, piece.numbers, n);
  });
}

Result<void> DeviceRows::go_ahead(std::uint64_t most) {
  Cut& cut = *cut_;
  const std::uint64_t count = std::min({most, cut.end - cut.next, std::uint64_t{page_rows_}});
  auto page = begin_page(cut.next, static_cast<std::size_t>(count), PageOf::kCut);
  if (!page) return page.error();
  cut.next += count;
  cut.ahead = *std::move(page);
  return {};
}

Result<ExtractPage> DeviceRows::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  Cut& cut = *cut_;
  ExtractPage page{.rows = 0, .next_cursor = cursor, .done = cursor >= cut.end};
  if (page.done || most == 0) return page;
  if (!cut.ahead) {
    assert(cursor == cut.next);
    if (auto begun = go_ahead(most); !begun) return begun.error();
  }
  assert(cursor >= cut.ahead->first && cursor < cut.ahead->first + cut.ahead->count);
  if (auto there = wait_for(*cut.ahead); !there) return there.error();
  const std::uint64_t end = std::min(cut.ahead->first + cut.ahead->count, cursor + most);
  for (; page.next_cursor < end; ++page.next_cursor) {
    const auto i = static_cast<std::size_t>(page.next_cursor - cut.ahead->first);
    if ((cut.ahead->flags()[i] & (kernels::kRowLives | kernels::kRowKept)) == 0) continue;
    append(*cut.ahead, i, into);
    ++page.rows;
  }
  page.done = end == cut.end;
  if (end < cut.ahead->first + cut.ahead->count) return page;
  cut.ahead.reset();
  // The next one is copied meanwhile, so that nobody waits for the device when it is asked for. If it cannot
  // be begun now, it will be then.
  if (!page.done) (void)go_ahead(most);
  return page;
}

Result<void> DeviceRows::close_cut(kernels::RowCounts* counts) {
  if (!cut_) return {};
  const std::uint64_t end = std::exchange(cut_, std::nullopt)->end;
  auto forgotten =
      work_.launch([slabs = view(), counts, n = static_cast<std::int64_t>(end)](kernels::Place place) {
        return kernels::forget_kept(place, slabs, counts, n);
      });
  kept_.clear();
  return forgotten;
}

}  // namespace troupe::shards
