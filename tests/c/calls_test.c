/* Calls between nodes, answered now and later, by C and by C++. */
#include <pthread.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int text_is(const troupe_value* value, int kind, const char* text) {
  return value && value->kind == kind && value->as.bytes.size == strlen(text) &&
         memcmp(value->as.bytes.data, text, value->as.bytes.size) == 0;
}

/* Answers with its only argument. */
static void echo(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  (void)state, (void)count;
  GOOD(troupe_incoming_answer(call, &arguments[0]));
}

static void* answer_later(void* call) {
  const troupe_value text = troupe_string("later");
  GOOD(troupe_incoming_answer(call, &text));
  return NULL;
}

static void begin_later(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  pthread_t thread;
  (void)state, (void)arguments, (void)count;
  CHECK(pthread_create(&thread, NULL, &answer_later, call) == 0);
  CHECK(pthread_detach(thread) == 0);
}

static void refuse(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  (void)state, (void)arguments, (void)count;
  GOOD(troupe_incoming_fail(call, TROUPE_OUT_OF_RANGE, "the end is near"));
}

static void answer_wrongly(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  const troupe_value number = troupe_int(7);
  (void)state, (void)arguments, (void)count;
  FAILS(troupe_incoming_answer(call, &number), TROUPE_INVALID_ARGUMENT, "is to be string");
}

/* "tenant, caller": what there is to see of a call. */
static void look(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  char text[200];
  troupe_value seen;
  (void)state, (void)arguments, (void)count;
  CHECK(troupe_incoming_time_left(call) > 0 && troupe_incoming_time_left(call) <= 20 * SECONDS);
  CHECK(!troupe_incoming_cancelled(call) && troupe_incoming_metadata(call, "none") == NULL);
  CHECK(strncmp(troupe_incoming_identity(call), "user:", 5) == 0);
  snprintf(text, sizeof text, "%s, %s", troupe_incoming_metadata(call, "tenant"),
           troupe_incoming_caller(call));
  seen = troupe_string(text);
  GOOD(troupe_incoming_answer(call, &seen));
}

static void note_end(void* state) {
  ++*(int*)state;
}

static void spawn_all(troupe_node* node, int* ended) {
  troupe_methods* methods = NULL;
  GOOD(troupe_methods_new(&methods));
  GOOD(troupe_methods_add(methods, "text", "(string) -> string", &echo));
  GOOD(troupe_methods_add(methods, "floats", "(vector<float32>) -> vector<float32>", &echo));
  GOOD(troupe_methods_add(methods, "maybe", "(optional<int8>) -> optional<int8>", &echo));
  GOOD(troupe_methods_add(methods, "tree",
                          "(map<string, tuple<bool, bytes, vector<string>>>) -> "
                          "map<string, tuple<bool, bytes, vector<string>>>",
                          &echo));
  GOOD(troupe_methods_add(methods, "matrix", "(tensor<float32, 2>) -> tensor", &echo));
  GOOD(troupe_methods_add(methods, "later", "() -> string", &begin_later));
  GOOD(troupe_methods_add(methods, "refuse", "() -> void", &refuse));
  GOOD(troupe_methods_add(methods, "wrong", "() -> string", &answer_wrongly));
  GOOD(troupe_methods_add(methods, "look", "() -> string", &look));
  GOOD(troupe_node_spawn(node, "all", methods, ended, &note_end));
  troupe_methods_free(methods);
}

