package troupe

/*
#include <stdlib.h>
#include <troupe/troupe.h>
*/
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// Table is one worker's access to a table that is spread over shard servers. Any goroutine.
type Table struct {
	node   *Node
	handle *C.troupe_table
	dim    int
}

// Versions are what a pull saw; they go back with the push of gradients made from it.
type Versions struct{ handle *C.troupe_versions }

// PushResult is what a push met.
type PushResult struct {
	Staleness uint64
	Applied   bool // false: a shard had applied it before, or it was dropped
	Dropped   bool // in rounds: it came too late
}

// OpenTable opens a table, made on the servers if it is not there. The spec is JSON, of which "name" and "dim" are
// needed: docs/c-abi.md.
func (n *Node) OpenTable(spec string, servers ...string) (*Table, error) {
	return n.openTable(spec, servers, func(text *C.char, names **C.char, to **C.troupe_table) C.troupe_status {
		return C.troupe_table_open(n.handle, text, names, C.size_t(len(servers)), nil, to)
	})
}

// ConnectTable opens one that is there, by its name.
func (n *Node) ConnectTable(name string, servers ...string) (*Table, error) {
	return n.openTable(name, servers, func(text *C.char, names **C.char, to **C.troupe_table) C.troupe_status {
		return C.troupe_table_connect(n.handle, text, names, C.size_t(len(servers)), nil, to)
	})
}

func (n *Node) openTable(text string, servers []string,
	open func(*C.char, **C.char, **C.troupe_table) C.troupe_status) (*Table, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	defer n.life.RUnlock()
	var memory arena
	defer func() { memory.free() }()
	size := int(unsafe.Sizeof((*C.char)(nil)))
	names := unsafe.Slice((**C.char)(memory.take(size*(len(servers)+1))), len(servers)+1)
	for i, server := range servers {
		names[i] = memory.text(server)
	}
	var handle *C.troupe_table
	if err := check(func() C.troupe_status { return open(memory.text(text), &names[0], &handle) }); err != nil {
		return nil, err
	}
	return &Table{n, handle, int(C.troupe_table_dim(handle))}, nil
}

// Close has this worker leave the table. Nobody is in a function of it.
func (t *Table) Close() {
	if t.node.enter() == nil {
		defer t.node.life.RUnlock()
	}
	C.troupe_table_free(t.handle)
	t.handle = nil
}

// Dim is how many numbers a row has.
func (t *Table) Dim() int { return t.dim }

// begin something of the table's that ends in the node's queue.
func (t *Table) begin(ctx context.Context, take func(*C.troupe_answer, error) (any, error),
	start func(tag C.uint64_t) C.troupe_status) (any, error) {
	n := t.node
	if err := n.enter(); err != nil {
		take(nil, err)
		return nil, err
	}
	defer n.life.RUnlock()
	p := &pending{done: make(chan outcome, 1), take: take}
	p.tag = n.pending.add(p)
	if err := check(func() C.troupe_status { return start(C.uint64_t(p.tag)) }); err != nil {
		n.finish(p.tag, nil, err)
	}
	p.begun.Store(true)
	return n.wait(ctx, p)
}

// Pull brings the rows of the keys, Dim numbers for each.
func (t *Table) Pull(ctx context.Context, keys []uint64) ([]float32, *Versions, error) {
	count := len(keys) * t.dim
	// Of C's memory: it is written when no goroutine waits any more, too.
	memory := C.calloc(C.size_t(count+1), 4)
	type pulled struct {
		rows     []float32
		versions *Versions
	}
	value, err := t.begin(ctx, func(answer *C.troupe_answer, err error) (any, error) {
		defer C.free(memory)
		if err != nil {
			return nil, err
		}
		result := pulled{make([]float32, count), &Versions{}}
		copy(result.rows, unsafe.Slice((*float32)(memory), count+1))
		if err := check(func() C.troupe_status {
			return C.troupe_answer_versions(answer, &result.versions.handle)
		}); err != nil {
			return nil, err
		}
		runtime.SetFinalizer(result.versions, func(v *Versions) { C.troupe_versions_free(v.handle) })
		return result, nil
	}, func(tag C.uint64_t) C.troupe_status {
		return C.troupe_queue_pull(t.node.queue, t.handle, tag, (*C.uint64_t)(pointerTo(keys)), C.size_t(len(keys)),
			(*C.float)(memory))
	})
	if err != nil {
		return nil, nil, err
	}
	result := value.(pulled)
	return result.rows, result.versions, nil
}

// Push makes one optimizer step with gradients, Dim numbers for each key. `versions` of the pull; nil: of none.
func (t *Table) Push(ctx context.Context, keys []uint64, gradients []float32, versions *Versions) (PushResult, error) {
	if len(gradients) != len(keys)*t.dim {
		return PushResult{}, fault(InvalidArgument, "%d gradients for %d keys of %d numbers", len(gradients), len(keys), t.dim)
	}
	var of *C.troupe_versions
	if versions != nil {
		of = versions.handle
	}
	value, err := t.begin(ctx, func(answer *C.troupe_answer, err error) (any, error) {
		if err != nil {
			return nil, err
		}
		result := C.troupe_push_result{struct_size: C.size_t(unsafe.Sizeof(C.troupe_push_result{}))}
		if err := check(func() C.troupe_status { return C.troupe_answer_pushed(answer, &result) }); err != nil {
			return nil, err
		}
		return PushResult{uint64(result.staleness), result.applied != 0, result.dropped != 0}, nil
	}, func(tag C.uint64_t) C.troupe_status {
		return C.troupe_queue_push(t.node.queue, t.handle, tag, (*C.uint64_t)(pointerTo(keys)), C.size_t(len(keys)),
			(*C.float)(pointerTo(gradients)), of)
	})
	runtime.KeepAlive(versions)
	if err != nil {
		return PushResult{}, err
	}
	return value.(PushResult), nil
}
