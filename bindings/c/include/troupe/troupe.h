/* Troupe for C and for what can call C: nodes, calls, actors, tensors. C99, and C++.
 *
 * Errors      Functions that can fail return a troupe_status, the C++ library's code: 0 is success. What went
 *             wrong then stands in troupe_last_error(), of the calling thread. After an error output
 *             parameters hold NULL or zero. A NULL where an object is needed, an index that is none or a
 *             struct of unknown size is TROUPE_INVALID_ARGUMENT, in every build; no memory is
 *             TROUPE_RESOURCE_EXHAUSTED. No exception leaves the library.
 * Objects     are opaque. Who gets one by an output parameter ends it with the function named there; ending
 *             NULL does nothing. What belongs to a node may be ended after it, and calls that came in may be
 *             answered.
 * Threads     Every function may be called from any thread, unless its comment says otherwise; one object
 *             must not be ended while another thread uses it.
 * Structs     of options begin with their size: initialise them with their _INIT, so that fields of later
 *             versions are zero. Zero means the default everywhere.
 * Units       Times are nanoseconds, int64_t. As a timeout 0 is the default, TROUPE_NO_DEADLINE none, less
 *             than 0 has passed already.
 * Text        is UTF-8 and ends with a zero, unless it has a size beside it.
 *
 * docs/c-abi.md has examples, and how types are written. */
#ifndef TROUPE_TROUPE_H
#define TROUPE_TROUPE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TROUPE_API __attribute__((visibility("default")))
#else
#define TROUPE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. Functions and fields are only added while the major number stays. */
#define TROUPE_ABI_MAJOR 0
#define TROUPE_ABI_MINOR 1
/* The library's: major * 1000 + minor. */
TROUPE_API int troupe_abi_version(void);

/* ---- Errors ------------------------------------------------------------------------------------------ */

typedef int32_t troupe_status;
enum {
  TROUPE_OK = 0,
  TROUPE_CANCELLED = 1,           /* the caller cancelled */
  TROUPE_UNKNOWN = 2,             /* an error of unknown kind */
  TROUPE_INVALID_ARGUMENT = 3,    /* the request can never succeed as it is: mend it */
  TROUPE_DEADLINE_EXCEEDED = 4,   /* no answer in time; the work may or may not have been done */
  TROUPE_NOT_FOUND = 5,           /* no such name, table, method or file */
  TROUPE_ALREADY_EXISTS = 6,      /* the name is taken */
  TROUPE_PERMISSION_DENIED = 7,   /* identified, but not allowed */
  TROUPE_RESOURCE_EXHAUSTED = 8,  /* a bound was reached: slow down and try again */
  TROUPE_FAILED_PRECONDITION = 9, /* not possible in the present state: change the state first */
  TROUPE_ABORTED = 10,            /* lost against something concurrent: start again from reading */
  TROUPE_OUT_OF_RANGE = 11,       /* past the end */
  TROUPE_UNIMPLEMENTED = 12,      /* no such method or feature */
  TROUPE_INTERNAL = 13,           /* a fault of the callee */
  TROUPE_UNAVAILABLE = 14,        /* the peer is dead or cannot be reached */
  TROUPE_DATA_LOSS = 15,          /* stored or received bytes are corrupt */
  TROUPE_UNAUTHENTICATED = 16     /* not identified */
};

/* "DEADLINE_EXCEEDED". Never NULL. */
TROUPE_API const char* troupe_status_name(troupe_status status);
/* What this thread's last failure was, in a line. Never NULL; valid until this thread's next failure. */
TROUPE_API const char* troupe_last_error(void);

typedef struct troupe_error {
  size_t struct_size;
  troupe_status status;
  const char* message;
  const char* node;      /* where it happened; "": here */
  const char* cause;     /* the error that led to it; "": none */
  const char* exception; /* the type of what was thrown there; "": nothing was */
  uint64_t trace_id;     /* 0: none */
} troupe_error;
#define TROUPE_ERROR_INIT \
  { sizeof(troupe_error), 0, NULL, NULL, NULL, NULL, 0 }
/* The same in parts, which are valid as long. */
TROUPE_API troupe_status troupe_last_error_parts(troupe_error* error);

#define TROUPE_NO_DEADLINE INT64_MAX