TEST(values_of_all_kinds_go_and_come) {
  two_nodes nodes = start_two();
  int ended = 0;
  troupe_answer* answer = NULL;
  const troupe_value* value = NULL;
  troupe_value argument, items[3], row[2], pairs[1];
  const float floats[3] = {1, 2, 3};
  const int64_t shape[2] = {2, 2};
  float matrix[4] = {1, 2, 3, 4};
  troupe_tensor *tensor = NULL, *back = NULL;
  troupe_tensor_info info = TROUPE_TENSOR_INFO_INIT;
  const void* bytes = NULL;
  size_t size = 0;
  int64_t number = 0;
  spawn_all(nodes.first, &ended);
  GOOD(troupe_node_wait_for_actor(nodes.second, "all", 20 * SECONDS));

  argument = troupe_string("gr\xc3\xbc\xc3\x9f dich");
  GOOD(troupe_call(nodes.second, "all", "text", NULL, &argument, 1, &answer));
  CHECK(text_is(troupe_answer_value(answer), TROUPE_STRING, "gr\xc3\xbc\xc3\x9f dich"));
  FAILS(troupe_answer_int(answer, &number), TROUPE_INVALID_ARGUMENT, "the result is string");
  GOOD(troupe_answer_bytes(answer, &bytes, &size));
  CHECK(size == 11);
  troupe_answer_free(answer);

  argument = troupe_numbers(TROUPE_FLOAT32, floats, 3);
  GOOD(troupe_call(nodes.second, "all", "floats", NULL, &argument, 1, &answer));
  value = troupe_answer_value(answer);
  CHECK(value->kind == TROUPE_NUMBERS && value->type == TROUPE_FLOAT32 && value->as.bytes.size == 12);
  CHECK(memcmp(value->as.bytes.data, floats, 12) == 0);
  troupe_answer_free(answer);

  argument = troupe_none();
  GOOD(troupe_call(nodes.second, "all", "maybe", NULL, &argument, 1, &answer));
  CHECK(troupe_answer_value(answer)->kind == TROUPE_NONE);
  troupe_answer_free(answer);
  argument = troupe_int(-128);
  GOOD(troupe_call(nodes.second, "all", "maybe", NULL, &argument, 1, &answer));
  GOOD(troupe_answer_int(answer, &number));
  CHECK(number == -128);
  troupe_answer_free(answer);
  argument = troupe_int(-129);
  FAILS(troupe_call(nodes.second, "all", "maybe", NULL, &argument, 1, &answer), TROUPE_INVALID_ARGUMENT,
        "argument 1 is to be optional<int8>");
  CHECK(answer == NULL);

  items[0] = troupe_bool(1);
  items[1] = troupe_bytes("\0\1", 2);
  row[0] = troupe_string("a");
  row[1] = troupe_string("");
  items[2] = troupe_list(row, 2);
  {
    troupe_value pair[2];
    pair[0] = troupe_string("key");
    pair[1] = troupe_list(items, 3);
    pairs[0] = troupe_list(pair, 2);
    argument = troupe_list(pairs, 1);
    GOOD(troupe_call(nodes.second, "all", "tree", NULL, &argument, 1, &answer));
  }
  value = &troupe_answer_value(answer)->as.list.items[0];
  CHECK(text_is(&value->as.list.items[0], TROUPE_STRING, "key"));
  value = &value->as.list.items[1];
  CHECK(value->as.list.count == 3 && value->as.list.items[0].as.boolean == 1);
  CHECK(value->as.list.items[1].kind == TROUPE_BYTES && value->as.list.items[1].as.bytes.size == 2);
  CHECK(text_is(&value->as.list.items[2].as.list.items[0], TROUPE_STRING, "a"));
  troupe_answer_free(answer);

  GOOD(troupe_tensor_wrap(TROUPE_FLOAT32, shape, NULL, 2, matrix, NULL, NULL, &tensor));
  argument = troupe_of_tensor(tensor);
  GOOD(troupe_call(nodes.second, "all", "matrix", NULL, &argument, 1, &answer));
  GOOD(troupe_answer_tensor(answer, &back));
  troupe_answer_free(answer);
  GOOD(troupe_tensor_describe(back, &info));
  CHECK(info.rank == 2 && info.shape[1] == 2 && memcmp(info.data, matrix, sizeof matrix) == 0);
  troupe_tensor_free(back);
  troupe_tensor_free(tensor);

  GOOD(troupe_call(nodes.second, "all", "later", NULL, NULL, 0, &answer));
  CHECK(text_is(troupe_answer_value(answer), TROUPE_STRING, "later"));
  troupe_answer_free(answer);
  CHECK(ended == 0);
  GOOD(troupe_node_kill(nodes.first, "all"));
  free_two(nodes);
  CHECK(ended == 1);
}

