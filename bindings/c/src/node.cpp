#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "handles.hpp"

using namespace troupe;
using namespace troupe::c;

namespace {

Result<Logger> open_log(const troupe_node_options& given) {
  if (!given.log) return Logger();
  LogOptions options;
  if (given.log_level) {
    auto level = parse_log_level(given.log_level);
    if (!level) return level.error();
    options.level = *level;
  }
  options.write = [log = given.log, user = given.log_user](std::string_view line) {
    log(user, line.data(), line.size());
  };
  return Logger::open(options);
}

Result<NodeOptions> node_options(const troupe_node_options& given) {
  if (!given.name) return null_argument("troupe_node_options.name");
  if (given.metadata_count > 0 && !given.metadata) return null_argument("troupe_node_options.metadata");
  if ((given.flags & ~(TROUPE_NODE_NO_HELP | TROUPE_NODE_CLOSE_WITH_LAST)) != 0)
    return Error{Code::kInvalidArgument, "troupe_node_options.flags has an unknown one"};
  NodeOptions options;
  options.name = given.name;
  if (given.role) options.role = given.role;
  options.registry = text_of(given.registry);
  if (given.listen) options.listen = given.listen;
  options.advertise = text_of(given.advertise);
  options.secret = text_of(given.secret);
  options.secret_file = text_of(given.secret_file);
  options.metrics_address = text_of(given.metrics_address);
  if (given.transports) options.transport.transports = given.transports;
  for (std::size_t i = 0; i < given.metadata_count; ++i) {
    if (!given.metadata[i].key || !given.metadata[i].value)
      return null_argument("a key or value of troupe_node_options.metadata");
    options.metadata[given.metadata[i].key] = given.metadata[i].value;
  }
  options.join_timeout = timeout_of(given.join_timeout, options.join_timeout);
  options.default_timeout = timeout_of(given.default_timeout, options.default_timeout);
  if (given.pool_threads > 0) options.pool_threads = given.pool_threads;
  options.loop.help = (given.flags & TROUPE_NODE_NO_HELP) == 0;
  options.close_with_last = (given.flags & TROUPE_NODE_CLOSE_WITH_LAST) != 0;
  if (given.gpu_count > 0 && !given.gpus) return null_argument("troupe_node_options.gpus");
  for (std::size_t i = 0; i < given.gpu_count; ++i) {
    auto gpu = Gpu::open(given.gpus[i]);
    if (!gpu) return gpu.error();
    options.gpus.push_back(std::move(*gpu));
  }
  auto log = open_log(given);
  if (!log) return log.error();
  options.log = std::move(*log);
  return options;
}

}  // namespace

troupe_status troupe_node_start(const troupe_node_options* options, troupe_node** node) {
  if (node) *node = nullptr;
  return guard([&]() -> Result<void> {
    if (!options) return null_argument("options");
    if (!node) return null_argument("node");
    troupe_node_options given;
    if (auto read = read_struct(options, given); !read) return read;
    auto wanted = node_options(given);
    if (!wanted) return wanted.error();
    auto handle = std::make_unique<troupe_node>();
    auto started = Node::start(std::move(*wanted));
    if (!started) return started.error();
    handle->box = std::make_shared<NodeBox>(std::move(*started));
    *node = handle.release();
    return {};
  });
}

troupe_status troupe_node_leave(troupe_node* node, int64_t drain_time) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    return (**node).leave(timeout_of(drain_time, std::chrono::seconds(10)));
  });
}

void troupe_node_shutdown(troupe_node* node) {
  guard([&]() -> Result<void> {
    if (node) (**node).shutdown();
    return {};
  });
}

void troupe_node_free(troupe_node* node) {
  guard([&]() -> Result<void> {
    const std::unique_ptr<troupe_node> ended(node);
    if (!node) return {};
    (**node).shutdown();
    Loop& loop = (**node).loop();
    if (loop.is_forked()) return {};
    node->box->gate->close();
    // Answers that have been posted are not left in the loop: what they keep may keep the node.
    const Loop::Turn turn(loop);
    loop.poll();
    return {};
  });
}

troupe_status troupe_node_run(troupe_node* node) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    return (**node).run();
  });
}

void troupe_node_stop(troupe_node* node) {
  guard([&]() -> Result<void> {
    if (node) (**node).stop();
    return {};
  });
}

const char* troupe_node_address(const troupe_node* node) {
  return node ? (**node).address().c_str() : "";
}

const char* troupe_node_name(const troupe_node* node) {
  return node ? (**node).name().c_str() : "";
}

uint64_t troupe_node_id(const troupe_node* node) {
  return node ? (**node).id() : 0;
}

uint64_t troupe_node_make_token(troupe_node* node) {
  return guard_value(std::uint64_t{0}, [&] { return node ? (**node).make_token() : 0; });
}

// ---- Membership -----------------------------------------------------------------------------------

troupe_status troupe_node_wait_for_actor(troupe_node* node, const char* actor, int64_t timeout) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!actor) return null_argument("actor");
    return (**node).wait_for_actor(actor, timeout_of(timeout, kUsualPatience));
  });
}

troupe_status troupe_node_wait_for_role(troupe_node* node, const char* role, size_t count, int64_t timeout) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!role) return null_argument("role");
    auto members = (**node).wait_for_role(role, count, timeout_of(timeout, kUsualPatience));
    return members ? Result<void>() : members.error();
  });
}

troupe_status troupe_node_barrier(troupe_node* node, const char* name, const char* const* participants,
                                  size_t count, int64_t timeout) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!name) return null_argument("name");
    auto names = texts_of(participants, count, "participants");
    if (!names) return names.error();
    return (**node).barrier(name, *names, timeout_of(timeout, kUsualPatience));
  });
}

troupe_status troupe_node_members(troupe_node* node, void (*visit)(void* user, const troupe_member* member),
                                  void* user) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!visit) return null_argument("visit");
    const Membership all = (**node).membership();
    for (const Member& each : all.members) {
      const troupe_member member{each.node_id, each.name.c_str(), each.role.c_str(), each.address.c_str()};
      visit(user, &member);
    }
    return {};
  });
}

troupe_status troupe_node_actors(troupe_node* node, const char* role,
                                 void (*visit)(void* user, const char* actor), void* user) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!visit) return null_argument("visit");
    std::vector<std::string> names;
    if (role)
      names = (**node).actors_of(role);
    else
      for (const NamedActor& each : (**node).membership().actors) names.push_back(each.name);
    for (const std::string& name : names) visit(user, name.c_str());
    return {};
  });
}
