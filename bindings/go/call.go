package troupe

/*
#include <troupe/troupe.h>

// What has ended, in one crossing.
static size_t next_many(troupe_queue* queue, troupe_completion* done, const troupe_value** values, const char** errors,
                        size_t max) {
  const size_t count = troupe_queue_next(queue, done, max, 0);
  for (size_t i = 0; i < count; ++i) {
    values[i] = troupe_answer_value(done[i].answer);
    errors[i] = troupe_answer_error(done[i].answer);
  }
  return count;
}
static void free_many(troupe_completion* done, size_t count) {
  for (size_t i = 0; i < count; ++i) troupe_answer_free(done[i].answer);
}
*/
import "C"

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// CallOptions of one call. What is zero is as usual.
type CallOptions struct {
	// Signature is the method's types, "(string, int64) -> float64": arguments are checked before they are sent, and
	// both sides' are compared. Without it the method looks at what comes. docs/c-abi.md has the types.
	Signature string
	// Attempts, all of them: a call that finds no callee, or gets no answer in time, is repeated, and still runs once.
	Attempts uint32
	// Timeout, if it ends before the context's deadline does.
	Timeout time.Duration
	// TraceParent is the W3C trace context that the call is part of; else that of the context: WithTraceParent.
	TraceParent string
	// Metadata that go with it and, if PassOn, with the calls that the method makes.
	Metadata map[string]string
	PassOn   bool
}

type traceKey struct{}

// WithTraceParent has calls under this context be part of a trace: the value of W3C's header `traceparent`.
func WithTraceParent(ctx context.Context, traceparent string) context.Context {
	return context.WithValue(ctx, traceKey{}, traceparent)
}

// TraceParent is what WithTraceParent has set, "" if nothing.
func TraceParent(ctx context.Context) string {
	text, _ := ctx.Value(traceKey{}).(string)
	return text
}

type outcome struct {
	value any
	err   error
}

// pending is a call that is open.
type pending struct {
	done chan outcome
	tag  uint64
	// How the answer is read, if not as a value; runs also if nobody waits for it any more.
	take      func(answer *C.troupe_answer, err error) (any, error)
	begun     atomic.Bool
	cancelled atomic.Bool
}

// table is what is open, by tag.
type table[T any] struct {
	mutex sync.Mutex
	next  uint64
	open  map[uint64]T
}

func (t *table[T]) add(what T) uint64 {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.open == nil {
		t.open = map[uint64]T{}
	}
	t.next++
	t.open[t.next] = what
	return t.next
}

func (t *table[T]) remove(tag uint64) (T, bool) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	what, ok := t.open[tag]
	delete(t.open, tag)
	return what, ok
}

type request struct {
	pending       *pending
	actor, method string
	options       *CallOptions
	timeout       time.Duration
	trace         string
	arguments     []any
}

var requests = sync.Pool{New: func() any { return new(request) }}

// ended is the error of a context that has ended.
func ended(ctx context.Context) error {
	if ctx.Err() == context.Canceled {
		return fault(Cancelled, "the context was cancelled")
	}
	return fault(DeadlineExceeded, "the context's deadline has passed")
}

// Call calls a method of an actor and waits for its answer, which is nil, bool, int64, uint64, float64, string, []byte,
// *Tensor, a slice of numbers or []any. Arguments are of such types too, of any integer type, strings in slices, and
// map[string]any. The context's deadline is the call's; if the context is cancelled so is the call, at the callee too.
func (n *Node) Call(ctx context.Context, actor, method string, arguments ...any) (any, error) {
	return n.CallWith(ctx, nil, actor, method, arguments...)
}

// Call is Node.Call with a result of type T; InvalidArgument if it is another, or does not fit.
func Call[T any](ctx context.Context, n *Node, actor, method string, arguments ...any) (T, error) {
	return CallWith[T](ctx, n, nil, actor, method, arguments...)
}

// CallWith is Call with options.
func CallWith[T any](ctx context.Context, n *Node, options *CallOptions, actor, method string, arguments ...any) (T, error) {
	value, err := n.CallWith(ctx, options, actor, method, arguments...)
	if err != nil {
		var none T
		return none, err
	}
	return convert[T](value)
}

// CallWith is Call with options.
func (n *Node) CallWith(ctx context.Context, options *CallOptions, actor, method string, arguments ...any) (any, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.life.RUnlock()
	// Not used again: who begins it may look at it after it has ended.
	p := &pending{done: make(chan outcome, 1)}
	r := requests.Get().(*request)
	*r = request{pending: p, actor: actor, method: method, options: options, arguments: arguments}
	if options != nil {
		r.timeout, r.trace = options.Timeout, options.TraceParent
	}
	if r.trace == "" {
		r.trace = TraceParent(ctx)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline); r.timeout == 0 || left < r.timeout {
			r.timeout = left
		}
		if r.timeout <= 0 {
			return nil, ended(ctx)
		}
	}
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	p.tag = n.pending.add(p)
	n.submit(r)
	return n.wait(ctx, p)
}

// wait for what has been begun, or is about to be.
func (n *Node) wait(ctx context.Context, p *pending) (any, error) {
	var result outcome
	select {
	case result = <-p.done:
	default:
		select {
		case result = <-p.done:
		case <-ctx.Done():
			p.cancelled.Store(true)
			if p.begun.Load() {
				C.troupe_queue_cancel(n.queue, C.uint64_t(p.tag))
			}
			return nil, ended(ctx) // its answer is thrown away when it comes
		}
	}
	return result.value, result.err
}

