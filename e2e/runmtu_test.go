package e2e

import (
	"testing"

	"github.com/ustack/ustack/internal/netlab"
)

// A UDP socket that forbids fragments learns of a router's smaller MTU, as QUIC does and path probes do.
func TestRunPathMTU(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	far := netlab.New(t, "far")
	netlab.Veth(t, s.host, "far0", far, "eth0")
	for ns, link := range map[*netlab.NS]struct{ name, four, six string }{
		s.host: {"far0", "192.0.2.1/24", "2001:db8:5::1/64"}, far: {"eth0", "192.0.2.2/24", "2001:db8:5::2/64"},
	} {
		ns.Run(t, "ip", "link", "set", link.name, "mtu", "1400")
		ns.Addr(t, link.name, link.four)
		ns.Addr(t, link.name, link.six)
	}
	far.Route(t, "default", "192.0.2.1")
	far.Route(t, "default", "2001:db8:5::1")
	echoUDP(t, far, "192.0.2.2:7")
	echoUDP(t, far, "[2001:db8:5::2]:7")
	const program = `
import errno, select, socket as s, struct
def error(what, f):
    try: f(); print(what, "ok")
    except OSError as e: print(what, errno.errorcode[e.errno])
for family, to, level, discover, mtu, recverr, head in (s.AF_INET, "192.0.2.2", 0, 10, 14, 11, 28), (s.AF_INET6, "2001:db8:5::2", 41, 23, 24, 25, 48):
    c = s.socket(family, s.SOCK_DGRAM)
    c.setsockopt(level, discover, 2)
    c.connect((to, 7))
    c.settimeout(10)
    print("MTU", c.getsockopt(level, mtu))
    error("1500", lambda: c.sendmsg([b"x" * (1500 - head)]))
    p = select.poll(); p.register(c, 0); print("error", bool(p.poll(10000)))
    print(errno.errorcode[c.getsockopt(s.SOL_SOCKET, s.SO_ERROR)])
    print("MTU", c.getsockopt(level, mtu))
    error("1401", lambda: c.sendmsg([b"x" * (1401 - head)]))
    error("1400", lambda: c.sendmsg([b"x" * (1400 - head)]))
    print(len(c.recv(2000)))
    c.setsockopt(level, recverr, 1)
    error("1401", lambda: c.sendmsg([b"x" * (1401 - head)]))
    b, control, flags, a = c.recvmsg(10, 500, s.MSG_ERRQUEUE)
    print("told", struct.unpack("IBBBBI", control[0][2][:12]))
    c.setsockopt(level, discover, 3) # PROBE
    error("1401, probing", lambda: c.sendmsg([b"x" * (1401 - head)]))
    c.close()
`
	of := func(payload, local string) string {
		return "MTU 1500\n1500 ok\nerror True\nEMSGSIZE\nMTU 1400\n1401 EMSGSIZE\n1400 ok\n" + payload + "\n1401 EMSGSIZE\ntold (90, " + local + ", 0, 0, 0, 1400)\n1401, probing ok\n"
	}
	if r := s.run(t, "python3", "-c", program); r.code != 0 || r.stdout != of("1372", "1")+of("1352", "1") {
		t.Errorf("want\n%s\n%v", of("1372", "1")+of("1352", "1"), r)
	}
}
