/* Calls that are not waited for end in a queue, each once, and no thread but the node's own runs a handler.
 */
#include <poll.h>
#include <pthread.h>

#include "check.h"

static pthread_t caller;
static int foreign_runs = 0;

typedef struct held_calls {
  troupe_incoming* calls[8];
  size_t count;
} held_calls;

static void hold(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  held_calls* held = state;
  (void)arguments, (void)count;
  if (pthread_equal(pthread_self(), caller)) ++foreign_runs;
  held->calls[held->count++] = call;
}

static void add_here(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  if (pthread_equal(pthread_self(), caller)) ++foreign_runs;
  add_two(state, call, arguments, count);
}

/* Waits on the descriptor until so many calls have ended. */
static size_t fetch(troupe_queue* queue, troupe_completion* completions, size_t wanted) {
  size_t have = 0;
  while (have < wanted) {
    struct pollfd ready;
    ready.fd = troupe_queue_descriptor(queue);
    ready.events = POLLIN;
    if (poll(&ready, 1, 30000) != 1) break;
    have += troupe_queue_next(queue, completions + have, wanted - have, 0);
  }
  return have;
}

TEST(a_queue_ends_each_call_once) {
  enum { kCalls = 100 };
  two_nodes nodes = start_two();
  troupe_queue* queue = NULL;
  held_calls held = {{NULL}, 0};
  troupe_methods* methods = NULL;
  troupe_completion done[kCalls];
  troupe_request requests[kCalls];
  troupe_value arguments[kCalls][2];
  troupe_call_options options = TROUPE_CALL_OPTIONS_INIT;
  unsigned char seen[kCalls] = {0};
  size_t i, begun = 0;
  int64_t sum = 0;
  caller = pthread_self();
  GOOD(troupe_methods_new(&methods));
  GOOD(troupe_methods_add(methods, "hold", "() -> void", &hold));
  GOOD(troupe_methods_add(methods, "add", "(int64, int64) -> int64", &add_here));
  GOOD(troupe_node_spawn(nodes.second, "here", methods, &held, NULL));
  GOOD(troupe_node_spawn(nodes.first, "there", methods, &held, NULL));
  troupe_methods_free(methods);
  GOOD(troupe_node_wait_for_actor(nodes.second, "there", 20 * SECONDS));
  GOOD(troupe_queue_open(kCalls, &queue));
  CHECK(troupe_queue_next(queue, done, 1, 0) == 0);

  options.signature = "(int64, int64) -> int64";
  for (i = 0; i < kCalls; ++i) {
    arguments[i][0] = troupe_int((int64_t)i);
    arguments[i][1] = troupe_int(1);
    requests[i].tag = 1000 + i;
    requests[i].actor = i % 2 == 0 ? "here" : "there";
    requests[i].method = "add";
    requests[i].options = &options;
    requests[i].arguments = arguments[i];
    requests[i].argument_count = 2;
  }
  GOOD(troupe_queue_call_many(queue, nodes.second, requests, kCalls, &begun));
  CHECK(begun == kCalls);
  memset(arguments, 0, sizeof arguments); /* they have been copied */
  FAILS(troupe_queue_call(queue, nodes.second, 5, "here", "add", NULL, arguments[0], 2),
        TROUPE_RESOURCE_EXHAUSTED, "fetch some first");
  CHECK(fetch(queue, done, kCalls) == kCalls);
  for (i = 0; i < kCalls; ++i) {
    const size_t number = (size_t)(done[i].tag - 1000);
    CHECK(done[i].status == TROUPE_OK && number < kCalls && !seen[number]);
    seen[number] = 1;
    GOOD(troupe_answer_int(done[i].answer, &sum));
    CHECK(sum == (int64_t)number + 1);
    troupe_answer_free(done[i].answer);
  }
  CHECK(foreign_runs == 0);

  /* Errors come with their text; what was not begun does not come. */
  GOOD(troupe_queue_call(queue, nodes.second, 1, "nobody", "add", NULL, NULL, 0));
  CHECK(fetch(queue, done, 1) == 1);
  CHECK(done[0].tag == 1 && done[0].status == TROUPE_NOT_FOUND);
  CHECK(strstr(troupe_answer_error(done[0].answer), "nobody") && !troupe_answer_value(done[0].answer));
  troupe_answer_free(done[0].answer);
  requests[0].argument_count = 1;
  FAILS(troupe_queue_call_many(queue, nodes.second, requests, 2, &begun), TROUPE_INVALID_ARGUMENT,
        "arguments");
  CHECK(begun == 0);

  /* Cancelled, or past its deadline, while its callee holds it. */
  GOOD(troupe_queue_call(queue, nodes.second, 2, "there", "hold", NULL, NULL, 0));
  FAILS(troupe_queue_call(queue, nodes.second, 2, "there", "hold", NULL, NULL, 0), TROUPE_ALREADY_EXISTS,
        "tag 2");
  troupe_queue_cancel(queue, 2);
  CHECK(fetch(queue, done, 1) == 1);
  CHECK(done[0].tag == 2 && done[0].status == TROUPE_CANCELLED);
  troupe_answer_free(done[0].answer);
  options.signature = NULL;
  options.timeout = SECONDS / 20;
  GOOD(troupe_queue_call(queue, nodes.second, 3, "there", "hold", &options, NULL, 0));
  CHECK(troupe_queue_next(queue, done, 1, 30 * SECONDS) == 1);
  CHECK(done[0].tag == 3 && done[0].status == TROUPE_DEADLINE_EXCEEDED);
  troupe_answer_free(done[0].answer);

  /* A queue that goes while calls are open, and a node that does. */
  GOOD(troupe_queue_call(queue, nodes.second, 4, "there", "hold", NULL, NULL, 0));
  troupe_queue_free(queue);
  GOOD(troupe_queue_open(0, &queue));
  GOOD(troupe_queue_call(queue, nodes.second, 5, "there", "hold", NULL, NULL, 0));
  troupe_node_free(nodes.second);
  CHECK(fetch(queue, done, 1) == 1);
  CHECK(done[0].tag == 5 && done[0].status == TROUPE_CANCELLED);
  troupe_answer_free(done[0].answer);
  troupe_queue_free(queue);
  troupe_node_free(nodes.first);
  for (i = 0; i < held.count; ++i) GOOD(troupe_incoming_answer(held.calls[i], NULL));
}

