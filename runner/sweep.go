package runner

import (
	"bufio"
	"bytes"
	"os"
	"slices"
	"strconv"
	"time"
)

const (
	// minSweep is how many sockets may come before the first sweep.
	minSweep = 512
	// maxLooked is how many sockets are looked for one by one before all are listed.
	maxLooked = 32
	// sweepTime is how often it is looked whether a socket that holds something of the daemon's
	// is still there, such as a listener's port.
	sweepTime = 50 * time.Millisecond
	// sweepShare bounds the time spent so: one part in this many.
	sweepShare = 50
)

// A holder is a kind that can hold something of the daemon's without a connection whose end
// would tell that the program has closed it.
type holder interface{ holds() bool }

// A looker is a kind that looks after its own as often.
type looker interface{ look() }

func (s *socket) holds() bool {
	h, ok := s.kind.(holder)
	return ok && h.holds()
}

// holds says whether any socket is a holder's.
func (sup *supervisor) holds() bool { return slices.ContainsFunc(sup.table.all(), (*socket).holds) }

// sweeper looks for sockets that no process has any more, and for calls that nobody waits for.
func (sup *supervisor) sweeper() {
	defer sup.wg.Done()
	t := time.NewTimer(sweepTime)
	defer t.Stop()
	for {
		all := false
		select {
		case <-sup.ctx.Done():
			return
		case <-sup.sweeps:
			all = true
		case <-t.C:
		}
		start := time.Now()
		sup.laters.do()
		sup.held.dropGone()
		sup.sweep(all)
		for _, t := range sup.listeners.all() {
			t.stopIfShut()
		}
		if sup.held.len() > 0 {
			for _, s := range sup.table.all() {
				if l, ok := s.kind.(looker); ok {
					l.look()
				}
			}
		}
		t.Reset(max(sweepTime, sweepShare*time.Since(start)))
	}
}

// sweepSoon asks for a sweep of all sockets.
func (sup *supervisor) sweepSoon() {
	select {
	case sup.sweeps <- struct{}{}:
	default:
	}
}

// closeTime bounds the wait for what the supervisor itself or the daemon has still of a socket that the
// program has closed.
const closeTime = 100 * time.Millisecond

// sweepNow is for one who needs what a closed socket may hold still.
func (sup *supervisor) sweepNow() {
	sup.held.dropGone()
	sup.loans.wait(closeTime)
	sup.sweep(true)
	sup.sweep(true)
}

// sweep lets go of sockets that no process has: of all, or of those that hold something of
// the daemon's.
func (sup *supervisor) sweep(all bool) {
	sup.sweeping.Lock()
	defer sup.sweeping.Unlock()
	sup.table.mu.Lock()
	clock := sup.table.clock
	sup.table.mu.Unlock()
	// A kind may hold its own lock when it asks the table, and so not the other way round.
	doubtful := sup.table.all()
	if !all {
		doubtful = slices.DeleteFunc(doubtful, func(s *socket) bool { return !s.holds() })
	}
	if len(doubtful) <= maxLooked {
		doubtful = slices.DeleteFunc(doubtful, sup.isWhereItWas)
	}
	if len(doubtful) == 0 {
		sup.table.swept(all)
		return
	}
	// A socket that is passed on or in flight is in the kernel's list all the same. The list can
	// miss one while others go, so two lists have to. One that came after the list was
	// begun says nothing.
	there, err := unixInodes()
	if err != nil {
		return
	}
	missing := false
	for _, s := range doubtful {
		sup.table.mu.Lock()
		switch {
		case there[s.ino]:
			s.missed = 0
		case s.born <= clock:
			s.missed++
		}
		missed := s.missed
		sup.table.mu.Unlock()
		switch {
		case missed == 1:
			missing = true
		case missed > 1 && sup.isWhereItWas(s):
			sup.table.mu.Lock()
			s.missed = 0
			sup.table.mu.Unlock()
		case missed > 1 && sup.table.removeMissed(s):
			s.kind.gone()
		}
	}
	sup.table.swept(all)
	if missing {
		sup.sweepSoon()
	}
}

// removeMissed takes a socket out that has been missed, unless it has another inode since.
func (t *table) removeMissed(s *socket) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.missed < 2 || t.byIno[s.ino] != s {
		return false
	}
	delete(t.byIno, s.ino)
	return true
}

// isWhereItWas is the quick answer for most sockets, if there are few.
func (sup *supervisor) isWhereItWas(s *socket) bool {
	sup.table.mu.Lock()
	where, ino := s.where, s.ino
	sup.table.mu.Unlock()
	return where.tid != 0 && where.holds(ino)
}

func (t *table) swept(all bool) {
	if !all {
		return
	}
	t.mu.Lock()
	t.atLast = len(t.byIno)
	t.mu.Unlock()
}

// all lists the sockets.
func (t *table) all() []*socket {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*socket, 0, len(t.byIno))
	for _, s := range t.byIno {
		out = append(out, s)
	}
	return out
}

// unixInodes are the inodes of the unix sockets of this network namespace (proc_pid_net(5)).
func unixInodes() (map[uint64]bool, error) {
	f, err := os.Open("/proc/thread-self/net/unix")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make(map[uint64]bool)
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path
		fields := bytes.Fields(sc.Bytes())
		if len(fields) < 7 {
			continue
		}
		if ino, err := strconv.ParseUint(string(fields[6]), 10, 64); err == nil {
			out[ino] = true
		}
	}
	return out, sc.Err()
}
