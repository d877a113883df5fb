package hostnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestResolvers(t *testing.T) {
	for _, tt := range []struct {
		name     string
		conf, up string // "-" for no file
		servers  string
		search   string
		upstream bool
		warnings []string // a part of each
	}{
		{"plain", "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example.\n", "-", "192.0.2.1:53 [2001:db8::1]:53", "a.example b.example", false, nil},
		{"garbage", "\xff\x00\nnameserver\nnameserver x y\n  nameserver\t192.0.2.1 # first\n;nameserver 192.0.2.9\nnameserverx 1.1.1.1\noptions edns0\nnameserver 192.0.2.1;\nnameserver 192.0.2.2", "-", "192.0.2.1:53 192.0.2.2:53", "", false, nil},
		{"CRLF", "nameserver 192.0.2.1\r\nsearch example\r\n", "-", "192.0.2.1:53", "example", false, nil},
		{"domain and search", "search a\ndomain b c\n", "nameserver 192.0.2.1", "192.0.2.1:53", "b", true, nil},
		{"mapped", "nameserver ::ffff:192.0.2.1\nnameserver 192.0.2.1\n", "-", "192.0.2.1:53", "", false, nil},
		{"more than three", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", "-", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53", "", false, []string{"192.0.2.4"}},
		{"zone", "nameserver fe80::1%eth0\nnameserver 192.0.2.1\n", "-", "192.0.2.1:53", "", false, []string{"fe80::1%eth0"}},
		{"resolved", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", "nameserver 192.0.2.1\nsearch home.example\n", "192.0.2.1:53", "home.example", true, nil},
		{"resolved, own search", "nameserver 127.0.0.53\nsearch mine\n", "nameserver 192.0.2.1\nsearch theirs\n", "192.0.2.1:53", "mine", true, nil},
		{"loopback beside another", "nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.7\n", "192.0.2.1:53", "", false, []string{"127.0.0.1"}},
		{"only loopback", "nameserver ::1\nnameserver 0.0.0.0\n", "-", "", "", false, []string{"::1", "0.0.0.0", "--dns"}},
		{"loopback behind loopback", "nameserver 127.0.0.53\n", "nameserver 127.0.0.1\n", "", "", false, []string{"127.0.0.53", "--dns"}},
		{"none", "-", "-", "", "", false, []string{"names no name server"}},
		{"empty", "", "nameserver 192.0.2.1\n", "192.0.2.1:53", "", true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			conf, up := filepath.Join(dir, "conf"), filepath.Join(dir, "up")
			for path, text := range map[string]string{conf: tt.conf, up: tt.up} {
				if text != "-" {
					if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			r, err := Resolvers(conf, up)
			if err != nil {
				t.Fatal(err)
			}
			var servers []string
			for _, s := range r.Servers {
				servers = append(servers, s.String())
			}
			if got := strings.Join(servers, " "); got != tt.servers {
				t.Errorf("servers %s, want %s", got, tt.servers)
			}
			if got := strings.Join(r.Search, " "); got != tt.search {
				t.Errorf("search %s, want %s", got, tt.search)
			}
			if (r.Path == up) != tt.upstream {
				t.Errorf("from %s", r.Path)
			}
			if len(r.Warnings) != len(tt.warnings) {
				t.Fatalf("warnings %q, want %q", r.Warnings, tt.warnings)
			}
			for i, w := range r.Warnings {
				containsAll(t, w, tt.warnings[i])
			}
		})
	}
	if _, err := Resolvers(t.TempDir(), ""); err == nil || !strings.HasPrefix(err.Error(), "hostnet: ") {
		t.Errorf("a folder: %v", err)
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.53\noptions edns0\nsearch a.example\n"))
	f.Add([]byte("nameserver fe80::1%eth0 # x\r\n\tdomain x..y\nsearch " + strings.Repeat("a.", 200)))
	f.Add([]byte("nameserver ::ffff:1.2.3.4\n;\n#\nnameserver\x00 1\nsearch \xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		servers, search := parseResolvConf(b)
		if len(servers) > maxListed || len(search) > maxSearch {
			t.Fatalf("%d servers, %d domains", len(servers), len(search))
		}
		var text strings.Builder
		for _, a := range servers {
			if !a.IsValid() || a.Is4In6() {
				t.Errorf("server %v", a)
			}
			fmt.Fprintf(&text, "nameserver %v\n", a)
		}
		if len(search) > 0 {
			fmt.Fprintf(&text, "search %s\n", strings.Join(search, " "))
		}
		// What it took, it takes again, unless a zone has a comment's sign in it.
		if slices.ContainsFunc(servers, func(a netip.Addr) bool { return a.Zone() != "" }) {
			return
		}
		servers2, search2 := parseResolvConf([]byte(text.String()))
		if !slices.Equal(servers, servers2) || !slices.Equal(search, search2) {
			t.Errorf("%q: %v %q, again %v %q", b, servers, search, servers2, search2)
		}
	})
}
