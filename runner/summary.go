package runner

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// told remembers what was said about kinds of sockets.
type told struct {
	mu   sync.Mutex
	said map[string]bool
}

// unsupported names an option that is not emulated on standard error, where the program runs verbosely.
func (sup *supervisor) unsupported(call, format string, args ...any) {
	if sup.cfg.Verbose {
		fmt.Fprintf(os.Stderr, "ustack: %s: %s is not emulated\n", call, fmt.Sprintf(format, args...))
	}
}

// say tells of a kind of sockets on standard error: once, and where the program runs verbosely each time.
func (sup *supervisor) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !sup.cfg.Verbose {
		sup.told.mu.Lock()
		said := sup.told.said[text]
		if sup.told.said == nil {
			sup.told.said = make(map[string]bool)
		}
		sup.told.said[text] = true
		sup.told.mu.Unlock()
		if said {
			return
		}
	}
	fmt.Fprintf(os.Stderr, "ustack: %s\n", text)
}

// sayUnwatched tells of a program that may not be looked into: it runs as another user by now, and the
// supervisor is without CAP_SYS_PTRACE, as root is in many a container.
func (sup *supervisor) sayUnwatched(tid int) {
	if len(sup.table.all()) == 0 {
		return // it has no socket of the stack's
	}
	name := "a program"
	if b, err := os.ReadFile("/proc/" + itoa(tid) + "/comm"); err == nil {
		name = strings.TrimSpace(string(b))
	}
	sup.say("%s runs as another user, and ustack may not look into it: its sockets do not work: give ustack CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE)", name)
}

// summary tells how often each call was passed to the supervisor.
func (sup *supervisor) summary() {
	if !sup.cfg.Verbose {
		return
	}
	names := make([]sysno, 0, len(sup.counts))
	var total uint64
	for name, n := range sup.counts {
		names = append(names, name)
		total += n
	}
	slices.SortFunc(names, func(a, b sysno) int {
		if sup.counts[a] != sup.counts[b] {
			return int(sup.counts[b]) - int(sup.counts[a])
		}
		return strings.Compare(string(a), string(b))
	})
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %d", name, sup.counts[name]))
	}
	if total == 0 {
		fmt.Fprintln(os.Stderr, "ustack: no calls were passed to the supervisor")
		return
	}
	fmt.Fprintf(os.Stderr, "ustack: %d calls were passed to the supervisor: %s\n", total, strings.Join(parts, ", "))
}
