@0xc3a1f0d2b7e84a91;
# Troupe's wire protocol, version 2. This file is its specification; docs/wire-protocol.md tells the
# story around it.
#
# Two processes that talk have one *link*. It has two ways:
#   control  a TCP or unix socket; frames of [u32 little-endian length][one Control message].
#            The first four bytes tell such a connection from a stream of data, which may be dialled at the same
#            port: that begins with 0x31535554, more than any message's length (tcp/wire.hpp).
#   data     rings in shared memory, two streams over TCP, or UCX active messages, whichever both sides can use
#            (docs/wire-protocol.md); each message is one Envelope, with its attachments' bytes beside it.
#
# A link between nodes that have a shared secret begins with a proof of it, on the control way, before
# anything else is said or read. The dialling side sends `greeting`, the accepting side `challenge`; each
# holds the sender's node id and a fresh random number. Then the dialling side sends its `proof`, and the
# accepting side, if that is right, its own. A proof is the HMAC-SHA-256 under the secret of: the text
# "troupe meeting 1"; one byte, 1 in the dialling side's proof and 2 in the accepting side's; the dialling
# and the accepting node's ids, 8 bytes each, little-endian; the dialling and the accepting side's random
# numbers, 32 bytes each. Until a side has seen the other's proof, it takes control messages of at most
# 1,024 bytes, and answers anything that is out of order, and a wrong proof, with `refusal` and the end;
# it sends neither names nor addresses. (A refusal's texts are cut to 600, 100 and 100 bytes.) A `hello` that comes without a proof where one is due, or a
# `greeting` where there is no secret, is refused with UNAUTHENTICATED. A node without a secret listens and
# dials on its own machine only.
#
# TLS has its place below all this: the first bytes of a TLS record (22, 3, 1) read as a message's length
# are more than any message may have, so one port can tell both apart.
#
# Life of a link. The dialling side sends `hello` at once, or after the accepting side's proof. The accepting side checks it and answers
# with its own `hello`, or with `refusal` and closes. Once a side has the other's hello it opens its
# data way, and sends `ready`. A side sends Envelopes only after it has received `ready`. While
# a side waits for something on the link (an answer, room, credit), or was told to keep watch, it
# sends `heartbeat` when it has heard nothing, on either way, for half a heartbeat interval, and again in each
# interval; the peer answers with `alive` at once. A side that waits so and has heard nothing for the silence
# limit gives the peer up for dead. A link on which nobody waits rests: nothing is sent on it. `goodbye`
# announces an orderly end. The end of the socket ends the link, whatever was said before; every call
# that is still open on it is then answered UNAVAILABLE by the side that waits for it.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("troupe::rpc::wire");

const protocolVersion :UInt32 = 2;

struct Control {
  union {
    hello     @0 :Hello;
    refusal   @1 :ErrorInfo;   # Accepting side, in place of hello: why. FAILED_PRECONDITION: versions
                               # differ; INVALID_ARGUMENT: malformed hello; RESOURCE_EXHAUSTED, in place of its
                               # first message: its process has no descriptors for newcomers. Both sides, in place of their
                               # next message before the hello, UNAUTHENTICATED: no proof, or a wrong one.
    ready     @2 :Void;        # Both sides, once: "my data way is open, send".
    heartbeat @3 :UInt64;      # Both sides: "do you live?". The number is the sender's news: the layer above
                               # knows what it means (between nodes: the version of the membership known).
    goodbye   @4 :Text;        # Both sides, at most once, last: the sender leaves; why, in at most 600 bytes.
    greeting  @5 :Greeting;    # Dialling side, first, if it has a secret.
    challenge @6 :Greeting;    # Accepting side: its answer.
    proof     @7 :Data;        # Both sides, once, the dialling one first: 32 bytes.
    mapping   @8 :Void;        # Both sides, at most once, between hello and `ready`, only in answer to a hello
                               # with a probe: "I have opened it: you may send shared tensors".
    alive     @9 :UInt64;      # Both sides: the answer to a `heartbeat`, with the sender's own news.
    reaches   @10 :List(Reach);  # Both sides, after hello, only in answer to a hello with gpus: "of your GPUs' memory
                               # I can map this, each for this one of mine". Again, and each time shorter, when some
                               # of it could not be mapped after all.
    slabsGone @11 :List(UInt64);  # Both sides, of slabs of theirs: they are given back to the device, and no message
                               # names them any more: unmap them.
  }
}

