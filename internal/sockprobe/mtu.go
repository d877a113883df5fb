package main

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// wholeDatagrams looks at what may be cut into fragments, and at what is too long else.
func wholeDatagrams(w *world) {
	for _, f := range []struct {
		name                          string
		fd                            int
		level, discover, mtu, recverr int
		to                            unix.Sockaddr
		fits                          int
	}{
		{"IPv4", udp(), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU, unix.IP_RECVERR, addr(w.peer4, portEcho), 1472},
		{"IPv6", udp6(), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU, unix.IPV6_RECVERR, addr(w.peer6, portEcho), 1452},
	} {
		say := func(what string, values ...any) { w.say(f.name+" "+what, values...) }
		send := func(size int) error { return unix.Sendto(f.fd, []byte(strings.Repeat("x", size)), 0, f.to) }
		mtu := func() string {
			v, err := unix.GetsockoptInt(f.fd, f.level, f.mtu)
			return fmt.Sprint(v, " ", errName(err))
		}
		say("MTU", mtu())
		for _, mode := range []int{-1, 0, 1, 2, 3, 4, 5, 6} {
			what := fmt.Sprint("MTU_DISCOVER ", mode)
			say(what, setInt(f.fd, f.level, f.discover, mode))
			v, err := unix.GetsockoptInt(f.fd, f.level, f.discover)
			say(what+" then", v, err)
			say(what+", fits", send(f.fits))
			say(what+", too long", send(f.fits+1))
			_, err = unix.SendmsgN(f.fd, make([]byte, f.fits+1), nil, f.to, 0)
			say(what+", sendmsg", err)
		}
		check(setInt(f.fd, f.level, f.discover, unix.IP_PMTUDISC_DO))
		say("connect", unix.Connect(f.fd, f.to))
		say("connected MTU", mtu())
		_, err := unix.SendmsgN(f.fd, make([]byte, f.fits+1), nil, nil, 0)
		say("connected, too long", err)
		n, err := unix.SendmsgN(f.fd, make([]byte, f.fits), nil, nil, 0)
		say("connected, fits", n, err)
		check(setInt(f.fd, f.level, f.recverr, 1))
		_, err = unix.SendmsgN(f.fd, make([]byte, 9000), nil, nil, 0)
		say("RECVERR, too long", err)
		oob := make([]byte, 200)
		n, oobn, _, _, err := unix.Recvmsg(f.fd, make([]byte, 10), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		say("RECVERR, queue", n, err)
		if msgs, err := unix.ParseSocketControlMessage(oob[:max(oobn, 0)]); err == nil {
			for _, m := range msgs {
				if m.Header.Level == int32(f.level) && m.Header.Type == int32(f.recverr) && len(m.Data) >= 12 {
					say("RECVERR, error", binary.NativeEndian.Uint32(m.Data), m.Data[4:7], binary.NativeEndian.Uint32(m.Data[8:]))
				}
			}
		}
		unix.Close(f.fd)
	}
	fd := udp6()
	say := func(what string, v int) {
		w.say(what, setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, v))
		w.say(what+", too long", unix.Sendto(fd, make([]byte, 1453), 0, addr(w.peer6, portEcho)))
	}
	say("IPV6_DONTFRAG 1", 1)
	say("IPV6_DONTFRAG 0", 0)
	w.say("IPV6_MTU 1279", setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, 1279))
	w.say("IPV6_MTU 1280", setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, 1280))
	unix.Close(fd)
	fd = udp()
	w.say("own, DO", setInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
	w.say("own, 60000 bytes", unix.Sendto(fd, make([]byte, 60000), 0, addr(w.own4, 7151)))
	w.say("loopback, 60000 bytes", unix.Sendto(fd, make([]byte, 60000), 0, addr(loop4, 7151)))
	unix.Close(fd)
}
