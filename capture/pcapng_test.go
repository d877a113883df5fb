package capture_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
)

// records are of every kind that a section tells apart.
func records() []capture.Record {
	at := time.Unix(1700000000, 123456789)
	csum := link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16}
	super := csum
	super.GSOType, super.GSOSize = link.GSOTCPv4, 1448
	super6 := super
	super6.GSOType = link.GSOTCPv6
	return []capture.Record{
		{Time: at, In: true, Len: 61, Data: frame(61, 0)},
		{Time: at.Add(1), Len: 1514, Data: frame(1514, 1)[:97], Link: 1},
		{Time: at.Add(2), Len: 60, Data: frame(60, 2), Drop: "tx_down", Queue: 3},
		{Time: at.Add(3), Len: 60, Data: frame(60, 3), Offload: csum},
		{Time: at.Add(4), Len: 9000, Data: frame(9000, 4), Offload: super, In: true, Drop: "rx_otherhost"},
		{Time: at.Add(5), Len: 9000, Data: frame(9000, 5), Offload: super6},
		{Time: at.Add(6), Len: 5, Data: []byte("short"), In: true, Drop: "rx_short"},
		{Time: at.Add(7), Len: 60, Data: frame(60, 7), Comments: []string{"of somebody else", "gso what"}},
	}
}

func section(t testing.TB, recs []capture.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, capture.Section{
		Application: "ustack test", Filter: "tcp", SnapLen: 9000,
		Interfaces: []capture.Interface{{Name: "tap0", Description: "tap, tun driver, MTU 1500"}, {Name: "tap1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		if err := w.Write(&recs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close([]capture.Counts{{Matched: 10, Dropped: 1}, {Matched: 7, Dropped: 2}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestReadBack: a Reader gives what a Writer was given.
func TestReadBack(t *testing.T) {
	want := records()
	r, err := capture.NewReader(bytes.NewReader(section(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		got, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		// Where the checksum is, and the length of the headers, is in the frame.
		w.Offload.CsumStart, w.Offload.CsumOffset = 0, 0
		if !got.Time.Equal(w.Time) {
			t.Errorf("record %d: at %v", i, got.Time)
		}
		got.Time = w.Time
		if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", w) {
			t.Errorf("record %d\n got %+v\nwant %+v", i, *got, w)
		}
	}
	if _, err := r.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if c, ok := r.Counts(); !ok || c != (capture.Counts{Matched: 17, Dropped: 3}) {
		t.Errorf("%+v, %v", c, ok)
	}
	if n, i := r.Interfaces(), r.Interface(0); n != 2 || i.Name != "tap0" || !strings.Contains(i.Description, "tun") {
		t.Errorf("%d interfaces, %+v", n, i)
	}
}

// TestTcpdumpReads has tcpdump read a section, and this package the pcap file that it makes
// of one.
func TestTcpdumpReads(t *testing.T) {
	tcpdump := netlab.Peer(t, "tcpdump")
	recs := records()
	file := filepath.Join(t.TempDir(), "a.pcapng")
	if err := os.WriteFile(file, section(t, recs), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tcpdump, "-Z", "root", "--nano", "-tt", "-n", "-e", "-r", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, r := range recs {
		if r.Len < 14 {
			continue
		}
		if line := fmt.Sprintf("%d.%09d ", r.Time.Unix(), r.Time.Nanosecond()); !strings.Contains(string(out), line) || !strings.Contains(string(out), fmt.Sprintf("length %d", r.Len)) {
			t.Errorf("record %d is not in\n%s", i, out)
		}
	}
	old := filepath.Join(t.TempDir(), "a.pcap")
	// tcpdump writes pcap, of one interface.
	one := section(t, recs[:1])
	if err := os.WriteFile(file, one, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tcpdump, "-Z", "root", "-r", file, "-w", old).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(old)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Read(); err != nil || !bytes.Equal(got.Data, recs[0].Data) || got.Len != recs[0].Len {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestReaderErrors(t *testing.T) {
	whole := section(t, records())
	for name, b := range map[string][]byte{
		"is empty": {}, "no capture": []byte("ab"), "no pcapng or pcap": []byte("#!/bin/sh\nexit 0\n and more of it"),
		"only Ethernet": append([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00"), 101, 0, 0, 0),
	} {
		if _, err := capture.NewReader(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 4; n < len(whole); n += 7 { // cut anywhere
		r, err := capture.NewReader(bytes.NewReader(whole[:n]))
		for err == nil {
			_, err = r.Read()
		}
	}
}

// TestSplit: a super-frame becomes its segments.
func TestSplit(t *testing.T) {
	p, _ := pipe(t, link.PipeConfig{Offloads: link.OffloadCsum | link.OffloadTSO4})
	ctx, stop := context.WithCancel(t.Context())
	var b bytes.Buffer
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- capture.Stream(ctx, io.MultiWriter(w, &b), capture.Config{SnapLen: 60}, capture.Section{Split: true}, 0, p)
		w.Close()
	}()
	io.ReadFull(r, make([]byte, 8))
	read := make(chan struct{})
	go func() { io.Copy(io.Discard, r); close(read) }()
	const payload = 3000
	f := append(frame(54, 0), make([]byte, payload)...)
	copy(f[12:], []byte{8, 0, 0x45, 0, byte((40 + payload) >> 8), byte((40 + payload) & 0xff), 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	copy(f[34:], []byte{0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0})
	write(t, p, link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 1448}, f)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	<-read
	in, err := capture.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{54 + 1448, 54 + 1448, 54 + payload - 2*1448} {
		rec, err := in.Read()
		if err != nil || rec.Len != want || len(rec.Data) != 60 || rec.Offload != (link.Offload{}) {
			t.Fatalf("segment %d: %+v, %v", i, rec, err)
		}
	}
	if _, err := in.Read(); err != io.EOF {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(section(f, records()))
	f.Add([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := capture.NewReader(bytes.NewReader(b))
		for n := 0; err == nil; n++ {
			var rec *capture.Record
			if rec, err = r.Read(); err == nil && n > len(b) {
				t.Fatalf("more records than bytes: %+v", rec)
			}
		}
		if r != nil {
			r.Counts()
		}
	})
}
