// Package demo shows the round trip on one screen: an app, through the control
// socket and the stack, over a tap, through a router with NAT, to servers on
// kernel sockets and back, frame by frame. All of it is in private network
// namespaces that disappear with the process. Where namespaces or taps are not
// permitted, a wire in memory between two stacks takes their place.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/curl"
	"github.com/ustack/ustack/internal/ping"
	"github.com/ustack/ustack/stack"
)

// Config configures Run.
type Config struct {
	// Out gets the screen.
	Out io.Writer
	// Backend offers a stack to the control socket.
	Backend func(*stack.Stack) control.Backend
	// Memory asks for the wire in memory, with the reason to show.
	Memory string
	// Again makes the command that runs this demo in another process, which can be
	// put into a user namespace where this one may not make network namespaces.
	// Nil where that was done already.
	Again func(context.Context) *exec.Cmd
	// Logger may be nil.
	Logger *slog.Logger
}

// The limits of the whole demo, of the wait for the frames that follow a command's
// end, and of that for the first one.
const (
	runLimit    = 30 * time.Second
	settleLimit = time.Second
	startLimit  = 100 * time.Millisecond
)

// Run shows the demo. It returns an error if anything did not work as it should;
// what was made is removed in any case. The error is an *exec.ExitError when it
// was the command of Config.Again that failed, which has said why.
func Run(ctx context.Context, cfg Config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w, err := makeWorld(ctx, cfg)
	if errors.Is(err, os.ErrPermission) && cfg.Again != nil {
		started, aerr := runAgain(cfg.Again(ctx))
		if started {
			return aerr
		}
		err = fmt.Errorf("%w; %w", err, aerr)
	}
	if err != nil && ctx.Err() == nil {
		w, err = pipeWorld(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() {
		if cerr := w.close(); err == nil && cerr != nil {
			err = fmt.Errorf("demo: while cleaning up: %w", cerr)
		}
	}()
	begin := time.Now()
	s, rec, err := newStack(w.dev, cfg.Logger)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer s.Close()
	socket, stop, err := offer(cfg, s)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer stop()
	show := &show{ctx: ctx, out: cfg.Out, rec: rec, socket: socket, world: w, begin: begin}
	if err := show.run(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// makeWorld makes the kernel's world, unless the other one is asked for.
func makeWorld(ctx context.Context, cfg Config) (*world, error) {
	if cfg.Memory != "" {
		return pipeWorld(cfg.Memory)
	}
	return kernelWorld(ctx, cfg.Logger)
}

// offer opens a control socket in a directory of its own, and serves the stack on
// it as the daemon does.
func offer(cfg Config, s *stack.Stack) (socket string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "ustack-demo-")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "ustack.sock")
	server := control.NewServer(control.ServerConfig{Backend: cfg.Backend(s), Path: socket, Logger: cfg.Logger})
	if err := server.Listen(); err != nil {
		os.RemoveAll(dir)
		return "", nil, err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	return socket, func() {
		server.Close()
		<-served
		os.RemoveAll(dir)
	}, nil
}

// show is the screen, from top to bottom.
type show struct {
	ctx    context.Context
	out    io.Writer
	rec    *recorder
	socket string
	world  *world
	begin  time.Time // when the stack was started
	err    error     // the first error of out
}

func (s *show) run() error {
	if s.world.why == "" {
		s.printf("A round trip over a tap, in private namespaces: nothing of this machine is touched.")
	} else {
		s.printf("A round trip over a wire in memory, because the kernel's way is not to be had here:")
		for _, line := range wrap(s.world.why, width-2) {
			s.printf("  %s", line)
		}
	}
	for _, line := range s.world.picture {
		s.printf("  %s", line)
	}
	s.printf("Frames: --> from the stack to the wire, <-- from the wire to the stack, without IPv6's own.")
	s.printf("\n$ %s", s.world.command)
	// The stack asks whether its address is taken.
	ctx, cancel := context.WithTimeout(s.ctx, startLimit)
	s.rec.wait(ctx, func(records []record) bool { return len(records) > 0 })
	cancel()
	s.frames(s.begin)
	site := addr(siteAddr).String()
	var output bytes.Buffer
	err := s.step("ping -c 1 "+site, &output, func() int {
		return ping.Main(s.ctx, []string{"--socket", s.socket, "-c", "1", site}, ping.Env{Stdout: &output, Stderr: &output})
	}, func(frames []frame) error {
		if !hasFrame(frames, func(f frame) bool { return f.arpReply }) {
			return errors.New("no ARP reply was seen on the wire")
		}
		if !hasFrame(frames, func(f frame) bool { return f.echoReply }) {
			return errors.New("no echo reply was seen on the wire")
		}
		return nil
	})
	if err != nil {
		return err
	}
	output.Reset()
	want := pageText(siteName, s.world.seenAs.String())
	err = s.step("curl "+siteName, &output, func() int {
		return curl.Main(s.ctx, []string{"--socket", s.socket, "-sS", siteName}, curl.Env{Stdout: &output, Stderr: &output})
	}, func([]frame) error {
		if output.String() != want {
			return fmt.Errorf("the page is %q, want %q", output.String(), want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.printf("\nDone. Your turn: as root, 'ustack up --uplink auto' puts the stack on a tap of this machine.")
	return s.err
}

// step runs one command and shows it, the frames that crossed the wire meanwhile,
// and what it printed.
func (s *show) step(command string, output *bytes.Buffer, run func() int, check func([]frame) error) error {
	s.printf("\n$ %s", command)
	begin := time.Now()
	code := run()
	s.settle()
	frames := s.frames(begin)
	for line := range strings.Lines(output.String()) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			s.printf("%s", line)
		}
	}
	if code != 0 {
		return fmt.Errorf("%s: exit code %d", command, code)
	}
	if err := check(frames); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return s.err // nobody looks any more
}

// frames shows the frames since the last call, with the time since begin.
func (s *show) frames(begin time.Time) []frame {
	var frames []frame
	for _, r := range s.rec.take() {
		f := decode(r.data)
		if f.proto == "IPv6" {
			continue // the neighbours' own housekeeping
		}
		frames = append(frames, f)
		way := "<--"
		if r.out {
			way = "-->"
		}
		s.printf("%7.2f ms %s %-4s %s", float64(r.at.Sub(begin).Microseconds())/1000, way, f.proto, f.text)
	}
	return frames
}

// settle waits for the end of the TCP connection that the command closed: a FIN
// each way, and what acknowledges the second.
func (s *show) settle() {
	ctx, cancel := context.WithTimeout(s.ctx, settleLimit)
	defer cancel()
	s.rec.wait(ctx, func(records []record) bool {
		tcp, fins, after := false, map[bool]bool{}, false
		for _, r := range records {
			f := decode(r.data)
			tcp = tcp || f.tcp
			if len(fins) == 2 && f.tcp {
				after = true
			}
			if f.fin {
				fins[r.out] = true
			}
		}
		return !tcp || after
	})
}

func hasFrame(frames []frame, is func(frame) bool) bool {
	for _, f := range frames {
		if is(f) {
			return true
		}
	}
	return false
}

// width is the longest line shown, in characters.
const width = 100

// wrap breaks text into lines of at most n characters, at blanks.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > n {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// printf prints a line, cut to the width of the screen.
func (s *show) printf(format string, args ...any) {
	for _, line := range strings.Split(fmt.Sprintf(format, args...), "\n") {
		if r := []rune(line); len(r) > width {
			line = string(r[:width-1]) + "…"
		}
		if _, err := fmt.Fprintln(s.out, line); err != nil && s.err == nil {
			s.err = err
		}
	}
}