typedef struct troupe_node troupe_node;
typedef struct troupe_tensor troupe_tensor;
typedef struct troupe_answer troupe_answer;
typedef struct troupe_queue troupe_queue;
typedef struct troupe_methods troupe_methods;
typedef struct troupe_incoming troupe_incoming;
typedef struct troupe_table troupe_table;
typedef struct troupe_versions troupe_versions;
typedef struct troupe_group troupe_group;
typedef struct troupe_zero troupe_zero;

/* ---- Nodes ------------------------------------------------------------------------------------------- */

typedef struct troupe_pair {
  const char* key;
  const char* value;
} troupe_pair;

/* The threads of this process that wait in calls run nobody's handlers: the node's own thread does. For
 * threads that must not be borrowed, as those of other languages. */
#define TROUPE_NODE_NO_HELP 1u
/* Of the first node: troupe_node_run() returns when the last of the others has left. */
#define TROUPE_NODE_CLOSE_WITH_LAST 2u

typedef struct troupe_node_options {
  size_t struct_size;
  uint32_t flags;
  uint32_t pool_threads; /* for methods that compute for long; 0: 4 */
  const char* name;      /* unique in the cluster; needed */
  const char* role;      /* "worker" */
  const char* registry;  /* the address of the first node; NULL: this is the first */
  const char* listen;    /* "127.0.0.1:0" */
  const char* advertise; /* the address that others are told, if it is another one */
  const char* secret;    /* what all nodes of the cluster know; NULL: of this user on this machine */
  const char* secret_file;
  const char* metrics_address; /* where Prometheus may read; NULL: nowhere */
  const char* transports;      /* "shm", "tcp", "ucx": that one only; NULL: the best for each peer */
  const troupe_pair* metadata; /* what other nodes may want to know of this one */
  size_t metadata_count;
  int64_t join_timeout;    /* 10 s */
  int64_t default_timeout; /* of calls that say none: 60 s */
  /* Lines of the node's log, on any thread, until the last thing made of the node has been ended; NULL: there
   * is none. "info" is the level if NULL. */
  void (*log)(void* log_user, const char* line, size_t size);
  void* log_user;
  const char* log_level;
  const int32_t* gpus; /* the numbers of those whose tensors may travel */
  size_t gpu_count;
} troupe_node_options;
#define TROUPE_NODE_OPTIONS_INIT                                                                            \
  {                                                                                                         \
    sizeof(troupe_node_options), 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, \
        NULL, NULL, NULL, NULL, 0                                                                           \
  }

/* Joins the cluster, or is its first node. End it with troupe_node_free(). Errors: docs/failure-contract.md.
 */
TROUPE_API troupe_status troupe_node_start(const troupe_node_options* options, troupe_node** node);
/* Leaves in order: what is open is finished, for `drain_time` at most. Then as after a shutdown. */
TROUPE_API troupe_status troupe_node_leave(troupe_node* node, int64_t drain_time);
/* Leaves the cluster at once and ends all waits in functions of the node, with errors; so is every call from
 * then on. Other threads may be in functions of the node. */
TROUPE_API void troupe_node_shutdown(troupe_node* node);
/* Shuts it down if it is not, then ends it. No other thread may be in a function of the node, and the caller
 * is no handler. */
TROUPE_API void troupe_node_free(troupe_node* node);
/* Waits until troupe_node_stop(), or TROUPE_UNAVAILABLE: the first node of the cluster has gone. */
TROUPE_API troupe_status troupe_node_run(troupe_node* node);
TROUPE_API void troupe_node_stop(troupe_node* node);

/* Where others reach it: the `registry` of the next ones. As long as the node lives; "" for NULL. */
TROUPE_API const char* troupe_node_address(const troupe_node* node);
TROUPE_API const char* troupe_node_name(const troupe_node* node);
TROUPE_API uint64_t troupe_node_id(const troupe_node* node);

TROUPE_API troupe_status troupe_node_wait_for_actor(troupe_node* node, const char* actor, int64_t timeout);
/* Waits for so many nodes of a role, this one too if it has it. */
TROUPE_API troupe_status troupe_node_wait_for_role(troupe_node* node, const char* role, size_t count,
                                                   int64_t timeout);
/* Waits until each of the nodes of these names, of which this is one, is here. */
TROUPE_API troupe_status troupe_node_barrier(troupe_node* node, const char* name,
                                             const char* const* participants, size_t count, int64_t timeout);