TEST(what_goes_wrong_comes_back_as_a_status) {
  two_nodes nodes = start_two();
  int ended = 0;
  troupe_error parts = TROUPE_ERROR_INIT;
  troupe_call_options options = TROUPE_CALL_OPTIONS_INIT;
  troupe_value numbers[2], wrong;
  troupe_metadata metadata[1] = {{"tenant", "small", 1}};
  troupe_answer* answer = NULL;
  troupe_tensor* into = NULL;
  spawn_all(nodes.first, &ended);
  spawn_adder(nodes.first, "adder");
  GOOD(troupe_node_wait_for_actor(nodes.second, "adder", 20 * SECONDS));
  numbers[0] = troupe_int(40);
  numbers[1] = troupe_int(2);

  FAILS(troupe_call(nodes.second, "nobody", "add", NULL, numbers, 2, NULL), TROUPE_NOT_FOUND, "nobody");
  FAILS(troupe_call(nodes.second, "adder", "ad", NULL, numbers, 2, NULL), TROUPE_UNIMPLEMENTED,
        "did you mean 'add'?");
  FAILS(troupe_call(nodes.second, "all", "refuse", NULL, NULL, 0, NULL), TROUPE_OUT_OF_RANGE,
        "the end is near");
  GOOD(troupe_last_error_parts(&parts));
  CHECK(strcmp(parts.node, "first") == 0);
  FAILS(troupe_call(nodes.second, "all", "wrong", NULL, NULL, 0, NULL), TROUPE_INTERNAL, "is to be string");
  FAILS(troupe_call(nodes.second, "adder", "add", NULL, numbers, 1, NULL), TROUPE_INVALID_ARGUMENT,
        "takes 2 arguments, not 1");

  options.signature = "(int64, string) -> int64";
  FAILS(troupe_call(nodes.second, "adder", "add", &options, numbers, 2, NULL), TROUPE_INVALID_ARGUMENT,
        "argument 2 is to be string, not the integer 2");
  numbers[1] = troupe_string("2");
  FAILS(troupe_call(nodes.second, "adder", "add", &options, numbers, 2, NULL), TROUPE_INVALID_ARGUMENT,
        "other types than add(int64, int64) -> int64, namely as (int64, string) -> int64");
  options.signature = NULL;
  FAILS(troupe_call(nodes.second, "adder", "add", &options, numbers, 2, NULL), TROUPE_INVALID_ARGUMENT,
        "argument 2 is to be int64, not string");
  options.signature = "(int64, int64) > int64";
  FAILS(troupe_call(nodes.second, "adder", "add", &options, numbers, 2, NULL), TROUPE_INVALID_ARGUMENT,
        "'->'");
  options.signature = NULL;

  memset(&wrong, 0, sizeof wrong);
  wrong.kind = 77;
  FAILS(troupe_call(nodes.second, "adder", "add", NULL, &wrong, 1, NULL), TROUPE_INVALID_ARGUMENT, "kind 77");
  wrong = troupe_of_tensor(NULL);
  FAILS(troupe_call(nodes.second, "adder", "add", NULL, &wrong, 1, NULL), TROUPE_INVALID_ARGUMENT, "NULL");
  wrong = troupe_string(NULL);
  FAILS(troupe_call(nodes.second, "adder", "add", NULL, &wrong, 1, NULL), TROUPE_INVALID_ARGUMENT, "NULL");
  wrong = troupe_list(&wrong, 1); /* of itself */
  FAILS(troupe_call(nodes.second, "adder", "add", NULL, &wrong, 1, NULL), TROUPE_INVALID_ARGUMENT,
        "too deep");

  numbers[1] = troupe_int(2);
  options.timeout = -1;
  FAILS(troupe_call(nodes.second, "adder", "add", &options, numbers, 2, NULL), TROUPE_DEADLINE_EXCEEDED, "");
  options.timeout = 10 * SECONDS;
  options.traceparent = "no trace";
  FAILS(troupe_call(nodes.second, "adder", "add", &options, numbers, 2, NULL), TROUPE_INVALID_ARGUMENT, "");
  options.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
  options.metadata = metadata;
  options.metadata_count = 1;
  options.max_attempts = 3;
  GOOD(troupe_call(nodes.second, "all", "look", &options, NULL, 0, &answer));
  CHECK(text_is(troupe_answer_value(answer), TROUPE_STRING, "small, second"));
  troupe_answer_free(answer);
  GOOD(troupe_send(nodes.second, "adder", "add", NULL, numbers, 2));
  FAILS(troupe_send(nodes.second, "nobody", "add", NULL, numbers, 2), TROUPE_NOT_FOUND, "nobody");
  CHECK(into == NULL);
  troupe_node_shutdown(nodes.second);
  FAILS(troupe_call(nodes.second, "adder", "add", NULL, numbers, 2, NULL), TROUPE_CANCELLED, "shuts down");
  free_two(nodes);
}

