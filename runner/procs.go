package runner

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxProcs bounds the pidfds that are kept.
const maxProcs = 256

// procs finds the descriptors of other processes. It keeps a pidfd for each thread that
// called lately.
type procs struct {
	mu  sync.Mutex
	fds map[int]int // thread → pidfd of its process
}

// pidfd returns the descriptor of tid's process. mu is held.
func (p *procs) pidfd(tid int) (int, error) {
	if fd, ok := p.fds[tid]; ok {
		return fd, nil
	}
	fd, err := unix.PidfdOpen(tid, 0)
	if err == unix.EINVAL || err == unix.ENOENT { // not the leader of its threads
		leader, lerr := threadGroup(tid)
		if lerr != nil {
			return -1, unix.ESRCH
		}
		fd, err = unix.PidfdOpen(leader, 0)
	}
	if err != nil {
		return -1, err
	}
	if len(p.fds) >= maxProcs {
		p.forgetAll()
	}
	if p.fds == nil {
		p.fds = make(map[int]int)
	}
	p.fds[tid] = fd
	return fd, nil
}

func (p *procs) forgetAll() {
	for tid, fd := range p.fds {
		unix.Close(fd)
		delete(p.fds, tid)
	}
}

// dup duplicates descriptor n of tid's process. If ino is not 0 it must be that inode's.
func (p *procs) dup(tid int, n uint64, ino uint64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for range 2 {
		var pidfd, fd int
		if pidfd, err = p.pidfd(tid); err != nil {
			return -1, err
		}
		fd, err = unix.PidfdGetfd(pidfd, int(int32(n)), 0)
		if err == nil {
			if ino == 0 || inodeOf(fd) == ino {
				return fd, nil
			}
			unix.Close(fd)
			err = unix.EBADF
		} else if err != unix.ESRCH && err != unix.EBADF {
			return -1, err
		}
		// The thread's number may belong to another process by now.
		unix.Close(pidfd)
		delete(p.fds, tid)
	}
	// The first thread may have ended before the others, which is then no more than a name: Linux
	// 6.9 opens the thread itself.
	pidfd, terr := unix.PidfdOpen(tid, unix.PIDFD_THREAD)
	if terr != nil {
		return -1, err
	}
	fd, terr := unix.PidfdGetfd(pidfd, int(int32(n)), 0)
	if terr != nil || ino != 0 && inodeOf(fd) != ino {
		if terr == nil {
			unix.Close(fd)
		}
		unix.Close(pidfd)
		return -1, err
	}
	p.fds[tid] = pidfd
	return fd, nil
}

func (p *procs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetAll()
}

// inodeOf is the inode of a descriptor, 0 if it is none of a socket.
func inodeOf(fd int) uint64 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return 0
	}
	return st.Ino
}

// threadGroup returns the process of a thread.
func threadGroup(tid int) (int, error) {
	text, err := statusField(tid, "Tgid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// catchesSignals says whether a thread's process has handlers of signals, as far as can be seen.
func catchesSignals(tid int) bool {
	text, err := statusField(tid, "SigCgt")
	return err != nil || strings.Trim(text, "0") != ""
}

// statusField is a field of /proc/TID/status (proc_pid_status(5)).
func statusField(tid int, name string) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return "", err
	}
	_, rest, _ := bytes.Cut(b, []byte("\n"+name+":"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return string(bytes.TrimSpace(line)), nil
}

// noFD is a descriptor that is not known.
const noFD = ^uint64(0)

// place is where a process had a descriptor.
type place struct {
	tid int
	fd  uint64
}

// holds says whether the descriptor at the place still is the socket of that inode.
func (w place) holds(ino uint64) bool {
	var b [64]byte
	n, err := unix.Readlink("/proc/"+strconv.Itoa(w.tid)+"/fd/"+strconv.FormatUint(w.fd, 10), b[:])
	return err == nil && string(b[:n]) == "socket:["+strconv.FormatUint(ino, 10)+"]"
}
