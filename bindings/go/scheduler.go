package troupe

import (
	"context"
	"math"
	"sync"
	"time"
)

// Task is a call that some worker is to run.
type Task struct {
	Method    string
	Arguments []any
	Key       string // of the data that it needs, for Affinity
}

// SchedulerOptions of a Scheduler. Workers are names of actors with the same methods.
type SchedulerOptions struct {
	Workers    []string
	Policy     Policy
	Slots      int           // tasks that one worker has at once; 0: 1
	Limit      int           // tasks that may wait; 0: 65,536
	Attempts   int           // of a task whose worker has died; 0: 3
	RetryAfter time.Duration // how long a worker is left alone that was found dead; 0: 1 s
}

// TaskState is where a task is.
type TaskState int

// What a task goes through.
const (
	Queued TaskState = iota
	Running
	Done
	Failed
)

// Ticket stands for a task that was submitted.
type Ticket struct {
	task     Task
	ended    chan struct{}
	attempts int

	scheduler *Scheduler
	state     TaskState // under its mutex, as the next
	worker    string
	value     any
	err       error
}

// WorkerStatus is what a scheduler knows of a worker.
type WorkerStatus struct {
	Name    string
	Running int
	Done    uint64
	Down    bool // it was found dead, and is left alone for a while
}

// SchedulerStatus counts tasks.
type SchedulerStatus struct {
	Queued, Running int
	Done, Failed    uint64
	Workers         []WorkerStatus
}

type worker struct {
	name      string
	running   int
	done      uint64
	latency   float64
	downUntil time.Time
}

// Scheduler hands tasks to workers of any speed. A task whose worker dies goes to another one, so tasks are to stand
// being run twice. Any goroutine.
type Scheduler struct {
	node    *Node
	options SchedulerOptions
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mutex        sync.Mutex
	queue        []*Ticket
	workers      []*worker
	turn         int
	done, failed uint64
	closed       bool
	timer        *time.Timer
}

// NewScheduler makes one; InvalidArgument without workers. Close it.
func NewScheduler(node *Node, options SchedulerOptions) (*Scheduler, error) {
	if len(options.Workers) == 0 {
		return nil, fault(InvalidArgument, "a scheduler of no workers")
	}
	usual := func(value *int, otherwise int) {
		if *value == 0 {
			*value = otherwise
		}
	}
	usual(&options.Slots, 1)
	usual(&options.Limit, 1<<16)
	usual(&options.Attempts, 3)
	if options.RetryAfter == 0 {
		options.RetryAfter = time.Second
	}
	s := &Scheduler{node: node, options: options}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, name := range options.Workers {
		s.workers = append(s.workers, &worker{name: name})
	}
	return s, nil
}

// Submit a task; ResourceExhausted if too many wait.
func (s *Scheduler) Submit(task Task) (*Ticket, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		return nil, fault(FailedPrecondition, "the scheduler is closed")
	}
	if len(s.queue) >= s.options.Limit {
		return nil, fault(ResourceExhausted, "%d tasks wait already", len(s.queue))
	}
	ticket := &Ticket{task: task, ended: make(chan struct{}), scheduler: s}
	s.queue = append(s.queue, ticket)
	s.dispatch()
	return ticket, nil
}

