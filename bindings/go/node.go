package troupe

/*
#include <stdlib.h>
#include <troupe/troupe.h>
*/
import "C"

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Options of a node. Name is needed; without a Registry it is the first node of its cluster.
type Options struct {
	Name, Role         string
	Registry           string // the address of the first node
	Listen, Advertise  string
	Secret, SecretFile string
	Transports         string // "shm", "tcp", "ucx"; "" is the best for each peer
	Metadata           map[string]string
	JoinTimeout        time.Duration // 10 s
	DefaultTimeout     time.Duration // of calls under a context without a deadline: 60 s
}

// Node is this process's place in a cluster. All its functions may be called from any goroutine.
type Node struct {
	handle  *C.troupe_node
	queue   *C.troupe_queue
	address string
	name    string

	life   sync.RWMutex // read by who is in a function
	closed bool
	once   sync.Once

	pending table[*pending]
	file    *os.File
	reader  chan struct{} // closed when the reader has ended

	mutex      sync.Mutex
	submitting bool
	waiting    []*request
	spare      []*request
	memory     arena // of who submits
}

// Start joins a cluster, or begins one.
func Start(options Options) (*Node, error) {
	var memory arena
	defer func() { memory.free() }()
	text := func(text string) *C.char {
		if text == "" {
			return nil
		}
		return memory.text(text)
	}
	given := C.troupe_node_options{struct_size: C.size_t(unsafe.Sizeof(C.troupe_node_options{}))}
	given.flags = C.TROUPE_NODE_NO_HELP // no goroutine's thread runs handlers
	given.name, given.role, given.registry = text(options.Name), text(options.Role), text(options.Registry)
	given.listen, given.advertise = text(options.Listen), text(options.Advertise)
	given.secret, given.secret_file = text(options.Secret), text(options.SecretFile)
	given.transports = text(options.Transports)
	given.join_timeout = C.int64_t(options.JoinTimeout)
	given.default_timeout = C.int64_t(options.DefaultTimeout)
	if len(options.Metadata) > 0 {
		size := int(unsafe.Sizeof(C.troupe_pair{}))
		pairs := unsafe.Slice((*C.troupe_pair)(memory.take(size*len(options.Metadata))), len(options.Metadata))
		i := 0
		for key, value := range options.Metadata {
			pairs[i] = C.troupe_pair{memory.text(key), memory.text(value)}
			i++
		}
		given.metadata, given.metadata_count = &pairs[0], C.size_t(len(pairs))
	}
	n := &Node{reader: make(chan struct{})}
	if err := check(func() C.troupe_status { return C.troupe_node_start(&given, &n.handle) }); err != nil {
		return nil, err
	}
	n.address = C.GoString(C.troupe_node_address(n.handle))
	n.name = C.GoString(C.troupe_node_name(n.handle))
	if err := n.openQueue(); err != nil {
		C.troupe_queue_free(n.queue)
		C.troupe_node_free(n.handle)
		return nil, err
	}
	return n, nil
}

func (n *Node) openQueue() error {
	if err := check(func() C.troupe_status { return C.troupe_queue_open(0, &n.queue) }); err != nil {
		return err
	}
	// One of our own, which os.File closes; Go's poller waits for it.
	descriptor, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(C.troupe_queue_descriptor(n.queue)),
		syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return fault(ResourceExhausted, "a descriptor for the queue: %v", errno)
	}
	n.file = os.NewFile(descriptor, "troupe queue")
	connection, err := n.file.SyscallConn()
	if err != nil {
		n.file.Close()
		return fault(Internal, "the queue's descriptor: %v", err)
	}
	go n.fetch(connection)
	return nil
}

// Close leaves the cluster; what is open ends with Cancelled. It may be called more than once.
func (n *Node) Close() {
	n.once.Do(func() {
		C.troupe_node_shutdown(n.handle)
		n.life.Lock() // nobody is in a function any more
		n.closed = true
		n.life.Unlock()
		n.file.Close()
		<-n.reader
		n.drain() // what nobody waits for, but has memory
		C.troupe_queue_free(n.queue)
		C.troupe_node_free(n.handle)
		n.memory.free()
	})
}

// Leave finishes what is open, for the context's time at most (10 s without a deadline), and then closes the node.
func (n *Node) Leave(ctx context.Context) error {
	err := n.within(ctx, 10*time.Second, func(timeout C.int64_t) C.troupe_status {
		return C.troupe_node_leave(n.handle, timeout)
	})
	n.Close()
	return err
}

// Address where others reach it: their Registry, if this is the first node.
func (n *Node) Address() string { return n.address }

// Name of the node.
func (n *Node) Name() string { return n.name }

func (n *Node) enter() error {
	n.life.RLock()
	if n.closed {
		n.life.RUnlock()
		return fault(FailedPrecondition, "the node is closed")
	}
	return nil
}

// within runs a function of C that waits, on a thread of its own.
func (n *Node) within(ctx context.Context, usual time.Duration, call func(C.int64_t) C.troupe_status) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.life.RUnlock()
	if deadline, ok := ctx.Deadline(); ok {
		usual = time.Until(deadline)
	}
	if err := ctx.Err(); err != nil || usual <= 0 {
		return ended(ctx)
	}
	return check(func() C.troupe_status { return call(C.int64_t(usual)) })
}

// WaitForActor waits until an actor of this name can be called. The context's deadline counts, 60 s without one; its
// being cancelled does not end it.
func (n *Node) WaitForActor(ctx context.Context, actor string) error {
	name := C.CString(actor)
	defer C.free(unsafe.Pointer(name))
	return n.within(ctx, time.Minute, func(timeout C.int64_t) C.troupe_status {
		return C.troupe_node_wait_for_actor(n.handle, name, timeout)
	})
}

// WaitForRole waits for so many nodes of a role, as WaitForActor.
func (n *Node) WaitForRole(ctx context.Context, role string, count int) error {
	name := C.CString(role)
	defer C.free(unsafe.Pointer(name))
	return n.within(ctx, time.Minute, func(timeout C.int64_t) C.troupe_status {
		return C.troupe_node_wait_for_role(n.handle, name, C.size_t(count), timeout)
	})
}

// ServeShards makes an actor of this node that is server `index` of `count` parameter shards.
func (n *Node) ServeShards(actor string, index, count uint32) error {
	if err := n.enter(); err != nil {
		return err
	}
	defer n.life.RUnlock()
	name := C.CString(actor)
	defer C.free(unsafe.Pointer(name))
	return check(func() C.troupe_status {
		return C.troupe_node_serve_shards(n.handle, name, C.uint32_t(index), C.uint32_t(count))
	})
}
