package runner

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxVoices bounds the sockets that stand for senders, maxNames the names that are
	// still understood after their socket was closed.
	maxVoices = 256
	maxNames  = 1 << 14
)

// A voiceKey is what the program can learn of a datagram besides its bytes.
type voiceKey struct {
	from     netip.AddrPort
	to       netip.Addr
	ttl, tos uint8
	six      bool // for an AF_INET6 socket
}

// A voice is a unix socket that stands for a sender: its abstract name says, by voices'
// tables, whose datagrams come from it.
type voice struct {
	key   voiceKey
	fd    int
	name  string
	users int
	old   bool // taken out of the table
}

// voices are the senders of a supervisor's datagrams.
type voices struct {
	mu    sync.Mutex
	byKey map[voiceKey]*voice
	// order has the keys of byKey, oldest first.
	order []voiceKey
	keys  map[string]voiceKey // by name
	names []string            // of keys, oldest first
	last  uint64
	// ground is what raise connects sockets to for a moment, -1 before the first.
	ground     int
	groundName unix.Sockaddr
	raising    sync.Mutex
}

// peerName is an abstract name whose sockaddr_un is as long as the sockaddr_in or
// sockaddr_in6 that the program expects: where the kernel writes that length, it is right.
func peerName(kind byte, n uint64, six bool) string {
	if six {
		return fmt.Sprintf("@%c%024x", kind, n)
	}
	return fmt.Sprintf("@%c%012x", kind, n)
}

// dgramName is the name of a program's unix socket.
func dgramName(ino uint64) string { return "@ustack-dgram-" + strconv.FormatUint(ino, 10) }

// get returns the socket for a sender, which release gives back.
func (v *voices) get(key voiceKey) (*voice, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o := v.byKey[key]; o != nil {
		o.users++
		return o, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 20000})
	o := &voice{key: key, fd: fd, users: 1}
	for {
		v.last++
		o.name = peerName('v', uint64(os.Getpid())<<26&(1<<48-1)|v.last&(1<<26-1), key.six)
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: o.name}); err != unix.EADDRINUSE {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if v.byKey == nil {
		v.byKey, v.keys = make(map[voiceKey]*voice), make(map[string]voiceKey)
	}
	if len(v.order) >= maxVoices {
		oldest := v.byKey[v.order[0]]
		delete(v.byKey, v.order[0])
		v.order = v.order[1:]
		if oldest.old = true; oldest.users == 0 {
			unix.Close(oldest.fd)
		}
	}
	if len(v.names) >= maxNames {
		delete(v.keys, v.names[0])
		v.names = v.names[1:]
	}
	v.byKey[key], v.keys[o.name] = o, key
	v.order, v.names = append(v.order, key), append(v.names, o.name)
	return o, nil
}

func (v *voices) release(o *voice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o.users--; o.users == 0 && o.old {
		unix.Close(o.fd)
	}
}

// who tells whom a name stands for.
func (v *voices) who(name string) (voiceKey, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, ok := v.keys[name]
	return key, ok
}

func (v *voices) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range v.byKey {
		unix.Close(o.fd)
	}
	v.byKey = nil
	if v.groundName != nil {
		unix.Close(v.ground)
		v.groundName = nil
	}
}

// raise makes a datagram socket of a program poll with POLLERR. All that a unix socket can be made to
// say is ECONNRESET: its peer disconnects with something unread. So it is connected to a
// socket of ours for a moment, then to peer again (-1: to none). One with something in its queue,
// which that would lose, is left alone: its reader comes by anyhow.
func (v *voices) raise(fd, peer int) bool {
	v.raising.Lock()
	defer v.raising.Unlock()
	if readable(fd) || !v.makeGround() {
		return false
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	if unix.Connect(fd, v.groundName) != nil {
		return false
	}
	ok := unix.Connect(v.ground, name) == nil &&
		unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) == nil
	disconnect(v.ground)
	if peer < 0 {
		disconnect(fd)
		return ok
	}
	if back, err := unix.Getsockname(peer); err == nil {
		_ = unix.Connect(fd, back)
	}
	return ok
}

func (v *voices) makeGround() bool {
	if v.groundName != nil {
		return true
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{})
	if err == nil {
		v.groundName, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		v.groundName = nil
		return false
	}
	v.ground = fd
	return true
}

// disconnect is connect(2) with AF_UNSPEC.
func disconnect(fd int) {
	var sa unix.RawSockaddr
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa.Family))
}
