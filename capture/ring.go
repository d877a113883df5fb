package capture

import "sync"

// A slot is one record in a ring, from its reservation until it was read.
type slot struct {
	rec  Record
	size int // bytes taken in the ring, those skipped before it included
	// state is guarded by the ring's mu.
	state state
}

type state uint8

const (
	reserved  state = iota // its frame is being copied, or its verdict is not known yet
	committed              // can be read
	void                   // is not wanted after all
)

// A ring holds records in order, within a bound of bytes and of records. Records are reserved
// in order, filled by several goroutines at once, and come out in the order of reservation.
type ring struct {
	wake chan struct{} // has room for one: something changed for the reader

	mu     sync.Mutex
	slots  []slot
	first  int // the oldest slot
	n      int // slots in use
	lent   int // of those, given to the reader
	data   []byte
	head   int // where the next record begins
	tail   int // where the oldest begins
	used   int // bytes
	closed bool
}

// slotBytes is how many bytes of ring there are for each slot.
const slotBytes = 512

func (r *ring) init(size int) {
	r.wake = make(chan struct{}, 1)
	r.data = make([]byte, size)
	r.slots = make([]slot, size/slotBytes)
}

// reserve returns a slot with n bytes of data, or nil if there is no room.
func (r *ring) reserve(n int) *slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.n == len(r.slots) {
		return nil
	}
	if r.used == 0 {
		r.head, r.tail = 0, 0
	}
	skip := 0
	if wrapped := r.head < r.tail || r.used == len(r.data); wrapped {
		if n > r.tail-r.head || r.used == len(r.data) {
			return nil
		}
	} else if n > len(r.data)-r.head {
		if skip = len(r.data) - r.head; n > r.tail {
			return nil
		}
		r.head = 0
	}
	s := &r.slots[(r.first+r.n)%len(r.slots)]
	*s = slot{size: skip + n, state: reserved}
	s.rec.Data = r.data[r.head : r.head+n : r.head+n]
	r.n, r.head, r.used = r.n+1, r.head+n, r.used+skip+n
	return s
}

// settle makes a reserved slot readable, or void.
func (r *ring) settle(s *slot, to state) {
	r.mu.Lock()
	s.state = to
	oldest := r.n > r.lent && s == &r.slots[(r.first+r.lent)%len(r.slots)]
	r.mu.Unlock()
	if oldest {
		r.signal()
	}
}

func (r *ring) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// read gives back what it returned last, and returns records that can be read. unsettled says
// that there are others.
func (r *ring) read(recs []Record) (n int, ended, unsettled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ; r.lent > 0; r.lent-- {
		r.release()
	}
	for n < len(recs) && r.lent < r.n {
		s := &r.slots[(r.first+r.lent)%len(r.slots)]
		if s.state == reserved {
			break
		}
		if s.state == committed {
			recs[n] = s.rec
			n++
		}
		r.lent++
	}
	return n, r.closed, r.lent < r.n
}

// release forgets the oldest slot.
func (r *ring) release() {
	s := &r.slots[r.first]
	r.used -= s.size
	if r.tail += s.size; r.tail > len(r.data) {
		r.tail -= len(r.data)
	}
	s.rec = Record{}
	r.first, r.n = (r.first+1)%len(r.slots), r.n-1
}

func (r *ring) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lent == r.n || r.slots[(r.first+r.lent)%len(r.slots)].state == reserved
}

func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.signal()
}
