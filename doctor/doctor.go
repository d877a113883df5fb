// Package doctor tells why frames do not get through between a tap and a stack. It
// looks at the host's side (interface, addresses, routes, neighbours, who holds the
// tap) and at the stack's, sends probes from both, and names the cause, with what it
// was seen by and what to do.
//
// The stack is a running daemon's, asked over its control socket; or, where nobody
// holds the tap, a private one that lives as long as the examination; or some other
// program, of which only the frames are seen.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/link/spec"
)

// A Config says what to examine. Only Link is needed.
type Config struct {
	// Link is a tap, in the network namespace of the calling thread, or where the
	// daemon behind Client has it.
	Link spec.Spec
	// Client asks the daemon; nil where none is to be asked. That no daemon answers
	// is no error.
	Client *control.Client
	// Addrs are what a private stack takes; without any it takes a free address of
	// the network that the host has on the tap. A daemon's are its own.
	Addrs []netip.Prefix
	// HardwareAddr is the private stack's; nil makes up a random one.
	HardwareAddr net.HardwareAddr
	// LastEnd is what is known of the end of a daemon that ran on the link, "" if
	// nothing is.
	LastEnd string
	// Program says that the program that holds the tap is meant to: that it does is no
	// finding then, what it does wrong is.
	Program bool
	// Logger is told what is looked at; nil discards.
	Logger *slog.Logger

	// pid is that of the daemon that answered, on whatever link; 0 where none did, and
	// then askErr says why.
	pid    int
	askErr error
}

// ErrConfig is wrapped by errors about a Config that could work on no host.
var ErrConfig = errors.New("doctor: invalid configuration")

// A Finding is one cause of trouble.
type Finding struct {
	// Cause names it for programs, in words with hyphens that do not change.
	Cause string `json:"cause"`
	// Title is one line for people.
	Title string `json:"title"`
	// Link is the interface it is about.
	Link string `json:"link"`
	// Evidence is what it was seen by, one fact a line.
	Evidence []string `json:"evidence"`
	// Remedy is what to do, one command or sentence a line.
	Remedy []string `json:"remedy"`
	// Fix is what of the remedy is safe to do without asking, in order.
	Fix []Step `json:"-"`
}

// A Step is one change that Fix makes.
type Step struct {
	// Command is the change in words of the shell.
	Command string
	// Do makes it, in the namespace of the calling thread.
	Do func() error
}

// Examine looks at the tap, probes it, and judges what it saw. The error is of what
// could not be done at all; what could not be looked at is in the Report.
func Examine(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var report *Report
	err := cfg.inside(ctx, func(st *control.Status) error {
		env, err := examine(ctx, &cfg, st)
		if err != nil {
			return err
		}
		report = Judge(env)
		return nil
	})
	return report, err
}

// examine takes the snapshot and has the probes sent.
func examine(ctx context.Context, cfg *Config, st *control.Status) (*Environment, error) {
	env, err := gather(ctx, cfg, st)
	if err != nil {
		return nil, err
	}
	// What breaks the path anyway need not be waited for.
	if Judge(env).broken() {
		return env, nil
	}
	return env, probe(ctx, cfg, env)
}

// Fix does what the findings of a report allow to be done, in order, and calls done
// with each step and what came of it.
func Fix(ctx context.Context, cfg Config, r *Report, done func(s Step, err error)) error {
	if err := cfg.check(); err != nil {
		return err
	}
	return cfg.inside(ctx, func(*control.Status) error {
		for _, f := range r.Findings() {
			for _, step := range f.Fix {
				done(step, step.Do())
			}
		}
		return nil
	})
}

func (cfg *Config) check() error {
	if cfg.Link.Kind != "tap" || cfg.Link.Name == "" {
		return fmt.Errorf("%w: link %q: only a tap can be examined, such as tap:tap0", ErrConfig, cfg.Link)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// inside runs f on a thread in the namespace of the tap: that of a daemon on the link,
// else the caller's. It hands f the status of that daemon, nil without one.
func (cfg *Config) inside(ctx context.Context, f func(*control.Status) error) error {
	st, err := cfg.daemon(ctx)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("doctor: open the network namespace: %w", err)
	}
	defer unix.Close(here)
	if st == nil || inode(here) == inodeAt(fmt.Sprintf("/proc/%d/ns/net", st.PID)) {
		defer runtime.UnlockOSThread()
		return f(st)
	}
	if _, err := netlink.LinkByName(cfg.Link.Name); err == nil {
		// A container's daemon is seen under another process id: the tap is here.
		defer runtime.UnlockOSThread()
		return f(st)
	}
	there, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", st.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(there, unix.CLONE_NEWNET)
		unix.Close(there)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("doctor: enter the network namespace of the daemon, pid %d: %w: run this as root", st.PID, err)
	}
	err = f(st)
	if back := unix.Setns(here, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and ends with its goroutine.
		return errors.Join(err, fmt.Errorf("doctor: leave the network namespace of the daemon: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// daemon asks the daemon for its status: nil where none answers, or where it runs on
// another link.
func (cfg *Config) daemon(ctx context.Context) (*control.Status, error) {
	if cfg.Client == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	st, err := cfg.Client.Status(ctx)
	if err != nil {
		cfg.Logger.Debug("no daemon answers", "err", err)
		cfg.askErr = err
		return nil, nil
	}
	cfg.pid = st.PID
	for _, l := range st.Links {
		if l.Kind == "tap" && l.Name == cfg.Link.Name {
			return &st, nil
		}
	}
	return nil, nil
}

func inode(fd int) uint64 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

func inodeAt(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}
