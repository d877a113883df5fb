package stack

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// warnings are conditions the user should know of, each once.
type warnings struct {
	mu   sync.Mutex
	list []warning
}

type warning struct {
	text  string
	about netip.Addr // the address that it is about, if any
}

// maxWarnings bounds what the wire can make us remember.
const maxWarnings = 32

func (w *warnings) add(text string, about netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) >= maxWarnings || slices.ContainsFunc(w.list, func(have warning) bool { return have.text == text }) {
		return false
	}
	w.list = append(w.list, warning{text, about})
	return true
}

// forget drops what is said of an address that the stack no longer has.
func (w *warnings) forget(about netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = slices.DeleteFunc(w.list, func(have warning) bool { return have.about == about })
}

// Warnings returns what the user should know of, such as a duplicate address.
func (s *Stack) Warnings() []string {
	s.warn.mu.Lock()
	defer s.warn.mu.Unlock()
	var list []string
	for _, w := range s.warn.list {
		list = append(list, w.text)
	}
	return list
}

// warnAbout warns of an address.
func (s *Stack) warnAbout(ip netip.Addr, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); s.warn.add(text, ip) {
		s.log.Warn(text, "link", s.name)
	}
}