typedef struct troupe_member {
  uint64_t node_id;
  const char* name;
  const char* role;
  const char* address;
} troupe_member;
/* Calls `visit` for each node that is a member now, before it returns. The texts are valid in it only. */
TROUPE_API troupe_status troupe_node_members(troupe_node* node,
                                             void (*visit)(void* user, const troupe_member* member),
                                             void* user);
/* The same for the names of the actors on nodes of a role; NULL: of all. */
TROUPE_API troupe_status troupe_node_actors(troupe_node* node, const char* role,
                                            void (*visit)(void* user, const char* actor), void* user);

/* ---- Tensors ----------------------------------------------------------------------------------------- */

typedef enum troupe_dtype {
  TROUPE_FLOAT32 = 0,
  TROUPE_FLOAT64 = 1,
  TROUPE_FLOAT16 = 2,
  TROUPE_BFLOAT16 = 3,
  TROUPE_INT8 = 4,
  TROUPE_INT16 = 5,
  TROUPE_INT32 = 6,
  TROUPE_INT64 = 7,
  TROUPE_UINT8 = 8,
  TROUPE_UINT16 = 9,
  TROUPE_UINT32 = 10,
  TROUPE_UINT64 = 11,
  TROUPE_BOOL8 = 12
} troupe_dtype;
#define TROUPE_MAX_RANK 8

/* Tensors are handles: copies of one (troupe_tensor_share) mean the same elements. End each with
 * troupe_tensor_free(). Messages take the handle, not the elements, and read these later: they are not to be
 * written until the call has ended. What troupe_send() has been given is not to be written again, unless
 * `release` of troupe_tensor_wrap() or troupe_tensor_is_shared() says when. */

/* Fresh host memory, contents undefined. */
TROUPE_API troupe_status troupe_tensor_new(troupe_dtype dtype, const int64_t* shape, size_t rank,
                                           troupe_tensor** tensor);
/* A tensor on the caller's host memory: strides in elements, NULL if there are no gaps. `release(user)` is
 * called once, on any thread, when nobody refers to the memory any more: neither this handle nor a message
 * that it has been put in. NULL: the elements are copied here. After an error it is not called. */
TROUPE_API troupe_status troupe_tensor_wrap(troupe_dtype dtype, const int64_t* shape, const int64_t* strides,
                                            size_t rank, void* data, void (*release)(void* user), void* user,
                                            troupe_tensor** tensor);
/* In memory that other processes of this machine map: passed on without a copy. Not to be written while
 * troupe_tensor_is_shared(). */
TROUPE_API troupe_status troupe_tensor_new_shared(troupe_node* node, troupe_dtype dtype, const int64_t* shape,
                                                  size_t rank, troupe_tensor** tensor);
TROUPE_API int troupe_tensor_is_shared(const troupe_tensor* tensor);
/* Another handle on the same elements. */
TROUPE_API troupe_status troupe_tensor_share(const troupe_tensor* tensor, troupe_tensor** copy);
/* A copy without gaps that can be written. */
TROUPE_API troupe_status troupe_tensor_clone(const troupe_tensor* tensor, troupe_tensor** copy);
TROUPE_API void troupe_tensor_free(troupe_tensor* tensor);

typedef struct troupe_tensor_info {
  size_t struct_size;
  troupe_dtype dtype;
  int32_t read_only; /* it lies in another process's memory: writing ends the process; clone it */
  int32_t contiguous;
  int32_t gpu; /* the GPU's number; -1: host memory */
  size_t rank;
  int64_t shape[TROUPE_MAX_RANK];
  int64_t strides[TROUPE_MAX_RANK]; /* in elements */
  void* data;                       /* the first element */
  size_t bytes;                     /* of the elements, without gaps */
} troupe_tensor_info;
#define TROUPE_TENSOR_INFO_INIT \
  { sizeof(troupe_tensor_info), TROUPE_FLOAT32, 0, 0, -1, 0, {0}, {0}, NULL, 0 }
TROUPE_API troupe_status troupe_tensor_describe(const troupe_tensor* tensor, troupe_tensor_info* info);

/* DLPack 0.8 (https://dmlc.github.io/dlpack): a DLManagedTensor*. Lending copies nothing: the elements live
 * until the borrower calls its deleter. Borrowing takes the structure over, unless there is an error, and
 * calls its deleter on any thread. Of tensors on a GPU the work that writes them must have ended. One that is
 * read_only is not lent, since borrowers would write it: TROUPE_FAILED_PRECONDITION. */
