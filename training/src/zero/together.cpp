// What the members of a group tell each other: how they begin, what they find, and how they go on in another
// group.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <exception>
#include <future>
#include <new>
#include <numeric>
#include <span>
#include <utility>

#include "zero/elements.hpp"
#include "zero/member.hpp"

namespace troupe::training::zero {
namespace {

/// FNV-1a, 64 bits.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 14695981039346656037U;
  for (const char each : text) hash = (hash ^ static_cast<unsigned char>(each)) * 1099511628211U;
  return hash;
}

/// All that must be the same at each member.
std::string described(const std::vector<ZeroParameter>& parameters, const ZeroOptions& options) {
  std::string text = std::to_string(static_cast<int>(options.stage)) + std::string(to_string(options.dtype)) +
                     std::string(options.optimizer.name());
  const auto add = [&](float number) { text += " " + std::to_string(std::bit_cast<std::uint32_t>(number)); };
  for (const float number : options.optimizer.numbers()) add(number);
  for (const float number :
       {options.max_norm, options.loss_scaling.fixed, options.loss_scaling.first, options.loss_scaling.least})
    add(number);
  for (const std::int64_t number :
       {std::int64_t{options.accumulation}, options.bucket, options.keep_below, options.prefetch,
        options.max_live, options.reuse_distance, std::int64_t{options.loss_scaling.window},
        std::int64_t{options.loss_scaling.hysteresis}, std::int64_t{options.loss_scaling.refill}})
    text += " " + std::to_string(number);
  for (const ZeroParameter& each : parameters)
    text += "\n" + each.name + each.shape.to_string() + std::to_string(each.layer);
  return text;
}

/// A parameter's first values, one after the other.
Result<Tensor> first_values(const ZeroParameter& parameter, int index, const Zero::Initial& initial) {
  const auto refused = [&](const std::string& why) {
    return Error{Code::kInvalidArgument, "the first values of '" + parameter.name + "' " + why};
  };
  try {
    const Tensor given = initial(index);
    if (given.dtype() != DType::kFloat32 || !(given.shape() == parameter.shape) || !given.is_contiguous() ||
        given.device().kind == MemoryKind::kDevice)
      return refused("are " + given.to_string() + ", expected float32" + parameter.shape.to_string() +
                     ", contiguous and in host memory");
    return given.reshape(Shape{parameter.shape.elements()});
  } catch (const std::exception& error) {
    return refused(std::string("could not be made: ") + error.what());
  }
}

/// The same numbers in a tensor of another length, which ends in zeros.
void copy_front(const Tensor& from, const Tensor& to) {
  std::memcpy(to.data(), from.data(), std::min(from.bytes(), to.bytes()));
}

}  // namespace

Result<std::vector<std::uint64_t>> exchange(shards::Communicator& group,
                                            const std::vector<std::uint64_t>& mine) {
  const auto n = static_cast<std::int64_t>(mine.size());
  const Tensor all = Tensor::zeros(DType::kUInt64, Shape{n * group.size()});
  const Tensor in = Tensor::of(std::span<const std::uint64_t>(mine));
  if (Result<void> told = group.all_gather(in, all).wait(); !told) return told.error();
  const auto values = all.as<const std::uint64_t>();
  return std::vector<std::uint64_t>(values.begin(), values.end());
}

Result<std::vector<std::uint64_t>> Member::exchange(const std::vector<std::uint64_t>& mine) {
  return zero::exchange(parts_->group, mine);
}

Result<std::vector<std::string>> Member::exchange_texts(const std::string& mine) {
  const Result<std::vector<std::uint64_t>> lengths = exchange({std::uint64_t{mine.size()}});
  if (!lengths) return lengths.error();
  std::vector<std::int64_t> counts(lengths->begin(), lengths->end());
  const std::int64_t sum = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  const Tensor in = Tensor::of(std::span(reinterpret_cast<const std::uint8_t*>(mine.data()), mine.size()));
  const Tensor all = Tensor::zeros(DType::kUInt8, Shape{sum});
  if (Result<void> told = parts_->group.all_gather(in, all, counts).wait(); !told) return told.error();
  std::vector<std::string> texts;
  const char* at = reinterpret_cast<const char*>(all.data());
  for (const std::int64_t count : counts) {
    texts.emplace_back(at, static_cast<std::size_t>(count));
    at += count;
  }
  return texts;
}

Result<void> Member::together(const Result<void>& mine) {
  std::string text;
  if (!mine) text = std::string(1, static_cast<char>(mine.error().code)) + mine.error().message;
  const Result<std::vector<std::string>> all = exchange_texts(text);
  if (!all) return ended(all.error());
  for (std::size_t i = 0; i < all->size(); ++i) {
    const std::string& each = (*all)[i];
    if (each.empty()) continue;
    return Error{static_cast<Code>(each.front()),
                 "member " + std::to_string(i) + " of " + parts_->group.name() + ": " + each.substr(1)};
  }
  return {};
}

Result<void> Member::together_while(const std::function<Result<void>()>& work) {
  constexpr std::chrono::milliseconds kLongest{250};
  std::future<Result<void>> mine = std::async(std::launch::async, [&]() -> Result<void> {
    try {
      return work();
    } catch (const std::exception& error) {
      return Error{Code::kResourceExhausted, error.what()};
    }
  });
  for (std::chrono::milliseconds pause{1};; pause = std::min(2 * pause, kLongest)) {
    const bool done = mine.wait_for(pause) == std::future_status::ready;
    const auto all = exchange({std::uint64_t{done}});
    if (!all) return ended(all.error());
    if (std::find(all->begin(), all->end(), 0) == all->end()) return together(mine.get());
  }
}

