package control

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"op":"dial","network":"tcp","address":"www.baidu.com:80","fd":true}`,
		`{"id":2,"op":"setopt","flow":7,"name":"tcp.nodelay","value":1}`,
		`{"op":"socket","options":{"so.linger":0}}`,
		`{"op":""}`, `{}`, `[]`, `{"id":-1,"op":"x"}`, `{"op":"x"}{"op":"y"}`, `{"op":1e999}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRequest(b)
		if err != nil {
			if r.Op != "" {
				t.Fatalf("%q: an error and a request", b)
			}
			return
		}
		if r.Op == "" || len(b) > maxMessage {
			t.Fatalf("%q was taken", b)
		}
		line, err := appendMessage(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%q is more than a line", line)
		}
		again, err := decodeRequest(line[:len(line)-1])
		a, _ := json.Marshal(again)
		if b, _ := json.Marshal(r); len(line) <= maxMessage && (err != nil || !bytes.Equal(a, b)) {
			t.Fatalf("%s became %s, %v", b, a, err)
		}
	})
}

func FuzzUDPFrame(f *testing.F) {
	for _, fr := range []udpFrame{
		{kind: frameData},
		{kind: frameData, addr: netip.MustParseAddrPort("192.0.2.1:53")},
		{kind: frameError, errno: syscall.ECONNREFUSED, addr: netip.MustParseAddrPort("[2001:db8::1]:53")},
	} {
		f.Add(append(fr.append(nil), "payload"...))
	}
	f.Add([]byte{1, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, payload, err := parseUDPFrame(b)
		if err != nil {
			return
		}
		again, p2, err := parseUDPFrame(append(fr.append(nil), payload...))
		if err != nil || again != fr || !bytes.Equal(p2, payload) {
			t.Fatalf("%+v became %+v, %v", fr, again, err)
		}
	})
}

func FuzzICMPFrame(f *testing.F) {
	for _, fr := range []icmpFrame{
		{kind: frameData, seq: 1, to: netip.MustParseAddr("192.0.2.1")},
		{kind: frameData, ttl: 64, at: time.Unix(1, 2), from: netip.MustParseAddr("2001:db8::1"), to: netip.MustParseAddr("2001:db8::2")},
		{kind: frameError, seq: 1 << 63, errno: syscall.ENETUNREACH},
	} {
		f.Add(append(fr.append(nil), 8, 0))
	}
	f.Add([]byte{1, 0x44})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, data, err := parseICMPFrame(b)
		if err != nil {
			return
		}
		again, d2, err := parseICMPFrame(append(fr.append(nil), data...))
		if err != nil || !again.at.Equal(fr.at) || again.from != fr.from || again.to != fr.to ||
			again.seq != fr.seq || again.errno != fr.errno || again.kind != fr.kind || again.ttl != fr.ttl || !bytes.Equal(d2, data) {
			t.Fatalf("%+v became %+v, %v", fr, again, err)
		}
	})
}

func TestErrnoNames(t *testing.T) {
	for name, want := range map[string]syscall.Errno{
		"ECONNREFUSED": syscall.ECONNREFUSED, "EHOSTUNREACH": syscall.EHOSTUNREACH, "EAGAIN": syscall.EAGAIN,
	} {
		if got, ok := errnoNumber(name); got != want || !ok || errnoName(want) != name {
			t.Errorf("%s: %d, %v; named %s", name, got, ok, errnoName(want))
		}
	}
	w := wireError{Text: "something new", Errno: "ENOTYETINVENTED"}
	if err := w.err(); err == nil || err.Error() != "something new" {
		t.Errorf("unknown errno: %v", err)
	}
}

func TestOwnerKeys(t *testing.T) {
	for _, tc := range [][2]string{
		{"[::]:80", "0.0.0.0:80"}, {":80", "*:80"}, {"[::ffff:10.0.0.4]:80", "10.0.0.4:80"}, {"", "0.0.0.0:0"}, {"", "*:*"},
		{"[fe80::1%tap0]:5", "[fe80::1]:5"},
	} {
		if a, b := plainAddr(tc[0]), plainAddr(tc[1]); a != b {
			t.Errorf("%q is %q, %q is %q", tc[0], a, tc[1], b)
		}
	}
	if newOwnerKey("tcp4", "10.0.0.4:1", "10.0.0.5:2") == newOwnerKey("tcp", "10.0.0.4:1", "") {
		t.Error("a connection is not its listener")
	}
}
