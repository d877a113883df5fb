package runner

import (
	"net"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a program sees of UDP is what it sees of the kernel's.
func TestDatagramsAsTheKernel(t *testing.T) {
	echo4, echo6 := udpEcho(t, "udp4"), udpEcho(t, "udp6")
	nobody := func() string {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		return pc.LocalAddr().String()
	}
	for name, args := range map[string]func() []string{
		"datagrams":       func() []string { return []string{echo4, echo6} },
		"datagramserver":  func() []string { return []string{nobody()} },
		"datagramerrors":  func() []string { return []string{nobody(), echo4} },
		"datagramepoll":   func() []string { return []string{echo4} },
		"datagramsignals": func() []string { return nil },
		"datagramshared":  func() []string { return []string{echo4} },
	} {
		t.Run(name, func(t *testing.T) { compare(t, name, args) })
	}
}

// UDP sockets stay bound and connected while there is no daemon.
func TestDatagramsDaemonGone(t *testing.T) {
	got := acrossDaemons(t, "datagramsgone", udpEcho(t, "udp4"))
	want := []string{
		"write: 3", `read: "one"`, "sendto: ok", `recvfrom: 3 "one"`, "recvfrom from: 127.0.0.1 known port",
		"sendto the server: ok", `server: 1 "x"`, "server from: 127.0.0.1 port", "first",
		"connected: poll ", "connected: EAGAIN", "server: EAGAIN", "sendto: ENETDOWN", "server: ENETDOWN", "sendto the peer: ENETDOWN",
		"write: ok", "connected: poll ERR", "write: SO_ERROR ENETDOWN", "remote: 127.0.0.1 known port", "connect: ENETDOWN", "second",
		"sendto: ok", `recvfrom: 3 "two"`, "recvfrom from: 127.0.0.1 known port", `read: "two"`,
		`server: 1 "y"`, "server from: 127.0.0.1 port", "disconnect: ok", "remote: ENOTCONN",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func FuzzICMPError(f *testing.F) {
	f.Add(false, append([]byte{3, 3, 0, 0, 0, 0, 0, 0, 0x45}, make([]byte, 40)...))
	f.Add(true, append([]byte{1, 4, 0, 0, 0, 0, 0, 0, 0x60}, make([]byte, 60)...))
	f.Add(false, []byte{3, 3, 0, 0, 0, 0, 0, 0, 0x4f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, six bool, b []byte) {
		q, ok := parseICMPError(six, b)
		if !ok {
			return
		}
		if q.errno == 0 || !q.to.IsValid() || q.to.Is4() == six || len(q.data) > len(b) {
			t.Errorf("%v", q)
		}
	})
}

func TestICMPErrno(t *testing.T) {
	for _, tt := range []struct {
		six       bool
		typ, code byte
		errno     syscall.Errno
		fatal     bool
	}{
		{false, 3, 1, unix.EHOSTUNREACH, false},
		{false, 3, 3, unix.ECONNREFUSED, true},
		{false, 3, 4, unix.EMSGSIZE, false},
		{false, 3, 13, unix.EHOSTUNREACH, true},
		{false, 11, 0, unix.EHOSTUNREACH, false},
		{true, 1, 0, unix.ENETUNREACH, true},
		{true, 1, 3, unix.EHOSTUNREACH, false},
		{true, 1, 4, unix.ECONNREFUSED, true},
		{true, 2, 0, unix.EMSGSIZE, false},
		{true, 3, 0, unix.EHOSTUNREACH, false},
	} {
		if errno, fatal := icmpErrno(tt.six, tt.typ, tt.code); errno != tt.errno || fatal != tt.fatal {
			t.Errorf("%+v: %v %v", tt, errno, fatal)
		}
	}
}
