package troupe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const patience = time.Minute

// peer starts a process with an actor in C++: tests/c/peer.cpp.
func peer(t testing.TB, first *Node, node, actor string) *exec.Cmd {
	t.Helper()
	program := os.Getenv("TROUPE_TEST_PEER")
	if program == "" {
		t.Skip("skipped: TROUPE_TEST_PEER names no c_test_peer")
	}
	command := exec.Command(program, first.Address(), node, actor)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { command.Process.Kill(); command.Wait() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := first.WaitForActor(ctx, actor); err != nil {
		t.Fatal(err)
	}
	return command
}

func start(t testing.TB, options Options) *Node {
	t.Helper()
	n, err := Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func fails(t *testing.T, err error, code Code, part string) {
	t.Helper()
	if CodeOf(err) != code || !strings.Contains(err.Error(), part) {
		t.Errorf("not %v with '%s', but %v", code, part, err)
	}
}

func TestValuesGoAndCome(t *testing.T) {
	n := start(t, Options{Name: "go", Metadata: map[string]string{"rack": "b"}})
	peer(t, n, "peer", "cpp")
	ctx := soon(t)
	if text := must[string](t)(Call[string](ctx, n, "cpp", "echo", "grüß dich")); text != "grüß dich" {
		t.Error(text)
	}
	if sum := must[float64](t)(Call[float64](ctx, n, "cpp", "sum", []float64{1.5, 2.5})); sum != 4 {
		t.Error(sum)
	}
	typed := &CallOptions{Signature: "(Point{float64, float64}) -> Point{float64, float64}", Attempts: 2,
		Metadata: map[string]string{"tenant": "small"}, TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
	turned := must[[]float64](t)(CallWith[[]float64](ctx, n, typed, "cpp", "turn", []any{1, 2.0}))
	if len(turned) != 2 || turned[0] != 2 || turned[1] != -1 {
		t.Error(turned)
	}
	vector := must[*Tensor](t)(TensorOf([]float32{1, 2, 3}, 3))
	scaled := must[*Tensor](t)(Call[*Tensor](ctx, n, "cpp", "scale", vector, 2))
	if numbers := must[[]float32](t)(scaled.Float32s()); numbers[2] != 6 || scaled.Shape()[0] != 3 {
		t.Error(numbers)
	}
	if copied := must[*Tensor](t)(scaled.Clone()); copied.ReadOnly() || copied.DType() != Float32 {
		t.Error("a clone that cannot be written")
	}
	_, err := Call[int8](ctx, n, "cpp", "number", 300)
	fails(t, err, InvalidArgument, "the result is a int64, not a int8")
	if small := must[int16](t)(Call[int16](ctx, n, "cpp", "number", uint8(30))); small != 30 {
		t.Error(small)
	}
	_, err = n.Call(ctx, "nobody", "echo", "")
	fails(t, err, NotFound, "nobody")
	_, err = n.Call(ctx, "cpp", "throw")
	fails(t, err, Internal, "std::out_of_range")
	_, err = n.Call(ctx, "cpp", "echo", 5)
	fails(t, err, InvalidArgument, "is to be string")
	_, err = n.CallWith(ctx, &CallOptions{Signature: "(string) -> int64"}, "cpp", "echo", "a")
	fails(t, err, InvalidArgument, "namely as (string) -> int64")
	_, err = n.Call(ctx, "cpp", "echo", struct{}{})
	fails(t, err, InvalidArgument, "cannot be sent")
	_, err = n.Call(ctx, "cpp", "echo", (*Tensor)(nil))
	fails(t, err, InvalidArgument, "nil or freed")
}

func TestContextsEndCalls(t *testing.T) {
	n := start(t, Options{Name: "go"})
	peer(t, n, "peer", "cpp")
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := n.Call(short, "cpp", "wait")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err = n.Call(short, "cpp", "wait"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	before := must[int](t)(Call[int](soon(t), n, "cpp", "cancelled"))
	gone, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err = n.Call(gone, "cpp", "wait"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The callee hears of it.
	for end := time.Now().Add(patience); must[int](t)(Call[int](soon(t), n, "cpp", "cancelled")) == before; {
		if time.Now().After(end) {
			t.Fatal("the callee was not told")
		}
	}
	if trace := TraceParent(WithTraceParent(gone, "a")); trace != "a" {
		t.Error(trace)
	}
}

func threads(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("skipped: no /proc")
	}
	for _, line := range strings.Split(string(status), "\n") {
		var count int
		if _, err := fmt.Sscanf(line, "Threads: %d", &count); err == nil {
			return count
		}
	}
	return 0
}

func TestWaitingCallsHoldNoThreads(t *testing.T) {
	const waiting = 500
	n := start(t, Options{Name: "go"})
	peer(t, n, "peer", "cpp")
	ctx, cancel := context.WithCancel(context.Background())
	before := threads(t)
	var group sync.WaitGroup
	for i := 0; i < waiting; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := n.Call(ctx, "cpp", "wait"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}()
	}
	for end := time.Now().Add(patience); must[int](t)(Call[int](soon(t), n, "cpp", "waiting")) < waiting; {
		if time.Now().After(end) {
			t.Fatal("they have not begun")
		}
	}
	if now := threads(t); now > before+50 {
		t.Errorf("%d threads, %d before", now, before)
	}
	cancel()
	group.Wait()
}

func TestManyGoroutinesCallAtOnce(t *testing.T) {
	n := start(t, Options{Name: "go"})
	peer(t, n, "peer", "cpp")
	ctx := soon(t)
	var group sync.WaitGroup
	for g := 0; g < 100; g++ {
		group.Add(1)
		go func(g int) {
			defer group.Done()
			for i := 0; i < 30; i++ {
				text := fmt.Sprint(g, " ", i)
				if answer, err := Call[string](ctx, n, "cpp", "echo", text); err != nil || answer != text {
					t.Error(answer, err)
				}
			}
		}(g)
	}
	group.Wait()
}

func TestClosingEndsCalls(t *testing.T) {
	n := start(t, Options{Name: "go"})
	peer(t, n, "peer", "cpp")
	failed := make(chan error)
	go func() {
		_, err := n.Call(context.Background(), "cpp", "wait")
		failed <- err
	}()
	for must[int](t)(Call[int](soon(t), n, "cpp", "waiting")) == 0 {
	}
	n.Close()
	fails(t, <-failed, Cancelled, "")
	_, err := n.Call(context.Background(), "cpp", "wait")
	fails(t, err, FailedPrecondition, "closed")
	fails(t, n.WaitForActor(context.Background(), "cpp"), FailedPrecondition, "closed")
	_, err = Start(Options{})
	fails(t, err, InvalidArgument, "name is NULL")
}

func TestTables(t *testing.T) {
	n := start(t, Options{Name: "go"})
	servers := []string{"ps-0", "ps-1"}
	for i, server := range servers {
		if err := n.ServeShards(server, uint32(i), 2); err != nil {
			t.Fatal(err)
		}
	}
	table := must[*Table](t)(n.OpenTable(
		`{"name": "words", "dim": 2, "optimizer": {"kind": "sgd", "learning_rate": 0.5}}`, servers...))
	defer table.Close()
	ctx, keys := soon(t), []uint64{3, 1 << 40}
	rows, versions, err := table.Pull(ctx, keys)
	if err != nil || len(rows) != 4 || rows[3] != 0 {
		t.Fatal(rows, err)
	}
	result := must[PushResult](t)(table.Push(ctx, keys, []float32{1, 2, 3, 4}, versions))
	if !result.Applied || result.Dropped {
		t.Error(result)
	}
	same := must[*Table](t)(n.ConnectTable("words", servers...))
	defer same.Close()
	if rows, _, err = same.Pull(ctx, keys); err != nil || rows[3] != -2 || same.Dim() != 2 {
		t.Error(rows, err)
	}
	_, err = table.Push(ctx, keys, []float32{1}, nil)
	fails(t, err, InvalidArgument, "1 gradients for 2 keys")
	_, err = n.ConnectTable("none", servers...)
	fails(t, err, NotFound, "none")
}

func TestEngineProxyGoesRoundTheDead(t *testing.T) {
	n := start(t, Options{Name: "go"})
	first := peer(t, n, "peer-0", "engine-0")
	peer(t, n, "peer-1", "engine-1")
	for _, policy := range []Policy{RoundRobin, LeastLoaded, Affinity} {
		proxy := must[*EngineProxy](t)(NewEngineProxy(n, EngineOptions{
			Replicas: []string{"engine-0", "engine-1"}, Policy: policy, Timeout: patience}))
		seen := map[any]int{}
		for i := 0; i < 20; i++ {
			seen[must[any](t)(proxy.InferKey(context.Background(), "key", "name"))]++
		}
		if policy == RoundRobin && seen["engine-0"] != 10 || policy == Affinity && len(seen) != 1 {
			t.Error(policy, seen)
		}
	}
	proxy := must[*EngineProxy](t)(NewEngineProxy(n, EngineOptions{Replicas: []string{"engine-0", "engine-1"}}))
	var group sync.WaitGroup
	for g := 0; g < 8; g++ {
		group.Add(1)
		go func(g int) {
			defer group.Done()
			for i := 0; i < 50; i++ {
				if g == 0 && i == 20 {
					first.Process.Kill()
				}
				if _, err := proxy.Infer(soon(t), "echo", "x"); err != nil {
					t.Error(err)
				}
			}
		}(g)
	}
	group.Wait()
	if name := must[any](t)(proxy.Infer(soon(t), "name")); name != "engine-1" {
		t.Error(name)
	}
	_, err := NewEngineProxy(n, EngineOptions{})
	fails(t, err, InvalidArgument, "no replicas")
}

func TestSchedulerSharesAndFailsOver(t *testing.T) {
	n := start(t, Options{Name: "go"})
	first := peer(t, n, "peer-0", "worker-0")
	peer(t, n, "peer-1", "worker-1")
	workers := []string{"worker-0", "worker-1"}
	near := must[*Scheduler](t)(NewScheduler(n, SchedulerOptions{Workers: workers, Policy: Affinity}))
	defer near.Close()
	places := map[string]any{}
	for i := 0; i < 40; i++ {
		key := fmt.Sprint("key", i%8)
		ticket := must[*Ticket](t)(near.Submit(Task{Method: "name", Key: key}))
		place := must[any](t)(ticket.Wait(soon(t)))
		if before := places[key]; before != nil && before != place {
			t.Error(key, before, place)
		}
		places[key] = place
	}
	scheduler := must[*Scheduler](t)(NewScheduler(n, SchedulerOptions{Workers: workers, Slots: 2, Limit: 1000}))
	var tickets []*Ticket
	for i := 0; i < 200; i++ {
		if i == 100 {
			first.Process.Kill()
		}
		tickets = append(tickets, must[*Ticket](t)(scheduler.Submit(Task{Method: "number", Arguments: []any{i}})))
	}
	for i, ticket := range tickets {
		if value := must[any](t)(ticket.Wait(soon(t))); value != int64(i) {
			t.Error(i, value)
		}
	}
	if status := scheduler.Status(); status.Done != 200 || status.Failed != 0 || status.Queued != 0 || len(status.Workers) != 2 {
		t.Error(status)
	}
	if state, where := tickets[199].Status(); state != Done || where == "" {
		t.Error(state, where)
	}
	hung := must[*Ticket](t)(scheduler.Submit(Task{Method: "wait"}))
	scheduler.Close()
	_, err := hung.Wait(soon(t))
	fails(t, err, Cancelled, "")
	_, err = scheduler.Submit(Task{Method: "name"})
	fails(t, err, FailedPrecondition, "closed")
}

// ---- Benchmarks: go test -bench . beside net/http, both to another process ----------------------------

func TestMain(m *testing.M) {
	if address := os.Getenv("TROUPE_TEST_HTTP"); address != "" {
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(r.URL.Query().Get("text"))) })
		http.ListenAndServe(address, nil)
		return
	}
	os.Exit(m.Run())
}

