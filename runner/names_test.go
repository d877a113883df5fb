package runner

import (
	"bytes"
	"testing"

	"github.com/ustack/ustack/control"
)

func TestLocalHosts(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"hosts: files dns\n", "hosts: files dns\n"},
		{"passwd: files sss\n", "passwd: files sss\n"},
		{"hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n", "hosts: files myhostname dns\n"},
		{"hosts:\tfiles mdns4_minimal [NOTFOUND=return] dns # local\nnetworks: files", "hosts: files dns\nnetworks: files"},
		{"hosts: files [SUCCESS=merge] resolve[!UNAVAIL=return]", "hosts: files [SUCCESS=merge] dns\n"},
		{"# hosts: resolve\n hosts : sss", "# hosts: resolve\nhosts: dns\n"},
		{"hosts: resolve [", "hosts: dns\n"},
	} {
		got, changed := localHosts([]byte(c.in))
		if string(got) != c.want || changed != (c.in != c.want) {
			t.Errorf("%q: %q, changed %v; want %q", c.in, got, changed, c.want)
		}
	}
}

// What has been cut must not be found again, and what is not a line of hosts must stay.
func FuzzLocalHosts(f *testing.F) {
	f.Add([]byte("hosts: mymachines resolve [!UNAVAIL=return] files dns\npasswd: files"))
	f.Add([]byte("hosts: resolve ["))
	f.Fuzz(func(t *testing.T, in []byte) {
		once, changed := localHosts(in)
		if !changed && !bytes.Equal(once, in) {
			t.Errorf("%q became %q", in, once)
		}
		if again, changed := localHosts(once); changed {
			t.Errorf("%q, then %q", once, again)
		}
	})
}

func TestResolvConf(t *testing.T) {
	st := control.Status{
		DNS:    []string{"10.0.0.5:53", "[fe80::1%tap0]:53", "10.0.0.6:5353", "nonsense", "[::ffff:10.0.0.7]:53"},
		Search: []string{"example.org", "lan"},
	}
	const want = "# The DNS servers of the ustack daemon, for this program only.\n" +
		"nameserver 10.0.0.5\nnameserver fe80::1%tap0\nnameserver 10.0.0.7\n" +
		"# left out, for its port cannot be told here: 10.0.0.6:5353\nsearch example.org lan\n"
	if got := resolvConf(st); got != want {
		t.Errorf("resolv.conf is\n%s\nwant\n%s", got, want)
	}
}
