package runner

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/control/controltest"
)

// scenarioEnv names the scenario that the re-executed test binary plays as a program.
const scenarioEnv = "USTACK_RUNNER_TEST_SCENARIO"

func TestMain(m *testing.M) {
	Stage()
	if name := os.Getenv(scenarioEnv); name != "" {
		os.Exit(playScenario(name, os.Args[1:]))
	}
	// The race detector makes every process that a test starts wait a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// startDaemon serves b on a control socket and returns its path.
func startDaemon(t testing.TB, b control.Backend) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	startDaemonAt(t, b, path)
	return path
}

// startDaemonAt returns what stops the daemon.
func startDaemonAt(t testing.TB, b control.Backend, path string) (stop func()) {
	t.Helper()
	s := control.NewServer(control.ServerConfig{Backend: b, Path: path})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	stop = sync.OnceFunc(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A result is what a program wrote, and how it ended.
type result struct {
	out, errs string
	status    syscall.WaitStatus
}

// runScenario plays a scenario under the supervisor.
func runScenario(t testing.TB, socket, name string, args ...string) result {
	t.Helper()
	return runProgram(t, Config{Socket: socket, ShareNet: true, Env: append(os.Environ(), scenarioEnv+"="+name)}, os.Args[0], args...)
}

func runProgram(t testing.TB, cfg Config, path string, args ...string) result {
	t.Helper()
	var out, errs collector
	cfg.Path, cfg.Args = path, append([]string{path}, args...)
	cfg.Stdout, cfg.Stderr = out.file(t), errs.file(t)
	status, err := Run(testContext(t), cfg)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	res := result{out.text(), errs.text(), status.WaitStatus}
	if strings.Contains(res.errs, "DATA RACE") || strings.Contains(res.errs, "panic:") {
		t.Errorf("the supervisor: %s", res.errs)
	}
	return res
}

// playNatively plays a scenario on the kernel's own sockets.
func playNatively(t testing.TB, name string, args ...string) result {
	t.Helper()
	var out collector
	f := out.file(t)
	p, err := os.StartProcess("/proc/self/exe", append([]string{os.Args[0]}, args...), &os.ProcAttr{
		Env: append(os.Environ(), scenarioEnv+"="+name), Files: []*os.File{nil, f, os.Stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return result{out: out.text(), status: st.Sys().(syscall.WaitStatus)}
}

// A collector takes what a program writes to a pipe.
type collector struct {
	w    *os.File
	buf  bytes.Buffer
	done chan struct{}
	once sync.Once
}

func (c *collector) file(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.w, c.done = w, make(chan struct{})
	go func() {
		defer close(c.done)
		defer r.Close()
		_, _ = io.Copy(&c.buf, r)
	}()
	t.Cleanup(func() { c.text() })
	return w
}

// text waits until the last process has closed the pipe.
func (c *collector) text() string {
	c.once.Do(func() { c.w.Close() })
	<-c.done
	return c.buf.String()
}

// kernelServer listens on loopback and runs handle on every connection.
func kernelServer(t testing.TB, network string, handle func(*net.TCPConn)) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "tcp6" {
		address = "[::1]:0"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, struct{ io.Reader }{c}) }

// freePort is a port of loopback that nobody listens on.
func freePort(t testing.TB, network string) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "tcp6" {
		address = "[::1]:0"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// compare holds what a scenario sees under the supervisor to what it sees without.
func compare(t *testing.T, name string, args func() []string) {
	t.Helper()
	want := playNatively(t, name, args()...)
	if want.status != 0 || want.out == "" {
		t.Fatalf("natively: status %#x, output %q", want.status, want.out)
	}
	socket := startDaemon(t, &controltest.Backend{})
	got := runScenario(t, socket, name, args()...)
	if got.status != 0 {
		t.Errorf("status %#x, errors %q", got.status, got.errs)
	}
	if got.out == want.out {
		return
	}
	g, w := strings.Split(got.out, "\n"), strings.Split(want.out, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "(end)", "(end)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("line %d: %s\n           kernel: %s", i+1, a, b)
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func playScenario(name string, args []string) int {
	f := scenarios[name]
	if f == nil {
		fmt.Fprintf(os.Stderr, "no scenario %q\n", name)
		return 99
	}
	defer func() {
		if e := recover(); e != nil {
			fmt.Fprintf(os.Stderr, "scenario %s: %v\n", name, e)
			os.Exit(98)
		}
	}()
	f(&script{args: args})
	return 0
}
