package link

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A Step is what happened to a frame, or to the bytes of a socket.
type Step uint8

// The steps of a frame that was read come in the order in which they stand here:
// StepRead, then either StepDropped or StepUp. Those of a frame that is sent are
// StepWrite, then either StepSent or StepLost. The steps of sockets and clients are of
// bytes: they carry no frame.
const (
	StepRead    Step = iota // a frame came off the wire
	StepDropped             // the endpoint does not pass it on: Drop says under which counter
	StepUp                  // it is for this station, and is handed to the stack now
	StepDone                // the stack has returned from it; only where an observer is serial
	StepWrite               // a frame is about to be written
	StepSent                // the wire took it
	StepLost                // the wire did not: Drop says under which counter, or "unknown"

	StepSocketIn    // a datagram was queued for a socket's reader; not, where Drop says why
	StepSocketRead  // a reader took bytes out of a socket
	StepSocketWrite // a writer handed bytes to a socket
	StepClientIn    // bytes were handed to a program: Owner says whose
	StepClientOut   // a program wrote bytes
	numSteps
)

var stepNames = [numSteps]string{
	"read", "dropped", "up", "done", "write", "sent", "lost",
	"socket_in", "socket_read", "socket_write", "client_in", "client_out",
}

// String returns the step's name in lower case: "socket_in".
func (s Step) String() string {
	if s >= numSteps {
		return "unknown"
	}
	return stepNames[s]
}

// An Event is one step that is told to observers.
type Event struct {
	// At is when it happened, with a monotonic reading.
	At   time.Time
	Step Step

	// Of a frame: the device's name, the number of its queue, and the number of the
	// frame, which is the same in all of its steps and no other frame's.
	Link  string
	Queue int
	Frame uint64
	// Pieces is the frame, in order, from the first byte of its Ethernet header, and
	// Offload what is left to do of it. Both are there in every step of a frame; the bytes
	// are valid until Observe returns and must not be changed.
	Pieces  [][]byte
	Offload Offload

	// Drop is the counter under which the frame or datagram was dropped.
	Drop string

	// Of a socket or client: "tcp", "udp" or "icmp", the stack's own address, the peer's,
	// and how many bytes. An address may be the zero AddrPort; that of a socket bound to any
	// address is the one that the datagram was sent to.
	Network       string
	Local, Remote netip.AddrPort
	Bytes         int
	// Socket is equal in the events of one socket, and Number counts its datagrams from 1
	// as they are queued, and again as they are read: StepSocketIn and StepSocketRead of one
	// datagram have the same. 0 and nil where that is not known.
	Socket any
	Number uint64
	// Offset is how many bytes were written to a connection before, of its StepSocketWrite.
	Offset uint64
	// Owner is who holds the socket, such as "pid 1234 (curl)", where that is known.
	Owner string
}

// Len returns the number of bytes of the event's frame.
func (e *Event) Len() int {
	n := 0
	for _, p := range e.Pieces {
		n += len(p)
	}
	return n
}

// AppendFrame appends the first bytes of the event's frame to dst, at most limit.
func (e *Event) AppendFrame(dst []byte, limit int) []byte {
	for _, p := range e.Pieces {
		n := min(len(p), limit)
		dst, limit = append(dst, p[:n]...), limit-n
	}
	return dst
}

// An Observer is told what becomes of frames. Observe is called by the goroutine that
// works on the frame or the socket, by several at once, often under locks of the stack:
// it must wait for nothing that could wait for it, must not send or receive through the stack, and must keep
// nothing of the event but copies.
type Observer interface {
	Observe(ev *Event)
}

// Observers are who is told of the steps of one stack. The zero value is ready, and so is
// a nil *Observers that nobody can ever be added to. All methods may be called concurrently.
//
// Whoever may have something to tell calls Watching first, which is one atomic load, and
// goes on as ever when it returns nil.
type Observers struct {
	watching atomic.Pointer[Watching]
	frames   atomic.Uint64
	mu       sync.Mutex // held to change watching
}

// A Watching is a set of observers at one moment.
type Watching struct {
	of     *Observers
	seats  []*seat
	serial bool
}

// A seat is an observer. That one is not called any more is waited for without a lock: a call
// may wait for a lock of the stack's, whose holder tells of something, too.
type seat struct {
	o       Observer
	serial  bool
	calls   atomic.Int64  // under way, or about to see that o is gone
	gone    atomic.Bool   // o must not be called any more
	idle    chan struct{} // closed when gone and nobody calls
	once    sync.Once     // closes idle
	removed bool          // of the list, guarded by Observers.mu
}

func (s *seat) tell(ev *Event) {
	s.calls.Add(1)
	if !s.gone.Load() {
		s.o.Observe(ev)
	}
	if s.calls.Add(-1) == 0 && s.gone.Load() {
		s.once.Do(func() { close(s.idle) })
	}
}

// leave returns when o is not being called any more.
func (s *seat) leave() {
	s.gone.Store(true)
	if s.calls.Load() == 0 {
		s.once.Do(func() { close(s.idle) })
	}
	<-s.idle
}

// Watching returns who is to be told, or nil.
func (o *Observers) Watching() *Watching {
	if o == nil {
		return nil
	}
	return o.watching.Load()
}

// Add makes ob an observer until remove is called, which returns when ob is not being
// called any more; it must not be called by ob itself, and is harmless to call twice. With
// serial, the frames read from all queues are handed to the stack one at a time, none of
// them merged with others, and StepDone follows StepUp before the next: what the stack counts
// between the two is that frame's doing, as far as it works without goroutines of its own.
func (o *Observers) Add(ob Observer, serial bool) (remove func()) {
	s := &seat{o: ob, serial: serial, idle: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.set(s)
	return func() {
		o.mu.Lock()
		if !s.removed {
			s.removed = true
			o.set(nil)
		}
		o.mu.Unlock()
		s.leave()
	}
}

// set adds a seat, unless that is nil, and forgets those that were removed. mu is held.
func (o *Observers) set(add *seat) {
	w := &Watching{of: o}
	if was := o.watching.Load(); was != nil {
		for _, s := range was.seats {
			if !s.removed {
				w.seats = append(w.seats, s)
			}
		}
	}
	if add != nil {
		w.seats = append(w.seats, add)
	}
	for _, s := range w.seats {
		w.serial = w.serial || s.serial
	}
	if len(w.seats) == 0 {
		w = nil
	}
	o.watching.Store(w)
}

// Serial reports whether an observer wants one frame at a time.
func (w *Watching) Serial() bool { return w.serial }

// NewFrame returns the number of a frame that has not been told of yet.
func (w *Watching) NewFrame() uint64 { return w.of.frames.Add(1) }

// Observe tells all observers of a step, and of the time.
func (w *Watching) Observe(ev *Event) {
	ev.At = time.Now()
	for _, s := range w.seats {
		s.tell(ev)
	}
}
