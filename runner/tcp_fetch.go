package runner

import (
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// A fetching takes connections of one daemon and puts them into the program's queue, one after another:
// programs such as iperf3 rely on the order. It does so on the thread that reads replies where it has not to
// wait.
type fetching struct {
	l       *listening
	session *control.Session
	flow    uint64
	over    chan struct{} // closed when there are no more
	end     func()        // closes it

	mu sync.Mutex
	// waits says that a delivery has to wait; queue are the connections behind it.
	waits bool
	queue []*arrival
}

// askAhead is how many connections the daemon is asked for at a time: while one is on its way to the
// program the next ones are on theirs.
const askAhead = 4

// fetch returns when there are no more connections.
func (l *listening) fetch(session *control.Session, flow uint64) {
	f := &fetching{l: l, session: session, flow: flow, over: make(chan struct{})}
	f.end = sync.OnceFunc(func() { close(f.over) })
	for range askAhead {
		f.ask(control.Request{}, -1)
	}
	<-f.over
}

// ask asks for the next connection, behind first if that names an operation.
func (f *fetching) ask(first control.Request, fd int) {
	r := control.Request{Op: "accept", Flow: f.flow, Hold: true}
	if first.Op == "" {
		f.session.Start(f.l.ctx, r, -1, f.answered)
		return
	}
	f.session.StartAfter(f.l.ctx, first, fd, r, f.answered)
}

// answered takes the daemon's answer.
func (f *fetching) answered(rep control.Reply, err error) {
	l := f.l
	switch {
	case l.ctx.Err() != nil:
		if err == nil {
			f.session.Post(control.Request{Op: "abort", Flow: rep.Flow})
		}
		f.end()
	case f.session.Err() != nil:
		f.end()
	case err == nil:
		f.inOrder(newArrival(l.sup, f.session, rep))
	default:
		switch errnoOf(err) {
		case unix.EMFILE, unix.ENOBUFS, unix.ECONNABORTED:
			f.beside(func() {
				if l.pause(renewTime) {
					f.ask(control.Request{}, -1)
				} else {
					f.end()
				}
			})
		default:
			f.end()
		}
	}
}

// beside does what has to wait.
func (f *fetching) beside(wait func()) {
	f.l.sup.wg.Add(1)
	go func() {
		defer f.l.sup.wg.Done()
		wait()
	}()
}

// inOrder delivers a connection behind those that came before.
func (f *fetching) inOrder(a *arrival) {
	f.mu.Lock()
	waits := f.waits
	if waits {
		f.queue = append(f.queue, a)
	}
	f.mu.Unlock()
	if !waits {
		f.deliver(a)
	}
}

// wait runs what has to wait, and then delivers what has come meanwhile.
func (f *fetching) wait(first func()) {
	f.mu.Lock()
	again := f.waits
	f.waits = true
	f.mu.Unlock()
	if again { // this is what came meanwhile
		first()
		return
	}
	f.beside(func() {
		first()
		for {
			f.mu.Lock()
			if len(f.queue) == 0 {
				f.waits = false
				f.mu.Unlock()
				return
			}
			next := f.queue[0]
			f.queue = f.queue[1:]
			f.mu.Unlock()
			f.deliver(next)
		}
	})
}

// deliver connects to the program's listening unix socket. It waits while the program's backlog is full, and
// for another socket if that one is closed.
func (f *fetching) deliver(a *arrival) {
	l := f.l
	name := l.farName()
	to := l.expect(name, a)
	far, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		if err = unix.Bind(far, &unix.SockaddrUnix{Name: name}); err == nil {
			err = unix.Connect(far, &unix.SockaddrUnix{Name: to})
		}
	}
	if err == unix.ECONNREFUSED {
		if other := l.sibling(a, name, far); other != nil {
			l.arrives(name, to, true)
			f.enqueued(a, far, other)
			return
		}
	}
	if err == unix.EAGAIN || err == unix.EINTR || err == unix.ECONNREFUSED {
		f.wait(func() {
			to, err := l.enqueue(far)
			f.delivered(a, name, to, far, err)
		})
		return
	}
	f.delivered(a, name, to, far, err)
}

// delivered ends a delivery to the program's queue, of the unix socket called to.
func (f *fetching) delivered(a *arrival, name, to string, far int, err error) {
	f.l.arrives(name, to, err != nil)
	if err != nil {
		if far >= 0 {
			unix.Close(far)
		}
		f.l.sup.sweepSoon() // perhaps nobody has the listener any more
		f.ask(control.Request{Op: "abort", Flow: a.rep.Flow}, -1)
		return
	}
	f.enqueued(a, far, f.l)
}

// arrives notes that the connection of that name is in the queue of the unix socket called to, or does not
// come. If that is not the program's any more the kernel has closed the connection with it.
func (l *listening) arrives(name, to string, not bool) {
	l.mu.Lock()
	a := l.arrived[name]
	if delete(l.delivering, name); len(l.delivering) == 0 {
		l.heldUntil = time.Time{}
	}
	lost := !not && to != l.name && a != nil
	if not || lost {
		delete(l.arrived, name)
	}
	l.mu.Unlock()
	if lost {
		a.abandon()
	}
}

// enqueued gives the far end of a connection that is in the queue of l to the daemon, and asks for the
// next one in the same write.
func (f *fetching) enqueued(a *arrival, far int, l *listening) {
	// What a close does is told before anything can close it.
	t := l.owner()
	t.mu.Lock()
	linger, ok := t.options["so.linger"]
	t.mu.Unlock()
	if ok && linger >= 0 {
		f.session.Post(control.Request{Op: "setopt", Flow: a.rep.Flow, Options: map[string]int{"so.linger": linger}})
	}
	a.begin(far)
	// The far end is the daemon's from here on, whether the program accepts or not.
	f.ask(control.Request{Op: "attach", Flow: a.rep.Flow}, far)
	l.wake()
}

// farName is the name of the far end of the next connection.
func (l *listening) farName() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	return l.name + "-" + strconv.FormatUint(l.last, 10)
}

// expect notes that a connection is about to come to the program's queue, from the unix socket of
// that name, to the one called to.
func (l *listening) expect(name string, a *arrival) (to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrived[name], l.delivering[name] = a, true
	return l.name
}
