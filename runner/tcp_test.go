package runner

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/control/controltest"
)

// What a program sees of its sockets is what it sees of the kernel's.
func TestAsTheKernel(t *testing.T) {
	echo4, echo6 := kernelServer(t, "tcp4", echo), kernelServer(t, "tcp6", echo)
	reset := kernelServer(t, "tcp4", func(c *net.TCPConn) {
		b := make([]byte, 64)
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if strings.HasPrefix(string(b[:n]), "data") {
			_, _ = c.Write([]byte("last words"))
		}
		_ = c.SetLinger(0)
	})
	how := make(chan string, 8)
	ending := kernelServer(t, "tcp4", func(c *net.TCPConn) {
		b := make([]byte, 64)
		if _, err := c.Read(b); err != nil {
			return
		}
		_, _ = c.Write([]byte("go\n"))
		for {
			n, err := c.Read(b)
			switch {
			case err == io.EOF:
				how <- "end"
				return
			case err != nil:
				how <- "reset"
				return
			case string(b[:n]) == "send":
				_, _ = c.Write([]byte("never read"))
			}
		}
	})
	told := kernelServer(t, "tcp4", func(c *net.TCPConn) { _, _ = io.WriteString(c, <-how) })
	for name, args := range map[string]func() []string{
		"connect":      func() []string { return []string{echo4} },
		"refused":      func() []string { return []string{freePort(t, "tcp4"), echo4} },
		"nonblocking":  func() []string { return []string{echo4} },
		"nonblockfail": func() []string { return []string{freePort(t, "tcp4"), echo4} },
		"fresh":        func() []string { return nil },
		"server":       func() []string { return nil },
		"halfclose":    func() []string { return nil },
		"reset":        func() []string { return []string{reset} },
		"options":      func() []string { return []string{echo4} },
		"hostile":      func() []string { return nil },
		"families":     func() []string { return []string{echo4, echo6} },
		"parallel":     func() []string { return []string{echo4} },
		"passing":      func() []string { return []string{echo4} },
		"inherited":    func() []string { return []string{echo4} },
		"endings":      func() []string { return []string{ending, told} },
		"messages":     func() []string { return []string{echo4} },
		"interrupted":  func() []string { return nil },
		"prefork":      func() []string { return nil },
		"bound":        func() []string { return []string{echo4} },
		"storm":        func() []string { return []string{echo4, udpEcho(t, "udp4")} },
		"churn":        func() []string { return []string{echo4} },
		"timeouts":     func() []string { return nil },
		"disconnect":   func() []string { return []string{echo4} },
		"closing":      func() []string { return nil },
		"heirs":        func() []string { return []string{echo4} },
		"earlyends":    func() []string { return nil },
		"lingering":    func() []string { return nil },
		"leaderless":   func() []string { return []string{echo4} },
		"credentials":  func() []string { return []string{echo4} },
	} {
		t.Run(name, func(t *testing.T) { compare(t, name, args) })
	}
	t.Run("connect over IPv6", func(t *testing.T) { compare(t, "connect", func() []string { return []string{echo6} }) })
}

// Data written just before the end arrives, and the exit code does not wait for it.
func TestDataBeforeExit(t *testing.T) {
	var got bytes.Buffer
	done := make(chan struct{})
	started := make(chan time.Time, 1)
	at := kernelServer(t, "tcp4", func(c *net.TCPConn) {
		_ = c.SetReadBuffer(64 << 10)
		time.Sleep(300 * time.Millisecond) // a peer that is slow to read
		started <- time.Now()
		_, _ = io.Copy(&got, c)
		close(done)
	})
	socket := startDaemon(t, &controltest.Backend{})
	res := runScenario(t, socket, "exit", at)
	if res.status.ExitStatus() != 42 {
		t.Errorf("status %#x, %s", res.status, res.errs)
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection did not end")
	}
	if got.Len() != 1<<20 {
		t.Errorf("%d bytes arrived", got.Len())
	}
}

func TestNoLeaks(t *testing.T) {
	socket := startDaemon(t, &controltest.Backend{})
	res := runScenario(t, socket, "manysockets", kernelServer(t, "tcp4", echo))
	if n, err := strconv.Atoi(strings.TrimSpace(res.out)); err != nil || n > 20 {
		t.Errorf("the supervisor has %q descriptors open after 30,000 sockets and 250 connections", res.out)
	}
}

// The data path makes no calls to the supervisor.
func TestCountedCalls(t *testing.T) {
	at := kernelServer(t, "tcp4", echo)
	socket := startDaemon(t, &controltest.Backend{})
	res := runProgram(t, Config{Socket: socket, ShareNet: true, Verbose: true, Env: append(os.Environ(), scenarioEnv+"=nonblocking")}, os.Args[0], at)
	if !strings.Contains(res.errs, "calls were passed to the supervisor: ") || !strings.Contains(res.errs, "connect 1") {
		t.Errorf("errors %q", res.errs)
	}
	for _, word := range strings.Fields(res.errs) {
		if word == "read" || word == "write" || word == "poll" {
			t.Errorf("%s was passed on: %q", word, res.errs)
		}
	}
}

// A daemon that goes takes connections with it; the program lives on, new sockets work once
// there is a daemon again, and listeners come back.
func TestDaemonGone(t *testing.T) {
	got := acrossDaemons(t, "daemongone", kernelServer(t, "tcp4", echo))
	want := []string{
		"write: 3", `read: "one"`, "write: 3", "complete: poll RDHUP", "queued: poll IN", "first", "waiting: ECONNRESET",
		"connected: poll IN|ERR|HUP|RDHUP", "read: ECONNRESET", "then: SO_ERROR ENETDOWN",
		`complete: "all"`, `complete: ""`,
		"accepted: ECONNRESET", "accepted, then: SO_ERROR ENETDOWN", "queued: ECONNRESET", "connect: ENETDOWN", "bind: ENETDOWN", "second",
		"connect: ok", "write: 3", `read: "two"`, "accept: ok",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// acrossDaemons plays a scenario whose daemon is stopped after it has said "first", and takes another
// one's place after "second". Each time it goes on when it can read a line.
func acrossDaemons(t *testing.T, scenario, at string) (got []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	stop := startDaemonAt(t, &controltest.Backend{}, path)
	in, steps, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer steps.Close()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ended := make(chan error, 1)
	go func() {
		defer w.Close()
		st, err := Run(testContext(t), Config{
			Socket: path, ShareNet: true, Path: os.Args[0], Args: []string{os.Args[0], at},
			Env: append(os.Environ(), scenarioEnv+"="+scenario), Stdin: in, Stdout: w,
		})
		if err == nil && st.ExitStatus() != 0 {
			err = fmt.Errorf("status %#x", st.WaitStatus)
		}
		ended <- err
	}()
	lines := bufio.NewScanner(out)
	until := func(last string) {
		for lines.Scan() {
			if to, ok := strings.CutPrefix(lines.Text(), "at "); ok {
				for range 2 { // one that it accepts, and one that waits
					c, err := net.Dial("tcp", to)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
				}
				continue
			}
			got = append(got, lines.Text())
			if lines.Text() == last {
				return
			}
		}
	}
	until("first")
	stop()
	fmt.Fprintln(steps)
	until("second")
	startDaemonAt(t, &controltest.Backend{}, path)
	fmt.Fprintln(steps)
	until("")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return got
}
