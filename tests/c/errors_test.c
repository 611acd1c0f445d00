/* What is wrong is answered with a status and a text, in every build; and every thread has its own. */
#include <pthread.h>

#include "check.h"

static void release(void* user) {
  ++*(int*)user;
}
static void visit_member(void* user, const troupe_member* member) {
  (void)user, (void)member;
}

TEST(null_is_an_invalid_argument_everywhere) {
  troupe_node* node = NULL;
  troupe_tensor* tensor = NULL;
  troupe_queue* queue = NULL;
  troupe_methods* methods = NULL;
  troupe_completion completion;
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  const troupe_value value = troupe_int(1);
  size_t begun = 0;
  const int64_t shape[2] = {2, 3};
  FAILS(troupe_node_start(NULL, &node), TROUPE_INVALID_ARGUMENT, "options is NULL");
  FAILS(troupe_node_start(&options, NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_start(&options, &node), TROUPE_INVALID_ARGUMENT, "name is NULL");
  FAILS(troupe_node_leave(NULL, 0), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_run(NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_wait_for_actor(NULL, "a", 0), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_wait_for_role(NULL, "a", 1, 0), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_barrier(NULL, "a", NULL, 0, 0), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_members(NULL, &visit_member, NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_actors(NULL, NULL, NULL, NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_call(NULL, "a", "b", NULL, &value, 1, NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_send(NULL, "a", "b", NULL, &value, 1), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_queue_open(0, NULL), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  FAILS(troupe_queue_call(NULL, NULL, 1, "a", "b", NULL, NULL, 0), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  FAILS(troupe_queue_call_many(NULL, NULL, NULL, 0, &begun), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  FAILS(troupe_methods_new(NULL), TROUPE_INVALID_ARGUMENT, "methods is NULL");
  FAILS(troupe_methods_add(NULL, "a", "() -> void", &add_two), TROUPE_INVALID_ARGUMENT, "methods is NULL");
  FAILS(troupe_node_spawn(NULL, "a", NULL, NULL, NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_node_kill(NULL, "a"), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_incoming_answer(NULL, &value), TROUPE_INVALID_ARGUMENT, "call is NULL");
  FAILS(troupe_incoming_fail(NULL, TROUPE_INTERNAL, ""), TROUPE_INVALID_ARGUMENT, "call is NULL");
  FAILS(troupe_tensor_new(TROUPE_FLOAT32, NULL, 2, &tensor), TROUPE_INVALID_ARGUMENT, "shape is NULL");
  FAILS(troupe_tensor_new(TROUPE_FLOAT32, shape, 2, NULL), TROUPE_INVALID_ARGUMENT, "tensor is NULL");
  FAILS(troupe_tensor_wrap(TROUPE_FLOAT32, shape, NULL, 2, NULL, NULL, NULL, &tensor),
        TROUPE_INVALID_ARGUMENT, "data is NULL");
  FAILS(troupe_tensor_share(NULL, &tensor), TROUPE_INVALID_ARGUMENT, "tensor is NULL");
  FAILS(troupe_tensor_describe(NULL, NULL), TROUPE_INVALID_ARGUMENT, "tensor is NULL");
  FAILS(troupe_tensor_to_dlpack(NULL, NULL), TROUPE_INVALID_ARGUMENT, "tensor is NULL");
  FAILS(troupe_tensor_from_dlpack(NULL, &tensor), TROUPE_INVALID_ARGUMENT, "managed is NULL");
  FAILS(troupe_answer_int(NULL, NULL), TROUPE_INVALID_ARGUMENT, "answer is NULL");
  CHECK(troupe_last_error_parts(NULL) == TROUPE_INVALID_ARGUMENT);
  CHECK(troupe_answer_value(NULL) == NULL && strcmp(troupe_answer_error(NULL), "") == 0);
  CHECK(troupe_queue_descriptor(NULL) == -1 && troupe_queue_next(NULL, &completion, 1, 0) == 0);
  CHECK(strcmp(troupe_node_address(NULL), "") == 0 && troupe_node_id(NULL) == 0);
  CHECK(troupe_incoming_cancelled(NULL) == 0 && troupe_incoming_metadata(NULL, "a") == NULL);
  troupe_node_free(NULL);
  troupe_node_shutdown(NULL);
  troupe_node_stop(NULL);
  troupe_tensor_free(NULL);
  troupe_answer_free(NULL);
  troupe_queue_free(NULL);
  troupe_methods_free(NULL);
  GOOD(troupe_methods_new(&methods));
  FAILS(troupe_methods_add(methods, "a", NULL, &add_two), TROUPE_INVALID_ARGUMENT, "signature is NULL");
  FAILS(troupe_methods_add(methods, "a", "(int) -> void", &add_two), TROUPE_INVALID_ARGUMENT, "place 2");
  FAILS(troupe_methods_add(methods, "a", "() -> void", NULL), TROUPE_INVALID_ARGUMENT, "handler is NULL");
  GOOD(troupe_methods_add(methods, "a", "() -> void", &add_two));
  FAILS(troupe_methods_add(methods, "a", "() -> void", &add_two), TROUPE_ALREADY_EXISTS, "'a'");
  troupe_methods_free(methods);
  CHECK(queue == NULL);
}

TEST(structs_of_unknown_size_are_refused) {
  troupe_node* node = NULL;
  struct {
    troupe_node_options options;
    int64_t later;
  } longer = {TROUPE_NODE_OPTIONS_INIT, 0};
  longer.options.name = "alone";
  longer.options.struct_size = 8;
  FAILS(troupe_node_start(&longer.options, &node), TROUPE_INVALID_ARGUMENT, "_INIT");
  longer.options.struct_size = sizeof longer;
  longer.later = 1;
  FAILS(troupe_node_start(&longer.options, &node), TROUPE_INVALID_ARGUMENT, "does not know");
  longer.later = 0;
  longer.options.flags = 0x80000000u;
  FAILS(troupe_node_start(&longer.options, &node), TROUPE_INVALID_ARGUMENT, "flags");
  longer.options.flags = 0;
  GOOD(troupe_node_start(&longer.options, &node));
  CHECK(strcmp(troupe_node_name(node), "alone") == 0 && troupe_node_id(node) != 0);
  troupe_node_free(node);
}

TEST(numbers_that_cannot_be_are_refused) {
  troupe_node* node = NULL;
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  const double numbers[1] = {1};
  const troupe_value value = troupe_numbers(TROUPE_FLOAT64, numbers, SIZE_MAX / 8 + 2);
  options.name = "alone";
  GOOD(troupe_node_start(&options, &node));
  FAILS(troupe_call(node, "nobody", "sum", NULL, &value, 1, NULL), TROUPE_INVALID_ARGUMENT, "NULL");
  troupe_node_free(node);
}

/* As DLPack 0.8 has it. */
typedef struct dl_tensor {
  void* data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
  void* context;
  void (*deleter)(struct DLManagedTensor* self);
} dl_tensor;

TEST(dlpack_that_points_nowhere_is_refused) {
  float numbers[2] = {1, 2};
  int64_t shape[1] = {2};
  troupe_tensor* tensor = NULL;
  dl_tensor lent;
  memset(&lent, 0, sizeof lent);
  lent.device_type = 1;
  lent.ndim = 1;
  lent.code = 2;
  lent.bits = 32;
  lent.lanes = 1;
  lent.data = numbers;
  FAILS(troupe_tensor_from_dlpack((struct DLManagedTensor*)&lent, &tensor), TROUPE_INVALID_ARGUMENT,
        "shape is NULL");
  lent.shape = shape;
  lent.data = NULL;
  FAILS(troupe_tensor_from_dlpack((struct DLManagedTensor*)&lent, &tensor), TROUPE_INVALID_ARGUMENT,
        "data is NULL");
  shape[0] = 0;
  GOOD(troupe_tensor_from_dlpack((struct DLManagedTensor*)&lent, &tensor));
  troupe_tensor_free(tensor);
}

static void* fail_elsewhere(void* unused) {
  (void)unused;
  CHECK(strcmp(troupe_last_error(), "") == 0);
  FAILS(troupe_queue_open(0, NULL), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  return NULL;
}

TEST(each_thread_has_its_own_last_error) {
  pthread_t thread;
  troupe_node* node = NULL;
  troupe_error parts = TROUPE_ERROR_INIT;
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  options.name = "lost";
  options.registry = "127.0.0.1:1";
  options.join_timeout = SECONDS / 5;
  FAILS(troupe_node_start(&options, &node), TROUPE_UNAVAILABLE, "127.0.0.1:1");
  CHECK(node == NULL);
  CHECK(pthread_create(&thread, NULL, &fail_elsewhere, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  GOOD(troupe_last_error_parts(&parts));
  CHECK(parts.status == TROUPE_UNAVAILABLE && strstr(parts.message, "127.0.0.1:1"));
  CHECK(strcmp(troupe_status_name(TROUPE_DEADLINE_EXCEEDED), "DEADLINE_EXCEEDED") == 0);
  CHECK(strcmp(troupe_status_name(99), "UNKNOWN") == 0);
  CHECK(troupe_abi_version() == 1000 * TROUPE_ABI_MAJOR + TROUPE_ABI_MINOR);
}

TEST(tensors_are_what_they_are_said_to_be) {
  static float numbers[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const int64_t shape[2] = {3, 2}, steps[2] = {4, 2}, huge[2] = {INT64_MAX / 2, 8}, negative[1] = {-1};
  const int64_t none[3] = {0, (int64_t)1 << 40, (int64_t)1 << 23};
  int released = 0;
  troupe_tensor *tensor = NULL, *same = NULL, *copy = NULL, *borrowed = NULL;
  struct DLManagedTensor* lent = NULL;
  troupe_tensor_info info = TROUPE_TENSOR_INFO_INIT;
  GOOD(troupe_tensor_wrap(TROUPE_FLOAT32, shape, steps, 2, numbers, &release, &released, &tensor));
  GOOD(troupe_tensor_describe(tensor, &info));
  CHECK(info.dtype == TROUPE_FLOAT32 && info.rank == 2 && info.shape[0] == 3 && info.strides[1] == 2);
  CHECK(info.data == numbers && info.bytes == 24 && !info.contiguous && !info.read_only && info.gpu == -1);
  GOOD(troupe_tensor_clone(tensor, &copy));
  GOOD(troupe_tensor_describe(copy, &info));
  CHECK(info.contiguous && ((float*)info.data)[3] == 6 && ((float*)info.data)[5] == 10);
  GOOD(troupe_tensor_to_dlpack(tensor, &lent));
  GOOD(troupe_tensor_from_dlpack(lent, &borrowed));
  GOOD(troupe_tensor_share(tensor, &same));
  troupe_tensor_free(tensor);
  troupe_tensor_free(same);
  CHECK(released == 0);
  GOOD(troupe_tensor_describe(borrowed, &info));
  CHECK(info.data == numbers && info.strides[0] == 4);
  troupe_tensor_free(borrowed);
  CHECK(released == 1);
  troupe_tensor_free(copy);
  GOOD(troupe_tensor_wrap(TROUPE_FLOAT32, shape, NULL, 2, numbers, NULL, NULL, &tensor));
  GOOD(troupe_tensor_describe(tensor, &info));
  CHECK(info.data != numbers && ((float*)info.data)[5] == 5);
  troupe_tensor_free(tensor);
  FAILS(troupe_tensor_wrap(TROUPE_FLOAT32, huge, NULL, 2, numbers, &release, &released, &tensor),
        TROUPE_INVALID_ARGUMENT, "");
  /* Without elements strides say nothing, however large they would be. */
  GOOD(troupe_tensor_wrap(TROUPE_FLOAT32, none, NULL, 3, NULL, NULL, NULL, &tensor));
  troupe_tensor_free(tensor);
  tensor = NULL;
  FAILS(troupe_tensor_new(TROUPE_FLOAT32, negative, 1, &tensor), TROUPE_INVALID_ARGUMENT, "");
  FAILS(troupe_tensor_new((troupe_dtype)13, shape, 2, &tensor), TROUPE_INVALID_ARGUMENT, "dtype 13");
  FAILS(troupe_tensor_new(TROUPE_FLOAT32, shape, 9, &tensor), TROUPE_INVALID_ARGUMENT, "9 axes");
  CHECK(released == 1 && tensor == NULL);
}

TEST(null_is_an_invalid_argument_of_tables_and_groups) {
  troupe_table* table = NULL;
  troupe_group* group = NULL;
  troupe_zero* zero = NULL;
  float number = 0;
  FAILS(troupe_node_serve_shards(NULL, "a", 0, 1), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_table_open(NULL, "{}", NULL, 0, NULL, &table), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_table_connect(NULL, "a", NULL, 0, NULL, &table), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_table_pull(NULL, NULL, 0, NULL, NULL), TROUPE_INVALID_ARGUMENT, "table is NULL");
  FAILS(troupe_table_peek(NULL, NULL, 0, NULL), TROUPE_INVALID_ARGUMENT, "table is NULL");
  FAILS(troupe_table_push(NULL, NULL, 0, NULL, NULL, NULL), TROUPE_INVALID_ARGUMENT, "table is NULL");
  FAILS(troupe_table_set_clock(NULL, 1), TROUPE_INVALID_ARGUMENT, "table is NULL");
  FAILS(troupe_table_leave(NULL), TROUPE_INVALID_ARGUMENT, "table is NULL");
  FAILS(troupe_table_join(NULL), TROUPE_INVALID_ARGUMENT, "table is NULL");
  FAILS(troupe_queue_pull(NULL, NULL, 1, NULL, 0, NULL), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  FAILS(troupe_queue_push(NULL, NULL, 1, NULL, 0, NULL, NULL), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  FAILS(troupe_answer_versions(NULL, NULL), TROUPE_INVALID_ARGUMENT, "answer is NULL");
  FAILS(troupe_answer_pushed(NULL, NULL), TROUPE_INVALID_ARGUMENT, "answer is NULL");
  FAILS(troupe_checkpoint_save(NULL, 0, "a", NULL), TROUPE_INVALID_ARGUMENT, "tables is NULL");
  FAILS(troupe_checkpoint_restore(NULL, NULL, 0, "a", NULL), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_group_form(NULL, "a", NULL, 0, NULL, &group), TROUPE_INVALID_ARGUMENT, "node is NULL");
  FAILS(troupe_group_run(NULL, NULL), TROUPE_INVALID_ARGUMENT, "group is NULL");
  FAILS(troupe_queue_run(NULL, NULL, 1, NULL), TROUPE_INVALID_ARGUMENT, "queue is NULL");
  FAILS(troupe_zero_create(NULL, NULL, 1, NULL, &number, &zero), TROUPE_INVALID_ARGUMENT, "group is NULL");
  FAILS(troupe_zero_pass(NULL, &number, 1), TROUPE_INVALID_ARGUMENT, "zero is NULL");
  FAILS(troupe_zero_step(NULL, NULL), TROUPE_INVALID_ARGUMENT, "zero is NULL");
  FAILS(troupe_zero_weights(NULL, &number, 1), TROUPE_INVALID_ARGUMENT, "zero is NULL");
  FAILS(troupe_zero_save(NULL, "a"), TROUPE_INVALID_ARGUMENT, "zero is NULL");
  FAILS(troupe_zero_restore(NULL, "a"), TROUPE_INVALID_ARGUMENT, "zero is NULL");
  CHECK(strcmp(troupe_table_spec(NULL), "") == 0 && troupe_table_dim(NULL) == 0 &&
        troupe_table_clock(NULL) == 0);
  CHECK(troupe_group_rank(NULL) == -1 && troupe_group_size(NULL) == 0 && troupe_zero_size(NULL) == 0);
  troupe_table_free(NULL);
  troupe_versions_free(NULL);
  troupe_group_free(NULL);
  troupe_group_abort(NULL, NULL);
  troupe_zero_free(NULL);
}
