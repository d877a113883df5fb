package doctor

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestJudgeEcho(t *testing.T) {
	request := newEcho(netip.MustParseAddr("10.0.0.5"), 8)
	reply := append([]byte{echoReply4, 0, 0, 0}, request[4:]...)
	quoted := append(append([]byte{unreachable4, 1, 0, 0, 0, 0, 0, 0, 0x45}, make([]byte, 19)...), request...)
	for _, c := range []struct {
		name    string
		m       []byte
		answers bool
		err     error
	}{
		{"nothing", nil, false, nil},
		{"the reply", reply, true, nil},
		{"the request", request, false, nil},
		{"another's reply", append([]byte{echoReply4, 0, 0, 0}, make([]byte, 12)...), false, nil},
		{"host unreachable", quoted, true, unix.EHOSTUNREACH},
		{"a short quotation", quoted[:20], false, nil},
		{"too big", append([]byte{unreachable4, 4}, quoted[2:]...), true, unix.EMSGSIZE},
	} {
		if answers, err := judgeEcho(request, c.m); answers != c.answers || !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, answers, err, c.answers, c.err)
		}
	}
}

func FuzzJudgeEcho(f *testing.F) {
	request := newEcho(netip.MustParseAddr("fd00::1"), 8)
	f.Add([]byte{1, 3, 0, 0, 0, 0, 0, 0, 0x60}, request)
	f.Add([]byte{3, 1, 0, 0, 0, 0, 0, 0, 0x4f, 0, 0}, request)
	f.Fuzz(func(t *testing.T, m, request []byte) {
		if len(request) < 8 {
			return
		}
		judgeEcho(request, m)
	})
}
