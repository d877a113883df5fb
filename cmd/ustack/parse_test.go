package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseRoute(t *testing.T) {
	for text, want := range map[string]string{
		"default via 10.0.0.5":          "0.0.0.0/0 10.0.0.5 ",
		"default via fe80::1 dev tap0":  "::/0 fe80::1 tap0",
		"default":                       "0.0.0.0/0 invalid IP ",
		"192.0.2.0/24 dev tap0":         "192.0.2.0/24 invalid IP tap0",
		"192.0.2.7 via 10.0.0.5":        "192.0.2.7/32 10.0.0.5 ",
		"2001:db8::/32 via 2001:db8::1": "2001:db8::/32 2001:db8::1 ",
	} {
		r, err := parseRoute(strings.Fields(text))
		if got := fmt.Sprintf("%s %s %s", r.Dst, r.Gateway, r.Link); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                              "the destination is missing",
		"10.0.0.1/24 via 10.0.0.5":      "bits are set beyond the prefix length: write 10.0.0.0/24",
		"nowhere via 10.0.0.5":          "not a network",
		"default via":                   `nothing follows "via"`,
		"default by 10.0.0.5":           `unknown word "by"`,
		"default via router":            "not the IP address of a router",
		"192.0.2.0/24 via 2001:db8::1":  "two address families",
		"default dev a/b":               "not the name of an interface",
		"::ffff:192.0.2.0/120 dev tap0": "not a network",
	} {
		if _, err := parseRoute(strings.Fields(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.5":           "10.0.0.5:53",
		"10.0.0.5:5353":      "10.0.0.5:5353",
		"2001:db8::53":       "[2001:db8::53]:53",
		"[2001:db8::53]":     "[2001:db8::53]:53",
		"[2001:db8::53]:853": "[2001:db8::53]:853",
		"::ffff:10.0.0.5":    "10.0.0.5:53",
	} {
		if got, err := parseServer(text); err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "dns.example", "10.0.0.5:", "10.0.0.5:65536", "10.0.0.5:0", "0.0.0.0", "224.0.0.251"} {
		if got, err := parseServer(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"link", "addr", "gateway", "dns", "host-addr", "socket-mode", "up"}
	for word, want := range map[string]string{
		"lnik": "link", "adress": "addr", "address": "addr", "gatway": "gateway", "host-adr": "host-addr",
		"socket": "socket-mode", "xyz": "", "dsn": "dns", "socketmode": "socket-mode", "": "", "q": "",
	} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10.0.0.4/24")
	f.Add("[2001:db8::1%25eth0]:53")
	f.Add("default via fe80::1%eth0 dev tap0")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := parseInterfacePrefix(text); err == nil && (!p.IsValid() || !unicast(p.Addr())) {
			t.Errorf("%q: accepted as %v", text, p)
		}
		if s, err := parseServer(text); err == nil && (!s.IsValid() || s.Port() == 0) {
			t.Errorf("%q: accepted as %v", text, s)
		}
		if r, err := parseRoute(strings.Fields(text)); err == nil && (!r.Dst.IsValid() || r.Dst != r.Dst.Masked()) {
			t.Errorf("%q: accepted as %v", text, r)
		}
		if isDomain(text) && strings.ContainsAny(text, " /:") {
			t.Errorf("%q is no domain", text)
		}
	})
}