struct DLManagedTensor;
TROUPE_API troupe_status troupe_tensor_to_dlpack(const troupe_tensor* tensor,
                                                 struct DLManagedTensor** managed);
TROUPE_API troupe_status troupe_tensor_from_dlpack(struct DLManagedTensor* managed, troupe_tensor** tensor);

/* ---- Values ------------------------------------------------------------------------------------------ */

typedef enum troupe_kind {
  TROUPE_NONE = 0, /* an optional that has nothing */
  TROUPE_BOOL = 1,
  TROUPE_INT = 2,
  TROUPE_UINT = 3,
  TROUPE_REAL = 4,
  TROUPE_STRING = 5,
  TROUPE_BYTES = 6,
  TROUPE_TENSOR = 7,
  TROUPE_NUMBERS = 8, /* a vector of numbers, packed: `type` says which, `bytes.size` is in bytes */
  TROUPE_LIST = 9     /* a vector of anything else, a tuple, a pair, a struct's fields, a map's pairs */
} troupe_kind;

/* An argument or a result. What it points to is the caller's, and is not needed after the function that it is
 * given to has returned; the elements of tensors are. This struct never changes. */
typedef struct troupe_value troupe_value;
struct troupe_value {
  int32_t kind; /* a troupe_kind */
  int32_t type; /* a troupe_dtype: of numbers; of TROUPE_INT, TROUPE_UINT and TROUPE_REAL what came */
  union {
    int32_t boolean;
    int64_t integer;
    uint64_t natural;
    double real;
    struct {
      const void* data;
      size_t size;
    } bytes; /* of strings, bytes and numbers */
    struct {
      const troupe_value* items;
      size_t count;
    } list;
    troupe_tensor* tensor;
  } as;
};

TROUPE_API troupe_value troupe_none(void);
TROUPE_API troupe_value troupe_bool(int value);
TROUPE_API troupe_value troupe_int(int64_t value);
TROUPE_API troupe_value troupe_uint(uint64_t value);
TROUPE_API troupe_value troupe_real(double value);
TROUPE_API troupe_value troupe_string(const char* text);
TROUPE_API troupe_value troupe_bytes(const void* data, size_t size);
TROUPE_API troupe_value troupe_numbers(troupe_dtype type, const void* data, size_t count);
TROUPE_API troupe_value troupe_list(const troupe_value* items, size_t count);
TROUPE_API troupe_value troupe_of_tensor(troupe_tensor* tensor);

/* ---- Calls ------------------------------------------------------------------------------------------- */

typedef struct troupe_metadata {
  const char* key;
  const char* value;
  int pass_on; /* it goes with the calls, too, that the method makes */
} troupe_metadata;

/* The call is part of no other: a handler that makes it passes on neither its deadline nor its end. */
#define TROUPE_CALL_DETACHED 1u

typedef struct troupe_call_options {
  size_t struct_size;
  uint32_t flags;
  uint32_t max_attempts; /* 0, 1: the call is not repeated */
  int64_t timeout;       /* of all attempts together */
  /* The method's types: "(tensor, int64) -> tensor". Arguments are checked against it here, and it is
   * compared with the method's own there. NULL: the method looks at each argument. */
  const char* signature;
  uint64_t token;          /* names the call to its callee, which runs it once; 0: none */
  int64_t first_backoff;   /* the pause between two attempts, which doubles: 10 ms */
  int64_t attempt_timeout; /* 0: timeout / max_attempts */
  const troupe_metadata* metadata;
  size_t metadata_count;
  const char* traceparent; /* W3C trace context that it is part of */
  troupe_tensor* into;     /* where the answer's first tensor is to lie: of its very type and shape */
} troupe_call_options;
#define TROUPE_CALL_OPTIONS_INIT \
  { sizeof(troupe_call_options), 0, 0, 0, NULL, 0, 0, 0, NULL, 0, NULL, NULL }

/* Calls a method of an actor and waits for its answer; meanwhile this thread does the node's work, handlers
 * too, unless the node has TROUPE_NODE_NO_HELP. `options`, `answer` may be NULL. End the answer with
 * troupe_answer_free(). */
TROUPE_API troupe_status troupe_call(troupe_node* node, const char* actor, const char* method,
                                     const troupe_call_options* options, const troupe_value* arguments,
                                     size_t argument_count, troupe_answer** answer);
