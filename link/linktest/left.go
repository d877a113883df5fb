package linktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ustack/ustack/link"
)

// After Close of both sides neither a goroutine nor a descriptor is left.
func checkNothingLeft(s *suite) {
	use := func(gone bool) {
		dev, wire := s.make(s.TB)
		r := s.read(dev, 2, link.MaxFrame)
		frames := series(0, 5)
		s.send(wire, frames...)
		r.want(frames...)
		s.write(dev, len(frames), frames...)
		s.wantOut(wire, frames...)
		if gone {
			if err := wire.Remove(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				s.Fatalf("Remove: %v", err)
			}
		}
		s.closeAll(dev, wire)
		r.wait("Read")
	}
	use(false) // what the runtime opens once for all, it opens now
	goroutines, descriptors := goroutines(), descriptors()
	for range 2 {
		use(false)
		use(true)
	}
	// A goroutine that has done its work takes a moment to end.
	left := func() string { return leftGoroutines(goroutines) + leftDescriptors(descriptors) }
	for deadline := time.Now().Add(s.patience); left() != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("left after Close:\n%s", left())
		}
	}
}

// goroutines returns the stacks of all goroutines by their number.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		// "goroutine 12 [running]:"
		if id := strings.Fields(stack); len(id) > 1 {
			all[id[1]] = stack
		}
	}
	return all
}

// leftGoroutines lists those of now that were not there before.
func leftGoroutines(before map[string]string) string {
	var b strings.Builder
	for id, stack := range goroutines() {
		// A test's own, and the runtime's, come and go.
		if before[id] == "" && !strings.Contains(stack, "created by testing.") && strings.Contains(stack, "created by ") {
			fmt.Fprintf(&b, "%s\n\n", stack)
		}
	}
	return b.String()
}

// descriptors counts open files by what they are.
func descriptors() map[string]int {
	all := make(map[string]int)
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			// "socket:[1234]": the number is another one each time.
			kind, _, _ := strings.Cut(to, "[")
			all[kind]++
		}
	}
	return all
}

func leftDescriptors(before map[string]int) string {
	var b strings.Builder
	for what, n := range descriptors() {
		if n > before[what] {
			fmt.Fprintf(&b, "%d descriptors more of %s\n", n-before[what], what)
		}
	}
	return b.String()
}
