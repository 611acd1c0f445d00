package troupe

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Policy says who of several gets the next call or task.
type Policy int

const (
	// LeastLoaded has the least open work, by what its calls have taken lately.
	LeastLoaded Policy = iota
	// RoundRobin goes round.
	RoundRobin
	// Affinity gives equal keys to the same one, as long as that lives.
	Affinity
)

// EngineOptions of an EngineProxy. Replicas are names of actors with the same methods.
type EngineOptions struct {
	Replicas []string
	Policy   Policy
	Timeout  time.Duration // of a call, all attempts together, besides its context's deadline; 0: none
	// Attempts on different replicas, for calls that found one dead; 0: one for each replica. A call whose replica
	// died may have been run there: methods are to stand that, or Attempts is to be 1.
	Attempts int
	EjectFor time.Duration // how long one is left out that was found dead; 0: 1 s
}

type replica struct {
	name         string
	open         atomic.Int64
	latency      atomic.Uint64 // bits of a float64: nanoseconds, an average of the last ones
	ejectedUntil atomic.Int64  // Unix nanoseconds
}

func (r *replica) load() float64 {
	return float64(r.open.Load()+1) * (math.Float64frombits(r.latency.Load()) + 1)
}

func (r *replica) took(took time.Duration) {
	before := math.Float64frombits(r.latency.Load())
	if before == 0 {
		before = float64(took)
	}
	r.latency.Store(math.Float64bits(before + (float64(took)-before)/8))
}

// EngineProxy calls one of several replicas of an engine, over the node's connections. Any goroutine.
type EngineProxy struct {
	node     *Node
	options  EngineOptions
	mutex    sync.RWMutex
	replicas []*replica
	turn     atomic.Uint64
}

// NewEngineProxy makes one; InvalidArgument without replicas.
func NewEngineProxy(node *Node, options EngineOptions) (*EngineProxy, error) {
	if len(options.Replicas) == 0 {
		return nil, fault(InvalidArgument, "an engine of no replicas")
	}
	if options.EjectFor == 0 {
		options.EjectFor = time.Second
	}
	e := &EngineProxy{node: node, options: options}
	e.SetReplicas(options.Replicas)
	return e, nil
}

// SetReplicas changes who they are; those that stay keep what is known of them.
func (e *EngineProxy) SetReplicas(names []string) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	known := map[string]*replica{}
	for _, r := range e.replicas {
		known[r.name] = r
	}
	e.replicas = nil
	for _, name := range names {
		r := known[name]
		if r == nil {
			r = &replica{name: name}
		}
		e.replicas = append(e.replicas, r)
	}
}

// Infer calls a method of one of them.
func (e *EngineProxy) Infer(ctx context.Context, method string, arguments ...any) (any, error) {
	return e.InferKey(ctx, "", method, arguments...)
}

// InferKey is Infer for a key, which matters with Affinity only.
func (e *EngineProxy) InferKey(ctx context.Context, key, method string, arguments ...any) (any, error) {
	if e.options.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.options.Timeout)
		defer cancel()
	}
	e.mutex.RLock()
	replicas := e.replicas
	e.mutex.RUnlock()
	attempts := e.options.Attempts
	if attempts == 0 || attempts > len(replicas) {
		attempts = len(replicas)
	}
	if attempts == 0 {
		return nil, fault(Unavailable, "the engine has no replicas")
	}
	var tried [8]*replica
	for attempt := 0; ; attempt++ {
		r := e.pick(replicas, tried[:min(attempt, len(tried))], key)
		begin := time.Now()
		r.open.Add(1)
		value, err := e.node.Call(ctx, r.name, method, arguments...)
		r.open.Add(-1)
		if code := CodeOf(err); code != Unavailable && code != NotFound {
			r.took(time.Since(begin))
			return value, err
		} else if attempt+1 >= attempts || ctx.Err() != nil {
			return nil, err
		}
		r.ejectedUntil.Store(time.Now().Add(e.options.EjectFor).UnixNano())
		tried[attempt%len(tried)] = r
	}
}

// pick one that has not been tried and is not left out, if there is one; else one that has not been tried.
func (e *EngineProxy) pick(replicas []*replica, tried []*replica, key string) *replica {
	now := time.Now().UnixNano()
	turn := e.turn.Add(1)
	var best *replica
	bestScore := math.Inf(1)
	for i := range replicas {
		// Not always the first among equals.
		r := replicas[(uint64(i)+turn)%uint64(len(replicas))]
		score := float64(i)
		switch e.options.Policy {
		case LeastLoaded:
			score = r.load()
		case Affinity:
			score = -float64(affinity(key, r.name))
		}
		if r.ejectedUntil.Load() > now {
			score += math.MaxFloat64 / 4
		}
		for _, other := range tried {
			if other == r {
				score = math.MaxFloat64
			}
		}
		if score < bestScore {
			best, bestScore = r, score
		}
	}
	return best
}

// affinity of a key to a name: rendezvous hashing (Thaler and Ravishankar 1998), so that only the keys of a name that
// goes move.
func affinity(key, name string) uint64 {
	hash := uint64(14695981039346656037)
	for _, text := range [...]string{key, "\x00", name} {
		for i := 0; i < len(text); i++ {
			hash = (hash ^ uint64(text[i])) * 1099511628211
		}
	}
	hash ^= hash >> 33
	hash *= 0xff51afd7ed558ccd
	return hash ^ hash>>33
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