// Wait for the task's result.
func (t *Ticket) Wait(ctx context.Context) (any, error) {
	select {
	case <-t.ended:
		return t.value, t.err
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// Status of the task, and its worker, if it has had one.
func (t *Ticket) Status() (TaskState, string) {
	t.scheduler.mutex.Lock()
	defer t.scheduler.mutex.Unlock()
	return t.state, t.worker
}

// Status of all.
func (s *Scheduler) Status() SchedulerStatus {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	status := SchedulerStatus{Queued: len(s.queue), Done: s.done, Failed: s.failed}
	now := time.Now()
	for _, w := range s.workers {
		status.Running += w.running
		status.Workers = append(status.Workers, WorkerStatus{w.name, w.running, w.done, w.downUntil.After(now)})
	}
	return status
}

// Close cancels what runs and what waits, and waits until it has ended.
func (s *Scheduler) Close() {
	s.mutex.Lock()
	s.closed = true
	for _, ticket := range s.queue {
		s.end(ticket, nil, fault(Cancelled, "the scheduler was closed"))
	}
	s.queue = nil
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mutex.Unlock()
	s.cancel()
	s.running.Wait()
}

// dispatch gives waiting tasks to workers, in their order, as far as there is room. With the mutex.
func (s *Scheduler) dispatch() {
	kept := s.queue[:0]
	for i, ticket := range s.queue {
		if s.full() {
			kept = append(kept, s.queue[i:]...)
			break
		}
		w := s.choose(ticket)
		if w == nil {
			kept = append(kept, ticket)
			continue
		}
		ticket.state, ticket.worker = Running, w.name
		ticket.attempts++
		w.running++
		s.running.Add(1)
		go s.run(ticket, w)
	}
	for i := len(kept); i < len(s.queue); i++ {
		s.queue[i] = nil
	}
	s.queue = kept
	if len(s.queue) > 0 {
		s.wakeLater()
	}
}

func (s *Scheduler) full() bool {
	now := time.Now()
	for _, w := range s.workers {
		if w.running < s.options.Slots && !w.downUntil.After(now) {
			return false
		}
	}
	return true
}

// wakeLater dispatches when the first worker that is down may be tried again.
func (s *Scheduler) wakeLater() {
	now := time.Now()
	var first time.Duration
	for _, w := range s.workers {
		if left := w.downUntil.Sub(now); left > 0 && (first == 0 || left < first) {
			first = left
		}
	}
	if first == 0 {
		return // whoever ends dispatches
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(first+time.Millisecond, func() {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		if !s.closed {
			s.dispatch()
		}
	})
}

// choose a worker with room; nil: the task waits.
func (s *Scheduler) choose(ticket *Ticket) *worker {
	now := time.Now()
	var best *worker
	bestScore := math.Inf(1)
	s.turn++
	for i := range s.workers {
		w := s.workers[(i+s.turn)%len(s.workers)]
		if w.downUntil.After(now) {
			continue
		}
		score := float64(i)
		switch s.options.Policy {
		case LeastLoaded:
			score = float64(w.running+1) * (w.latency + 1)
		case Affinity:
			score = -float64(affinity(ticket.task.Key, w.name))
		}
		if s.options.Policy != Affinity && w.running >= s.options.Slots {
			continue
		}
		if score < bestScore {
			best, bestScore = w, score
		}
	}
	if best == nil || best.running >= s.options.Slots {
		return nil // with Affinity it waits for its own
	}
	return best
}

func (s *Scheduler) run(ticket *Ticket, w *worker) {
	defer s.running.Done()
	begin := time.Now()
	value, err := s.node.Call(s.ctx, w.name, ticket.task.Method, ticket.task.Arguments...)
	took := float64(time.Since(begin))
	s.mutex.Lock()
	defer s.mutex.Unlock()
	w.running--
	code := CodeOf(err)
	gone := code == Unavailable || code == NotFound
	if gone {
		w.downUntil = time.Now().Add(s.options.RetryAfter)
	} else {
		w.latency += (took - w.latency) / 8
	}
	if gone && ticket.attempts < s.options.Attempts && !s.closed {
		ticket.state = Queued
		s.queue = append([]*Ticket{ticket}, s.queue...)
	} else {
		if err == nil {
			w.done++
		}
		s.end(ticket, value, err)
	}
	if !s.closed {
		s.dispatch()
	}
}

// end of a task. With the mutex.
func (s *Scheduler) end(ticket *Ticket, value any, err error) {
	ticket.value, ticket.err = value, err
	if ticket.state = Done; err != nil {
		ticket.state = Failed
		s.failed++
	} else {
		s.done++
	}
	close(ticket.ended)
}
