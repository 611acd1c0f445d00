// The hand-written encoding against Cap'n Proto's library: each reads what the other has written.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "codec_support.hpp"
#include "wire/capnp_support.hpp"
#include "wire/envelope_layout.hpp"
#include "wire/flat_reader.hpp"
#include "wire/flat_writer.hpp"

namespace troupe::rpc {
using testing::kMaxHead;

namespace {

constexpr std::string_view kText = "caf\xc3\xa9";

const MessageHeader kHeader{MessageKind::kOneWay, 0x1122334455667788, 2, 3, UINT64_MAX,
                            Duration(-7),         {11, 12, 13, 14},   15};

/// One value of each kind, a list in a list, and two tensors, the second one empty.
void write_values(OutMessage& out) {
  out.values(11);
  out.value(0).none();
  out.value(1).boolean(true);
  out.value(2).integer(std::numeric_limits<std::int64_t>::min(), DType::kInt64);
  out.value(3).unsigned_integer(UINT64_MAX, DType::kUInt64);
  out.value(4).real(-2.5, DType::kFloat32);
  out.value(5).text(kText);
  const std::byte bytes[9] = {std::byte{1}, std::byte{2}};
  out.value(6).data(bytes);
  out.value(7).tensor(Tensor::zeros(DType::kFloat32, Shape({2, 3})));
  const float numbers[3] = {1, 2, 3};
  out.value(8).numbers(DType::kFloat32, std::as_bytes(std::span(numbers)));
  ValueWriter list = out.value(9);
  list.list(2);
  list.item(0).text("");
  ValueWriter inner = list.item(1);
  inner.list(1);
  inner.item(0).integer(-1, DType::kInt8);
  out.value(10).tensor(Tensor::zeros(DType::kInt8, Shape({4, 0})));
}

capnp::FlatArrayMessageReader library_reader(const Buffer& message) {
  return capnp::FlatArrayMessageReader(kj::arrayPtr(reinterpret_cast<const capnp::word*>(message.data()),
                                                    message.size() / sizeof(capnp::word)));
}

void check_body(wire::Body::Reader body) {
  REQUIRE(body.isValues());
  auto values = body.getValues();
  REQUIRE(values.size() == 11);
  CHECK(values[0].isNone());
  CHECK((values[1].isBool() && values[1].getBool()));
  CHECK((values[2].isInt() && values[2].getInt() == std::numeric_limits<std::int64_t>::min()));
  CHECK(values[2].getWidth() == static_cast<std::uint8_t>(DType::kInt64));
  CHECK((values[3].isUint() && values[3].getUint() == UINT64_MAX));
  CHECK((values[4].isReal() && values[4].getReal() == -2.5));
  CHECK(values[4].getWidth() == static_cast<std::uint8_t>(DType::kFloat32));
  CHECK((values[5].isText() && to_view(values[5].getText()) == kText));
  CHECK((values[6].isData() && values[6].getData().size() == 9 && values[6].getData()[1] == 2));
  CHECK((values[7].isTensor() && values[7].getTensor() == 0));
  CHECK((values[8].isNumbers() && values[8].getNumbers().size() == 12));
  REQUIRE((values[9].isList() && values[9].getList().size() == 2));
  CHECK(to_view(values[9].getList()[0].getText()).empty());
  CHECK(values[9].getList()[1].getList()[0].getInt() == -1);
  CHECK(values[10].getTensor() == 1);
}

void check_envelope(wire::Envelope::Reader envelope) {
  CHECK(envelope.getKind() == wire::Envelope::Kind::ONE_WAY);
  CHECK(envelope.getCallId() == kHeader.call_id);
  CHECK(envelope.getTarget() == kHeader.target);
  CHECK(envelope.getMethod() == kHeader.method);
  CHECK(envelope.getSignature() == kHeader.signature);
  CHECK(envelope.getRemainingNs() == kHeader.remaining.count());
  CHECK(envelope.getExtras().getTraceHigh() == 11);
  CHECK(envelope.getExtras().getTraceLow() == 12);
  CHECK(envelope.getExtras().getSpanId() == 13);
  CHECK(envelope.getExtras().getFlags() == 14);
  CHECK(envelope.getExtras().getToken() == 15);
}

void check_tensors(capnp::List<wire::Attachment>::Reader list, unsigned first) {
  REQUIRE(list.size() == first + 2);
  CHECK(list[first].getDtype() == static_cast<std::uint8_t>(DType::kFloat32));
  CHECK(list[first].getMemoryKind() == 0);
  CHECK(list[first].getBytes() == 24);
  REQUIRE(list[first].getShape().size() == 2);
  CHECK(list[first].getShape()[1] == 3);
  CHECK(list[first + 1].getBytes() == 0);
  CHECK(list[first + 1].getShape()[0] == 4);
}

}  // namespace

TEST_CASE("flat: Cap'n Proto's library reads our envelopes") {
  MemoryPool pool;
  OutMessage out(pool, kHeader);
  write_values(out);
  const OutFrame frame = out.finish(kMaxHead).value();
  REQUIRE(frame.parts.size() == 1);
  auto reader = library_reader(frame.head);
  auto envelope = reader.getRoot<wire::Envelope>();
  check_envelope(envelope);
  CHECK_FALSE(envelope.getBodyApart());
  check_tensors(envelope.getAttachments(), 0);
  check_body(envelope.getBody());
}

TEST_CASE("flat: Cap'n Proto's library reads entries of shared tensors") {
  MemoryPool pool;
  SharedPool shared;
  std::uint64_t lease = 41;
  OutMessage out(pool, kHeader);
  out.share(lease);
  out.values(2);
  const Tensor tensor = Tensor::empty(DType::kInt16, Shape{3, 1 << 15}, shared);
  out.value(0).tensor(tensor.rows(1, 3));
  out.value(1).tensor(Tensor::empty(DType::kInt8, Shape{5}));
  const OutFrame frame = out.finish(kMaxHead).value();
  CHECK(lease == 42);
  CHECK(frame.parts.size() == 1);
  auto reader = library_reader(frame.head);
  auto list = reader.getRoot<wire::Envelope>().getAttachments();
  REQUIRE(list.size() == 2);
  const auto location = SharedPool::locate(tensor.buffer()).value();
  CHECK(list[0].getDtype() == static_cast<std::uint8_t>(DType::kInt16));
  CHECK(list[0].getBytes() == std::size_t{4} << 15);
  CHECK(list[0].getShape()[0] == 2);
  CHECK(list[0].getLease() == 41);
  CHECK(list[0].getFd() == location.fd);
  CHECK(list[0].getCookie() == location.cookie);
  CHECK(list[0].getOffset() == location.offset + (std::size_t{2} << 15));
  CHECK(list[1].getBytes() == 5);
  CHECK(list[1].getShape()[0] == 5);
  CHECK(list[1].getLease() == 0);
}

TEST_CASE("flat: Cap'n Proto's library reads our bodies apart, and tables in them") {
  MemoryPool pool;
  for (const std::size_t max_head : {std::size_t{600}, std::size_t{560}}) {
    OutMessage out(pool, kHeader);
    write_values(out);
    const OutFrame frame = out.finish(max_head).value();
    auto head = library_reader(frame.head);
    auto envelope = head.getRoot<wire::Envelope>();
    check_envelope(envelope);
    REQUIRE(envelope.getBodyApart());
    REQUIRE(frame.parts.size() == 2);
    auto apart = library_reader(frame.parts[0]);
    auto body = apart.getRoot<wire::Body>();
    check_body(body);
    CHECK(envelope.getAttachments()[0].getBytes() == frame.parts[0].size());
    if (body.hasAttachments()) {
      check_tensors(body.getAttachments(), 0);
      CHECK(envelope.getAttachments()[1].getBytes() == 24);
    } else {
      check_tensors(envelope.getAttachments(), 1);
    }
  }
}

TEST_CASE("flat: Cap'n Proto's library reads that a call is in no trace") {
  MemoryPool pool;
  MessageHeader header;
  header.trace = TraceContext::not_traced();
  OutMessage out(pool, header);
  out.values(0);
  const OutFrame frame = out.finish(kMaxHead).value();
  auto reader = library_reader(frame.head);
  CHECK(reader.getRoot<wire::Envelope>().getNotTraced());
  CHECK_FALSE(reader.getRoot<wire::Envelope>().getBodyApart());
  CHECK_FALSE(reader.getRoot<wire::Envelope>().hasExtras());
}

TEST_CASE("flat: Cap'n Proto's library reads our errors") {
  MemoryPool pool;
  OutMessage out(pool, kHeader);
  out.error({Code::kAborted, "what", "where", "", 99, "a::Type"});
  const OutFrame frame = out.finish(kMaxHead).value();
  auto reader = library_reader(frame.head);
  auto error = reader.getRoot<wire::Envelope>().getBody().getError();
  CHECK(error.getCode() == static_cast<std::uint16_t>(Code::kAborted));
  CHECK(to_view(error.getMessage()) == "what");
  CHECK(to_view(error.getNode()) == "where");
  CHECK(to_view(error.getCause()).empty());
  CHECK(error.getTraceId() == 99);
  CHECK(to_view(error.getException()) == "a::Type");
}

TEST_CASE("flat: Cap'n Proto's library reads our metadata, and we read its, in a body apart, too") {
  MemoryPool pool;
  MessageHeader header = kHeader;
  header.metadata = Metadata{{"key", "value", kPassOn}, {"other", ""}};
  for (const std::size_t max_head : {kMaxHead, std::size_t{200}}) {
    OutMessage out(pool, header);
    write_values(out);
    OutFrame frame = out.finish(max_head).value();
    const bool apart = max_head == 200;
    auto reader = library_reader(apart ? frame.parts[0] : frame.head);
    auto body = apart ? reader.getRoot<wire::Body>() : reader.getRoot<wire::Envelope>().getBody();
    check_body(body);
    REQUIRE(body.getMetadata().size() == 2);
    CHECK(to_view(body.getMetadata()[0].getKey()) == "key");
    CHECK(to_view(body.getMetadata()[0].getValue()) == "value");
    CHECK(body.getMetadata()[0].getPassOn());
    CHECK_FALSE(body.getMetadata()[1].getPassOn());
    const auto in = InMessage::parse(std::move(frame.head), std::move(frame.parts));
    REQUIRE(in.ok());
    CHECK((*in)->header().metadata.pairs() == header.metadata.pairs());
  }
  capnp::MallocMessageBuilder builder;
  auto envelope = builder.initRoot<wire::Envelope>();
  auto pairs = envelope.initBody().initMetadata(1);
  pairs[0].setKey("theirs");
  pairs[0].setPassOn(true);
  auto words = capnp::messageToFlatArray(builder);
  auto bytes = words.asBytes();
  const auto in = InMessage::parse(
      Buffer::copy_of({reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()}), {});
  REQUIRE(in.ok());
  CHECK((*in)->header().metadata.pairs() == std::vector<MetadataPair>{{"theirs", "", true}});
}

TEST_CASE("flat: we read what Cap'n Proto's library writes") {
  capnp::MallocMessageBuilder builder;
  auto envelope = builder.initRoot<wire::Envelope>();
  envelope.setKind(wire::Envelope::Kind::REPLY);
  envelope.setCallId(5);
  envelope.setRemainingNs(-9);
  auto extras = envelope.initExtras();
  extras.setSpanId(8);
  extras.setToken(9);
  auto attachment = envelope.initAttachments(1)[0];
  attachment.setDtype(static_cast<std::uint8_t>(DType::kInt16));
  attachment.setBytes(6);
  attachment.initShape(1).set(0, 3);
  auto values = envelope.initBody().initValues(4);
  values[0].setText("text");
  values[1].setTensor(0);
  values[2].initList(1)[0].setReal(0.5);
  values[3].setNone();
  auto words = capnp::messageToFlatArray(builder);
  auto bytes = words.asBytes();
  const auto in =
      InMessage::parse(Buffer::copy_of({reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()}),
                       {Buffer::allocate(6)});
  REQUIRE(in.ok());
  const InMessage& message = **in;
  CHECK(message.header().kind == MessageKind::kReply);
  CHECK(message.header().call_id == 5);
  CHECK(message.header().remaining == Duration(-9));
  CHECK(message.header().trace.span_id == 8);
  CHECK(message.header().token == 9);
  REQUIRE(message.value_count() == 4);
  std::string_view text;
  CHECK((message.value(0).read(text) && text == "text"));
  Tensor tensor;
  CHECK((message.value(1).read(tensor) && tensor.shape() == Shape({3}) && tensor.dtype() == DType::kInt16));
  ValueList list;
  double real = 0;
  CHECK((message.value(2).read(list) && list.size() == 1 && list[0].read_real(real) && real == 0.5));
  CHECK(message.value(3).kind() == ValueKind::kNone);
}

TEST_CASE("flat: what an envelope of fewer fields does not have reads as zero") {
  MemoryPool pool;
  flat::Writer writer(pool);
  constexpr flat::Layout kShort{2, 3};
  const std::uint32_t envelope = writer.add_struct(writer.allocate(1), kShort);
  writer.put(envelope, EnvelopeLayout::kKind, static_cast<std::uint16_t>(MessageKind::kReply));
  writer.put(envelope, EnvelopeLayout::kCallId, std::uint64_t{7});
  const std::uint32_t body =
      writer.add_struct(envelope + kShort.data + EnvelopeLayout::kBody, BodyLayout::kLayout);
  // What follows the two words must not be taken for fields.
  writer.add_structs(body + BodyLayout::kLayout.data + BodyLayout::kContent, 3, ValueLayout::kLayout);
  const auto in = InMessage::parse(std::move(writer).flat(), {});
  REQUIRE(in.ok());
  const MessageHeader& header = (*in)->header();
  CHECK(header.kind == MessageKind::kReply);
  CHECK(header.call_id == 7);
  CHECK(header.target == 0);
  CHECK(header.method == 0);
  CHECK(header.signature == 0);
  CHECK(header.remaining == Duration{0});
  CHECK((*in)->value_count() == 3);
}

TEST_CASE("flat: a list has no more elements than words, so that a short message is no long list") {
  for (const bool empty : {true, false}) {
    CAPTURE(empty);
    MemoryPool pool;
    flat::Writer writer(pool);
    constexpr std::uint32_t kItems = 100;
    const std::uint32_t root = writer.allocate(1);
    const std::uint32_t top = writer.add_struct(root, {0, 1});
    const std::uint32_t items = writer.add_structs(top, kItems, {1, 0});
    if (empty) writer.put(items - 1, 0, std::uint64_t{kItems} << 2);  // the tag: so many, of no words
    const Buffer message = std::move(writer).flat();
    flat::Reader reader;
    flat::StructView view;
    flat::StructsView list;
    REQUIRE(reader.open(message.bytes()));
    REQUIRE(reader.root(view));
    CHECK(reader.read(view, 0, list));  // 100 words, of whatever
    if (!empty) continue;
    std::memcpy(message.data() + flat::kTableBytes + (items - 1) * flat::kWord,
                std::array{std::uint64_t{kItems + 1} << 2}.data(), flat::kWord);
    REQUIRE(reader.open(message.bytes()));
    REQUIRE(reader.root(view));
    CHECK_FALSE(reader.read(view, 0, list));
  }
}

TEST_CASE("flat: pointers to one place again and again use the budget up") {
  // A list whose items are all lists of the same many items: read again and again by who walks it.
  MemoryPool pool;
  flat::Writer writer(pool);
  constexpr std::uint32_t kItems = 1000;
  const std::uint32_t root = writer.allocate(1);
  const std::uint32_t top = writer.add_struct(root, {0, 1});
  const std::uint32_t items = writer.add_structs(top, kItems, {0, 1});
  const std::uint32_t shared = writer.add_structs(items, kItems, {1, 0});
  for (std::uint32_t i = 1; i < kItems; ++i) {
    std::uint64_t pointer = 0;
    std::memcpy(&pointer, writer.at(items), sizeof pointer);
    writer.put(items + i, 0, pointer - (std::uint64_t{i} << 2));  // the same target, from further on
  }
  const Buffer message = std::move(writer).flat();
  flat::Reader reader;
  flat::StructView view;
  flat::StructsView list;
  REQUIRE(reader.open(message.bytes()));
  REQUIRE(reader.root(view));
  REQUIRE(reader.read(view, 0, list));
  REQUIRE(list.count == kItems);
  CHECK(shared > items);
  std::uint32_t followed = 0;
  flat::StructsView inner;
  while (followed < kItems && reader.read(list[followed], 0, inner)) ++followed;
  CHECK(followed > 1);
  CHECK(followed < 100);
}

}  // namespace troupe::rpc
