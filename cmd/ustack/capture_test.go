package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/link"
)

// captured is a file with an ARP request that is sent, one to port 80 that is dropped, and a
// super-frame that is received.
func captured(t *testing.T) string {
	t.Helper()
	arp := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 4}, 0, 0, 0, 0, 0, 0, 10, 0, 0, 5)
	tcp := func(n int) []byte {
		b := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, byte((40 + n) >> 8), byte(40 + n), 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 4, 10, 0, 0, 5},
			0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0)
		return append(b, make([]byte, n)...)
	}
	at := time.Unix(1700000000, 5000)
	name := filepath.Join(t.TempDir(), "a.pcapng")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := capture.NewWriter(f, capture.Section{Interfaces: []capture.Interface{{Name: "tap0"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []capture.Record{
		{Time: at, Data: arp},
		{Time: at.Add(1500 * time.Microsecond), Data: tcp(0), Drop: "tx_down"},
		{Time: at.Add(2 * time.Second), Data: tcp(5000), In: true, Offload: link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 1448}},
	} {
		r.Len = len(r.Data)
		if err := w.Write(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close([]capture.Counts{{Matched: 3}}); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestReplay(t *testing.T) {
	file := captured(t)
	const arp, syn, super = "ARP, Request who-has 10.0.0.5 tell 10.0.0.4, length 28\n",
		"IP 10.0.0.4.40000 > 10.0.0.5.80: Flags [.], ack 2, win 256, length 0 [dropped: tx_down]\n",
		"IP 10.0.0.4.40000 > 10.0.0.5.80: Flags [.], seq 0:5000, ack 1, win 256, length 5000\n"
	for args, want := range map[string]string{
		"-n -t":          arp + syn + super,
		"-nt -c 1 tcp":   syn,
		"-nt dropped":    syn,
		"-nt in":         strings.Replace(super, "seq 0:5000, ack 1", "seq 1:5001, ack 2", 1),
		"-ntt -c 1":      "1700000000.000005 " + arp,
		"-nt -e arp":     "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: Request who-has 10.0.0.5 tell 10.0.0.4, length 28\n",
		"-nttttt not in": " 00:00:00.000000 " + arp + " 00:00:00.001500 " + syn,
		"-nt -x arp":     arp + "\t0x0000:  0001 0800 0604 0001 0200 0000 0001 0a00\n\t0x0010:  0004 0000 0000 0000 0a00 0005\n",
		"-nt host 10.0.0.5 and ! (port 80 or arp)": "",
	} {
		stdout, stderr, code := try(t, append([]string{"capture", "-r", file}, strings.Fields(args)...)...)
		if code != 0 || stderr != "" || stdout != want {
			t.Errorf("%s: code %d, %s\n got %q\nwant %q", args, code, stderr, stdout, want)
		}
	}
	stdout, _, _ := try(t, "capture", "-r", file, "-nvS", "in")
	if !strings.Contains(stdout, "tap0 In  IP (tos 0x0, ttl 64, id 7") || !strings.Contains(stdout, "(partial)") || !strings.Contains(stdout, "[gso 1448]") {
		t.Error(stdout)
	}
}

// TestRewrite stores what a filter selects of a file, super-frames cut.
func TestRewrite(t *testing.T) {
	file := captured(t)
	out := filepath.Join(t.TempDir(), "b.pcapng")
	if _, stderr, code := try(t, "capture", "-r", file, "-w", out, "--split", "in"); code != 0 || !strings.HasPrefix(stderr, "4 packets captured\n") {
		t.Fatalf("code %d, %s", code, stderr)
	}
	stdout, _, _ := try(t, "capture", "-r", out, "-ntS", "less 1502")
	want := ""
	for _, l := range []string{"1:1449", "1449:2897", "2897:4345", "4345:5001"} {
		want += "IP 10.0.0.4.40000 > 10.0.0.5.80: Flags [.], seq " + l + ", ack 2, win 256, length "
		if l == "4345:5001" {
			want += "656\n"
		} else {
			want += "1448\n"
		}
	}
	if stdout != want {
		t.Errorf("got  %swant %s", stdout, want)
	}
	// By way of standard input and output, nothing changes.
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var again, errs bytes.Buffer
	code := run(t.Context(), []string{"capture", "-r", "-", "-w", "-"}, environ{Stdin: bytes.NewReader(whole), Stdout: &again, Stderr: &errs, Getenv: func(string) string { return "" }})
	if code != 0 || errs.String() != "3 packets captured\n" {
		t.Fatalf("code %d, %s", code, errs.String())
	}
	a, _, _ := try(t, "capture", "-r", file, "-nvtt")
	copied := filepath.Join(t.TempDir(), "c")
	if err := os.WriteFile(copied, again.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, _, _ := try(t, "capture", "-r", copied, "-nvtt"); a != b {
		t.Errorf("got  %swant %s", b, a)
	}
}

func TestCaptureErrors(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("this is no capture at all, sorry"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(captured(t))
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, whole[:len(whole)-500], 0o600); err != nil {
		t.Fatal(err)
	}
	socket := serveFake(t, &fakeBackend{})
	for args, want := range map[string]string{
		"-r " + dir + "/none":            "no such file or directory",
		"-r " + text:                     "it is no pcapng or pcap file",
		"-r /dev/null":                   "it is empty",
		"-r " + cut + " -n":              "unexpected EOF",
		"-w " + dir + "/no/such":         "no such file or directory",
		"-w " + dir:                      "is a directory",
		"--socket " + socket:             "this daemon captures no frames",
		"-n --socket " + socket + " tcp": "this daemon captures no frames",
	} {
		_, stderr, code := try(t, append([]string{"capture"}, strings.Fields(args)...)...)
		if code != exitError || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: code %d, %q: want %q", args, code, stderr, want)
		}
	}
}
