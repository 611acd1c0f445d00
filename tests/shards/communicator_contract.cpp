#include "communicator_contract.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>

#include <troupe/kernels/cast.hpp>

namespace troupe::shards::test {
namespace {

template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kInt8:
      return f(std::int8_t{});
    case DType::kInt16:
      return f(std::int16_t{});
    case DType::kInt32:
      return f(std::int32_t{});
    case DType::kInt64:
      return f(std::int64_t{});
    case DType::kUInt8:
      return f(std::uint8_t{});
    case DType::kUInt16:
      return f(std::uint16_t{});
    case DType::kUInt32:
      return f(std::uint32_t{});
    case DType::kUInt64:
      return f(std::uint64_t{});
    default:
      FAIL("no such type here");
  }
}

constexpr std::int64_t kSizes[] = {0, 1, 2, 3, 7, 64, 1000, 100'003, 1'000'003};
constexpr std::int64_t kInSegments = 1'000'000;  // each member's part is

std::string failed(const Result<void>& result) {
  return result ? "" : result.error().to_string();
}

}  // namespace

double element(const Tensor& tensor, std::int64_t i) {
  double value = 0;
  if (tensor.dtype() == DType::kFloat16 || tensor.dtype() == DType::kBFloat16) {
    const auto bits = reinterpret_cast<const std::uint16_t*>(tensor.data())[i];
    float wide = 0;
    (tensor.dtype() == DType::kFloat16 ? kernels::float16_to_float32 : kernels::bfloat16_to_float32)(&bits, 1,
                                                                                                     &wide);
    return wide;
  }
  with_type(tensor.dtype(), [&](auto t) {
    value = static_cast<double>(reinterpret_cast<const decltype(t)*>(tensor.data())[i]);
  });
  return value;
}

void set_element(const Tensor& tensor, std::int64_t i, double value) {
  if (tensor.dtype() == DType::kFloat16 || tensor.dtype() == DType::kBFloat16) {
    const auto wide = static_cast<float>(value);
    auto* bits = reinterpret_cast<std::uint16_t*>(tensor.data()) + i;
    (tensor.dtype() == DType::kFloat16 ? kernels::float32_to_float16 : kernels::float32_to_bfloat16)(&wide, 1,
                                                                                                     bits);
    return;
  }
  with_type(tensor.dtype(), [&](auto t) {
    reinterpret_cast<decltype(t)*>(tensor.data())[i] = static_cast<decltype(t)>(value);
  });
}

Tensor filled(DType dtype, std::int64_t n, int rank) {
  Tensor tensor = Tensor::zeros(dtype, Shape{n});
  for (std::int64_t i = 0; i < n; ++i) set_element(tensor, i, value_at(rank, i));
  return tensor;
}

std::string differences(const Tensor& tensor, const std::function<double(std::int64_t)>& expected) {
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    if (const double value = element(tensor, i); value != expected(i))
      return "element " + std::to_string(i) + " of " + tensor.to_string() + " is " + std::to_string(value) +
             ", expected " + std::to_string(expected(i));
  return "";
}

double reduced(ReduceOp op, int members, std::int64_t i) {
  double result = value_at(0, i);
  for (int rank = 1; rank < members; ++rank) {
    const double next = value_at(rank, i);
    switch (op) {
      case ReduceOp::kSum:
      case ReduceOp::kMean:
        result += next;
        break;
      case ReduceOp::kProduct:
        result *= next;
        break;
      case ReduceOp::kMin:
        result = std::min(result, next);
        break;
      case ReduceOp::kMax:
        result = std::max(result, next);
        break;
    }
  }
  return op == ReduceOp::kMean ? result / members : result;
}

