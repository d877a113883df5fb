package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// The map, as tests mostly use it:
//
//	 apps            host                       router               internet
//	┌──────┐ unix  ┌─────────────────────┐    ┌────────────┐    ┌──────────────────────┐
//	│ curl ├──────►│ ustack ── tap0  eth0├────┤eth0    eth1├────┤eth0  nginx   .80     │
//	│ ping │socket │ .4         .5     .2│    │.1        .1│    │      dnsmasq .53     │
//	└──────┘       └─────────────────────┘    └────────────┘    └──────────────────────┘
//	                10.0.0.0/24   192.0.2.0/24             203.0.113.0/24
//	                fd00:a::/64   fd00:b::/64              2001:db8::/64
//
// The internet has no route to 10.0.0.0/24 and fd00:a::/64, so that something has to
// masquerade: the router, or the host when ustack has --uplink.
const (
	stack4, stack6           = "10.0.0.4", "fd00:a::4"
	host4, host6             = "10.0.0.5", "fd00:a::5"
	hostOut4, hostOut6       = "192.0.2.2", "fd00:b::2"
	router4, router6         = "192.0.2.1", "fd00:b::1"
	gateway4, gateway6       = "203.0.113.1", "2001:db8::1"
	webIP4, webIP6           = "203.0.113.80", "2001:db8::80"
	dns4, dns6               = "203.0.113.53", "2001:db8::53"
	other4                   = "203.0.113.90" // servers of a test's own
	web                      = "www.baidu.com"
	pageText                 = "hello from the other side\n"
	bulkBytes          int64 = 100 << 20
)

// static are the flags of a daemon with the addresses of the map.
func static(spec string, more ...string) []string {
	return append([]string{
		"--link", spec,
		"--addr", stack4 + "/24", "--addr", stack6 + "/64",
		"--host-addr", host4 + "/24", "--host-addr", host6 + "/64",
		"--dns", dns4,
	}, more...)
}

type lab struct {
	host, router, internet *netlab.NS
	// dir is where nginx's files are: www/ is what it serves, www/up/ where PUT goes.
	dir string
}

// natAt says who masquerades.
type natAt int

const (
	natRouter natAt = iota // the router; the host only forwards
	natUplink              // ustack --uplink eth0; the router only forwards
)

func newLab(t testing.TB, nat natAt) *lab {
	t.Helper()
	l := &lab{
		host:     netlab.New(t, "host"),
		router:   netlab.New(t, "router"),
		internet: netlab.New(t, "internet"),
		dir:      scratch(t),
	}
	netlab.Veth(t, l.host, "eth0", l.router, "eth0")
	netlab.Veth(t, l.router, "eth1", l.internet, "eth0")
	for _, a := range []struct {
		ns    *netlab.NS
		ifn   string
		addrs []string
	}{
		{l.host, "eth0", []string{hostOut4 + "/24", hostOut6 + "/64"}},
		{l.router, "eth0", []string{router4 + "/24", router6 + "/64"}},
		{l.router, "eth1", []string{gateway4 + "/24", gateway6 + "/64"}},
		{l.internet, "eth0", []string{
			webIP4 + "/24", dns4 + "/24", other4 + "/24", webIP6 + "/64", dns6 + "/64",
		}},
	} {
		for _, cidr := range a.addrs {
			a.ns.Addr(t, a.ifn, cidr)
		}
	}
	l.host.Route(t, "default", router4)
	l.host.Route(t, "default", router6)
	forward(t, l.router)
	switch nat {
	case natRouter:
		forward(t, l.host)
		l.router.Route(t, "10.0.0.0/24", hostOut4)
		l.router.Route(t, "fd00:a::/64", hostOut6)
		l.router.Run(t, "nft", `add table inet nat; `+
			`add chain inet nat post { type nat hook postrouting priority 100; }; `+
			`add rule inet nat post oifname "eth1" masquerade`)
	case natUplink:
		l.internet.Route(t, "192.0.2.0/24", gateway4)
		l.internet.Route(t, "fd00:b::/64", gateway6)
	}
	startDNS(t, l.internet, l.dir, "eth0", webIP4, webIP6, "--log-queries")
	startWeb(t, l.internet, l.dir, webIP4, webIP6)
	return l
}

func forward(t testing.TB, ns *netlab.NS) {
	t.Helper()
	ns.Sysctl(t, "net.ipv4.ip_forward", "1")
	ns.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
}

