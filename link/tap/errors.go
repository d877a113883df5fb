package tap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openError explains why the clone device could not be opened.
func openError(name, clone string, errno error) error {
	var hint string
	switch {
	case errors.Is(errno, unix.ENOENT), errors.Is(errno, unix.ENODEV), errors.Is(errno, unix.ENXIO):
		hint = "the tun module is not there: modprobe tun (in a container: --device /dev/net/tun)"
	case errors.Is(errno, unix.EACCES), errors.Is(errno, unix.EPERM):
		hint = "this user may not open it: run as root with CAP_NET_ADMIN, or allow it: chmod 0666 " + clone
	default:
		return fmt.Errorf("tap %s: open %s: %w", name, clone, errno)
	}
	return fmt.Errorf("tap %s: open %s: %w: %s", name, clone, errno, hint)
}

// attachError explains why TUNSETIFF was refused. was is what was known of the
// interface before, or nil.
func attachError(cfg *Config, was *existing, errno error) error {
	name := cfg.Name
	var hint string
	switch {
	case errors.Is(errno, unix.EBUSY):
		hint = holderOf(name)
	case errors.Is(errno, unix.EPERM), errors.Is(errno, unix.EACCES):
		mode := "tap"
		if cfg.Queues > 1 {
			mode = "tap multi_queue"
		}
		hint = fmt.Sprintf("creating it needs CAP_NET_ADMIN: run as root, or create it for your user: sudo ip tuntap add dev %s mode %s user $USER", name, mode)
		if was != nil {
			whose := "it was made for another user or group"
			if was.owner >= 0 {
				whose = fmt.Sprintf("it was made for uid %d, this is uid %d", was.owner, os.Geteuid())
			}
			hint = fmt.Sprintf("%s: run as that user or with CAP_NET_ADMIN, or make it yours: sudo ip tuntap del dev %s mode tap && sudo ip tuntap add dev %s mode %s user $USER", whose, name, name, mode)
		}
	case errors.Is(errno, unix.EINVAL) && was != nil && !was.tap:
		hint = "that interface is not a tap: use another name"
	case errors.Is(errno, unix.EINVAL) && was != nil && cfg.Queues > 1:
		hint = fmt.Sprintf("it has a single queue: leave out queues=%d, or make it anew: sudo ip tuntap add dev %s mode tap multi_queue", cfg.Queues, name)
	case errors.Is(errno, unix.E2BIG):
		hint = fmt.Sprintf("all of its queues are taken: use fewer than queues=%d", cfg.Queues)
	case errors.Is(errno, unix.ENFILE):
		hint = "no number is free for it: use another name"
	default:
		return fmt.Errorf("tap %s: attach (TUNSETIFF): %w", name, errno)
	}
	return fmt.Errorf("tap %s: attach (TUNSETIFF): %w: %s", name, errno, hint)
}

// holderOf says in words who holds the tap and what to do.
func holderOf(name string) string {
	pid, command, found := findHolder(name, "/proc")
	switch {
	case !found:
		return "another process holds it: stop that one (as root, grep -l " + name + " /proc/*/fdinfo/* finds it), or use another name"
	case pid == os.Getpid():
		return "this process holds it already: use another name"
	}
	return fmt.Sprintf("pid %d (%s) holds it: stop that one, or use another name", pid, command)
}

// findHolder looks for the process that has a descriptor attached to the named
// tap (the line "iff:" of tun_chr_show_fdinfo in drivers/net/tun.c). Names repeat
// in other network namespaces, so that a process of our own one is preferred. Of
// other users' processes only root may know.
func findHolder(name, proc string) (pid int, command string, found bool) {
	ours, _ := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		id, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !holds(dir, name) {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		pid, command, found = id, strings.TrimSpace(string(comm)), true
		if ns, _ := os.Readlink(filepath.Join(dir, "ns/net")); ns == ours {
			break
		}
	}
	return pid, command, found
}

// holds reports whether the process of a /proc directory has the tap attached.
func holds(dir, name string) bool {
	fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		// The clone device may have another name than /dev/net/tun: a container's,
		// a deleted one. All else of a busy process need not be read.
		if to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err != nil || !strings.Contains(to, "tun") {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd.Name()))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(info) {
			if iff, ok := bytes.CutPrefix(line, []byte("iff:")); ok && string(bytes.TrimSpace(iff)) == name {
				return true
			}
		}
	}
	return false
}
