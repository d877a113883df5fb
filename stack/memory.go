package stack

import (
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// The bounds of Config.Memory and its default, in bytes.
const (
	MinMemory = 1 << 20

	leastDefaultMemory = 64 << 20
	mostDefaultMemory  = 1 << 30
)

// DefaultMemory is the ceiling where Config.Memory is 0: an eighth of the machine's
// memory, about what Linux allows itself (tcp_init_mem in net/ipv4/tcp.c), within 64 MiB
// and 1 GiB, and at most a half of GOMEMLIMIT.
func DefaultMemory() int64 {
	most := int64(leastDefaultMemory)
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err == nil {
		total := float64(info.Totalram) * float64(info.Unit)
		most = int64(min(max(total/8, leastDefaultMemory), mostDefaultMemory))
	}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		most = min(most, limit/2)
	}
	return max(most, MinMemory)
}

// Sizes of buffers, in bytes.
const (
	// leastBuffer is what every socket has, whatever the ceiling is. Linux grants as much
	// (the first figure of tcp_rmem and tcp_wmem).
	leastBuffer = 4 << 10
	// firstSend is the send buffer of a new connection, as in Linux (tcp_wmem).
	firstSend = 16 << 10
	// quickSend is what a send buffer grows to as soon as a write wants it.
	quickSend = 1 << 20
	// bookStep is what a size must change by to be booked for a connection that shrinks.
	bookStep = 4 << 10
)

// lookEvery is how often those with more than an ordinary share are looked at.
const lookEvery = time.Second

// memory is the ceiling over the buffers of all sockets, as tcp_mem is Linux's. It books
// the size of each buffer, which is what netstack lets it hold at most, and not what it
// holds: a size becomes a promise as soon as the peer has seen the window. So what all
// sockets hold stays below the ceiling, plus leastBuffer for each where there are so
// many. Sizes grow while their owner reads or writes, by at most a share of what is
// left, and are taken back from those that do not use them.
type memory struct {
	ceiling int64
	booked  atomic.Int64 // sum of the sizes of all accounts; changes under mu
	refused atomic.Uint64
	shrunk  atomic.Uint64

	mu       sync.Mutex
	accounts account // the list's ends
	n        int     // how many there are
	large    int     // how many of them have more than an ordinary share, or are closed
	begun    time.Time
	swept    time.Time     // when sweep ended last
	took     time.Duration // and how long it took
	timer    *time.Timer   // runs while large > 0
	ended    bool
}

// An account is the share of one socket. Its sizes change under memory.mu.
type account struct {
	mem        *memory // nil before open, and where nothing is booked
	owner      accountOwner
	next, prev *account
	recv, send atomic.Int64
	// fixedRecv and fixedSend say that the program has chosen the size.
	fixedRecv, fixedSend atomic.Bool
	large                bool
	closed               bool // by its owner; of memory.mu
}

// An accountOwner gives back what it does not need.
type accountOwner interface {
	// size sets the size of the receive or the send buffer.
	size(recv bool, bytes int64)
	// ordinary reports whether it has no more than an idle socket needs.
	ordinary() bool
	// review takes back what is not used. It is called under memory.mu, and calls
	// shrink. For a closed socket it reports whether its share can go.
	review(look *look) (gone bool)
}

// A look is one pass over all accounts.
type look struct {
	// share is what an idle socket may keep in each direction when memory is scarce, and
	// fair what one may keep that is at work. Both are 0 when memory is not scarce.
	share, fair int64
	// elapsed is the time since the period began that ends with this look; 0 where it
	// does not end.
	elapsed time.Duration
}

func (m *memory) init(ceiling int64) {
	m.ceiling = ceiling
	m.accounts.next, m.accounts.prev = &m.accounts, &m.accounts
	m.begun = time.Now()
}

// scarce reports whether less than a quarter is left.
func (m *memory) scarce() bool { return m.booked.Load() > m.ceiling-m.ceiling/4 }

// open begins an account with a receive buffer of at most recv bytes, and a send buffer
// of send.
func (m *memory) open(a *account, owner accountOwner, recv, send int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.mem, a.owner = m, owner
	a.next, a.prev = &m.accounts, m.accounts.prev
	a.prev.next, a.next.prev = a, a
	m.n++
	if send > 0 {
		m.book(a, false, max(m.grant(send, 16), min(send, leastBuffer)))
	}
	m.book(a, true, max(m.grant(recv, 16), leastBuffer))
}

// waiting returns the size of the receive buffer of connections that are not accepted
// yet, of which there may be as many as backlog: so that a full backlog holds no more
// than a quarter of the ceiling, but no more than what a new connection has.
func (m *memory) waiting(backlog int) int64 {
	return min(max(m.ceiling/4/int64(backlog), 2*leastBuffer), firstReceive)
}

// close ends an account. With keep it is left to review.
func (m *memory) close(a *account, keep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.mem == nil || a.closed {
		return
	}
	a.closed = true
	m.booked.Add(-a.recv.Swap(0))
	if keep {
		m.mark(a)
		return
	}
	m.drop(a)
}

// drop takes an account from the list. mu is held.
func (m *memory) drop(a *account) {
	m.booked.Add(-a.recv.Swap(0) - a.send.Swap(0))
	a.prev.next, a.next.prev = a.next, a.prev
	a.next, a.prev = nil, nil
	m.n--
	if a.large {
		a.large = false
		m.large--
	}
}