void collectives_give_what_a_plain_loop_gives(const CommunicatorKind& kind) {
  struct Case {
    DType dtype;
    ReduceOp op;
  };
  // Products of up to five numbers up to 7 fit into all but the smallest; means of 1, 2 and 4 members are
  // exact.
  const std::vector<Case> cases = {{DType::kFloat32, ReduceOp::kSum},  {DType::kFloat32, ReduceOp::kMean},
                                   {DType::kFloat64, ReduceOp::kMax},  {DType::kFloat64, ReduceOp::kMean},
                                   {DType::kFloat16, ReduceOp::kSum},  {DType::kBFloat16, ReduceOp::kMin},
                                   {DType::kFloat16, ReduceOp::kMean}, {DType::kInt32, ReduceOp::kProduct},
                                   {DType::kInt64, ReduceOp::kSum},    {DType::kUInt8, ReduceOp::kMax},
                                   {DType::kInt16, ReduceOp::kMin},    {DType::kUInt64, ReduceOp::kSum},
                                   {DType::kInt8, ReduceOp::kSum},     {DType::kUInt16, ReduceOp::kProduct},
                                   {DType::kUInt32, ReduceOp::kSum}};
  for (const int members : {1, 2, 3, 4, 5}) {
    if (members > kind.most_members) continue;
    CAPTURE(members);
    all_well(with_members(kind, members, [&](Communicator& group) -> std::string {
      const Side side(kind, group.rank());
      const int me = group.rank();
      for (const Case& each : cases) {
        if (!kind.reduces(each.dtype, each.op)) continue;
        if (each.op == ReduceOp::kMean && (members == 3 || members == 5)) continue;
        for (const std::int64_t n : kSizes) {
          if (n > 1000 && each.dtype != DType::kFloat32 && each.dtype != DType::kFloat16) continue;
          if (n > kInSegments && (each.dtype != DType::kFloat32 || each.op != ReduceOp::kSum || members > 3))
            continue;
          const auto expected = [&](std::int64_t i) { return reduced(each.op, members, i); };
          const Tensor all = side.filled(each.dtype, n, me);
          if (auto e = failed(group.all_reduce(all, each.op).wait()); !e.empty()) return e;
          if (auto d = side.differences(all, expected); !d.empty()) return "all_reduce: " + d;

          const int root = static_cast<int>(n) % members;
          const Tensor one = side.filled(each.dtype, n, me);
          if (auto e = failed(group.reduce(one, each.op, root).wait()); !e.empty()) return e;
          const auto kept = [&](std::int64_t i) { return value_at(me, i); };
          if (auto d = me == root ? side.differences(one, expected) : side.differences(one, kept); !d.empty())
            return "reduce: " + d;

          const Tensor whole = side.filled(each.dtype, n * members, me);
          const Tensor part = side.zeros(each.dtype, n);
          if (auto e = failed(group.reduce_scatter(whole, part, each.op).wait()); !e.empty()) return e;
          if (auto d = side.differences(part, [&](std::int64_t i) { return expected(me * n + i); });
              !d.empty())
            return "reduce_scatter: " + d;
        }
      }
      for (const std::int64_t n : kSizes) {
        if (n > kInSegments && members > 3) continue;
        const int root = (static_cast<int>(n) + 1) % members;
        const Tensor told = side.filled(DType::kInt16, n, me);
        if (auto e = failed(group.broadcast(told, root).wait()); !e.empty()) return e;
        if (auto d = side.differences(told, [&](std::int64_t i) { return value_at(root, i); }); !d.empty())
          return "broadcast: " + d;

        const Tensor all = side.zeros(DType::kFloat64, n * members);
        if (auto e = failed(group.all_gather(side.filled(DType::kFloat64, n, me), all).wait()); !e.empty())
          return e;
        const auto expected = [&](std::int64_t i) { return value_at(static_cast<int>(i / n), i % n); };
        if (auto d = side.differences(all, expected); !d.empty()) return "all_gather: " + d;
        // In place.
        const Tensor begun = Tensor::zeros(DType::kFloat64, Shape{n * members});
        for (std::int64_t i = 0; i < n; ++i) set_element(begun, me * n + i, value_at(me, i));
        const Tensor same = side.place(begun);
        const Tensor mine = same.rows(me * n, (me + 1) * n);
        if (auto e = failed(group.all_gather(mine, same).wait()); !e.empty()) return e;
        if (auto d = side.differences(same, expected); !d.empty()) return "all_gather in place: " + d;
        if (auto e = failed(group.barrier().wait()); !e.empty()) return e;
      }
      return "";
    }));
  }
}

