package runner

// An arch is what the filter must know of an architecture: how seccomp_data names it
// (AUDIT_ARCH_* of include/uapi/linux/audit.h) and its numbers of the calls that
// matter here (asm/unistd.h).
type arch struct {
	name  string
	audit uint32
	// x32 says that numbers from 0x40000000 on are calls of another ABI.
	x32 bool
	nr  map[sysno]uint32
	// bigEndian is the order of the halves of a 64-bit argument in seccomp_data.
	bigEndian bool
}

// A sysno names a call on any architecture.
type sysno string

const (
	sysSocket      sysno = "socket"
	sysConnect     sysno = "connect"
	sysBind        sysno = "bind"
	sysListen      sysno = "listen"
	sysAccept      sysno = "accept"
	sysAccept4     sysno = "accept4"
	sysGetsockname sysno = "getsockname"
	sysGetpeername sysno = "getpeername"
	sysSendto      sysno = "sendto"
	sysRecvfrom    sysno = "recvfrom"
	sysSendmsg     sysno = "sendmsg"
	sysRecvmsg     sysno = "recvmsg"
	sysSendmmsg    sysno = "sendmmsg"
	sysRecvmmsg    sysno = "recvmmsg"
	sysSetsockopt  sysno = "setsockopt"
	sysGetsockopt  sysno = "getsockopt"
	sysIoctl       sysno = "ioctl"
	sysIOUring     sysno = "io_uring_setup"
)

var (
	archAMD64 = arch{name: "amd64", audit: 0xc000003e, x32: true, nr: map[sysno]uint32{
		sysSocket: 41, sysConnect: 42, sysAccept: 43, sysSendto: 44, sysRecvfrom: 45, sysSendmsg: 46,
		sysRecvmsg: 47, sysBind: 49, sysListen: 50, sysGetsockname: 51, sysGetpeername: 52,
		sysSetsockopt: 54, sysGetsockopt: 55, sysAccept4: 288, sysRecvmmsg: 299, sysSendmmsg: 307,
		sysIoctl: 16, sysIOUring: 425,
	}}
	archARM64 = arch{name: "arm64", audit: 0xc00000b7, nr: map[sysno]uint32{
		sysSocket: 198, sysBind: 200, sysListen: 201, sysAccept: 202, sysConnect: 203, sysGetsockname: 204,
		sysGetpeername: 205, sysSendto: 206, sysRecvfrom: 207, sysSetsockopt: 208, sysGetsockopt: 209,
		sysSendmsg: 211, sysRecvmsg: 212, sysAccept4: 242, sysRecvmmsg: 243, sysSendmmsg: 269,
		sysIoctl: 29, sysIOUring: 425,
	}}
)

// nativeArch returns the architecture of goarch, or nil where programs cannot be run.
func nativeArch(goarch string) *arch {
	for _, a := range []*arch{&archAMD64, &archARM64} {
		if a.name == goarch {
			return a
		}
	}
	return nil
}
