package runner

import (
	"sync"

	"github.com/ustack/ustack/control"
)

// An arrival is a connection that the program has not accepted yet. It may end before.
type arrival struct {
	sup     *supervisor
	session *control.Session
	rep     control.Reply

	mu sync.Mutex
	// spare is a duplicate of the far end, else -1. It also keeps the program's unix socket as it is
	// until an error can be shown there, which takes an accepted one.
	spare int
	// ended says that the connection has ended, by why unless in good order.
	ended bool
	why   error
	// t is the socket, once the program has it.
	t *tcp
	// abandoned says that nobody will accept it.
	abandoned bool
}

// An accepted is a connection with its unix socket.
type accepted struct {
	fd   int
	t    *tcp
	from *arrival
}

func newArrival(sup *supervisor, session *control.Session, rep control.Reply) *arrival {
	return &arrival{sup: sup, session: session, rep: rep, spare: -1}
}

// begin follows the connection, whose far end the daemon is about to get.
func (a *arrival) begin(far int) {
	a.mu.Lock()
	a.spare = a.sup.spares.dup(far)
	a.mu.Unlock()
	a.rep.OnEnd(a.end)
}

func (a *arrival) end(why error) {
	a.mu.Lock()
	if a.t != nil {
		a.mu.Unlock()
		a.t.ended(a.session, a.rep.Flow, why)
		return
	}
	defer a.mu.Unlock()
	a.ended, a.why = true, why
	if why == nil || a.abandoned {
		a.drop()
	}
}

// drop lets go of the spare. mu is held.
func (a *arrival) drop() {
	a.sup.spares.drop(a.spare)
	a.spare = -1
}

// settle makes of an end that came before t was accepted, as fd, what the program will see of it.
func (a *arrival) settle(t *tcp, fd int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended || t.flow == 0 {
		return
	}
	t.spare, a.spare = a.spare, -1
	t.end(a.session, a.rep.Flow, a.why, func(f func(fd int) error) error { return f(fd) })
}

// follow passes the connection's end on to t, which the program has.
func (a *arrival) follow(t *tcp) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t.mu.Lock()
	live := t.flow != 0 // not closed already, nor settled
	if live {
		t.spare, a.spare = a.spare, -1
	}
	t.mu.Unlock()
	a.t = t
	switch {
	case !live:
		a.drop()
	case a.ended:
		t.ended(a.session, a.rep.Flow, a.why)
	}
}

// abandon is for a connection that nobody will accept.
func (a *arrival) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.abandoned = true
	a.drop()
}
