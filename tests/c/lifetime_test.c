/* What belongs to a node may be ended after it, calls that it got among them, on any thread. */
#include <pthread.h>

#include "check.h"

enum { kCalls = 200 };

typedef struct held_calls {
  troupe_incoming* calls[kCalls];
  size_t count;
  troupe_table* table; /* of the actor's own node */
  int ended;
} held_calls;

static void hold(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  held_calls* held = state;
  (void)arguments, (void)count;
  held->calls[held->count++] = call;
}

/* Tells how many are held. */
static void count_held(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  const troupe_value held = troupe_int((int64_t)((held_calls*)state)->count);
  (void)arguments, (void)count;
  GOOD(troupe_incoming_answer(call, &held));
}

static void end_held(void* state) {
  held_calls* held = state;
  ++held->ended;
  troupe_table_free(held->table);
}

/* So many calls of the second node's are held by an actor of the first. */
static void hold_some(two_nodes nodes, troupe_queue* queue, held_calls* held) {
  troupe_methods* methods = NULL;
  troupe_answer* answer = NULL;
  const troupe_value number = troupe_int(7);
  int64_t here = 0;
  uint64_t tag;
  GOOD(troupe_methods_new(&methods));
  GOOD(troupe_methods_add(methods, "hold", "(int64) -> int64", &hold));
  GOOD(troupe_methods_add(methods, "count", "() -> int64", &count_held));
  GOOD(troupe_node_spawn(nodes.first, "holder", methods, held, &end_held));
  troupe_methods_free(methods);
  GOOD(troupe_node_wait_for_actor(nodes.second, "holder", 20 * SECONDS));
  for (tag = 0; tag < kCalls; ++tag)
    GOOD(troupe_queue_call(queue, nodes.second, tag, "holder", "hold", NULL, &number, 1));
  while (here < kCalls) {
    GOOD(troupe_call(nodes.second, "holder", "count", NULL, NULL, 0, &answer));
    GOOD(troupe_answer_int(answer, &here));
    troupe_answer_free(answer);
  }
}

static void answer_one(troupe_incoming* call, size_t number) {
  const troupe_value answer = troupe_int((int64_t)number);
  if (number % 2 == 0)
    GOOD(troupe_incoming_answer(call, &answer));
  else
    GOOD(troupe_incoming_fail(call, TROUPE_ABORTED, "too late"));
}

TEST(calls_are_answered_after_the_end_of_their_node) {
  two_nodes nodes = start_two();
  held_calls held = {{NULL}, 0, NULL, 0};
  troupe_queue* queue = NULL;
  troupe_tensor* shared = NULL;
  const char* const servers[1] = {"ps"};
  const int64_t shape[1] = {4};
  size_t i;
  GOOD(troupe_queue_open(0, &queue));
  GOOD(troupe_node_serve_shards(nodes.second, "ps", 0, 1));
  GOOD(troupe_node_wait_for_actor(nodes.first, "ps", 20 * SECONDS));
  /* The actor's state keeps the node, and the calls keep the state. */
  GOOD(troupe_table_open(nodes.first, "{\"name\": \"words\", \"dim\": 4}", servers, 1, NULL, &held.table));
  GOOD(troupe_tensor_new_shared(nodes.first, TROUPE_FLOAT32, shape, 1, &shared));
  hold_some(nodes, queue, &held);
  troupe_node_free(nodes.second);
  troupe_node_free(nodes.first);
  CHECK(held.ended == 0);
  for (i = 0; i < kCalls; ++i) answer_one(held.calls[i], i);
  CHECK(held.ended == 1);
  troupe_tensor_free(shared);
  troupe_queue_free(queue);
}

typedef struct answering {
  held_calls held;
  pthread_barrier_t begun;
} answering;

static void* answer_all(void* given) {
  answering* all = given;
  size_t i;
  pthread_barrier_wait(&all->begun);
  for (i = 0; i < kCalls; ++i) answer_one(all->held.calls[i], i);
  return NULL;
}

TEST(calls_are_answered_while_their_node_is_freed) {
  int round;
  for (round = 0; round < 5; ++round) {
    two_nodes nodes = start_two();
    answering all;
    troupe_queue* queue = NULL;
    pthread_t thread;
    memset(&all.held, 0, sizeof all.held);
    CHECK(pthread_barrier_init(&all.begun, NULL, 2) == 0);
    GOOD(troupe_queue_open(0, &queue));
    hold_some(nodes, queue, &all.held);
    CHECK(pthread_create(&thread, NULL, &answer_all, &all) == 0);
    pthread_barrier_wait(&all.begun);
    troupe_node_free(nodes.first);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(all.held.ended == 1);
    troupe_node_free(nodes.second);
    troupe_queue_free(queue);
    pthread_barrier_destroy(&all.begun);
  }
}