struct Greeting {
  scheme @0 :UInt16;           # How the secret is proved: 1, the way described above. 0 will never be one.
  nodeId @1 :UInt64;           # The sender's; the same comes in its hello.
  nonce  @2 :Data;             # 32 random bytes, fresh for each link.
}

struct Hello {
  protocolVersion @0 :UInt32;  # Both must be equal; there is no negotiation yet.
  nodeId          @1 :UInt64;  # Random, chosen at the node's start: a restarted node is another one.
  nodeName        @2 :Text;    # For people: messages and logs. At most 255 bytes, or the hello is refused.
  dataAddress     @3 :Data;    # Opaque to all but the transport: what each of its ways for data offers for this link.
  # A probe: an empty segment of shared memory (see Attachment). Whoever can open it can open all.
  poolPid         @4 :UInt32;  # The sender's process; 0: it shares no memory with this peer, which then may not say `mapping`.
  poolFd          @5 :UInt32;
  poolCookie      @6 :UInt64;
  # The sender's GPUs, at most 16; only beside a probe. Whoever can map the slab of one can map all of its.
  gpus            @7 :List(Gpu);
}

struct Gpu {
  uuid       @0 :Data;         # 16 bytes, the GPU's own; zeros: unknown.
  handle     @1 :Data;         # 64 bytes: CUDA's for other processes, of a slab of its memory; empty: it shares none.
  slab       @2 :UInt64;       # That slab's number.
}

struct Reach {
  owner      @0 :UInt8;        # One of the GPUs in the other side's hello, from 0.
  reader     @1 :UInt8;        # One of those in the sender's.
}

# One message of the data way, and a Body apart, is of a single segment with pointers inside of it only: such a
# message is written and read in place (flat.hpp). Others end the link.
struct Envelope {
  kind       @0 :Kind;
  bodyApart  @1 :Bool;         # The Body is not in `body` but is the first attachment's bytes, a message of
                               # its own: with it the envelope would have more than 4,096 bytes.
  callId     @2 :UInt64;       # Chosen by the caller, unique among its open calls on this link; the
                               # reply carries it. Late replies to an ended call are dropped.
  target     @3 :UInt64;       # request: the actor, as the callee numbers them. item: its number, from 0.
                               # reply: how many items went before it. credit: see there.
  method     @4 :UInt64;       # request: FNV-1a hash of the method's name. credit: see there.
  signature  @5 :UInt64;       # request: fingerprint of the parameter and result types that the caller
                               # believes in; 0 if it has none (dynamically typed callers).
  remainingNs @6 :Int64;       # request: time left until the caller's deadline when it sent; the largest number:
                               # there is none.
  extras     @7 :Extras;       # request, oneWay: null if the call is not traced and has no token.
  attachments @8 :List(Attachment);
  body       @9 :Body;
  notTraced  @10 :Bool;        # request, oneWay: the caller has decided that this call belongs to no trace; calls
                               # made within it do not, either. Not set beside a trace in `extras`.