// startDNS runs dnsmasq, which knows www.baidu.com, at the addresses given, and
// nothing else.
func startDNS(t testing.TB, ns *netlab.NS, dir, ifname, ip4, ip6 string, more ...string) {
	t.Helper()
	netlab.Peer(t, "dnsmasq")
	p := ns.Start(t, "dnsmasq", append([]string{"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null",
		"--user=root", "--pid-file=" + filepath.Join(dir, "dnsmasq.pid"),
		"--no-resolv", "--no-hosts", "--bind-interfaces", "--interface=" + ifname,
		"--address=/" + web + "/" + ip4, "--address=/" + web + "/" + ip6, "--local=/#/"}, more...)...)
	p.WaitOutput(t, `started, version`, 10*time.Second)
}

// startWeb runs nginx on ports 80 and 443 of two addresses, with dir/www, in it a page, a
// folder that takes PUT, and /n/, whose pages are their own names.
func startWeb(t testing.TB, ns *netlab.NS, dir, ip4, ip6 string) {
	t.Helper()
	netlab.Peer(t, "nginx")
	www := filepath.Join(dir, "www")
	for _, dir := range []string{filepath.Join(www, "up"), filepath.Join(dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(www, "index.html"), []byte(pageText), 0o644); err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, web)
	for name, b := range map[string][]byte{"cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(`
daemon off; master_process off; user root; pid %[1]s/nginx.pid; error_log stderr notice;
worker_rlimit_nofile 4096;
events { worker_connections 2048; }
http {
  access_log off; default_type text/plain; sendfile on;
  client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp;
  uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp; client_max_body_size 600m;
  server {
    listen %[2]s:80 backlog=1024; listen [%[3]s]:80 backlog=1024;
    listen %[2]s:443 ssl http2; listen [%[3]s]:443 ssl http2;
    server_name %[4]s; root %[1]s/www;
    ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
    location /up/ { dav_methods PUT; }
    location /n/ { return 200 "$uri\n"; }
  }
}`, dir, ip4, ip6, web)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	p := ns.Start(t, "nginx", "-p", dir, "-e", "stderr", "-c", file)
	netlab.WaitFor(t, 10*time.Second, "nginx to listen", func() bool {
		if p.Exited() {
			t.Fatalf("nginx ended:\n%s", p.Output())
		}
		c, err := dialIn(t, ns, "tcp", ip4+":80")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// dialIn dials an address, not a name, from a namespace.
func dialIn(t testing.TB, ns *netlab.NS, network, address string) (c net.Conn, err error) {
	t.Helper()
	ns.Do(t, func() { c, err = net.DialTimeout(network, address, 10*time.Second) })
	return c, err
}

// listenIn listens in a namespace until the end of the test.
func listenIn(t testing.TB, ns *netlab.NS, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(t, func() { l, err = net.Listen(network, address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// certificate makes a self-signed certificate for a name.
func certificate(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// bulkFile writes bulkBytes that no compression shortens and returns their hash;
// randomFile does so with another size.
func bulkFile(t testing.TB, path string) string {
	t.Helper()
	return randomFile(t, path, bulkBytes)
}

func randomFile(t testing.TB, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	src := mrand.NewChaCha8([32]byte{1})
	if _, err := io.CopyBuffer(io.MultiWriter(f, h), io.LimitReader(onlyReader{src}, size), make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

type onlyReader struct{ io.Reader }

// hashFile returns the hash of a file and its length.
func hashFile(t testing.TB, path string) (string, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil)), n
}

// inItsOwnTime is what the kernel finds out about an interface by itself.
var inItsOwnTime = regexp.MustCompile(` state [A-Z]+| tentative`)

// hostState is what a daemon may change on a host, for comparing before and after.
func hostState(t testing.TB, ns *netlab.NS) string {
	t.Helper()
	var b bytes.Buffer
	for _, cmd := range [][]string{
		{"ip", "-o", "link"}, {"ip", "-o", "addr"}, {"ip", "route"}, {"ip", "-6", "route"},
		{"ip", "rule"}, {"nft", "list", "ruleset"},
	} {
		fmt.Fprintf(&b, "%v\n%s", cmd, inItsOwnTime.ReplaceAllString(ns.Run(t, cmd[0], cmd[1:]...), ""))
	}
	for _, key := range []string{
		"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding",
		"net.ipv4.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra", "net.ipv6.conf.eth0.forwarding",
	} {
		fmt.Fprintln(&b, key, ns.SysctlValue(t, key))
	}
	return b.String()
}
