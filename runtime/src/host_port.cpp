#include <troupe/runtime/host_port.hpp>

#include <charconv>

namespace troupe {

namespace {

/// The longest name that DNS has, and room for an interface's name behind a number.
constexpr std::size_t kMostHost = 255;

Error not_host_port(std::string_view text, std::string_view why) {
  constexpr std::size_t kShown = 100;
  return {Code::kInvalidArgument,
          "'" + std::string(text.substr(0, kShown)) + (text.size() > kShown ? "..." : "") +
              "' is not an address: " + std::string(why) + " (write host:port, [ipv6]:port or unix:/path)"};
}

}  // namespace

std::string HostPort::to_string() const {
  const std::string digits = ":" + std::to_string(port);
  return host.find(':') == std::string::npos ? host + digits : "[" + host + "]" + digits;
}

Result<HostPort> parse_host_port(std::string_view text) {
  std::string_view host;
  std::string_view port;
  if (text.starts_with('[')) {
    const auto end = text.find("]:");
    if (end == std::string_view::npos) return not_host_port(text, "no ']:' after '['");
    host = text.substr(1, end - 1);
    port = text.substr(end + 2);
  } else {
    const auto colon = text.rfind(':');
    if (colon == std::string_view::npos) return not_host_port(text, "no port");
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (host.find(':') != std::string_view::npos) return not_host_port(text, "IPv6 without brackets");
  }
  if (host.empty()) return not_host_port(text, "no host");
  if (host.size() > kMostHost) return not_host_port(text, "no host has a name of more than 255 bytes");
  if (host.find('\0') != std::string_view::npos) return not_host_port(text, "no host's name has a zero byte");
  HostPort result{std::string(host)};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (error != std::errc() || end != port.data() + port.size())
    return not_host_port(text, "the port is not a number from 0 to 65535");
  return result;
}

}  // namespace troupe