var text = strings.Repeat("x", 64)

func run(b *testing.B, goroutines int, call func() error) {
	begin := time.Now()
	b.ResetTimer()
	var group sync.WaitGroup
	for g := 0; g < goroutines; g++ {
		group.Add(1)
		count := b.N / goroutines
		if g < b.N%goroutines {
			count++
		}
		go func() {
			defer group.Done()
			for i := 0; i < count; i++ {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "calls/s")
}

func BenchmarkCall(b *testing.B) {
	n := start(b, Options{Name: "go"})
	peer(b, n, "peer", "cpp")
	for _, goroutines := range []int{1, 1000} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			run(b, goroutines, func() error {
				_, err := n.Call(context.Background(), "cpp", "echo", text)
				return err
			})
		})
	}
}

func BenchmarkHTTP(b *testing.B) {
	const address = "127.0.0.1:18743"
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "TROUPE_TEST_HTTP="+address)
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { command.Process.Kill(); command.Wait() })
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	get := func() error {
		answer, err := client.Get("http://" + address + "/?text=" + text)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = answer.Body.Read(make([]byte, 64))
		if err != nil && err.Error() != "EOF" {
			return err
		}
		return nil
	}
	for end := time.Now().Add(patience); get() != nil; {
		if time.Now().After(end) {
			b.Fatal("no server")
		}
	}
	for _, goroutines := range []int{1, 1000} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) { run(b, goroutines, get) })
	}
}