void unequal_parts_find_their_places(const CommunicatorKind& kind) {
  for (const int members : {1, 2, 3, 4}) {
    if (members > kind.most_members) continue;
    CAPTURE(members);
    all_well(with_members(kind, members, [&](Communicator& group) -> std::string {
      const Side side(kind, group.rank());
      const int me = group.rank();
      // Member r has r * 1000 elements: the first has none.
      std::vector<std::int64_t> counts;
      std::int64_t sum = 0;
      for (int r = 0; r < members; ++r) counts.push_back(r * 1000), sum += r * 1000;
      const Tensor all = side.zeros(DType::kFloat32, sum);
      if (auto e = failed(group.all_gather(side.filled(DType::kFloat32, me * 1000, me), all, counts).wait());
          !e.empty())
        return e;
      std::int64_t at = 0;
      for (int r = 0; r < members; at += r * 1000, ++r)
        if (auto d =
                side.differences(all.rows(at, at + r * 1000), [&](std::int64_t i) { return value_at(r, i); });
            !d.empty())
          return "all_gather: " + d;

      // r sends (r + 2 s) % 5 * 100 elements to s, each that of the sender.
      const auto count = [](int from, int to) { return std::int64_t{(from + 2 * to) % 5 * 100}; };
      std::vector<std::int64_t> sends;
      std::vector<std::int64_t> takes;
      std::int64_t sent = 0;
      std::int64_t taken = 0;
      for (int r = 0; r < members; ++r) {
        sends.push_back(count(me, r)), sent += sends.back();
        takes.push_back(count(r, me)), taken += takes.back();
      }
      const Tensor in = side.filled(DType::kInt32, sent, me);
      const Tensor out = side.zeros(DType::kInt32, taken);
      if (auto e = failed(group.all_to_all(in, sends, out, takes).wait()); !e.empty()) return e;
      at = 0;
      for (int r = 0; r < members; at += takes[static_cast<std::size_t>(r)], ++r) {
        std::int64_t begin = 0;
        for (int s = 0; s < me; ++s) begin += count(r, s);
        const Tensor part = out.rows(at, at + takes[static_cast<std::size_t>(r)]);
        if (auto d = side.differences(part, [&](std::int64_t i) { return value_at(r, begin + i); });
            !d.empty())
          return "all_to_all: " + d;
      }
      return "";
    }));
  }
}

void transfers_meet_by_tag_and_cross(const CommunicatorKind& kind) {
  constexpr std::int64_t kLarge = 3'000'000;  // more than the sockets hold
  if (!enough_for(kind, 3)) return;
  all_well(with_members(kind, 3, [&](Communicator& group) -> std::string {
    const Side side(kind, group.rank());
    const int me = group.rank();
    const int next = (me + 1) % 3;
    const int before = (me + 2) % 3;
    const Tensor from_before = side.zeros(DType::kFloat32, kLarge);
    const Tensor from_next = side.zeros(DType::kUInt8, 5);
    using Kind = Transfer::Kind;
    const Work crossed = group.transfer({{Kind::kSend, side.filled(DType::kFloat32, kLarge, me), next, 1},
                                         {Kind::kSend, side.filled(DType::kUInt8, 5, me), before, 2},
                                         {Kind::kReceive, from_before, before, 1},
                                         {Kind::kReceive, from_next, next, 2}});
    if (auto e = failed(crossed.wait()); !e.empty()) return e;
    if (auto d = side.differences(from_before, [&](std::int64_t i) { return value_at(before, i); });
        !d.empty())
      return d;
    if (auto d = side.differences(from_next, [&](std::int64_t i) { return value_at(next, i); }); !d.empty())
      return d;
    // Two of them alone; the third does nothing meanwhile.
    const Tensor one = side.filled(DType::kInt64, 1, 0);
    const Tensor taken = side.zeros(DType::kInt64, 1);
    if (me == 0 && !group.send(one, 2).wait()) return "send";
    if (me == 2 && (!group.receive(taken, 0).wait() || side.element(taken, 0) != value_at(0, 0)))
      return "receive";
    return failed(group.barrier().wait());
  }));
}

