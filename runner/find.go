package runner

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// find returns a duplicate of a socket's descriptor, from where it was seen last or else from
// any process that has it.
func (sup *supervisor) find(s *socket) (int, error) {
	sup.table.mu.Lock()
	where, ino := s.where, s.ino
	sup.table.mu.Unlock()
	if where.tid != 0 && where.fd != noFD {
		if fd, err := sup.procs.dup(where.tid, where.fd, ino); err == nil {
			return fd, nil
		}
	}
	link := "socket:[" + strconv.FormatUint(ino, 10) + "]"
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return -1, err
	}
	self := os.Getpid()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		dir := "/proc/" + e.Name() + "/fd"
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(-1)
		d.Close()
		for _, name := range names {
			if l, err := os.Readlink(dir + "/" + name); err != nil || l != link {
				continue
			}
			n, err := strconv.ParseUint(name, 10, 32)
			if err != nil {
				continue
			}
			if fd, err := sup.procs.dup(pid, n, ino); err == nil {
				sup.table.seen(s, place{pid, n})
				return fd, nil
			}
		}
	}
	return -1, unix.ENOENT
}

// withFD runs f with a duplicate of the socket's descriptor, if it can be found.
func (s *socket) withFD(f func(fd int) error) error {
	l := s.sup.loans.borrow()
	defer s.sup.loans.giveBack(l)
	fd, err := s.sup.find(s)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}
