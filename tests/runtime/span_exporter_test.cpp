// Spans on their way out of the process: to a file, and to a collector that takes them, refuses them, is not
// there, or never answers.
#include <troupe/runtime/span_exporter.hpp>

#include <httplib.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

constexpr Duration kPatience = 30s;

/// A collector on a port of the system's choice; `answer` decides on each request.
class Collector {
 public:
  using Answer = std::function<int(const std::string& body)>;

  explicit Collector(Answer answer = [](const std::string&) { return 200; }) : answer_(std::move(answer)) {
    server_.Post(".*", [this](const httplib::Request& request, httplib::Response& response) {
      response.status = answer_(request.body);
      const std::lock_guard lock(mutex_);
      paths_.push_back(request.path);
      types_.push_back(request.get_header_value("Content-Type"));
      bodies_.push_back(request.body);
      changed_.notify_all();
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    REQUIRE(port_ > 0);
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~Collector() {
    server_.stop();
    thread_.join();
  }
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  /// Waits until so many requests have been answered.
  bool wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return bodies_.size() >= count; });
  }
  std::vector<std::string> bodies() const {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  std::vector<std::string> paths() const {
    const std::lock_guard lock(mutex_);
    return paths_;
  }
  std::vector<std::string> types() const {
    const std::lock_guard lock(mutex_);
    return types_;
  }

 private:
  Answer answer_;
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> bodies_, paths_, types_;
};

/// Something that listens, takes connections, and never says a word.
class Mute {
 public:
  Mute() {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(fd_, 16) == 0);
    socklen_t length = sizeof address;
    REQUIRE(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    port_ = ntohs(address.sin_port);
  }
  ~Mute() { stop(); }
  Mute(const Mute&) = delete;
  Mute& operator=(const Mute&) = delete;
  /// From now on nobody listens there.
  void stop() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  int fd_ = -1;
  int port_ = 0;
};

struct Lines {
  Lines()
      : log(*Logger::open({.write = [this](std::string_view line) {
          const std::lock_guard lock(mutex);
          text += std::string(line) + "\n";
        }})) {}
  bool hold(const std::string& part) {
    const std::lock_guard lock(mutex);
    return text.find(part) != std::string::npos;
  }
  std::mutex mutex;
  std::string text;
  Logger log;
};

SpanExportOptions to(const std::string& endpoint) {
  SpanExportOptions options;
  options.endpoint = endpoint;
  options.resource = {{"service.name", "tester"}, {"process.pid", std::int64_t{17}}};
  options.interval = 10ms;
  options.first_backoff = 1ms;
  return options;
}

Span a_span(SpanExporter& exporter, std::uint64_t id) {
  Span span;
  span.context = {0x0102030405060708U, 9, id, TraceContext::kSampled};
  span.parent_id = 0xff;
  span.kind = SpanKind::kServer;
  span.method_hash = 5;
  span.start = TimePoint{1'500};
  span.end = TimePoint{2'750};
  span.actor = exporter.spans().keep(SpanBuffer::Name::kActor, 1, "add\"er");
  span.method = exporter.spans().keep(SpanBuffer::Name::kMethod, 5, "add");
  return span;
}

Json spans_of(const std::string& body) {
  return parse_json(body, "request")->at("resourceSpans").at(0).at("scopeSpans").at(0).at("spans");
}

Duration since(std::chrono::steady_clock::time_point start) {
  return std::chrono::steady_clock::now() - start;
}

}  // namespace

TEST_CASE("span exporter: a collector gets OTLP's JSON, under its usual path") {
  Collector collector;
  SpanExportOptions options = to(collector.url());
  options.clock_offset = 1'000'000'000s;
  auto exporter = SpanExporter::open(options).value();
  Span span = a_span(*exporter, 0xabc);
  span.code = Code::kAborted;
  span.error = "line\nfeed \xff";
  exporter->spans().push(std::move(span));
  REQUIRE(exporter->flush(kPatience));
  REQUIRE(collector.bodies().size() == 1);
  CHECK(collector.paths()[0] == "/v1/traces");
  CHECK(collector.types()[0] == "application/json");
  const auto request = parse_json(collector.bodies()[0], "request");
  REQUIRE(request.ok());
  const Json resource = request->at("resourceSpans").at(0).at("resource").at("attributes");
  CHECK(resource.at(0) == Json::parse(R"({"key":"service.name","value":{"stringValue":"tester"}})"));
  CHECK(resource.at(1) == Json::parse(R"({"key":"process.pid","value":{"intValue":"17"}})"));
  const Json sent = spans_of(collector.bodies()[0]).at(0);
  CHECK(sent.at("traceId") == "01020304050607080000000000000009");
  CHECK(sent.at("spanId") == "0000000000000abc");
  CHECK(sent.at("parentSpanId") == "00000000000000ff");
  CHECK(sent.at("name") == "add\"er/add");
  CHECK(sent.at("kind") == 2);
  CHECK(sent.at("startTimeUnixNano") == "1000000000000001500");
  CHECK(sent.at("endTimeUnixNano") == "1000000000000002750");
  CHECK(sent.at("status").at("code") == 2);
  CHECK(sent.at("status").at("message").get<std::string>().starts_with("line\nfeed "));
  CHECK(exporter->stats().exported == 1);
  CHECK(exporter->stats().dropped == 0);
}

TEST_CASE("span exporter: a path of one's own is taken as it is") {
  Collector collector;
  auto exporter = SpanExporter::open(to(collector.url() + "/my/traces")).value();
  exporter->spans().push(a_span(*exporter, 1));
  exporter->close();
  REQUIRE(collector.paths().size() == 1);
  CHECK(collector.paths()[0] == "/my/traces");
}

TEST_CASE("span exporter: many spans go in batches, and the end exports what is left") {
  Collector collector;
  SpanExportOptions options = to(collector.url());
  options.interval = 1h;
  options.batch_spans = 100;
  auto exporter = SpanExporter::open(options).value();
  for (std::uint64_t i = 1; i <= 250; ++i) exporter->spans().push(a_span(*exporter, i));
  exporter->close();
  std::size_t spans = 0;
  for (const std::string& body : collector.bodies()) spans += spans_of(body).size();
  CHECK(collector.bodies().size() == 3);
  CHECK(spans == 250);
}

TEST_CASE("span exporter: a collector that is busy is asked again, one that refuses is not") {
  Lines lines;
  std::atomic<int> asked{0};
  Collector busy([&](const std::string&) { return ++asked < 3 ? 503 : 200; });
  SpanExportOptions options = to(busy.url());
  options.log = lines.log;
  auto exporter = SpanExporter::open(options).value();
  exporter->spans().push(a_span(*exporter, 1));
  REQUIRE(exporter->flush(kPatience));
  CHECK(asked == 3);
  CHECK(exporter->stats().exported == 1);
  CHECK_FALSE(lines.hold("error"));

  Collector refusing([](const std::string&) { return 500; });
  options.endpoint = refusing.url();
  exporter = SpanExporter::open(options).value();
  for (int i = 0; i < 3; ++i) {
    exporter->spans().push(a_span(*exporter, 2));
    REQUIRE(exporter->flush(kPatience));
  }
  CHECK(refusing.bodies().size() == 3);
  CHECK(exporter->stats().exported == 0);
  CHECK(exporter->stats().dropped == 3);
  CHECK(lines.hold("status 500"));
  exporter->close();
  CHECK(lines.hold("spans were dropped dropped=3"));
}

TEST_CASE("span exporter: a collector that is not there costs spans, and little time") {
  Lines lines;
  Mute nobody;
  nobody.stop();
  SpanExportOptions options = to(nobody.url());
  options.log = lines.log;
  auto exporter = SpanExporter::open(options).value();
  exporter->spans().push(a_span(*exporter, 1));
  REQUIRE(exporter->flush(kPatience));
  CHECK(exporter->stats().dropped == 1);
  CHECK(lines.hold("does not answer"));
  const auto start = std::chrono::steady_clock::now();
  exporter->spans().push(a_span(*exporter, 2));
  exporter.reset();
  CHECK(since(start) < 10s);
}

TEST_CASE("span exporter: a collector that never answers does not hold up the end") {
  Mute mute;
  SpanExportOptions options = to(mute.url());
  options.post_timeout = 1h;
  options.close_timeout = 300ms;
  auto exporter = SpanExporter::open(options).value();
  exporter->spans().push(a_span(*exporter, 1));
  CHECK_FALSE(exporter->flush(100ms));  // it hangs in a request
  const auto start = std::chrono::steady_clock::now();
  exporter->close();
  CHECK(since(start) < 10s);
  CHECK(exporter->stats().dropped == 1);
}

TEST_CASE("span exporter: an attempt ends in time, and another may succeed") {
  std::mutex mutex;
  std::condition_variable changed;
  bool let_go = false;
  std::atomic<int> asked{0};
  Collector collector([&](const std::string&) {
    if (++asked > 1) return 200;
    std::unique_lock lock(mutex);
    changed.wait_for(lock, kPatience, [&] { return let_go; });
    return 200;
  });
  SpanExportOptions options = to(collector.url());
  options.post_timeout = 200ms;
  auto exporter = SpanExporter::open(options).value();
  exporter->spans().push(a_span(*exporter, 1));
  CHECK(exporter->flush(kPatience));
  CHECK(asked == 2);
  CHECK(exporter->stats().exported == 1);
  const std::lock_guard lock(mutex);
  let_go = true;
  changed.notify_all();
}

TEST_CASE("span exporter: a file has one request on each line, and is appended to") {
  const auto path = std::filesystem::temp_directory_path() / ("troupe-spans-" + std::to_string(::getpid()));
  std::filesystem::remove(path);
  for (std::uint64_t life = 1; life <= 2; ++life) {
    SpanExportOptions options;
    options.file = path.string();
    auto exporter = SpanExporter::open(options).value();
    exporter->spans().push(a_span(*exporter, life));
  }
  std::istringstream lines(read_file(path.string()).value());
  std::filesystem::remove(path);
  std::string line;
  for (int life = 1; life <= 2; ++life) {
    REQUIRE(std::getline(lines, line));
    CHECK(spans_of(line).at(0).at("spanId") == "000000000000000" + std::to_string(life));
  }
  CHECK_FALSE(std::getline(lines, line));
}

TEST_CASE("span exporter: spans that come too fast are dropped, counted and told of") {
  Lines lines;
  Mute mute;
  SpanExportOptions options = to(mute.url());
  options.buffered_spans = 8;
  options.post_timeout = 50ms;
  options.post_attempts = 1;
  options.log = lines.log;
  auto exporter = SpanExporter::open(options).value();
  for (std::uint64_t i = 1; i <= 100; ++i) exporter->spans().push(a_span(*exporter, i));
  exporter->close();
  CHECK(exporter->stats().exported + exporter->stats().dropped == 100);
  CHECK(lines.hold("sample fewer"));
}

TEST_CASE("span exporter: bad settings are refused in one clear line") {
  const auto error_of = [](const std::string& endpoint) {
    SpanExportOptions options;
    options.endpoint = endpoint;
    const auto opened = SpanExporter::open(options);
    REQUIRE_FALSE(opened.ok());
    return opened.error();
  };
  CHECK(error_of("https://collector:4318").message.find("not supported yet") != std::string::npos);
  for (const char* url :
       {"", "collector:4318", "http://", "http:///v1/traces", "http://user@host", "ftp://x"})
    CHECK(error_of(url).code == Code::kInvalidArgument);
  SpanExportOptions options;
  options.file = "/nowhere/at/all";
  const auto opened = SpanExporter::open(options);
  REQUIRE_FALSE(opened.ok());
  CHECK(opened.error().code == Code::kNotFound);
}