/* Tells an actor something and hears nothing back. The error says only that it could not be sent. */
TROUPE_API troupe_status troupe_send(troupe_node* node, const char* actor, const char* method,
                                     const troupe_call_options* options, const troupe_value* arguments,
                                     size_t argument_count);
/* For troupe_call_options.token: unique in the life of the node. */
TROUPE_API uint64_t troupe_node_make_token(troupe_node* node);

/* The result; NULL if there is none. Valid until the answer is ended, tensors too, unless they are shared. */
TROUPE_API const troupe_value* troupe_answer_value(const troupe_answer* answer);
/* Of an answer that a queue gave: the error's text, "" if there is none. */
TROUPE_API const char* troupe_answer_error(const troupe_answer* answer);
TROUPE_API void troupe_answer_free(troupe_answer* answer);

/* A result of one kind: TROUPE_INVALID_ARGUMENT for another, or one that does not fit. The text has no zero
 * at its end that one may rely on. */
TROUPE_API troupe_status troupe_answer_int(const troupe_answer* answer, int64_t* value);
TROUPE_API troupe_status troupe_answer_real(const troupe_answer* answer, double* value);
TROUPE_API troupe_status troupe_answer_bytes(const troupe_answer* answer, const void** data, size_t* size);
/* A handle of the caller's own, to be ended. */
TROUPE_API troupe_status troupe_answer_tensor(const troupe_answer* answer, troupe_tensor** tensor);

/* ---- Calls that are not waited for -------------------------------------------------------------------- */

/* Calls are begun through a queue and end in it, each once, under the tag that the caller gave. No function
 * of a queue runs a handler: the node's own thread does all the work. */

/* `max_calls`: open, or not fetched yet; 0: 65,536. End it with troupe_queue_free(). */
TROUPE_API troupe_status troupe_queue_open(size_t max_calls, troupe_queue** queue);
/* Cancels what is open. */
TROUPE_API void troupe_queue_free(troupe_queue* queue);
/* Readable while troupe_queue_next() has something to give: for poll(), not for reading. */
TROUPE_API int troupe_queue_descriptor(const troupe_queue* queue);

/* Begins a call. TROUPE_ALREADY_EXISTS: one with this tag is open. TROUPE_RESOURCE_EXHAUSTED: fetch some
 * first. After an error nothing has begun, and nothing will come of this tag. */
TROUPE_API troupe_status troupe_queue_call(troupe_queue* queue, troupe_node* node, uint64_t tag,
                                           const char* actor, const char* method,
                                           const troupe_call_options* options, const troupe_value* arguments,
                                           size_t argument_count);

typedef struct troupe_request {
  uint64_t tag;
  const char* actor;
  const char* method;
  const troupe_call_options* options;
  const troupe_value* arguments;
  size_t argument_count;
} troupe_request;
/* Begins them one after the other, until one cannot be: `begun` says how many have been. One call for many,
 * where each call from the caller's language costs something. */
TROUPE_API troupe_status troupe_queue_call_many(troupe_queue* queue, troupe_node* node,
                                                const troupe_request* requests, size_t count, size_t* begun);
/* Nobody wants the answer of this call any more: it ends with TROUPE_CANCELLED, unless it has ended. A
 * collective is not cancelled: troupe_group_abort() ends it. */
TROUPE_API void troupe_queue_cancel(troupe_queue* queue, uint64_t tag);

typedef struct troupe_completion {
  uint64_t tag;
  troupe_answer* answer; /* the caller's, to be ended; NULL: no memory was left for it */
  troupe_status status;
} troupe_completion;
/* What has ended, in that order, `max` at most. Waits for the first one: 0 does not, nor does a handler, for
 * nothing of its node would end: TROUPE_FAILED_PRECONDITION is its last error then. How many came; 0 also for
 * wrong arguments. */
TROUPE_API size_t troupe_queue_next(troupe_queue* queue, troupe_completion* completions, size_t max,
                                    int64_t timeout);

/* ---- Actors ------------------------------------------------------------------------------------------ */

/* A method: runs on the node's loop, one call of an actor at a time, and nothing else of the node does
 * meanwhile. The arguments are valid until it has answered. It answers `call` once, by
 * troupe_incoming_answer() or troupe_incoming_fail(), before it returns or later. */
typedef void (*troupe_handler)(void* state, troupe_incoming* call, const troupe_value* arguments,
                               size_t argument_count);

