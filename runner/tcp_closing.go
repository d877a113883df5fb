package runner

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// listeners are the listening sockets of a supervisor by port. The program closes and shuts them down
// without a word to the supervisor.
type listeners struct {
	mu     sync.Mutex
	byPort map[uint16][]*tcp
}

func (ls *listeners) add(port uint16, t *tcp) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.byPort == nil {
		ls.byPort = make(map[uint16][]*tcp)
	}
	ls.byPort[port] = append(ls.byPort[port], t)
}

func (ls *listeners) remove(port uint16, t *tcp) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(ls.byPort[port]), func(other *tcp) bool { return other == t })
	if len(rest) == 0 {
		delete(ls.byPort, port)
		return
	}
	ls.byPort[port] = rest
}

func (ls *listeners) at(port uint16) []*tcp {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.byPort[port]
}

func (ls *listeners) all() (all []*tcp) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, ts := range ls.byPort {
		all = append(all, ts...)
	}
	return all
}

// settle lets go of listeners of a port that the program has closed, before it connects there.
func (sup *supervisor) settle(port uint16) {
	sup.settleClaims(port)
	for _, t := range sup.listeners.at(port) {
		if !t.stopIfShut() {
			sup.sweepNow()
			sup.settleClaims(port)
		}
	}
}

// stopIfShut ends a listener that the program has shut down (inet_shutdown). Its address stays. It says
// whether any process has the listener.
func (t *tcp) stopIfShut() bool {
	err := t.withFD(func(fd int) error {
		p := [1]unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p[:], 0); err != nil || n == 0 || p[0].Revents&unix.POLLHUP == 0 {
			return unix.EAGAIN
		}
		return nil
	})
	if err != nil {
		return err == unix.EAGAIN
	}
	t.mu.Lock()
	lis, session, flow := t.lis, t.session, t.flow
	if lis == nil || t.state != tcpListening {
		t.mu.Unlock()
		return true
	}
	t.state, t.lis, t.flow, t.shut = tcpFresh, nil, 0, true
	lis.cancel()
	t.mu.Unlock()
	lis.close()
	if flow != 0 {
		session.Post(control.Request{Op: "close", Flow: flow})
	}
	return true
}