TEST(actors_of_cpp_and_c_call_each_other) {
  two_nodes nodes = start_two();
  troupe_call_options options = TROUPE_CALL_OPTIONS_INIT;
  troupe_value arguments[2];
  troupe_answer* answer = NULL;
  troupe_tensor* tensor = NULL;
  troupe_tensor_info info = TROUPE_TENSOR_INFO_INIT;
  const int64_t shape[1] = {3};
  float numbers[3] = {1, 2, 3};
  const double many[2] = {1.5, 2.5};
  int64_t sum = 0;
  double real = 0;
  int status = 0;
  const pid_t child = fork();
  if (child == 0) {
    execl(TROUPE_TEST_PEER, TROUPE_TEST_PEER, troupe_node_address(nodes.first), (char*)NULL);
    _exit(127);
  }
  spawn_adder(nodes.second, "adder");
  GOOD(troupe_node_wait_for_actor(nodes.second, "cpp", 60 * SECONDS));

  options.signature = "(tensor<float32, 1>, float64) -> tensor<float32, 1>";
  GOOD(troupe_tensor_wrap(TROUPE_FLOAT32, shape, NULL, 1, numbers, NULL, NULL, &tensor));
  arguments[0] = troupe_of_tensor(tensor);
  arguments[1] = troupe_real(2);
  GOOD(troupe_call(nodes.second, "cpp", "scale", &options, arguments, 2, &answer));
  CHECK(troupe_answer_value(answer)->kind == TROUPE_TENSOR);
  GOOD(troupe_tensor_describe(troupe_answer_value(answer)->as.tensor, &info));
  CHECK(info.shape[0] == 3 && ((float*)info.data)[2] == 6);
  troupe_answer_free(answer);
  troupe_tensor_free(tensor);

  options.signature = "(vector<float64>) -> float64";
  arguments[0] = troupe_numbers(TROUPE_FLOAT64, many, 2);
  GOOD(troupe_call(nodes.second, "cpp", "sum", &options, arguments, 1, &answer));
  GOOD(troupe_answer_real(answer, &real));
  CHECK(real == 4);
  troupe_answer_free(answer);

  options.signature = "(Point{float64, float64}) -> Point{float64, float64}";
  {
    troupe_value fields[2];
    fields[0] = troupe_real(1);
    fields[1] = troupe_int(2); /* a whole number is a float, too */
    arguments[0] = troupe_list(fields, 2);
    GOOD(troupe_call(nodes.second, "cpp", "turn", &options, arguments, 1, &answer));
  }
  CHECK(troupe_answer_value(answer)->as.list.items[0].as.real == 2);
  troupe_answer_free(answer);

  options.signature = "() -> void";
  FAILS(troupe_call(nodes.second, "cpp", "throw", &options, NULL, 0, &answer), TROUPE_INTERNAL,
        "std::out_of_range");

  /* C++ calls the actor that is written in C, with types that are compared. */
  options.signature = "(string, int64) -> int64";
  arguments[0] = troupe_string("adder");
  arguments[1] = troupe_int(40);
  GOOD(troupe_call(nodes.second, "cpp", "add_two_at", &options, arguments, 2, &answer));
  GOOD(troupe_answer_int(answer, &sum));
  CHECK(sum == 42);
  troupe_answer_free(answer);
  options.signature = "(string) -> string";
  FAILS(troupe_call(nodes.second, "cpp", "call_wrongly", &options, arguments, 1, &answer),
        TROUPE_INVALID_ARGUMENT, "other types than add(int64, int64) -> int64");
  free_two(nodes);
  CHECK(waitpid(child, &status, 0) == child);
}
