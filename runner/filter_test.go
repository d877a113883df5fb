package runner

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs the filter on one call in the interpreter of classic BPF. That loads
// packets in network order; seccomp loads seccomp_data in the machine's.
func filterVerdict(t *testing.T, a *arch, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	raw := a.filter()
	prog := make([]bpf.Instruction, len(raw))
	for i, r := range raw {
		ins := bpf.RawInstruction{Op: r.Code, Jt: r.Jt, Jf: r.Jf, K: r.K}.Disassemble()
		prog[i] = ins
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[dataNr:], nr)
	binary.BigEndian.PutUint32(data[dataArch:], audit)
	for i, v := range args {
		lo, hi := dataArgs+8*i, dataArgs+8*i+4
		if a.bigEndian {
			lo, hi = hi, lo
		}
		binary.BigEndian.PutUint32(data[lo:], uint32(v))
		binary.BigEndian.PutUint32(data[hi:], uint32(v>>32))
	}
	out, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(out)
}

func TestFilter(t *testing.T) {
	big := archARM64
	big.name, big.bigEndian = "big-endian", true
	const ptr = 0x7f0000001000
	const highOnly = 0x700000000
	for _, a := range []*arch{&archAMD64, &archARM64, &big} {
		for _, tt := range []struct {
			nr   sysno
			args []uint64
			want uint32
		}{
			{sysSocket, []uint64{unix.AF_INET, unix.SOCK_STREAM, 0}, retNotify},
			{sysSocket, []uint64{unix.AF_INET6, unix.SOCK_DGRAM, 0}, retNotify},
			{sysSocket, []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, retAllow},
			{sysSocket, []uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}, retNotify},
			{sysSocket, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, 0}, retAllow},
			{sysSocket, []uint64{1<<32 | unix.AF_INET, unix.SOCK_STREAM, 0}, retNotify}, // an int: the kernel ignores the upper half
			{sysConnect, []uint64{3, ptr, 16}, retNotify},
			{sysBind, []uint64{3, ptr, 16}, retNotify},
			{sysListen, []uint64{3, 5}, retNotify},
			{sysAccept, []uint64{3, 0, 0}, retNotify},
			{sysAccept4, []uint64{3, 0, 0, 0}, retNotify},
			{sysGetsockname, []uint64{3, ptr, ptr}, retNotify},
			{sysGetpeername, []uint64{3, ptr, ptr}, retNotify},
			{sysSendmsg, []uint64{3, ptr, 0}, retNotify},
			{sysRecvmsg, []uint64{3, ptr, 0}, retNotify},
			{sysSendmmsg, []uint64{3, ptr, 1, 0}, retNotify},
			{sysRecvmmsg, []uint64{3, ptr, 1, 0, 0}, retNotify},
			{sysSendto, []uint64{3, ptr, 5, 0, 0, 0}, retAllow},
			{sysSendto, []uint64{3, ptr, 5, 0, ptr, 16}, retNotify},
			{sysSendto, []uint64{3, ptr, 5, 0, highOnly, 16}, retNotify},
			{sysSendto, []uint64{3, ptr, 5, unix.MSG_NOSIGNAL, 0, 0}, retAllow},
			{sysSendto, []uint64{3, ptr, 5, unix.MSG_OOB, 0, 0}, retNotify},
			{sysRecvfrom, []uint64{3, ptr, 5, unix.MSG_PEEK | unix.MSG_DONTWAIT, 0, 0}, retAllow},
			{sysRecvfrom, []uint64{3, ptr, 5, unix.MSG_TRUNC, 0, 0}, retNotify},
			{sysRecvfrom, []uint64{3, ptr, 5, unix.MSG_ERRQUEUE, 0, 0}, retNotify},
			{sysRecvfrom, []uint64{3, ptr, 5, 0, ptr, ptr}, retNotify},
			{sysSetsockopt, []uint64{3, unix.IPPROTO_TCP, unix.TCP_NODELAY, ptr, 4}, retNotify},
			{sysSetsockopt, []uint64{3, unix.SOL_SOCKET, unix.SO_LINGER, ptr, 8}, retNotify},
			{sysSetsockopt, []uint64{3, unix.SOL_SOCKET, unix.SO_RCVTIMEO, ptr, 16}, retAllow},
			{sysGetsockopt, []uint64{3, unix.SOL_SOCKET, unix.SO_ERROR, ptr, ptr}, retNotify},
			{sysGetsockopt, []uint64{3, unix.SOL_SOCKET, unix.SO_RCVLOWAT, ptr, ptr}, retAllow},
			{sysIoctl, []uint64{3, unix.SIOCGIFADDR, ptr}, retNotify},
			{sysIoctl, []uint64{3, unix.SIOCGIFCONF, ptr}, retAllow},
			{sysIoctl, []uint64{1, unix.TCGETS, ptr}, retAllow},
			{sysIOUring, []uint64{8, ptr}, retNosys},
		} {
			t.Run(fmt.Sprintf("%s/%s%x", a.name, tt.nr, tt.args), func(t *testing.T) {
				if got := filterVerdict(t, a, a.audit, a.nr[tt.nr], tt.args...); got != tt.want {
					t.Errorf("%#x, want %#x", got, tt.want)
				}
			})
		}
		known := make(map[uint32]bool)
		for _, nr := range a.nr {
			known[nr] = true
		}
		for nr := range uint32(600) {
			if !known[nr] && filterVerdict(t, a, a.audit, nr, 2, 2, 2, 2, 2, 2) != retAllow {
				t.Errorf("%s: call %d is not allowed", a.name, nr)
			}
		}
		if got := filterVerdict(t, a, 0x40000003, 102, unix.AF_INET); got != retNosys { // AUDIT_ARCH_I386, socketcall
			t.Errorf("%s: i386: %#x", a.name, got)
		}
	}
	if got := filterVerdict(t, &archAMD64, archAMD64.audit, x32Bit|41, unix.AF_INET); got != retNosys {
		t.Errorf("x32: %#x", got)
	}
	if got := filterVerdict(t, &archAMD64, archAMD64.audit, ^uint32(0)); got != retAllow {
		t.Errorf("a call that a tracer skips: %#x", got)
	}
}

// The tables are written down for every machine; this one's can be checked.
func TestNativeNumbers(t *testing.T) {
	a := nativeArch(runtime.GOARCH)
	if a == nil {
		t.Logf("%s is not supported", runtime.GOARCH)
		return
	}
	for name, want := range map[sysno]uint32{
		sysSocket: unix.SYS_SOCKET, sysConnect: unix.SYS_CONNECT, sysBind: unix.SYS_BIND, sysListen: unix.SYS_LISTEN,
		sysAccept4: unix.SYS_ACCEPT4, sysGetsockname: unix.SYS_GETSOCKNAME, sysGetpeername: unix.SYS_GETPEERNAME,
		sysSendto: unix.SYS_SENDTO, sysRecvfrom: unix.SYS_RECVFROM, sysSendmsg: unix.SYS_SENDMSG,
		sysRecvmsg: unix.SYS_RECVMSG, sysSendmmsg: unix.SYS_SENDMMSG, sysRecvmmsg: unix.SYS_RECVMMSG,
		sysSetsockopt: unix.SYS_SETSOCKOPT, sysGetsockopt: unix.SYS_GETSOCKOPT, sysIoctl: unix.SYS_IOCTL, sysIOUring: unix.SYS_IO_URING_SETUP,
	} {
		if a.nr[name] != want {
			t.Errorf("%s: %d, want %d", name, a.nr[name], want)
		}
	}
}
