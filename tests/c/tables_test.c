/* Tables, collectives, ZeRO and checkpoints. */
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"

enum { kDim = 4, kKeys = 3 };
static const char* const servers[2] = {"ps-0", "ps-1"};
static const uint64_t keys[kKeys] = {1, 77, 123456789};

static void serve_two(two_nodes nodes) {
  GOOD(troupe_node_serve_shards(nodes.first, "ps-0", 0, 2));
  GOOD(troupe_node_serve_shards(nodes.second, "ps-1", 1, 2));
  GOOD(troupe_node_wait_for_actor(nodes.second, "ps-0", 20 * SECONDS));
  GOOD(troupe_node_wait_for_actor(nodes.first, "ps-1", 20 * SECONDS));
}

static int all_are(const float* numbers, size_t count, float value) {
  size_t i;
  for (i = 0; i < count; ++i)
    if (fabsf(numbers[i] - value) > 1e-5f) return 0;
  return 1;
}

/* A fresh folder's name in `path`; its checkpoint is removed by remove_folder(). */
static void make_folder(char* path, size_t size) {
  snprintf(path, size, "%s/troupe-c-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  if (!mkdtemp(path)) exit(1);
}
static void remove_folder(const char* path) {
  char command[300];
  snprintf(command, sizeof command, "rm -rf '%s'", path);
  CHECK(system(command) == 0);
}

TEST(tables_are_pulled_and_pushed_saved_and_restored) {
  two_nodes nodes = start_two();
  troupe_table *table = NULL, *same = NULL;
  troupe_versions* versions = NULL;
  troupe_push_result result = TROUPE_PUSH_RESULT_INIT;
  troupe_table_options options = {8, 0, 0};
  troupe_queue* queue = NULL;
  troupe_completion done;
  float rows[kKeys * kDim], gradients[kKeys * kDim];
  char folder[200], checkpoint[240];
  uint64_t count = 0;
  size_t i;
  const char* spec =
      "{\"name\": \"words\", \"dim\": 4, \"optimizer\": {\"kind\": \"sgd\", \"learning_rate\": 0.5}}";
  serve_two(nodes);
  FAILS(troupe_table_open(nodes.second, "words", servers, 2, NULL, &table), TROUPE_INVALID_ARGUMENT, "JSON");
  FAILS(troupe_table_open(nodes.second, "{\"name\": \"words\"}", servers, 2, NULL, &table),
        TROUPE_INVALID_ARGUMENT, "dim");
  FAILS(troupe_table_connect(nodes.first, "words", servers, 2, NULL, &same), TROUPE_NOT_FOUND, "words");
  FAILS(troupe_table_connect(nodes.first, "words", servers, 2, &options, &same), TROUPE_INVALID_ARGUMENT,
        "_INIT"); /* before anybody is asked */
  options.struct_size = sizeof options;
  options.timeout = -1;
  FAILS(troupe_table_connect(nodes.first, "words", servers, 2, &options, &same), TROUPE_DEADLINE_EXCEEDED,
        "");
  GOOD(troupe_table_open(nodes.second, spec, servers, 2, NULL, &table));
  CHECK(troupe_table_dim(table) == kDim && strstr(troupe_table_spec(table), "weight_decay"));
  GOOD(troupe_table_pull(table, keys, kKeys, rows, &versions));
  CHECK(all_are(rows, kKeys * kDim, 0));
  for (i = 0; i < kKeys * kDim; ++i) gradients[i] = 2;
  GOOD(troupe_table_push(table, keys, kKeys, gradients, versions, &result));
  CHECK(result.applied && !result.dropped && result.staleness == 0);
  troupe_versions_free(versions);
  GOOD(troupe_table_connect(nodes.first, "words", servers, 2, NULL, &same));
  GOOD(troupe_table_peek(same, keys, kKeys, rows));
  CHECK(all_are(rows, kKeys * kDim, -1));
  FAILS(troupe_table_pull(table, NULL, kKeys, rows, NULL), TROUPE_INVALID_ARGUMENT, "keys is NULL");
  FAILS(troupe_table_push(table, keys, kKeys, NULL, NULL, NULL), TROUPE_INVALID_ARGUMENT,
        "gradients is NULL");

  GOOD(troupe_queue_open(0, &queue));
  memset(rows, 0, sizeof rows);
  GOOD(troupe_queue_pull(queue, table, 7, keys, kKeys, rows));
  CHECK(troupe_queue_next(queue, &done, 1, 30 * SECONDS) == 1 && done.tag == 7 && done.status == TROUPE_OK);
  CHECK(all_are(rows, kKeys * kDim, -1));
  GOOD(troupe_answer_versions(done.answer, &versions));
  FAILS(troupe_answer_pushed(done.answer, &result), TROUPE_INVALID_ARGUMENT, "no answer to a push");
  troupe_answer_free(done.answer);
  GOOD(troupe_queue_push(queue, table, 8, keys, kKeys, gradients, versions));
  memset(gradients, 0, sizeof gradients); /* they have been copied */
  CHECK(troupe_queue_next(queue, &done, 1, 30 * SECONDS) == 1 && done.tag == 8 && done.status == TROUPE_OK);
  GOOD(troupe_answer_pushed(done.answer, &result));
  CHECK(result.applied);
  troupe_answer_free(done.answer);
  troupe_versions_free(versions);

  make_folder(folder, sizeof folder);
  snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint", folder);
  FAILS(troupe_checkpoint_restore(nodes.second, servers, 2, checkpoint, &count), TROUPE_NOT_FOUND,
        "checkpoint");
  GOOD(troupe_checkpoint_save(&table, 1, checkpoint, "{\"epoch\": 3}"));
  FAILS(troupe_checkpoint_save(&table, 1, checkpoint, "[]"), TROUPE_INVALID_ARGUMENT, "metadata");
  for (i = 0; i < kKeys * kDim; ++i) gradients[i] = 1;
  GOOD(troupe_table_push(table, keys, kKeys, gradients, NULL, NULL));
  GOOD(troupe_checkpoint_restore(nodes.second, servers, 2, checkpoint, &count));
  CHECK(count == kKeys);
  GOOD(troupe_table_peek(table, keys, kKeys, rows));
  CHECK(all_are(rows, kKeys * kDim, -2));
  remove_folder(folder);
  troupe_queue_free(queue);
  troupe_table_free(same);
  GOOD(troupe_table_set_clock(table, 5));
  CHECK(troupe_table_clock(table) == 5);
  GOOD(troupe_table_leave(table));
  GOOD(troupe_table_join(table));
  troupe_table_free(table);
  free_two(nodes);
}

/* A member of a group of two, on a thread of its own. */
typedef struct member {
  troupe_node* node;
  const char* folder;
  int rank;
  float after[6]; /* the weights after three steps */
  pthread_barrier_t* cancelled;
} member;

static void step_some(troupe_zero* zero, int rank) {
  troupe_zero_result result = TROUPE_ZERO_RESULT_INIT;
  float gradients[6];
  int step, i;
  for (step = 0; step < 3; ++step) {
    for (i = 0; i < 6; ++i) gradients[i] = (float)(rank * 2 - 1 + step + i); /* their mean: step + i */
    GOOD(troupe_zero_pass(zero, gradients, 6));
    GOOD(troupe_zero_step(zero, &result));
  }
  CHECK(result.step >= 3 && result.norm > 0 && result.loss_scale == 1);
}

static void* take_part(void* given) {
  member* self = given;
  static const char* const names[2] = {"first", "second"};
  static const int64_t shapes[2][2] = {{2, 2}, {2, 0}};
  static const float initial[6] = {1, 2, 3, 4, 5, 6};
  const troupe_zero_parameter parameters[2] = {{"weight", shapes[0], 2, 0}, {"bias", shapes[1], 1, 1}};
  const char* configs[2] = {
      "{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": "
      "0.1}}, "
      "\"zero_optimization\": {\"stage\": 2}}",
      "{\"train_micro_batch_size_per_gpu\": 1, \"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": "
      "0.1}}, "
      "\"zero_optimization\": {\"stage\": 3}}"};
  troupe_group* group = NULL;
  troupe_tensor *tensor = NULL, *out = NULL;
  troupe_tensor_info info = TROUPE_TENSOR_INFO_INIT;
  troupe_collective what = TROUPE_COLLECTIVE_INIT;
  troupe_queue* queue = NULL;
  troupe_completion done;
  troupe_zero* zero = NULL;
  const int64_t two[1] = {2}, four[1] = {4};
  float numbers[2], weights[6];
  int stage, i;
  GOOD(troupe_group_form(self->node, "all", names, 2, NULL, &group));
  CHECK(troupe_group_size(group) == 2 && troupe_group_rank(group) == self->rank);

  numbers[0] = (float)self->rank + 1;
  numbers[1] = 10;
  GOOD(troupe_tensor_wrap(TROUPE_FLOAT32, two, NULL, 1, numbers, NULL, NULL, &tensor));
  GOOD(troupe_tensor_new(TROUPE_FLOAT32, four, 1, &out));
  what.tensor = tensor;
  GOOD(troupe_group_run(group, &what));
  GOOD(troupe_tensor_describe(tensor, &info));
  CHECK(((float*)info.data)[0] == 3 && ((float*)info.data)[1] == 20);
  what.kind = TROUPE_ALL_GATHER;
  FAILS(troupe_group_run(group, &what), TROUPE_INVALID_ARGUMENT, "out is NULL");
  what.out = out;
  GOOD(troupe_queue_open(0, &queue));
  GOOD(troupe_queue_run(queue, group, 9, &what));
  CHECK(troupe_queue_next(queue, &done, 1, 30 * SECONDS) == 1 && done.tag == 9 && done.status == TROUPE_OK);
  troupe_answer_free(done.answer);
  GOOD(troupe_tensor_describe(out, &info));
  CHECK(((float*)info.data)[2] == 3 && ((float*)info.data)[3] == 20);
  /* One that has begun is seen to its end, whoever cancels: the others would wait, and the tensor is used. */
  what.kind = TROUPE_ALL_REDUCE;
  if (self->rank == 0) {
    GOOD(troupe_queue_run(queue, group, 10, &what));
    troupe_queue_cancel(queue, 10);
    CHECK(troupe_queue_next(queue, &done, 1, SECONDS / 10) == 0);
    pthread_barrier_wait(self->cancelled);
    CHECK(troupe_queue_next(queue, &done, 1, 30 * SECONDS) == 1 && done.status == TROUPE_OK);
    troupe_answer_free(done.answer);
  } else {
    pthread_barrier_wait(self->cancelled);
    GOOD(troupe_group_run(group, &what));
  }
  GOOD(troupe_tensor_describe(tensor, &info));
  CHECK(((float*)info.data)[0] == 6 && ((float*)info.data)[1] == 40);
  what.kind = TROUPE_BARRIER;
  GOOD(troupe_group_run(group, &what));

  for (stage = 0; stage < 2; ++stage) {
    GOOD(troupe_zero_create(group, parameters, 2, configs[stage], initial, &zero));
    CHECK(troupe_zero_size(zero) == 6 && troupe_zero_loss_scale(zero) == 1);
    GOOD(troupe_zero_weights(zero, weights, 6));
    CHECK(memcmp(weights, initial, sizeof initial) == 0);
    step_some(zero, self->rank);
    GOOD(troupe_zero_weights(zero, weights, 6));
    for (i = 0; i < 6; ++i) CHECK(i > 0 ? weights[i] < initial[i] - 0.2f : weights[i] < initial[i]);
    if (stage == 0) {
      memcpy(self->after, weights, sizeof weights);
      GOOD(troupe_zero_save(zero, self->folder));
      step_some(zero, self->rank);
      GOOD(troupe_zero_restore(zero, self->folder));
      GOOD(troupe_zero_weights(zero, weights, 6));
    }
    CHECK(memcmp(self->after, weights, sizeof weights) == 0); /* the same numbers in both stages */
    FAILS(troupe_zero_pass(zero, weights, 5), TROUPE_INVALID_ARGUMENT, "6 numbers, not 5");
    troupe_zero_free(zero);
  }
  troupe_queue_free(queue);
  troupe_tensor_free(tensor);
  troupe_tensor_free(out);
  troupe_group_free(group);
  return NULL;
}

TEST(groups_reduce_and_zero_steps) {
  two_nodes nodes = start_two();
  char folder[200], checkpoint[240];
  member members[2];
  pthread_t threads[2];
  pthread_barrier_t cancelled;
  int i;
  CHECK(pthread_barrier_init(&cancelled, NULL, 2) == 0);
  make_folder(folder, sizeof folder);
  snprintf(checkpoint, sizeof checkpoint, "%s/zero", folder);
  for (i = 0; i < 2; ++i) {
    members[i].node = i == 0 ? nodes.first : nodes.second;
    members[i].folder = checkpoint;
    members[i].rank = i;
    members[i].cancelled = &cancelled;
    CHECK(pthread_create(&threads[i], NULL, &take_part, &members[i]) == 0);
  }
  for (i = 0; i < 2; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(memcmp(members[0].after, members[1].after, sizeof members[0].after) == 0);
  remove_folder(folder);
  free_two(nodes);
}