Result<void> Member::begin(const Initial& initial) {
  const std::uint64_t mine = std::max<std::uint64_t>(hash_of(described(parameters_, options_)), 1);
  const Result<std::vector<std::uint64_t>> all = exchange({mine});
  if (!all) return ended(all.error());
  for (std::size_t i = 0; i < all->size(); ++i)
    if ((*all)[i] == 0)
      return Error{Code::kInvalidArgument, "member " + std::to_string(i) + " of " + parts_->group.name() +
                                               " has refused its parameters or options"};
  for (std::size_t i = 0; i < all->size(); ++i)
    if ((*all)[i] != all->front())
      return Error{Code::kInvalidArgument, "members 0 and " + std::to_string(i) + " of " +
                                               parts_->group.name() +
                                               " have been given different parameters or options"};
  for (int i = 0; i < parts_->plan.parameters(); ++i) {
    const ZeroParameter& each = parameters_[static_cast<std::size_t>(i)];
    const Tensor values = flat(DType::kFloat32, each.shape.elements());
    if (parts_->group.rank() == 0) {
      const Result<Tensor> given = first_values(each, i, initial);
      if (!given) return ended(given.error());  // the others wait for them
      (void)put(*given, values, 1, Put::kReplace);
    }
    // In pieces: a communicator keeps memory for the largest tensor that it has seen.
    const std::int64_t n = values.elements();
    for (std::int64_t at = 0; at < n; at += options_.bucket) {
      const Tensor piece = part(values, {at, std::min(options_.bucket, n - at)});
      if (Result<void> told = parts_->group.broadcast(piece, 0).wait(); !told) return ended(told.error());
    }
    parts_->weights.set(i, values);
  }
  if (Result<void> sent = publish_all(); !sent) return ended(sent.error());
  whole_ = true;
  return {};
}

Result<void> Member::reform(shards::Communicator& group) {
  if (parts_->plan.cut())
    return Error{Code::kFailedPrecondition,
                 "in stage " + std::to_string(static_cast<int>(options_.stage)) +
                     " no member has all of the state: go on from a checkpoint with restore()"};
  try {
    return go_on_in(group);
  } catch (const std::bad_alloc&) {
    const Error why{Code::kResourceExhausted, "no memory to go on in " + group.name()};
    group.abort(why);
    return all_ended(why);
  }
}

Result<void> Member::go_on_in(shards::Communicator& group) {
  auto parts = std::make_unique<Parts>(parameters_, options_, group);
  if (!parts->plan.regions().empty()) {
    copy_front(parts_->weights.whole(0), parts->weights.whole(0));
    if (options_.dtype != DType::kFloat32) copy_front(parts_->weights.masters(), parts->weights.masters());
    for (std::size_t k = 0; k < parts->stepper.state().size(); ++k)
      copy_front(parts_->stepper.state()[k], parts->stepper.state()[k]);
  }
  parts_ = std::move(parts);
  ended_.reset();

  const LossScaler::State& scaler = scaler_.state();
  const auto all = exchange(
      {whole_ ? steps_ + 1 : 0, steps_, skipped_, std::bit_cast<std::uint32_t>(scaler.scale),
       static_cast<std::uint64_t>(scaler.overflows_left), static_cast<std::uint64_t>(scaler.good_steps)});
  if (!all) return ended(all.error());
  constexpr std::size_t kNumbers = 6;
  std::size_t root = 0;
  bool same_values = true;
  for (std::size_t i = 0; i < all->size(); i += kNumbers) {
    same_values = same_values && (*all)[i] == all->front();
    // Of the same step: who has counted more.
    const auto begin = all->begin();
    const auto at = [&](std::size_t k) { return begin + static_cast<std::ptrdiff_t>(k); };
    if (std::lexicographical_compare(at(root), at(root + 3), at(i), at(i + 3))) root = i;
  }
  if ((*all)[root] == 0)
    return all_ended(
        {Code::kFailedPrecondition, "no member has parameters of one step: go on from a checkpoint"});
  std::vector<Tensor> tensors;
  if (!same_values) {
    // Whoever is at the root's step gets what it has: if this fails it can go on elsewhere.
    if ((*all)[static_cast<std::size_t>(group.rank()) * kNumbers] != (*all)[root]) whole_ = false;
    tensors = parts_->stepper.state();
    if (!parts_->plan.regions().empty()) tensors.push_back(parts_->weights.whole(0));
    if (options_.dtype != DType::kFloat32) tensors.push_back(parts_->weights.masters());
  }
  for (const Tensor& each : tensors)
    if (Result<void> told = group.broadcast(each, static_cast<int>(root / kNumbers)).wait(); !told)
      return ended(told.error());
  const std::uint64_t* const from = all->data() + root;
  steps_ = from[1];
  skipped_ = from[2];
  LossScaler::State state;
  state.scale = std::bit_cast<float>(static_cast<std::uint32_t>(from[3]));
  state.overflows_left = static_cast<std::int32_t>(from[4]);
  state.good_steps = static_cast<std::int64_t>(from[5]);
  scaler_.set_state(state);
  whole_ = true;
  return {};
}

}  // namespace troupe::training::zero
