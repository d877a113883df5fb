package runner

import (
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h), in bytes.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

const (
	retAllow  = unix.SECCOMP_RET_ALLOW
	retNotify = unix.SECCOMP_RET_USER_NOTIF
	retNosys  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	x32Bit    = 0x40000000
)

// noticedOptions are the options of SOL_SOCKET that a unix socket does not answer as a
// socket of the stack would; all options of other levels are noticed.
var noticedOptions = []uint32{
	unix.SO_REUSEADDR, unix.SO_TYPE, unix.SO_ERROR, unix.SO_DONTROUTE, unix.SO_BROADCAST, unix.SO_SNDBUF,
	unix.SO_RCVBUF, unix.SO_KEEPALIVE, unix.SO_OOBINLINE, unix.SO_LINGER, unix.SO_REUSEPORT,
	unix.SO_BINDTODEVICE, unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE, unix.SO_PROTOCOL, unix.SO_DOMAIN,
	unix.SO_TIMESTAMP, unix.SO_TIMESTAMPNS, unix.SO_BINDTOIFINDEX,
	unix.SO_PEERCRED, unix.SO_PEERGROUPS, unix.SO_PEERPIDFD, unix.SO_PEERSEC, unix.SO_PASSCRED, unix.SO_PASSSEC,
	unix.SO_PASSPIDFD,
}

// noticedFlags are flags of sendto and recvfrom that a unix socket takes for something
// else than a socket of the stack.
const noticedFlags = unix.MSG_OOB | unix.MSG_TRUNC | unix.MSG_ERRQUEUE

// A label is a place in the filter that is not known yet.
type label string

// An inst is an instruction whose jumps go to labels; "" is the next one.
type inst struct {
	code   uint16
	k      uint32
	jt, jf label
	at     label // the instruction's own label
}

// filter assembles the seccomp filter of an architecture. It allows everything but the
// calls on internet sockets, which it passes to the supervisor as far as their plain
// arguments tell: what remains is told apart by the socket.
func (a *arch) filter() []unix.SockFilter {
	var p []inst
	load := func(off uint32) { p = append(p, inst{code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: off}) }
	jump := func(op uint16, k uint32, jt, jf label) {
		p = append(p, inst{code: unix.BPF_JMP | unix.BPF_K | op, k: k, jt: jt, jf: jf})
	}
	mark := func(l label) { p[len(p)-1].at = l }
	low := func(i uint32) uint32 {
		if a.bigEndian {
			return dataArgs + 8*i + 4
		}
		return dataArgs + 8*i
	}
	high := func(i uint32) uint32 { return low(i) ^ 4 }
	ret := func(l label, k uint32) { p = append(p, inst{code: unix.BPF_RET | unix.BPF_K, k: k, at: l}) }

	load(dataArch)
	jump(unix.BPF_JEQ, a.audit, "", "nosys")
	load(dataNr)
	if a.x32 {
		jump(unix.BPF_JEQ, 0xffffffff, "allow", "") // a tracer skips the call
		jump(unix.BPF_JGE, x32Bit, "nosys", "")
	}
	for _, s := range []sysno{
		sysConnect, sysBind, sysListen, sysAccept, sysAccept4, sysGetsockname, sysGetpeername,
		sysSendmsg, sysRecvmsg, sysSendmmsg, sysRecvmmsg,
	} {
		jump(unix.BPF_JEQ, a.nr[s], "notify", "")
	}
	jump(unix.BPF_JEQ, a.nr[sysSocket], "socket", "")
	jump(unix.BPF_JEQ, a.nr[sysSendto], "data", "")
	jump(unix.BPF_JEQ, a.nr[sysRecvfrom], "data", "")
	jump(unix.BPF_JEQ, a.nr[sysSetsockopt], "option", "")
	jump(unix.BPF_JEQ, a.nr[sysGetsockopt], "option", "")
	jump(unix.BPF_JEQ, a.nr[sysIoctl], "ioctl", "")
	jump(unix.BPF_JEQ, a.nr[sysIOUring], "nosys", "allow")

	load(low(0)) // socket(domain, type, protocol)
	mark("socket")
	jump(unix.BPF_JEQ, unix.AF_INET, "notify", "")
	jump(unix.BPF_JEQ, unix.AF_INET6, "notify", "")
	jump(unix.BPF_JEQ, unix.AF_PACKET, "notify", "allow") // to warn of it

	load(low(4)) // sendto and recvfrom(fd, buf, len, flags, addr, addrlen)
	mark("data")
	jump(unix.BPF_JEQ, 0, "", "notify")
	load(high(4))
	jump(unix.BPF_JEQ, 0, "", "notify")
	load(low(3))
	jump(unix.BPF_JSET, noticedFlags, "notify", "allow")

	load(low(1)) // ioctl(fd, request, arg)
	mark("ioctl")
	for i, r := range interfaceRequests {
		if i == len(interfaceRequests)-1 {
			jump(unix.BPF_JEQ, r, "notify", "allow")
		} else {
			jump(unix.BPF_JEQ, r, "notify", "")
		}
	}

	load(low(1)) // setsockopt and getsockopt(fd, level, name, value, len)
	mark("option")
	jump(unix.BPF_JEQ, unix.SOL_SOCKET, "", "notify")
	load(low(2))
	for _, o := range noticedOptions {
		jump(unix.BPF_JEQ, o, "notify", "")
	}
	ret("allow", retAllow)
	ret("notify", retNotify)
	ret("nosys", retNosys)
	return assemble(p)
}

// assemble turns labels into distances. They fit into a byte: the filter is short.
func assemble(p []inst) []unix.SockFilter {
	places := make(map[label]int)
	for i, in := range p {
		if in.at != "" {
			places[in.at] = i
		}
	}
	out := make([]unix.SockFilter, len(p))
	for i, in := range p {
		dist := func(l label) uint8 {
			if l == "" {
				return 0
			}
			return uint8(places[l] - i - 1)
		}
		out[i] = unix.SockFilter{Code: in.code, K: in.k}
		if in.code&7 == unix.BPF_JMP {
			out[i].Jt, out[i].Jf = dist(in.jt), dist(in.jf)
		}
	}
	return out
}