static void wait_here(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  troupe_completion done;
  (void)arguments, (void)count;
  CHECK(troupe_queue_next(state, &done, 1, TROUPE_NO_DEADLINE) == 0);
  CHECK(strstr(troupe_last_error(), "FAILED_PRECONDITION: a handler cannot wait"));
  GOOD(troupe_incoming_answer(call, NULL));
}

TEST(a_handler_does_not_wait_for_a_queue) {
  two_nodes nodes = start_two();
  troupe_queue* queue = NULL;
  troupe_methods* methods = NULL;
  GOOD(troupe_queue_open(0, &queue));
  GOOD(troupe_methods_new(&methods));
  GOOD(troupe_methods_add(methods, "wait", "() -> void", &wait_here));
  GOOD(troupe_node_spawn(nodes.first, "waiter", methods, queue, NULL));
  troupe_methods_free(methods);
  GOOD(troupe_node_wait_for_actor(nodes.second, "waiter", 20 * SECONDS));
  GOOD(troupe_call(nodes.second, "waiter", "wait", NULL, NULL, 0, NULL));
  troupe_queue_free(queue);
  free_two(nodes);
}

static void count_member(void* user, const troupe_member* member) {
  *(int*)user += strcmp(member->role, "client") == 0 ? 10 : 1;
}
static void count_actor(void* user, const char* actor) {
  *(int*)user += strcmp(actor, "adder") == 0;
}
static void count_line(void* user, const char* line, size_t size) {
  if (size > 0 && line) ++*(int*)user;
}
static void* at_the_barrier(void* node) {
  const char* const names[2] = {"second", "alone"};
  GOOD(troupe_node_barrier(node, "meet", names, 2, 20 * SECONDS));
  return NULL;
}

TEST(nodes_know_each_other) {
  two_nodes nodes = start_two();
  troupe_node* third = NULL;
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  const troupe_pair metadata[1] = {{"rack", "b"}};
  const char* const names[2] = {"second", "alone"};
  pthread_t thread;
  int members = 0, actors = 0, lines = 0;
  options.name = "second";
  options.registry = troupe_node_address(nodes.first);
  FAILS(troupe_node_start(&options, &third), TROUPE_ALREADY_EXISTS, "second");
  options.name = "alone";
  options.metadata = metadata;
  options.metadata_count = 1;
  options.flags = TROUPE_NODE_NO_HELP;
  options.log = &count_line;
  options.log_user = &lines;
  options.log_level = "debug";
  GOOD(troupe_node_start(&options, &third));
  GOOD(troupe_node_wait_for_role(third, "client", 1, 20 * SECONDS));
  FAILS(troupe_node_wait_for_role(third, "client", 9, SECONDS / 20), TROUPE_DEADLINE_EXCEEDED, "client");
  spawn_adder(nodes.second, "adder");
  GOOD(troupe_node_wait_for_actor(third, "adder", 20 * SECONDS));
  GOOD(troupe_node_members(third, &count_member, &members));
  GOOD(troupe_node_actors(third, "client", &count_actor, &actors));
  CHECK(members == 12 && actors == 1);
  CHECK(pthread_create(&thread, NULL, &at_the_barrier, third) == 0);
  GOOD(troupe_node_barrier(nodes.second, "meet", names, 2, 20 * SECONDS));
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(troupe_node_make_token(third) != troupe_node_make_token(third));
  GOOD(troupe_node_leave(third, 5 * SECONDS));
  troupe_node_free(third);
  CHECK(lines > 0);
  free_two(nodes);
}

static void* start_and_stay(void* given) {
  pthread_barrier_t* freed = ((void**)given)[1];
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  options.name = "elsewhere";
  GOOD(troupe_node_start(&options, ((void**)given)[0]));
  pthread_barrier_wait(freed); /* it is there */
  pthread_barrier_wait(freed); /* it has been freed */
  return NULL;
}

TEST(a_node_may_be_freed_by_another_thread_than_started_it) {
  troupe_node* node = NULL;
  pthread_barrier_t freed;
  pthread_t thread;
  void* given[2];
  given[0] = &node;
  given[1] = &freed;
  CHECK(pthread_barrier_init(&freed, NULL, 2) == 0);
  CHECK(pthread_create(&thread, NULL, &start_and_stay, given) == 0);
  pthread_barrier_wait(&freed);
  troupe_node_free(node);
  pthread_barrier_wait(&freed);
  CHECK(pthread_join(thread, NULL) == 0);
}
