package doctor

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// gatherHolders finds who has a descriptor of the tap.
func gatherHolders(_ context.Context, _ *Config, env *Environment) {
	all, detached := holders(env.Link, "/proc")
	// Names repeat in other namespaces: those who are there count only when the tap is
	// attached to somebody and nobody here has it.
	tap := env.Tap()
	attached := tap != nil && tap.RawFlags&iffLowerUp != 0
	here := slices.DeleteFunc(slices.Clone(all), func(h Holder) bool { return h.Elsewhere })
	if len(here) == 0 && attached {
		here = all
	}
	env.Holders, env.Detached = here, slices.DeleteFunc(detached, func(h Holder) bool { return h.Elsewhere })
	if os.Geteuid() != 0 {
		env.notef("only root sees which processes of others hold a tap")
	}
}

// holders looks for processes with a descriptor attached to the named tap, and for
// those with one attached to none: the line "iff:" of tun_chr_show_fdinfo in
// drivers/net/tun.c, which is empty for the latter.
func holders(name, proc string) (attached, detached []Holder) {
	ours, _ := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		names := attachedTo(dir)
		if len(names) == 0 {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		ns, _ := os.Readlink(filepath.Join(dir, "ns/net"))
		h := Holder{PID: pid, Program: strings.TrimSpace(string(comm)), State: stateOf(dir), Elsewhere: ns != ours}
		if slices.Contains(names, name) {
			attached = append(attached, h)
		}
		if slices.Contains(names, "") {
			detached = append(detached, h)
		}
	}
	return attached, detached
}

// attachedTo returns the interfaces that the clone device's descriptors of a process
// are attached to, "" for one that is not.
func attachedTo(dir string) (names []string) {
	fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		// A container's clone device may have another path; all else of a busy process
		// need not be read.
		if to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err != nil || !strings.Contains(to, "tun") {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd.Name()))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(info) {
			if iff, ok := bytes.CutPrefix(line, []byte("iff:")); ok {
				names = append(names, string(bytes.TrimSpace(iff)))
			}
		}
	}
	return names
}

// A callCount is how many bytes a process has written, in how many calls, refused ones
// included (proc_pid_io(5)).
type callCount struct{ bytes, calls uint64 }

// writesOf adds up what the holders of the tap have written so far.
func writesOf(holders []Holder, proc string) (sum callCount) {
	for _, h := range holders {
		b, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(h.PID), "io"))
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch name {
			case "wchar":
				sum.bytes += n
			case "syscw":
				sum.calls += n
			}
		}
	}
	return sum
}
