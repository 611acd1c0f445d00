#include <cstring>
#include <random>

#include "codec_support.hpp"
#include "support/seed.hpp"
#include "wire/capnp_support.hpp"

namespace troupe::rpc {
using testing::frame_of;
using testing::kMaxHead;
using testing::receive;

namespace {

/// Reads everything in a message that can be read, as every type.
std::size_t read_all(const ValueReader& value, int depth) {
  std::size_t seen = static_cast<std::size_t>(value.kind()) + static_cast<std::size_t>(value.width());
  bool flag = false;
  std::int64_t integer = 0;
  std::uint64_t natural = 0;
  double real = 0;
  std::string_view text;
  std::span<const std::byte> bytes;
  Tensor tensor;
  ValueList list;
  seen +=
      value.read(flag) + value.read_integer(integer) + value.read_unsigned(natural) + value.read_real(real);
  if (value.read(text))
    for (const char c : text) seen += static_cast<unsigned char>(c);
  if (value.read(bytes) || value.read_numbers(DType::kFloat32, bytes))
    for (const std::byte b : bytes) seen += static_cast<std::size_t>(b);
  if (value.read(tensor))
    for (std::size_t i = 0; i < tensor.bytes(); ++i) seen += static_cast<std::size_t>(tensor.data()[i]);
  if (depth > 0 && value.read(list))
    for (std::uint32_t i = 0; i < std::min(list.size(), 1000U); ++i) seen += read_all(list[i], depth - 1);
  return seen;
}

/// What an endpoint would do with these bytes from a peer. Returns whether they were a message.
bool survive(std::span<const std::byte> head, const std::vector<std::byte>& body, MemoryPool& pool) {
  std::vector<Buffer> parts;
  Buffer copy = Buffer::copy_of(head);
  std::unique_ptr<InMessage> begun;
  if (!body.empty()) {
    auto opened = InMessage::begin(copy.bytes());
    if (!opened || !(*opened)->allocate_parts(body.size(), pool, parts)) return false;
    begun = std::move(*opened);
    const std::byte* from = body.data();
    for (Buffer& part : parts) {
      std::copy_n(from, part.size(), part.data());
      from += part.size();
    }
    REQUIRE(from == body.data() + body.size());
  }
  auto message = begun ? InMessage::finish(std::move(begun), std::move(copy), std::move(parts))
                       : InMessage::parse(std::move(copy), std::move(parts));
  if (!message) {
    CHECK(message.error().code == Code::kDataLoss);
    return false;
  }
  if ((*message)->is_error()) (void)(*message)->error().to_string();
  for (std::uint32_t i = 0; i < std::min((*message)->value_count(), 1000U); ++i)
    (void)read_all((*message)->value(i), 8);
  return true;
}

std::vector<OutFrame> specimens(MemoryPool& pool) {
  const Tensor tensor = Tensor::zeros(DType::kFloat32, Shape({3, 5}));
  const std::vector<std::vector<std::string>> nested{{"a", "bc"}, {}, {std::string(200, 'x')}};
  std::vector<OutFrame> frames;
  frames.push_back(frame_of(pool, 1, std::string("text"), true, 2.5));
  frames.push_back(frame_of(pool, nested, std::vector<float>{1, 2, 3}, std::vector<std::byte>(9)));
  frames.push_back(frame_of(pool, std::string("t"), tensor, tensor.rows(0, 0), tensor.rows(1, 2)));
  frames.push_back(frame_of(pool, std::string(6000, 'b'), tensor));               // body apart
  frames.push_back(frame_of(pool, std::vector<Tensor>(150, tensor.rows(0, 1))));  // and the table
  OutMessage error(pool, {MessageKind::kReply, 3, 0, 0, 0, Duration{0}, {}});
  error.error({Code::kNotFound, "no such thing", "node", "cause", 5});
  frames.push_back(std::move(error.finish(kMaxHead)).value());
  return frames;
}

std::vector<std::byte> bytes_of(const std::vector<Buffer>& parts) {
  std::vector<std::byte> bytes;
  for (const Buffer& part : parts) bytes.insert(bytes.end(), part.bytes().begin(), part.bytes().end());
  return bytes;
}

#ifdef TROUPE_SANITIZER
constexpr int kCases = 20'000;
#else
constexpr int kCases = 100'000;
#endif

}  // namespace

TEST_CASE("message: the header comes back") {
  MemoryPool pool;
  const MessageHeader header{MessageKind::kRequest, UINT64_MAX,   1,           2,
                             UINT64_MAX - 1,        Duration(-5), {1, 2, 3, 4}};
  OutMessage out(pool, header);
  out.values(0);
  const auto in = receive(pool, out.finish(kMaxHead).value());
  CHECK(in->header().call_id == header.call_id);
  CHECK(in->header().target == 1);
  CHECK(in->header().method == 2);
  CHECK(in->header().signature == header.signature);
  CHECK(in->header().remaining == Duration(-5));
  CHECK(in->header().trace.trace_high == 1);
  CHECK(in->header().trace.trace_low == 2);
  CHECK(in->header().trace.span_id == 3);
  CHECK(in->header().trace.flags == 4);
  CHECK(in->value_count() == 0);
  CHECK_FALSE(in->is_error());
}

TEST_CASE("message: that a call is in no trace comes back, be its body long or short") {
  MemoryPool pool;
  for (const std::size_t length : {std::size_t{8}, 2 * kMaxHead}) {
    for (const TraceContext& trace : {TraceContext::not_traced(), TraceContext{}}) {
      MessageHeader header;
      header.trace = trace;
      OutMessage out(pool, header);
      out.values(1);
      Codec<std::string>::encode(out.value(0), std::string(length, 'x'));
      OutFrame frame = out.finish(kMaxHead).value();
      CHECK(frame.parts.size() == (length > kMaxHead ? 1 : 0));
      const auto in = receive(pool, frame);
      CHECK(in->header().trace == trace);
      CHECK(in->value_count() == 1);
    }
  }
}

TEST_CASE("message: an error comes back whole") {
  MemoryPool pool;
  OutMessage out(pool, {MessageKind::kReply, 1, 0, 0, 0, Duration{0}, {}});
  const std::string long_text(10'000, 'e');
  out.error({Code::kAborted, long_text, "n1", std::string("c\0d", 3), 77});
  const auto in = receive(pool, out.finish(kMaxHead).value());
  REQUIRE(in->is_error());
  const Error error = in->error();
  CHECK(error.code == Code::kAborted);
  CHECK(error.message == long_text);
  CHECK(error.node == "n1");
  CHECK(error.cause == std::string("c\0d", 3));
  CHECK(error.trace_id == 77);
}

TEST_CASE("message: a short one is one buffer, tensors are not copied into it") {
  MemoryPool pool;
  const Tensor tensor = Tensor::zeros(DType::kFloat32, Shape({1000}));
  const OutFrame frame = frame_of(pool, 1, tensor);
  REQUIRE(frame.parts.size() == 1);
  CHECK(frame.parts[0].data() == tensor.data());
  CHECK(frame.head.size() < 400);
  CHECK(frame_of(pool, std::string(64, 'x')).head.size() <= 216);
}

TEST_CASE("message: a long body travels apart and the head stays short") {
  MemoryPool pool;
  for (const std::size_t length : {3000, 4200, 70'000, 3'000'000}) {
    const std::string text(length, 'z');
    const OutFrame frame = frame_of(pool, text, 5);
    CHECK(frame.head.size() <= kMaxHead);
    const auto in = receive(pool, frame);
    std::string back;
    REQUIRE(Codec<std::string>::decode(in->value(0), back));
    CHECK(back == text);
  }
}

TEST_CASE("message: what is too long makes the message fail, not the program") {
  MemoryPool pool;
  OutMessage out(pool, {});
  out.values(2);
  // Nothing is read before the size is refused.
  out.value(0).data({reinterpret_cast<const std::byte*>(&pool), std::size_t{1} << 30});
  ValueWriter writer = out.value(1);
  writer.list(std::size_t{1} << 33);
  writer.item(0).integer(1, DType::kInt64);
  const auto frame = out.finish(kMaxHead);
  REQUIRE_FALSE(frame.ok());
  CHECK(frame.error().code == Code::kInvalidArgument);
  CHECK(frame.error().message.find("too long") != std::string::npos);
}

TEST_CASE("message: attachments that are not those listed are refused") {
  MemoryPool pool;
  const OutFrame frame = frame_of(pool, Tensor::zeros(DType::kFloat32, Shape({4})));
  std::vector<Buffer> parts;
  const auto begun = InMessage::begin(frame.head.bytes()).value();
  CHECK_FALSE(begun->allocate_parts(15, pool, parts).ok());
  parts.clear();
  CHECK_FALSE(begun->allocate_parts(17, pool, parts).ok());
  CHECK(begun->header().method ==
        InMessage::parse(Buffer(frame.head), {Buffer::allocate(16)}).value()->header().method);
  CHECK_FALSE(InMessage::parse(Buffer(frame.head), {}).ok());
  CHECK_FALSE(InMessage::parse(Buffer(frame.head), {Buffer::allocate(15)}).ok());
  CHECK_FALSE(InMessage::parse(Buffer(frame.head), {Buffer::allocate(16), Buffer::allocate(1)}).ok());
  CHECK(InMessage::parse(Buffer(frame.head), {Buffer::allocate(16)}).ok());
}

TEST_CASE("message: shapes that overflow are no tensors") {
  for (const std::vector<std::int64_t>& extents : {std::vector<std::int64_t>{std::int64_t{1} << 62, 4},
                                                   {INT64_MAX, INT64_MAX, 0},
                                                   {-1},
                                                   {0, -5},
                                                   {2},
                                                   std::vector<std::int64_t>(Shape::kMaxRank + 1, 1)}) {
    capnp::MallocMessageBuilder builder;
    auto envelope = builder.initRoot<wire::Envelope>();
    auto attachment = envelope.initAttachments(1)[0];
    attachment.setDtype(static_cast<std::uint8_t>(DType::kFloat32));
    auto shape = attachment.initShape(static_cast<unsigned>(extents.size()));
    for (unsigned i = 0; i < extents.size(); ++i) shape.set(i, extents[i]);
    envelope.initBody().initValues(1)[0].setTensor(0);
    auto words = capnp::messageToFlatArray(builder);
    auto bytes = words.asBytes();
    const auto in = InMessage::parse(
        Buffer::copy_of({reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()}), {});
    REQUIRE(in.ok());
    Tensor tensor;
    CHECK_FALSE((*in)->value(0).read(tensor));
  }
}

TEST_CASE("message: nesting without end and amplified lists end") {
  // A list that points to itself: 1 word of struct list tag, its element's list pointer leads back.
  MemoryPool pool;
  std::vector<std::vector<std::vector<std::vector<int>>>> deep{{{{1}}}};
  OutFrame frame = frame_of(pool, deep);
  CHECK(survive(frame.head.bytes(), {}, pool));
}

TEST_CASE("message: random bytes are no message, and do no harm") {
  std::mt19937_64 random(test::test_seed());
  MemoryPool pool;
  for (int i = 0; i < kCases; ++i) {
    std::vector<std::uint64_t> words(random() % 40);
    for (auto& word : words) word = random() % 3 == 0 ? random() : random() % 8;
    if (!words.empty() && random() % 2) words[0] = (words.size() - 1) << 32;  // a believable segment table
    std::vector<std::byte> body(random() % 4 == 0 ? random() % 64 : 0);
    (void)survive(std::as_bytes(std::span(words)), body, pool);
  }
}

TEST_CASE("message: valid ones with flipped bits do no harm") {
  std::mt19937_64 random(test::test_seed());
  MemoryPool pool;
  const std::vector<OutFrame> frames = specimens(pool);
  int accepted = 0;
  for (int i = 0; i < kCases; ++i) {
    const OutFrame& frame = frames[random() % frames.size()];
    std::vector<std::uint64_t> head(frame.head.size() / 8);
    std::memcpy(head.data(), frame.head.data(), frame.head.size());
    std::vector<std::byte> body = bytes_of(frame.parts);
    for (int flips = static_cast<int>(random() % 4) + 1; flips > 0; --flips) {
      const std::size_t bit = random() % (head.size() * 64 + (random() % 2 ? body.size() * 8 : 0));
      if (bit < head.size() * 64)
        head[bit / 64] ^= std::uint64_t{1} << (bit % 64);
      else
        body[bit / 8 - head.size() * 8] ^= std::byte{1} << static_cast<int>(bit % 8);
    }
    if (random() % 16 == 0) head.resize(random() % (head.size() + 1));
    accepted += survive(std::as_bytes(std::span(head)), body, pool);
  }
  CHECK(accepted > kCases / 10);  // most flips hit a value, not the structure
}

}  // namespace troupe::rpc
