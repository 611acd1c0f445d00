/* test_c NAME: runs a test; without a name it lists them. */
#include "check.h"

int failures = 0;

#define LISTED(name) void test_##name(void);
#include "tests.h"
#undef LISTED

static const struct {
  const char* name;
  void (*run)(void);
} tests[] = {
#define LISTED(name) {#name, test_##name},
#include "tests.h"
#undef LISTED
};

two_nodes start_two(void) {
  two_nodes nodes = {NULL, NULL};
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  options.name = "first";
  GOOD(troupe_node_start(&options, &nodes.first));
  options.name = "second";
  options.role = "client";
  options.registry = troupe_node_address(nodes.first);
  GOOD(troupe_node_start(&options, &nodes.second));
  return nodes;
}

void free_two(two_nodes nodes) {
  troupe_node_free(nodes.second);
  troupe_node_free(nodes.first);
}

void add_two(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count) {
  (void)state;
  CHECK(count == 2);
  const troupe_value sum = troupe_int(arguments[0].as.integer + arguments[1].as.integer);
  GOOD(troupe_incoming_answer(call, &sum));
}

void spawn_adder(troupe_node* node, const char* name) {
  troupe_methods* methods = NULL;
  GOOD(troupe_methods_new(&methods));
  GOOD(troupe_methods_add(methods, "add", "(int64, int64) -> int64", &add_two));
  GOOD(troupe_node_spawn(node, name, methods, NULL, NULL));
  troupe_methods_free(methods);
}

int main(int count, char** arguments) {
  size_t i;
  for (i = 0; i < sizeof tests / sizeof tests[0]; ++i) {
    if (count == 1)
      puts(tests[i].name);
    else if (strcmp(tests[i].name, arguments[1]) == 0) {
      tests[i].run();
      if (failures > 0) printf("%d checks failed\n", failures);
      return failures > 0;
    }
  }
  return count == 1 ? 0 : 2;
}