void works_may_be_many_and_are_told_in_order(const CommunicatorKind& kind) {
  constexpr int kMany = 300;
  if (!enough_for(kind, 2)) return;
  const int members = std::min(3, kind.most_members);
  all_well(with_members(kind, members, [&](Communicator& group) -> std::string {
    const Side side(kind, group.rank());
    std::vector<Tensor> tensors;
    std::vector<Work> works;
    std::vector<int> order;  // with the group's thread until the last has ended
    for (int i = 0; i < kMany; ++i) {
      tensors.push_back(side.filled(DType::kInt32, i, group.rank()));
      works.push_back(group.all_reduce(tensors.back(), ReduceOp::kSum));
      works.back().then([&order, i](const Result<void>& ended) {
        if (ended) order.push_back(i);
      });
    }
    const Work last = group.barrier();
    if (auto e = failed(last.wait()); !e.empty()) return e;
    if (order.size() != kMany || !std::is_sorted(order.begin(), order.end())) return "not in order";
    for (int i = 0; i < kMany; ++i) {
      if (!works[static_cast<std::size_t>(i)].done()) return "not done";
      const auto expected = [&](std::int64_t k) { return reduced(ReduceOp::kSum, members, k); };
      if (auto d = side.differences(tensors[static_cast<std::size_t>(i)], expected); !d.empty()) return d;
    }
    bool at_once = false;
    last.then([&](const Result<void>& ended) { at_once = ended.ok(); });
    return at_once ? "" : "not told at once";
  }));
  if (!kind.refuses_more) return;
  CommunicatorOptions few;
  few.max_waiting = 2;
  few.timeout = std::chrono::seconds(20);
  all_well(with_members(
               kind, 2,
               [&](Communicator& group) -> std::string {
                 const Side side(kind, group.rank());
                 // Connects the two, which the first transfer may have to wait for.
                 const Tensor first = side.zeros(DType::kFloat32, 1);
                 const Work begun = group.rank() == 1 ? group.send(first, 0) : group.receive(first, 1);
                 if (auto e = failed(begun.wait()); !e.empty()) return e;
                 if (group.rank() == 1) return failed(group.barrier().wait());
                 std::vector<Work> works;
                 const Tensor taken = side.zeros(DType::kFloat32, 1);
                 std::vector<Tensor> kept;
                 // The first may run already; of the others two wait.
                 bool refused = false;
                 for (int i = 0; i < 4; ++i) {
                   works.push_back(group.receive(taken, 1));
                   if (!works.back().done()) continue;
                   const Result<void> ended = works.back().wait();
                   if (!ended && ended.error().code == Code::kResourceExhausted) refused = true;
                 }
                 group.abort({Code::kCancelled, "enough"});
                 return refused ? "" : "not refused";
               },
               few)
                       .front() == ""
               ? std::vector<std::string>{}
               : std::vector<std::string>{"the first was not refused"});
}

void groups_end_together(const CommunicatorKind& kind) {
  for (const int members : {1, 3}) {
    if (!enough_for(kind, members)) continue;
    CAPTURE(members);
    all_well(with_members(kind, members, [&](Communicator& all) -> std::string {
      const Side side(kind, all.rank());
      constexpr std::int64_t kCount = 1000;
      const Tensor sum = side.filled(DType::kFloat32, kCount, all.rank());
      const Tensor own = side.filled(DType::kInt32, 10, all.rank());
      const Tensor gathered = side.zeros(DType::kInt32, std::int64_t{10} * members);
      const Tensor sent = side.filled(DType::kFloat64, 5, all.rank());
      std::vector<Work> works;
      std::optional<Work> refused;
      const Work whole = all.group([&] {
        works.push_back(all.all_reduce(sum, ReduceOp::kSum));
        refused = all.broadcast(own, members);  // there is no such member
        works.push_back(all.all_gather(own, gathered));
        works.push_back(all.broadcast(sent, members - 1));
      });
      if (auto ended = whole.wait(); !ended) return ended.error().to_string();
      for (const Work& each : works)
        if (auto ended = each.wait(); !ended) return ended.error().to_string();
      if (refused->wait().ok()) return "a root that is not there was taken";
      std::string found =
          side.differences(sum, [&](std::int64_t i) { return reduced(ReduceOp::kSum, members, i); });
      if (found.empty())
        found = side.differences(gathered,
                                 [](std::int64_t i) { return value_at(static_cast<int>(i / 10), i % 10); });
      if (found.empty())
        found = side.differences(sent, [&](std::int64_t i) { return value_at(members - 1, i); });
      if (!found.empty()) return found;
      // One without anything, and the next collective.
      if (auto ended = all.group([] {}).wait(); !ended) return ended.error().to_string();
      const auto next = all.barrier().wait();
      return next ? "" : next.error().to_string();
    }));
  }
}

