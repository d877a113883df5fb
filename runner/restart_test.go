package runner

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The answer of a call that a signal interrupted is for the same call on the same socket, not for one
// that has its number by now.
func TestKeptAnswerIsTheSockets(t *testing.T) {
	socket := func() (fd int, ino uint64) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd, inodeOf(fd)
	}
	fd, ino := socket()
	_, other := socket()
	sup := &supervisor{}
	t.Cleanup(sup.procs.close)
	c := &call{sup: sup, tid: os.Getpid(), name: sysListen, args: [6]uint64{uint64(fd), 4}, ip: 7}
	for _, tt := range []struct {
		name string
		ino  uint64
		age  time.Duration
		want bool
	}{
		{"the same socket", ino, 0, true},
		{"another socket", other, 0, false},
		{"long ago", ino, 2 * keepTime, false},
	} {
		sup.restarts.kept = map[callKey]kept{c.key(): {ret(5), tt.ino, time.Now().Add(-tt.age)}}
		v, ok := sup.restarts.again(c)
		if ok != tt.want || ok && v.val != 5 {
			t.Errorf("%s, kept: %v, %v", tt.name, v, ok)
		}
		if len(sup.restarts.kept) != 0 {
			t.Errorf("%s: it is kept still", tt.name)
		}
		sup.restarts.running = map[callKey]*running{c.key(): {&call{ino: tt.ino}}}
		v, ok = sup.restarts.again(c)
		if want := tt.ino == ino; ok != want || ok && v.mode != modeLater {
			t.Errorf("%s, running: %v, %v", tt.name, v, ok)
		}
		sup.restarts.running = nil
	}
}