  enum Kind {
    request @0;   # Answered by one reply, within the deadline or not at all.
    oneWay  @1;   # Like request, and never answered, whatever happens.
    reply   @2;   # The value, or the error, of the call `callId`.
    cancel  @3;   # From the caller: nobody waits for `callId` any more. Never answered.
    item    @4;   # From the callee of a stream: one of its items, number `target`; the body is one value.
    credit  @5;   # From the caller of a stream: items up to number `target` (not included) may be sent, and
                  # while fewer than `method` bytes of items (their envelopes and attachments) have been sent
                  # the next one may be. Both only grow. Never answered.
    release @6;   # From who was sent shared tensors: their bytes are not read any more. The body is one value,
                  # the leases as `numbers` of type uint64. Never answered; unknown leases are ignored.
    askDone @7;   # From who sends one-way messages: tell me when `target` bytes of them are done, counted from the
                  # link's beginning. Answered by one `done`, then or at once; with several asked for, the least counts.
                  # One that an earlier `done` has answered already is ignored.
    done    @8;   # The answer: `target` bytes of the peer's one-way messages are done: their handlers have ended, or
                  # they will not be begun. More than were sent end the link with DATA_LOSS.
    stage   @9;   # From who was sent a tensor that stays in a device (see Attachment), and cannot map its slab: send
                  # the bytes of the lease `target`. Once for each lease. Answered by one `staged`; of a lease that
                  # is not there any more it is ignored.
    staged  @10;  # The answer: `target` is the lease, the body one tensor with the bytes, or the error. The lease
                  # goes on until it is released. For a lease that nobody waits for it is dropped.
  }
  # A stream is a request whose first two arguments are the credit that it begins with, as in `credit`, and
  # which the method's own follow; `signature` counts only these. The callee sends items within its
  # credit, then the reply, whose `target` is the number of items sent: void, or the error that ended the
  # stream. Large items may be overtaken by small ones and by the reply: the caller puts them in order by
  # their numbers, and takes the reply for the end when it has all items. Items with a number that was sent
  # already, or for a call that has ended, are dropped; an item beyond the credit ends the stream with
  # DATA_LOSS. `cancel` ends a stream as it ends any call.

  # How much there may be. A caller has no more calls unanswered on a link than its bounds say (CallLimits: a
  # number, and bytes of requests, which count from their sending to their answer, 1,024 more for each than its
  # envelope and attachments have); more wait with it. A callee
  # may hold a request back, in the order in which they came, while its answers to this peer do not leave; it
  # goes on reading, so that replies to its own calls come. It may stop reading the link's data way while it has
  # more of the peer's requests than a peer may have unanswered; it reads on when it has answered some, or their
  # time is over. A request that is held is ended by `cancel`, and by its deadline, without a reply.
  # One-way messages count, too, with the bytes of their envelopes, of the attachments that follow them and of
  # device tensors that do not, and 1,024 more for each, from their sending until the sender has heard by `done`
  # that they are done; one that is longer than the bound goes when no other counts. A sender that has little
  # under way need not ask.
}

# What few calls carry.
struct Extras {
  traceHigh @0 :UInt64;        # W3C trace context; all 0: the call is not traced.
  traceLow  @1 :UInt64;
  spanId    @2 :UInt64;
  flags     @3 :UInt8;
  token     @4 :UInt64;        # Idempotency token; 0: none. Chosen by the caller's node, one for each call that
                               # may be repeated. The callee keeps the first answer of each token of each node
                               # id for a while (a window bounded in number, bytes and time) and answers a
                               # repeat with it, over whatever link the repeat came, without running the
                               # method again; a repeat that comes while the first still runs is answered
                               # together with it. An answer that says that the call was not begun (UNAVAILABLE,
                               # RESOURCE_EXHAUSTED of the callee's own) is not kept. A token that comes again
                               # with another method is INVALID_ARGUMENT; with another target it is another
                               # call, which runs: the actor that took the name of a dead one is another one.
}

struct Body {
  union {
    values @0 :List(Value);   # request: the arguments. reply: nothing for void, else the one result.
    error  @1 :ErrorInfo;     # reply: what went wrong.
  }
  metadata @3 :List(Pair);    # request, oneWay: null for none. At most 32 pairs with 8,192 bytes of keys and
                              # values, each with a key; else the link ends with DATA_LOSS.
  attachments @2 :List(Attachment);  # Null but for a body apart whose message has so many tensors that
                              # the list of them does not fit in a header either. It is here then, and
                              # the envelope lists the body and one attachment with all tensors' bytes.
}

# What goes with a call beside its arguments.
struct Pair {
  passOn @0 :Bool;            # Calls that the callee makes within this one carry it, too.
  key    @1 :Text;
  value  @2 :Text;
}

