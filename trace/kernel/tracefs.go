package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	instancePrefix = "ustack-"
	maxLine        = 4096 // of trace_pipe; ours take about 250
)

// tracefsFeed is the feed by an instance of tracefs.
type tracefsFeed struct {
	dir     string
	devices *devices // nil: all
	buffers buffers
	dropped atomic.Uint64 // by the kernel's ring

	mu   sync.Mutex // held by read, so that close does not take the file from under it
	pipe int        // trace_pipe; -1 when closed
	stop int        // eventfd that Close sets, to end read's wait
	buf  []byte     // text not yet parsed, from at
	at   int
}

func openTracefs(c Config) (feed, error) {
	root, err := findTracefs()
	if err != nil {
		return nil, explainTracefs(err)
	}
	removeLeftovers(root)
	f := &tracefsFeed{pipe: -1, stop: -1}
	if !c.AllNetNS {
		if f.devices, err = devicesOf(c.NetNS); err != nil {
			return nil, err
		}
	}
	if err := f.open(root, c); err != nil {
		f.Close() // what was made; err is what matters
		return nil, explainTracefs(err)
	}
	return f, nil
}

// findTracefs returns where tracefs is mounted.
func findTracefs() (string, error) {
	var errs []error
	for _, root := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		_, err := os.Stat(filepath.Join(root, "instances"))
		if err == nil {
			return root, nil
		}
		errs = append(errs, err)
	}
	for _, err := range errs {
		if errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	return "", errors.New("not mounted at /sys/kernel/tracing nor at /sys/kernel/debug/tracing")
}

// removeLeftovers removes instances of processes that ended without Close. One in
// use by a process of another PID namespace cannot be removed: its pipe is open.
func removeLeftovers(root string) {
	found, _ := filepath.Glob(filepath.Join(root, "instances", instancePrefix+"*"))
	for _, dir := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), instancePrefix), "-")
		n, err := strconv.Atoi(pid)
		if err != nil || n <= 0 {
			continue
		}
		if errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			unix.Rmdir(dir)
		}
	}
}

// open makes the instance and enables its events last.
func (f *tracefsFeed) open(root string, c Config) error {
	dir, err := os.MkdirTemp(filepath.Join(root, "instances"), fmt.Sprintf("%s%d-*", instancePrefix, os.Getpid()))
	if err != nil {
		return err
	}
	f.dir = dir
	pipe := filepath.Join(dir, "trace_pipe")
	f.pipe, err = unix.Open(pipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: pipe, Err: err}
	}
	f.stop, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	for _, set := range []struct {
		file, value string
		optional    bool
	}{
		{"trace_clock", "mono", false},
		{"buffer_size_kb", strconv.Itoa(max(c.Buffer>>10, 16)), false},
		{"buffer_percent", "0", true}, // wake the reader for a single event
	} {
		if err := f.write(set.file, set.value); err != nil && !set.optional {
			return err
		}
	}
	if err := f.filterDevices(); err != nil {
		return err
	}
	for _, e := range tracefsEvents() {
		if !f.has(e) {
			if e.required {
				return fmt.Errorf("this kernel has no tracepoint %s", e.name)
			}
			continue
		}
		filter := e.filter
		if e.name == Consume {
			if filter = consumerFilter(loadSymbols(c.Logger)); filter == "" {
				continue
			}
		}
		if filter != "" {
			if err := f.write(filepath.Join(e.dir(), "filter"), filter); err != nil {
				return err
			}
		}
		if err := f.write(filepath.Join(e.dir(), "enable"), "1"); err != nil {
			return err
		}
	}
	return nil
}