// grant returns how much of want bytes may be booked: at most the part-th part of what
// is left. mu is held.
func (m *memory) grant(want, part int64) int64 {
	left := m.ceiling - m.booked.Load()
	if left/part < want && m.scarce() {
		m.sweep()
		left = m.ceiling - m.booked.Load()
	}
	give := min(want, max(left/part, 0))
	if give < want {
		m.refused.Add(1)
	}
	return give
}

// book sets a size. mu is held.
func (m *memory) book(a *account, recv bool, bytes int64) {
	size := &a.send
	if recv {
		size = &a.recv
	}
	m.booked.Add(bytes - size.Swap(bytes))
	a.owner.size(recv, bytes)
	m.mark(a)
}

// mark notes whether an account has more than an ordinary share. mu is held.
func (m *memory) mark(a *account) {
	large := !a.owner.ordinary()
	if large == a.large {
		return
	}
	a.large = large
	if !large {
		m.large--
		return
	}
	m.large++
	if m.large == 1 && !m.ended {
		if m.timer == nil {
			m.timer = time.AfterFunc(lookEvery, m.tick)
		} else {
			m.timer.Reset(lookEvery)
		}
	}
}

// grow asks for a larger buffer, and reports whether it is larger now.
func (a *account) grow(recv bool, bytes int64) bool {
	m := a.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.closed {
		return false
	}
	have := a.send.Load()
	if recv {
		have = a.recv.Load()
	}
	give := int64(0)
	if bytes > have {
		give = m.grant(bytes-have, 16)
	}
	// The sweep may have taken something.
	now := a.send.Load()
	if recv {
		now = a.recv.Load()
	}
	if give < min(leastBuffer, bytes-have) {
		give = 0
	}
	m.book(a, recv, now+give) // sets the size even if netstack has changed it
	return now+give > have
}

// shrink gives back what is above bytes. mu is held.
func (a *account) shrink(recv bool, bytes int64) {
	have := a.send.Load()
	if recv {
		have = a.recv.Load()
	}
	if bytes > have-bookStep {
		return
	}
	a.mem.shrunk.Add(1)
	a.mem.book(a, recv, bytes)
}

// fix sets a size that the program has chosen, as far as memory allows.
func (a *account) fix(recv bool, bytes int64) {
	m := a.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.closed {
		return
	}
	size := &a.send
	if recv {
		size = &a.recv
		a.fixedRecv.Store(true)
	} else {
		a.fixedSend.Store(true)
	}
	if have := size.Load(); bytes > have {
		give := m.grant(bytes-have, 4)
		bytes = size.Load() + give
	}
	m.book(a, recv, bytes)
}

// tick looks at the accounts while some have more than an ordinary share.
func (m *memory) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return
	}
	m.look(false)
	if m.large > 0 {
		m.timer.Reset(lookEvery)
	}
}

// sweep takes back what it can because memory is scarce. While there is little to find,
// it takes no more than a tenth of the time. mu is held.
func (m *memory) sweep() {
	if time.Since(m.swept) < 10*m.took {
		return
	}
	m.look(true)
}

// look reviews every account. mu is held.
func (m *memory) look(scarce bool) {
	start := time.Now()
	var l look
	if elapsed := start.Sub(m.begun); elapsed >= lookEvery/2 {
		l.elapsed, m.begun = elapsed, start
	}
	if scarce && m.n > 0 {
		l.share = max(m.ceiling/int64(8*m.n), leastBuffer)
		l.fair = max(m.ceiling/int64(2*m.n), leastBuffer)
	}
	for a := m.accounts.next; a != &m.accounts; {
		next := a.next
		if a.owner.review(&l) {
			m.drop(a)
		}
		a = next
	}
	m.swept = time.Now()
	m.took = m.swept.Sub(start)
}

// end stops the timer.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	if m.timer != nil {
		m.timer.Stop()
	}
}

// A MemoryInfo is what the buffers of a stack's sockets may hold, in bytes.
type MemoryInfo struct {
	// Ceiling is Config.Memory.
	Ceiling int64
	// Booked is the sum of the sizes that the buffers have now.
	Booked int64
	// Queued is what waits in the receive buffers.
	Queued int64
	// Refused counts the times that a buffer was to grow and could not, or only in part;
	// Shrunk those that one was made smaller.
	Refused, Shrunk uint64
}

// MemoryBooked is Memory without Queued, which has to ask every socket.
func (s *Stack) MemoryBooked() MemoryInfo {
	return MemoryInfo{
		Ceiling: s.mem.ceiling, Booked: s.mem.booked.Load(),
		Refused: s.mem.refused.Load(), Shrunk: s.mem.shrunk.Load(),
	}
}

// Memory returns what the buffers of the stack's sockets may hold and hold.
func (s *Stack) Memory() MemoryInfo {
	i := s.MemoryBooked()
	for _, te := range s.endpoints() {
		if ep, ok := te.(*tcp.Endpoint); ok {
			if n, terr := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); terr == nil {
				i.Queued += int64(n)
			}
		}
	}
	for _, in := range s.mem.inboxes() {
		i.Queued += int64(in.queued())
	}
	return i
}

// inboxes returns those of all sockets that have one, by their endpoint.
func (m *memory) inboxes() map[tcpip.Endpoint]*inbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[tcpip.Endpoint]*inbox)
	for a := m.accounts.next; a != &m.accounts; a = a.next {
		if c, ok := a.owner.(*UDPConn); ok {
			all[c.ep] = &c.inbox
		}
	}
	return all
}
