/* What the C tests share. A test is TEST(name) { ... } in any file here; CMake lists them. */
#ifndef TROUPE_TESTS_C_CHECK_H
#define TROUPE_TESTS_C_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <troupe/troupe.h>

#define TEST(name)        \
  void test_##name(void); \
  void test_##name(void)

extern int failures;

#define CHECK(condition)                                     \
  do {                                                       \
    if (!(condition)) {                                      \
      ++failures;                                            \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
    }                                                        \
  } while (0)
/* The status of a function that is to succeed; the test ends if it does not. */
#define GOOD(call)                                                               \
  do {                                                                           \
    const troupe_status status_ = (call);                                        \
    if (status_ != TROUPE_OK) {                                                  \
      printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, troupe_last_error()); \
      exit(1);                                                                   \
    }                                                                            \
  } while (0)
/* The status of one that is to fail, and a part of what it says. */
#define FAILS(call, expected, part)                                                             \
  do {                                                                                          \
    const troupe_status status_ = (call);                                                       \
    if (status_ != (expected) || !strstr(troupe_last_error(), part)) {                          \
      ++failures;                                                                               \
      printf("%s:%d: %s: %s, \"%s\"\n", __FILE__, __LINE__, #call, troupe_status_name(status_), \
             troupe_last_error());                                                              \
    }                                                                                           \
  } while (0)

#define SECONDS ((int64_t)1000000000)

/* Two nodes of a cluster. */
typedef struct two_nodes {
  troupe_node* first;
  troupe_node* second;
} two_nodes;
two_nodes start_two(void);
void free_two(two_nodes nodes);

/* The method "(int64, int64) -> int64" of an actor "adder". */
void add_two(void* state, troupe_incoming* call, const troupe_value* arguments, size_t count);
void spawn_adder(troupe_node* node, const char* name);

#endif