// filterDevices lets the kernel leave out other devices where the tracepoint knows the
// name.
func (f *tracefsFeed) filterDevices() error {
	if f.devices == nil {
		return nil
	}
	f.devices.refresh()
	filter := f.devices.filter()
	for _, e := range tracefsEvents() {
		if e.group != "net" || !f.has(e) {
			continue
		}
		if err := f.write(filepath.Join(e.dir(), "filter"), filter); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether the kernel has the tracepoint.
func (f *tracefsFeed) has(e tracefsEvent) bool {
	_, err := os.Stat(filepath.Join(f.dir, e.dir()))
	return err == nil
}

func (f *tracefsFeed) write(file, value string) error {
	return os.WriteFile(filepath.Join(f.dir, file), []byte(value), 0)
}

type tracefsEvent struct {
	group, name, filter string
	required            bool
}

func (e tracefsEvent) dir() string { return filepath.Join("events", e.group, e.name) }

func tracefsEvents() []tracefsEvent {
	// Without a protocol it is no frame, but a message between processes or to netlink.
	const frames = "protocol != 0"
	return []tracefsEvent{
		{"net", Queue, "", true},
		{"net", StartXmit, "", true},
		{"net", Xmit, "", true},
		{"net", NetifRx, "", true},
		{"net", GRO, "", false},
		{"net", Receive, "", true},
		{"skb", Drop, frames, true},
		{"skb", Consume, "", false},
		{"skb", CopyOut, "", false},
		{"icmp", ICMPSend, "", false},
		{"tcp", TCPReset, "", false},
	}
}

// consumerFilter admits what consume_skb tells of the functions of consumers; "" if
// their addresses are hidden.
func consumerFilter(s *symbols) string {
	var terms []string
	for _, at := range s.spans(consumers()...) {
		terms = append(terms, fmt.Sprintf("(location >= %#x && location < %#x)", at.from, at.to))
	}
	return strings.Join(terms, " || ")
}

func (f *tracefsFeed) read(deadline time.Time) (Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pipe < 0 {
		return Event{}, ErrClosed
	}
	for {
		for f.at < len(f.buf) {
			end := bytes.IndexByte(f.buf[f.at:], '\n')
			if end < 0 {
				break
			}
			line := f.buf[f.at : f.at+end]
			f.at += end + 1
			e, lost, ok := parseLine(line)
			f.dropped.Add(lost)
			if ok && f.buffers.complete(&e) && (e.Dev == "" || f.devices.has(e.Dev)) {
				if e.PID != 0 {
					e.PID = process(e.PID)
				}
				return e, nil
			}
		}
		// What is left is the beginning of a line.
		f.buf = append(f.buf[:0], f.buf[f.at:]...)
		f.at = 0
		if len(f.buf) >= maxLine { // no line of ours
			f.buf = f.buf[:0]
		}
		if f.devices.refresh() {
			if err := f.filterDevices(); err != nil {
				return Event{}, err
			}
		}
		if ready, err := f.wait(deadline); err != nil {
			return Event{}, err
		} else if !ready {
			continue
		}
		f.buf = append(f.buf, make([]byte, 64<<10)...)
		used := len(f.buf) - 64<<10
		n, err := unix.Read(f.pipe, f.buf[used:])
		f.buf = f.buf[:used+max(n, 0)]
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return Event{}, os.NewSyscallError("read trace_pipe", err)
		}
	}
}

// process returns the process of a thread; the thread where it has ended.
func process(tid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return tid
	}
	line, _ := between(string(status), "\nTgid:", "\n")
	if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
		return pid
	}
	return tid
}

// wait waits for text, the deadline or Close. It returns false when it is time to look
// for new devices.
func (f *tracefsFeed) wait(deadline time.Time) (bool, error) {
	timeout := -1
	if f.devices != nil {
		timeout = int(relist / time.Millisecond)
	}
	if left := time.Until(deadline); !deadline.IsZero() && (timeout < 0 || left < relist) {
		timeout = int(max(0, (left+time.Millisecond-1)/time.Millisecond))
	}
	fds := []unix.PollFd{
		{Fd: int32(f.pipe), Events: unix.POLLIN},
		{Fd: int32(f.stop), Events: unix.POLLIN},
	}
	n, err := unix.Poll(fds, timeout)
	switch {
	case errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("poll", err)
	case fds[1].Revents != 0:
		return false, ErrClosed
	case n == 0 && !deadline.IsZero() && !time.Now().Before(deadline):
		return false, os.ErrDeadlineExceeded
	}
	return n > 0, nil
}

func (f *tracefsFeed) lost() uint64 { return f.dropped.Load() }

// Close removes the instance, which disables its events. The kernel does not remove
// one whose pipe is open.
func (f *tracefsFeed) Close() error {
	if f.stop >= 0 {
		unix.Write(f.stop, binary.NativeEndian.AppendUint64(nil, 1)) // a counter at 0 takes 1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range []*int{&f.pipe, &f.stop} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	err := f.devices.close()
	if f.dir == "" {
		return err
	}
	if rmdir := unix.Rmdir(f.dir); rmdir != nil {
		err = errors.Join(err, &os.PathError{Op: "remove", Path: f.dir, Err: rmdir})
	}
	return err
}