/* End it with troupe_methods_free(); actors that have been made keep what they need. Built by one thread. */
TROUPE_API troupe_status troupe_methods_new(troupe_methods** methods);
TROUPE_API void troupe_methods_free(troupe_methods* methods);
/* Of these types: "(tensor, int64) -> tensor". Other arguments do not reach the handler. */
TROUPE_API troupe_status troupe_methods_add(troupe_methods* methods, const char* name, const char* signature,
                                            troupe_handler handler);
/* Makes a named actor. `destroy(state)` is called when the actor and its last call have ended, on any thread;
 * also if this fails. May be NULL. */
TROUPE_API troupe_status troupe_node_spawn(troupe_node* node, const char* name, const troupe_methods* methods,
                                           void* state, void (*destroy)(void* state));
TROUPE_API troupe_status troupe_node_kill(troupe_node* node, const char* name);

/* Answers, on any thread, and ends `call` whatever comes of it; NULL where the result is void.
 * TROUPE_INVALID_ARGUMENT: it is not of the method's type; the caller is told TROUPE_INTERNAL. */
TROUPE_API troupe_status troupe_incoming_answer(troupe_incoming* call, const troupe_value* value);
/* Answers with an error. A status that is none becomes TROUPE_UNKNOWN. */
TROUPE_API troupe_status troupe_incoming_fail(troupe_incoming* call, troupe_status status,
                                              const char* message);
/* Whether nobody waits for the answer any more. In the handler only, as the next four. */
TROUPE_API int troupe_incoming_cancelled(const troupe_incoming* call);
/* TROUPE_NO_DEADLINE: as long as the caller lives. */
TROUPE_API int64_t troupe_incoming_time_left(const troupe_incoming* call);
/* The value of a metadata key; NULL: there is none. */
TROUPE_API const char* troupe_incoming_metadata(const troupe_incoming* call, const char* key);
/* The name of the caller's node; "" if it has gone. */
TROUPE_API const char* troupe_incoming_caller(const troupe_incoming* call);
/* As whom it has been authenticated: "user:1000", "secret"; "": not at all. */
TROUPE_API const char* troupe_incoming_identity(const troupe_incoming* call);

/* ---- Tables ------------------------------------------------------------------------------------------ */

/* Makes an actor of this node's that is server `index` of `count` parameter shards: it holds rows. */
TROUPE_API troupe_status troupe_node_serve_shards(troupe_node* node, const char* actor, uint32_t index,
                                                  uint32_t count);

typedef struct troupe_table_options {
  size_t struct_size;
  int64_t timeout; /* of each pull and push: 60 s */
  uint64_t worker; /* this worker's number in all its tables; 0: random */
} troupe_table_options;
#define TROUPE_TABLE_OPTIONS_INIT \
  { sizeof(troupe_table_options), 0, 0 }

/* Opens a table, made on the servers if it is not there. `spec` is the JSON of docs/tables.md, of which
 * "name" and "dim" are needed: {"name": "words", "dim": 64, "optimizer": {"kind": "adam", "learning_rate":
 * 0.01}}. `servers` are the actors of the shard servers, in the order of their index. End it with
 * troupe_table_free(). */
TROUPE_API troupe_status troupe_table_open(troupe_node* node, const char* spec, const char* const* servers,
                                           size_t server_count, const troupe_table_options* options,
                                           troupe_table** table);
/* Opens one that is there, by its name. TROUPE_NOT_FOUND. */
TROUPE_API troupe_status troupe_table_connect(troupe_node* node, const char* name, const char* const* servers,
                                              size_t server_count, const troupe_table_options* options,
                                              troupe_table** table);
/* This worker leaves the table, and waits 2 s at most for that. What is open in queues ends as it would. */
TROUPE_API void troupe_table_free(troupe_table* table);
/* The whole spec, as long as the table; "" for NULL. */
TROUPE_API const char* troupe_table_spec(const troupe_table* table);
TROUPE_API uint64_t troupe_table_dim(const troupe_table* table);

/* Writes the rows of the keys into rows[count][dim]. `versions` may be NULL, or gets what goes with the push
 * of gradients made from these rows; end it with troupe_versions_free(). */
TROUPE_API troupe_status troupe_table_pull(troupe_table* table, const uint64_t* keys, size_t count,
                                           float* rows, troupe_versions** versions);
/* The same for evaluation: makes no rows, counts nothing, waits for nobody. */
TROUPE_API troupe_status troupe_table_peek(troupe_table* table, const uint64_t* keys, size_t count,
                                           float* rows);
