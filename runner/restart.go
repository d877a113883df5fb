package runner

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepTime is how long the answer to a call that a signal interrupted waits for the call to be made
// again. The kernel does that when the signal's handler returns.
const keepTime = time.Second

// A callKey tells a call that is made again from another one. What is noted by it also knows the
// inode: the same number may be another socket's by then.
type callKey struct {
	tid  int
	name sysno
	ip   uint64
	args [6]uint64
}

// restarts holds the answers of calls that a signal interrupted when they had been carried out already,
// or while they were: the kernel makes them again (SA_RESTART), and what they did must not be done
// twice.
type restarts struct {
	mu      sync.Mutex
	running map[callKey]*running
	waiting map[callKey]*call // the last of those that wait for something each on its own
	kept    map[callKey]kept
}

// A running call is carried out. Its answer goes to last: itself, or the same call made again.
type running struct {
	last *call
}

// A kept answer of a call on socket ino reached nobody at the time at.
type kept struct {
	v   verdict
	ino uint64
	at  time.Time
}

func (c *call) key() callKey { return callKey{c.tid, c.name, c.ip, c.args} }

// again says whether c is a call of before made again, whose answer is there or under way: then
// there is no more to do for it than to send v.
func (r *restarts) again(c *call) (v verdict, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.running) == 0 && len(r.kept) == 0 {
		return verdict{}, false
	}
	key := c.key()
	run := r.running[key]
	k, ok := r.kept[key]
	if run == nil && !ok {
		return verdict{}, false
	}
	delete(r.kept, key)
	c.ino = c.inode()
	switch {
	case run != nil && run.last.ino == c.ino:
		run.last = c.detached()
		return later, true
	case ok && k.ino == c.ino && time.Since(k.at) < keepTime:
		return k.v, true
	}
	return verdict{}, false
}

// inode is the inode of what the program has at args[0] now.
func (c *call) inode() uint64 {
	fd, err := c.sup.procs.dup(c.tid, c.args[0], 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	return inodeOf(fd)
}

// deliver sends an answer. One that reaches nobody, of a call that has done something, goes to the same
// call made again, or is kept until that comes. mu is held.
func (r *restarts) deliver(c *call, v verdict) bool {
	err := c.sup.notifier.send(v.response(c.id))
	if !gone(err) || v.mode != modeReturn || v.errno != 0 && v.errno != unix.EINPROGRESS {
		return err == nil
	}
	if w := r.waiting[c.key()]; w != nil && w.id != c.id && w.ino == c.ino && c.sup.notifier.send(v.response(w.id)) == nil {
		return false
	}
	if r.kept == nil {
		r.kept = make(map[callKey]kept)
	}
	now := time.Now()
	for key, k := range r.kept {
		if now.Sub(k.at) >= keepTime {
			delete(r.kept, key)
		}
	}
	r.kept[c.key()] = kept{v, c.ino, now}
	return false
}

// wait and waited surround what a call waits for.
func (r *restarts) wait(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = make(map[callKey]*call)
	}
	r.waiting[c.key()] = c
}

func (r *restarts) waited(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key := c.key(); r.waiting[key] == c {
		delete(r.waiting, key)
	}
}

// once is later for a call whose effect must not happen twice, and which does not wait for the
// program's peers: made again after a signal, it gets the answer of the first.
func (c *call) once(f func() verdict) verdict {
	r := &c.sup.restarts
	key := c.key()
	r.mu.Lock()
	if r.running == nil {
		r.running = make(map[callKey]*running)
	}
	run := &running{c.detached()}
	r.running[key] = run
	r.mu.Unlock()
	c.sup.wg.Add(1)
	go func() {
		defer c.sup.wg.Done()
		v := f()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.end(run)
		r.deliver(run.last, v)
	}()
	return later
}

// claim makes a call that waited a running one: the same call made again waits for its answer. nil
// says that nobody waits for it any more.
func (r *restarts) claim(c *call) *running {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.valid() {
		return nil
	}
	if r.running == nil {
		r.running = make(map[callKey]*running)
	}
	run := &running{c}
	r.running[c.key()] = run
	return run
}

// settle answers a claimed call. An answer that reaches nobody is kept, or else the caller has to undo
// what the call did.
func (r *restarts) settle(run *running, v verdict, keep bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(run)
	if keep {
		return r.deliver(run.last, v)
	}
	return run.last.offer(v)
}

// release gives up a claim, and returns the call that waits now.
func (r *restarts) release(run *running) *call {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(run)
	return run.last
}

// end takes a running call out. mu is held.
func (r *restarts) end(run *running) {
	if key := run.last.key(); r.running[key] == run {
		delete(r.running, key)
	}
}

// gone says whether an answer failed because nobody waits for it.
func gone(err error) bool {
	errno, _ := err.(syscall.Errno)
	return errno == unix.ENOENT
}