void parts_of_a_group_are_groups(const CommunicatorKind& kind) {
  if (!enough_for(kind, 5)) return;
  all_well(with_members(kind, 5, [&](Communicator& group) -> std::string {
    const Side side(kind, group.rank());
    const int me = group.rank();
    // 0, 2, 4 in descending order; 3 alone; 1 in none.
    const int color = me == 1 ? -1 : me == 3 ? 7 : 0;
    auto part = group.split(color, -me);
    if (!part) return part.error().to_string();
    if (me == 1) return *part == nullptr ? failed(group.barrier().wait()) : "a group for nobody";
    Communicator& small = **part;
    if (small.size() != (me == 3 ? 1 : 3) || small.rank() != (me == 3 ? 0 : (4 - me) / 2))
      return "rank or size";
    const Tensor sum = side.place(Tensor::of<std::int64_t>({me}));
    if (auto e = failed(small.all_reduce(sum, ReduceOp::kSum).wait()); !e.empty()) return e;
    if (side.element(sum, 0) != (me == 3 ? 3 : 6)) return "sum";
    return failed(group.barrier().wait());
  }));
}

void what_is_wrong_by_itself_is_refused_and_the_group_goes_on(const CommunicatorKind& kind) {
  if (!enough_for(kind, 2)) return;
  all_well(with_members(kind, 2, [&](Communicator& group) -> std::string {
    const Side side(kind, group.rank());
    const Tensor four = side.filled(DType::kFloat32, 4, 0);
    const Tensor whole = side.filled(DType::kInt32, 4, 0);
    const Tensor flags = side.zeros(DType::kBool, 4);
    const Tensor strided(DType::kFloat32, Shape{2}, Shape{2}, four.buffer(), 0);
    using Kind = Transfer::Kind;
    const std::vector<Work> refused = {
        group.all_reduce(whole, ReduceOp::kMean),
        group.all_reduce(flags, ReduceOp::kSum),
        group.all_reduce(strided, ReduceOp::kSum),
        group.reduce(four, ReduceOp::kSum, 2),
        group.broadcast(four, -1),
        group.all_gather(four, four),
        group.all_gather(four, side.filled(DType::kInt32, 8, 0)),
        group.all_gather(four, side.filled(DType::kFloat32, 8, 0), {4, 4, 0}),
        group.all_gather(four, side.filled(DType::kFloat32, 8, 0), {3, 5}),
        group.all_gather(four, side.filled(DType::kFloat32, 8, 0), {12, -4}),
        group.reduce_scatter(four, four, ReduceOp::kSum),
        group.all_to_all(four, {2, 2}, four, {2, 3}),
        group.all_to_all(four, {INT64_MAX, 5}, four, {2, 2}),
        group.transfer({{Kind::kSend, four, group.rank(), 0}}),
        group.send(four, 2),
        group.reduce_scatter(four, four.rows(1, 3), ReduceOp::kMax),
        group.all_to_all(four, {2, 2}, four, {2, 2}),
        group.all_gather(four.rows(1, 3), four),
    };
    for (std::size_t i = 0; i < refused.size(); ++i) {
      if (!refused[i].done()) return "not at once: " + std::to_string(i);
      const Result<void> ended = refused[i].wait();
      if (ended || ended.error().code != Code::kInvalidArgument) return "not refused: " + std::to_string(i);
    }
    return failed(group.barrier().wait());
  }));
}

}  // namespace troupe::shards::test