typedef struct troupe_push_result {
  size_t struct_size;
  uint64_t staleness; /* the largest of its shards; in rounds, how many it came late */
  int32_t applied;    /* 0: a shard had applied it before, or it was dropped */
  int32_t dropped;    /* in rounds: it came too late */
} troupe_push_result;
#define TROUPE_PUSH_RESULT_INIT \
  { sizeof(troupe_push_result), 0, 0, 0 }
/* One optimizer step with gradients[count][dim]. `versions`: of the pull; NULL: of none. `result` may be
 * NULL. */
TROUPE_API troupe_status troupe_table_push(troupe_table* table, const uint64_t* keys, size_t count,
                                           const float* gradients, const troupe_versions* versions,
                                           troupe_push_result* result);
TROUPE_API void troupe_versions_free(troupe_versions* versions);
/* This worker has finished its batches below `clock`: what bounded staleness counts. */
TROUPE_API troupe_status troupe_table_set_clock(troupe_table* table, uint64_t clock);
TROUPE_API uint64_t troupe_table_clock(const troupe_table* table);
/* This worker holds nobody back until it joins again. */
TROUPE_API troupe_status troupe_table_leave(troupe_table* table);
TROUPE_API troupe_status troupe_table_join(troupe_table* table);

/* The same without waiting, through a queue. Keys and gradients are copied; `rows` is to live until the pull
 * has ended in the queue, or the queue and the node. */
TROUPE_API troupe_status troupe_queue_pull(troupe_queue* queue, troupe_table* table, uint64_t tag,
                                           const uint64_t* keys, size_t count, float* rows);
TROUPE_API troupe_status troupe_queue_push(troupe_queue* queue, troupe_table* table, uint64_t tag,
                                           const uint64_t* keys, size_t count, const float* gradients,
                                           const troupe_versions* versions);
/* Of a pull's completion, the caller's own; of a push's. */
TROUPE_API troupe_status troupe_answer_versions(const troupe_answer* answer, troupe_versions** versions);
TROUPE_API troupe_status troupe_answer_pushed(const troupe_answer* answer, troupe_push_result* result);

/* Writes a checkpoint of tables that lie on the same servers into `folder`, which all of them see, in the
 * place of an older one. Nobody pushes meanwhile. `metadata`: the text of a JSON object that is kept with it,
 * or NULL. */
TROUPE_API troupe_status troupe_checkpoint_save(troupe_table* const* tables, size_t count, const char* folder,
                                                const char* metadata);
/* Makes all tables of a checkpoint anew on these servers. `rows`, which may be NULL, gets how many there are.
 */
TROUPE_API troupe_status troupe_checkpoint_restore(troupe_node* node, const char* const* servers,
                                                   size_t server_count, const char* folder, uint64_t* rows);

/* ---- Collectives ------------------------------------------------------------------------------------- */

/* The tensors lie in the memory of the GPU of this number, and NCCL carries them. */
#define TROUPE_GROUP_ON_GPU 1u
/* The members do not tell each other before each collective which it is. */
#define TROUPE_GROUP_UNCHECKED 2u

typedef struct troupe_group_options {
  size_t struct_size;
  uint32_t flags;
  int32_t gpu;
  int64_t timeout;     /* for forming it, and for each collective: 30 s */
  uint64_t round;      /* whoever forms the group anew gives the next one */
  const char* address; /* this machine's, in numbers, that the others reach; NULL: the node's */
} troupe_group_options;
#define TROUPE_GROUP_OPTIONS_INIT \
  { sizeof(troupe_group_options), 0, 0, 0, 0, NULL }

/* Forms a group of the nodes of these names, each of which calls this; a node's place is its rank. End it
 * with troupe_group_free(). Not in a handler. */
TROUPE_API troupe_status troupe_group_form(troupe_node* node, const char* name, const char* const* members,
                                           size_t count, const troupe_group_options* options,
                                           troupe_group** group);
TROUPE_API void troupe_group_free(troupe_group* group);
TROUPE_API int troupe_group_rank(const troupe_group* group);
TROUPE_API int troupe_group_size(const troupe_group* group);
/* Ends it, also what is under way: with `why` here; the others see TROUPE_UNAVAILABLE. */
TROUPE_API void troupe_group_abort(troupe_group* group, const char* why);

