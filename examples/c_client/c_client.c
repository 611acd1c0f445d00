/* An actor and its callers in C: one node counts words, another one calls it, waiting and not waiting. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <troupe/troupe.h>

static void check(troupe_status status) {
  if (status == TROUPE_OK) return;
  fprintf(stderr, "%s\n", troupe_last_error());
  exit(1);
}

/* (string) -> int64. Arguments are of these types: others do not come here. */
static void count_words(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  const char* text = arguments[0].as.bytes.data;
  int64_t words = 0;
  size_t i;
  (void)count;
  for (i = 0; i < arguments[0].as.bytes.size; ++i) words += text[i] != ' ' && (i == 0 || text[i - 1] == ' ');
  ++*(int*)state;
  troupe_value answer = troupe_int(words);
  check(troupe_incoming_answer(call, &answer));
}

int main(void) {
  int calls = 0;
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  options.name = "server";
  troupe_node *server, *client;
  check(troupe_node_start(&options, &server));
  troupe_methods* methods;
  check(troupe_methods_new(&methods));
  check(troupe_methods_add(methods, "words", "(string) -> int64", &count_words));
  check(troupe_node_spawn(server, "counter", methods, &calls, NULL));
  troupe_methods_free(methods);

  options.name = "client";
  options.registry = troupe_node_address(server);
  check(troupe_node_start(&options, &client));
  check(troupe_node_wait_for_actor(client, "counter", 10 * (int64_t)1000000000));

  troupe_call_options how = TROUPE_CALL_OPTIONS_INIT;
  how.signature = "(string) -> int64"; /* compared with the method's own */
  troupe_value text = troupe_string("the quick brown fox");
  troupe_answer* answer;
  int64_t words;
  check(troupe_call(client, "counter", "words", &how, &text, 1, &answer));
  check(troupe_answer_int(answer, &words));
  troupe_answer_free(answer);
  printf("%d words\n", (int)words);

  troupe_queue* queue;
  uint64_t tag;
  check(troupe_queue_open(0, &queue));
  for (tag = 1; tag <= 3; ++tag)
    check(troupe_queue_call(queue, client, tag, "counter", "words", &how, &text, 1));
  struct pollfd ready = {troupe_queue_descriptor(queue), POLLIN, 0};
  for (int open = 3; open > 0 && poll(&ready, 1, 10000) == 1;) {
    troupe_completion done[8];
    size_t count = troupe_queue_next(queue, done, 8, 0), i;
    for (i = 0; i < count; ++i, --open) {
      printf("call %d: %s\n", (int)done[i].tag, troupe_status_name(done[i].status));
      troupe_answer_free(done[i].answer);
    }
  }
  troupe_queue_free(queue);
  troupe_node_free(client);
  troupe_node_free(server);
  printf("%d calls\n", calls);
  return calls == 4 ? 0 : 1;
}
