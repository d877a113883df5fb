package control

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A stream keeps less in its program's socket while another flow exchanges messages,
// and only then.
func TestStreamInCompany(t *testing.T) {
	ep, fd, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer ep.Close()
	defer unix.Close(fd)
	sendBuffer := func() (n int) {
		if err := ep.control(func(fd int) (err error) {
			n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var with company
	stream, other := traffic{with: &with}, traffic{with: &with}
	now := time.Now().UnixNano()
	whole := sendBuffer()
	check := func(what string, less bool) {
		t.Helper()
		stream.step(ep, bulkWrite, now)
		if got := sendBuffer() < whole; got != less {
			t.Errorf("%s: send buffer %d of %d, want less: %v", what, sendBuffer(), whole, less)
		}
	}
	check("alone", false)
	// What begins and ends a stream is small too.
	for range 2 * messages {
		stream.step(ep, 1, now)
	}
	other.step(ep, 1, now)
	check("after a first message", false)
	for range messages {
		other.step(ep, 1, now)
	}
	check("beside messages", true)
	now += int64(companyTime) + 1
	check("when they are over", false)
	now -= int64(time.Hour) // a clock that is set back
	check("when they are yet to come", false)
}