typedef enum troupe_collective_kind {
  TROUPE_ALL_REDUCE = 0,     /* tensor = all members' combined */
  TROUPE_REDUCE = 1,         /* the same at the member `root` alone */
  TROUPE_BROADCAST = 2,      /* tensor = the root's */
  TROUPE_ALL_GATHER = 3,     /* out = all members' tensors, one after the other */
  TROUPE_REDUCE_SCATTER = 4, /* out = this member's part of all members' tensors combined */
  TROUPE_SEND = 5,           /* tensor to the member `root` */
  TROUPE_RECEIVE = 6,        /* tensor from the member `root` */
  TROUPE_BARRIER = 7
} troupe_collective_kind;
typedef enum troupe_reduction {
  TROUPE_SUM = 0,
  TROUPE_MEAN = 1,
  TROUPE_PRODUCT = 2,
  TROUPE_MIN = 3,
  TROUPE_MAX = 4
} troupe_reduction;
typedef struct troupe_collective {
  size_t struct_size;
  troupe_collective_kind kind;
  troupe_reduction reduction;
  int32_t root;
  uint32_t tag; /* of sends and receives */
  troupe_tensor* tensor;
  troupe_tensor* out;
} troupe_collective;
#define TROUPE_COLLECTIVE_INIT \
  { sizeof(troupe_collective), TROUPE_ALL_REDUCE, TROUPE_SUM, 0, 0, NULL, NULL }
/* All members call the same in the same order. Waits until it has ended, within the group's timeout; in a
 * handler the node does nothing else meanwhile. The tensors are not touched after an error that ended the
 * group: docs/collectives.md. */
TROUPE_API troupe_status troupe_group_run(troupe_group* group, const troupe_collective* collective);
/* The same without waiting. */
TROUPE_API troupe_status troupe_queue_run(troupe_queue* queue, troupe_group* group, uint64_t tag,
                                          const troupe_collective* collective);

/* ---- ZeRO: an optimizer over a group (docs/zero.md) --------------------------------------------------- */

typedef struct troupe_zero_parameter {
  const char* name;
  const int64_t* shape;
  size_t rank;
  int32_t layer; /* of the model that uses it, from 0 on */
} troupe_zero_parameter;
/* A collective. `parameters` in the order in which the model uses them; NULL: one of `count` numbers.
 * `config`: the JSON of a DeepSpeed configuration; NULL: stage 0, Adam. `initial`: the first values of all
 * parameters, one after the other, needed at the member of rank 0 alone. End it with troupe_zero_free(),
 * before the group. One thread at a time. */
TROUPE_API troupe_status troupe_zero_create(troupe_group* group, const troupe_zero_parameter* parameters,
                                            size_t count, const char* config, const float* initial,
                                            troupe_zero** zero);
TROUPE_API void troupe_zero_free(troupe_zero* zero);
/* How many numbers all parameters are. */
TROUPE_API size_t troupe_zero_size(const troupe_zero* zero);
/* What losses are to be multiplied with before gradients are made; 1 but for float16. */
TROUPE_API float troupe_zero_loss_scale(const troupe_zero* zero);
/* Takes the gradients of a pass, of all parameters one after the other, of the mean loss of this member's
 * samples. */
TROUPE_API troupe_status troupe_zero_pass(troupe_zero* zero, const float* gradients, size_t count);

typedef struct troupe_zero_result {
  size_t struct_size;
  uint64_t step;   /* steps taken so far */
  double norm;     /* of the mean gradients */
  int32_t skipped; /* float16: a gradient was too large */
  int32_t clipped;
  float learning_rate;
  float loss_scale;
} troupe_zero_result;
#define TROUPE_ZERO_RESULT_INIT \
  { sizeof(troupe_zero_result), 0, 0, 0, 0, 0, 0 }
/* A collective: the optimizer's step with the mean of all members' gradients since the last one. */
TROUPE_API troupe_status troupe_zero_step(troupe_zero* zero, troupe_zero_result* result);
/* A collective: all parameters, float32 and without rounding, one after the other. */
TROUPE_API troupe_status troupe_zero_weights(troupe_zero* zero, float* weights, size_t count);
/* Collectives: a checkpoint for any number of members and any stage. */
TROUPE_API troupe_status troupe_zero_save(troupe_zero* zero, const char* folder);
TROUPE_API troupe_status troupe_zero_restore(troupe_zero* zero, const char* folder);

#ifdef __cplusplus
}
#endif
#endif