// submit has the request begun, with all that others submit meanwhile: whoever comes first does it for them.
func (n *Node) submit(r *request) {
	n.mutex.Lock()
	n.waiting = append(n.waiting, r)
	if n.submitting {
		n.mutex.Unlock()
		return
	}
	n.submitting = true
	for len(n.waiting) > 0 {
		batch := n.waiting
		n.waiting = n.spare[:0]
		n.mutex.Unlock()
		n.begin(batch)
		for i := range batch {
			*batch[i] = request{}
			requests.Put(batch[i])
			batch[i] = nil
		}
		n.mutex.Lock()
		n.spare = batch
	}
	n.submitting = false
	n.mutex.Unlock()
}

func (n *Node) begin(batch []*request) {
	defer n.memory.reset()
	size := int(unsafe.Sizeof(C.troupe_request{}))
	all := unsafe.Slice((*C.troupe_request)(n.memory.take(size*len(batch))), len(batch))
	begun := make([]*pending, 0, len(batch))
	for _, r := range batch {
		if r.pending.cancelled.Load() {
			n.finish(r.pending.tag, nil, fault(Cancelled, "the context was cancelled"))
			continue
		}
		if err := n.write(&all[len(begun)], r); err != nil {
			n.finish(r.pending.tag, nil, err)
			continue
		}
		begun = append(begun, r.pending)
	}
	for at := 0; at < len(begun); {
		var count C.size_t
		err := check(func() C.troupe_status {
			return C.troupe_queue_call_many(n.queue, n.handle, &all[at], C.size_t(len(begun)-at), &count)
		})
		for _, p := range begun[at : at+int(count)] {
			p.begun.Store(true)
			if p.cancelled.Load() {
				C.troupe_queue_cancel(n.queue, C.uint64_t(p.tag))
			}
		}
		at += int(count)
		if err != nil {
			n.finish(begun[at].tag, nil, err)
			at++
		}
	}
	runtime.KeepAlive(batch) // its tensors
}

func (n *Node) write(to *C.troupe_request, r *request) error {
	a := &n.memory
	*to = C.troupe_request{}
	to.tag = C.uint64_t(r.pending.tag)
	to.actor, to.method = a.text(r.actor), a.text(r.method)
	arguments := a.values(len(r.arguments))
	for i, argument := range r.arguments {
		if err := a.write(&arguments[i], argument); err != nil {
			return err
		}
	}
	to.argument_count = C.size_t(len(arguments))
	if len(arguments) > 0 {
		to.arguments = &arguments[0]
	}
	if r.options == nil && r.timeout == 0 && r.trace == "" {
		return nil
	}
	options := (*C.troupe_call_options)(a.take(int(unsafe.Sizeof(C.troupe_call_options{}))))
	*options = C.troupe_call_options{struct_size: C.size_t(unsafe.Sizeof(C.troupe_call_options{}))}
	options.timeout = C.int64_t(r.timeout)
	if r.trace != "" {
		options.traceparent = a.text(r.trace)
	}
	if given := r.options; given != nil {
		options.max_attempts = C.uint32_t(given.Attempts)
		if given.Signature != "" {
			options.signature = a.text(given.Signature)
		}
		if len(given.Metadata) > 0 {
			n.writeMetadata(options, given)
		}
	}
	to.options = options
	return nil
}

func (n *Node) writeMetadata(options *C.troupe_call_options, given *CallOptions) {
	a := &n.memory
	count := len(given.Metadata)
	pairs := unsafe.Slice((*C.troupe_metadata)(a.take(count*int(unsafe.Sizeof(C.troupe_metadata{})))), count)
	i := 0
	for key, value := range given.Metadata {
		pairs[i] = C.troupe_metadata{key: a.text(key), value: a.text(value)}
		if given.PassOn {
			pairs[i].pass_on = 1
		}
		i++
	}
	options.metadata, options.metadata_count = &pairs[0], C.size_t(count)
}

// finish a call that is open; its answer is of C's memory.
func (n *Node) finish(tag uint64, read func(*pending) (any, error), err error) {
	p, ok := n.pending.remove(tag)
	if !ok {
		return
	}
	var value any
	if p.take != nil && err != nil {
		_, err = p.take(nil, err)
	} else if err == nil {
		value, err = read(p)
	}
	p.done <- outcome{value, err}
}

// fetch is the one reader: Go's poller waits for the queue's descriptor, and no thread does.
func (n *Node) fetch(connection syscall.RawConn) {
	defer close(n.reader)
	for {
		// All that is there has been fetched before it waits: the poller tells of changes only.
		if err := connection.Read(func(uintptr) bool { return n.drain() > 0 }); err != nil {
			return
		}
	}
}

// drain fetches what has ended; how many.
func (n *Node) drain() int {
	const most = 256
	type batch struct {
		done   [most]C.troupe_completion
		values [most]*C.troupe_value
		errors [most]*C.char
	}
	memory := (*batch)(allocate(int(unsafe.Sizeof(batch{}))))
	defer release(unsafe.Pointer(memory))
	for all := 0; ; {
		count := int(C.next_many(n.queue, &memory.done[0], &memory.values[0], &memory.errors[0], most))
		for i := 0; i < count; i++ {
			done, value := &memory.done[i], memory.values[i]
			var err error
			if done.status != C.TROUPE_OK {
				err = &Error{Code(done.status), C.GoString(memory.errors[i])}
			}
			n.finish(uint64(done.tag), func(p *pending) (any, error) {
				if p.take != nil {
					return p.take(done.answer, nil)
				}
				if value == nil {
					return nil, nil
				}
				return read(value)
			}, err)
		}
		C.free_many(&memory.done[0], C.size_t(count))
		if all += count; count < most {
			return all
		}
	}
}