struct ErrorInfo {
  code    @0 :UInt16;         # gRPC's canonical codes.
  message @1 :Text;
  node    @2 :Text;           # Where it happened.
  cause   @3 :Text;
  traceId @4 :UInt64;
  exception @5 :Text;         # The type of what was thrown there, as C++ writes it; null: nothing was.
}

# An argument or a result. `width` keeps the C++ type of a number, as a DType of Attachment, so that
# dynamically typed receivers get back what was sent.
struct Value {
  width @0 :UInt8;
  union {
    none    @1 :Void;
    bool    @2 :Bool;
    int     @3 :Int64;
    uint    @4 :UInt64;
    real    @5 :Float64;
    text    @6 :Text;
    data    @7 :Data;
    tensor  @8 :UInt32;       # Index among the attachments that are tensors: a body apart does not count.
    numbers @9 :Data;         # A vector of numbers of type `width`, little-endian, packed.
    list    @10 :List(Value); # Vectors of other things, pairs, structs (field by field), maps (pairs).
  }
}

# Bytes beside the envelope: they follow it in this order, without padding. But a *shared* one's (`lease` is not
# 0) stay where they are and are not counted among the bytes that follow: they lie in a segment of the sender's
# memory, a memfd sealed against any change of its size (and, where the kernel can, against being written by
# anybody else), open in the sender's process (the hello's poolPid) as
# descriptor `fd`. A segment begins with the number 0x316c6f6f70757274 and its cookie, 8 bytes each; what lies
# beyond its first 4,096 bytes is data. The receiver maps it for reading and checks all this. The sender does
# not use the bytes for anything else until `release` names the lease, or if the link ends before, ever.
# Shared tensors go only to a peer that has sent `mapping`, in requests, one-way calls and replies, and never in
# a message with a token or with the list of attachments in its body. From anyone else, or out of bounds, they
# end the link with DATA_LOSS; a segment that cannot be opened does so with UNAVAILABLE.
#
# A tensor that its sender held in device memory (`memoryKind` 2) comes in one of two ways. *Staged*, its bytes
# come as any: by the time they are sent the device has written them to host memory. A receiver that has a GPU
# brings them to it; one that has none, or knows nothing of this, has a tensor in host memory. To a receiver whose
# hello names GPUs a shared one may come earlier, with `written`: the number there grows to `bytes`; if it becomes
# larger, the sender's device has failed, and the rest will not come. Or they stay in
# the device (`slab` is not 0): they lie in a slab of plain device memory of the sender's, `offset` from its
# beginning, which the receiver maps by `handle` and copies from. They are not counted among the bytes that
# follow; their `lease` is not 0, and returned by `release` when the copy is done. The sender has waited for
# whoever writes them. Only to a peer that has said `reaches` for the GPU that holds them, and as seldom as
# shared tensors: in requests, one-way calls and replies without a token, and never with the list of attachments
# in the body. From anyone else, out of bounds, or with a number of a GPU that is not in a hello they end the
# link with DATA_LOSS; of a slab that cannot be mapped the bytes are asked for (`stage`).
struct Attachment {
  dtype      @0 :UInt8;
  memoryKind @1 :UInt8;       # Where the sender held it: 0 host, 1 pinned host, 2 device.
  shape      @2 :List(Int64);
  bytes      @3 :UInt64;      # Product of the shape and the element's size.
  lease      @4 :UInt64;      # 0, or chosen by the sender, once only on a link.
  cookie     @5 :UInt64;      # The segment's, random.
  offset     @6 :UInt64;      # Of the bytes, from the segment's beginning.
  fd         @7 :UInt32;
  gpu        @8 :UInt8;        # memoryKind 2: which of the sender's GPUs held it, as in its hello.
  target     @9 :UInt8;        # memoryKind 2: which of the receiver's GPUs it is for, counted from 1; 0: any.
  slab       @10 :UInt64;      # 0, or the number of the slab, random and never used again.
  handle     @11 :Data;        # The slab's, 64 bytes.
  written    @12 :UInt32;      # memoryKind 2, of a shared one: 0, or where in the segment's first page a number of 64
                               # bits says how many of the bytes are there.
}
