#include <troupe/rpc/client.hpp>

#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/text.hpp>

namespace troupe::rpc::detail {

Error explain(Error error, std::string_view method, std::string (*signature)()) {
  if (error.cause == kTypesDiffer) {
    error.message += ", namely as " + signature();
  } else if (error.cause == kNoSuchMethod) {
    const std::size_t list = error.message.find(kThereAre);
    if (list == std::string::npos) return error;
    std::string_view names = std::string_view(error.message).substr(list + kThereAre.size());
    NearestName nearest(method);
    while (!names.empty()) {
      const std::size_t end = names.find(", ");
      nearest.offer(names.substr(0, end));
      names.remove_prefix(end == std::string_view::npos ? names.size() : end + 2);
    }
    if (!nearest.best().empty()) error.message += "; did you mean '" + std::string(nearest.best()) + "'?";
  }
  return error;
}

}  // namespace troupe::rpc::detail
