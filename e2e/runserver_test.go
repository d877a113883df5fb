package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// nginx starts nginx with two workers on the side under test: port 80 serves
// www, /app/ comes from a server on the stack's loopback, 443 is HTTP/2.
func (s *side) nginx(t testing.TB) *netlab.Proc {
	t.Helper()
	dir := filepath.Join(s.dir, "nginx-on-stack")
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`
daemon off; user root; pid %[1]s/pid; error_log stderr warn; worker_processes 2;
worker_rlimit_nofile 4096;
events { worker_connections 2048; }
http {
  access_log off; default_type text/plain; sendfile on; tcp_nopush on;
  client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp;
  uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp; client_max_body_size 600m;
  upstream app { server 127.0.0.1:8081; keepalive 8; }
  server {
    listen 80 backlog=1024; listen [::]:80 backlog=1024; listen 443 ssl http2;
    root %[2]s/www;
    ssl_certificate %[2]s/cert.pem; ssl_certificate_key %[2]s/key.pem;
    location /up/ { dav_methods PUT; }
    location /n/ { return 200 "$uri\n"; }
    location /me { return 200 "$remote_addr $server_addr $server_port\n"; }
    location /app/ { proxy_pass http://app/; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}`, dir, s.dir)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	p := s.start(t, "nginx", "-p", dir, "-e", "stderr", "-c", file)
	s.reachable(t, p, stack4+":80")
	return p
}

// nginx on the stack: two workers, sendfile, uploads, HTTP/2, and a proxy whose
// upstream is python on the stack, too.
func TestRunNginx(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	_, hash := s.file(t, "some", 20<<20)
	p := s.nginx(t)
	py := s.start(t, "python3", "-u", "-m", "http.server", "-b", "127.0.0.1", "-d", filepath.Join(s.dir, "www"), "8081")
	py.WaitOutput(t, `Serving HTTP on 127\.0\.0\.1 port 8081`, 10*time.Second)
	for _, c := range []struct{ run, want string }{
		{`curl -sS http://STACK4/ 'http://[STACK6]/'`, page + page},
		{`curl -sS -k --http2 -w '%{http_version}\n' https://STACK4/n/h2`, `/n/h2\n2\n`},
		{`curl -sS http://STACK4/me`, `10\.0\.0\.5 10\.0\.0\.4 80\n`},
		{`curl -sS http://STACK4/some | cmp - DIR/www/some`, ``},
		{`curl -sS http://STACK4/app/some | cmp - DIR/www/some`, ``},
		{`curl -sS --parallel --parallel-max 20 'http://STACK4/app/index.html?[1-100]' | sort | uniq -c`, ` *100 ` + page},
		{`curl -sS -f -T DIR/www/some http://STACK4/up/sent && cmp DIR/www/some DIR/www/up/sent`, ``},
		{`curl -sS --parallel --parallel-max 100 'http://STACK4/n/[1-500]' | sort -u | wc -l`, `500\n`},
		{`curl -sS --parallel --parallel-max 50 -H 'Connection: close' 'http://STACK4/n/[1-300]' | sort -u | wc -l`, `300\n`},
		{`ab -q -n 2000 -c 50 http://STACK4/ | grep -E '^(Complete|Failed) requests'`, `Complete requests: *2000\nFailed requests: *0\n`},
	} {
		out := s.hostSh(t, s.fill(c.run))
		match(t, c.run, out, `\A`+c.want+`\z`)
	}
	same(t, "uploaded", filepath.Join(s.dir, "www", "up", "sent"), hash, 20<<20)

	// New workers on the same listeners.
	p.Signal(t, syscall.SIGHUP)
	for i := range 50 {
		if out := s.hostSh(t, s.fill(`curl -sS http://STACK4/n/again`)); out != "/n/again\n" {
			t.Fatalf("request %d while it reloads: %q", i, out)
		}
	}
	p.Signal(t, syscall.SIGQUIT)
	if code := p.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("nginx ended with exit code %d:\n%s", code, p.Output())
	}
}

// fill fills in the addresses and the folder in a script for the host.
func (s *side) fill(script string) string {
	return strings.NewReplacer("STACK4", stack4, "STACK6", stack6, "DIR", s.dir).Replace(script)
}

// wrk with 100 connections has no error; USTACK_E2E_WRK is for how long, 5s by default.
func TestRunWrk(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	s.nginx(t)
	long := os.Getenv("USTACK_E2E_WRK")
	if long == "" {
		long = "5s"
	}
	out := s.hostSh(t, s.fill("wrk -t 2 -c 100 -d "+long+" --timeout 10s http://STACK4/"))
	match(t, "wrk", out, `[1-9]\d* requests in`)
	if strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
		t.Errorf("wrk:\n%s", out)
	}
	t.Log(out)
}

// A static Go server on the stack with 1,000 connections at once.
func TestRunGoServer(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	p := s.start(t, goProgram(t, sockprobe), "serve", ":8080")
	p.WaitOutput(t, `serving \[::\]:8080`, 10*time.Second)
	const many = 1000
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dialIn(t, s.host, network, address)
		},
	}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			host := stack4
			if i%2 == 1 {
				host = "[" + stack6 + "]"
			}
			// It answers when all of them are there.
			resp, err := client.Get(fmt.Sprintf("http://%s:8080/wait/%d", host, many))
			if err != nil {
				t.Errorf("request %d: %v", i, err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello from a static server\n" {
				t.Errorf("request %d: %q, %v", i, b, err)
			}
		})
	}
	wg.Wait()
	path, hash := s.file(t, "some", 10<<20)
	match(t, "upload", s.hostSh(t, s.fill(`curl -sS -T `+path+` http://STACK4:8080/up`)), `\A`+hash+` 10485760\n\z`)
}

// iperf3 on the stack as the server.
func TestRunIperf3Server(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	p := s.start(t, "iperf3", "-s", "--forceflush")
	for i, how := range iperf3Ways {
		// Between two tests it does not listen.
		p.WaitOutput(t, fmt.Sprintf(`Server listening on 5201 \(test #%d\)`, i+1), 10*time.Second)
		checkIperf3(t, how, runIn(t, s.host, nil, netlab.Peer(t, "iperf3"), append([]string{"-J", "-t", "1", "-c", stack4}, how...)...))
	}
}

// sshd on the stack: privilege separation, a sandbox of its own, a command and a copy.
func TestRunSSHD(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	k := newSSH(t, s.dir)
	s.reachable(t, s.startCmd(t, k.server(t, "0.0.0.0", s.prefix)), stack4+":2222")
	ssh := netlab.Peer(t, "ssh")
	if r := runIn(t, s.host, nil, ssh, k.client(stack4, `echo "$SSH_CONNECTION"; exit 3`)...); r.code != 3 {
		t.Errorf("ssh: %v", r)
	} else {
		match(t, "SSH_CONNECTION", r.stdout, `\A10\.0\.0\.5 \d+ 10\.0\.0\.4 2222\n\z`)
	}
	path, hash := s.file(t, "copy", 5<<20)
	s.hostSh(t, fmt.Sprintf(`ssh %s <%s`, quoted(k.client(stack4, "cat >"+s.dir+"/copied")), path))
	same(t, "copied", filepath.Join(s.dir, "copied"), hash, 5<<20)
	// What is logged in there is on the stack, too.
	if r := runIn(t, s.host, nil, ssh, k.client(stack4, netlab.Peer(t, "curl")+" -sS http://"+host4+"/")...); r.stdout != pageText {
		t.Errorf("curl by ssh: %v", r)
	}
}

// Other servers on the stack, each with a client on the host.
func TestRunServers(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	s.file(t, "some", 3<<20)
	replace := strings.NewReplacer("STACK4", stack4, "STACK6", stack6, "HOST4", host4, "DIR", s.dir, "NAME", web)
	for _, c := range []struct {
		name, server string
		// port is what the server listens on, or line is what it prints then.
		port, line string
		client     string
		want       string
	}{
		{name: "python http.server", server: `python3 -u -m http.server -d DIR/www 8001`, line: `Serving HTTP`,
			client: `curl -sS http://STACK4:8001/ && curl -sS http://STACK4:8001/some | cmp - DIR/www/some`, want: page},
		{name: "python http.server, dual stack", server: `python3 -u -m http.server -b :: -d DIR/www 8002`, line: `Serving HTTP`,
			client: `curl -sS http://STACK4:8002/ 'http://[STACK6]:8002/'`, want: page + page},
		{name: "nc", server: `echo from the server | nc.openbsd -N -l 8003`, client: `for i in {1..200}; do echo from the client | nc.openbsd -N STACK4 8003 && break; sleep 0.05; done`, want: `from the server\n`},
		{name: "nc UDP", server: `echo from the server | nc.openbsd -u -l 8004`,
			client: `for i in {1..20}; do echo from the client | nc.openbsd -u -w 1 STACK4 8004 | grep server && break; done`, want: `from the server\n`},
		{name: "socat, forking", server: `socat TCP-LISTEN:8005,fork,reuseaddr EXEC:cat`, port: "8005",
			client: `for i in 1 2 3 4 5; do echo $i | socat -t 5 - TCP:STACK4:8005; done; socat -t 5 - TCP:STACK4:8005 <DIR/www/some | cmp - DIR/www/some`, want: `1\n2\n3\n4\n5\n`},
		{name: "socat UDP", server: `socat UDP-LISTEN:8006,fork EXEC:cat`,
			client: `for i in {1..50}; do echo hello | socat -T1 - UDP:STACK4:8006 | grep hello && break; sleep 0.1; done`, want: `hello\n`},
		{name: "socat UDP, unconnected", server: `socat UDP-RECVFROM:8007,fork EXEC:cat`,
			client: `for i in {1..50}; do echo hello | socat -T1 - UDP:STACK4:8007 | grep hello && break; sleep 0.1; done`, want: `hello\n`},
		{name: "busybox httpd", server: `busybox httpd -f -p 8008 -h DIR/www`, port: "8008",
			client: `curl -sS http://STACK4:8008/ && curl -sS http://STACK4:8008/some | cmp - DIR/www/some`, want: page},
		{name: "busybox nc", server: `busybox nc -l -p 8009 -e cat`, client: `for i in {1..200}; do echo hello | nc.openbsd -N STACK4 8009 && break; sleep 0.05; done`, want: `hello\n`},
		{name: "node", server: `node -e 'require("http").createServer((q,r)=>q.pipe(r)).listen(8010,()=>console.log("ready"))'`, line: `ready`,
			client: `curl -sS http://STACK4:8010/ -d hello; echo; curl -sS http://STACK4:8010/ -T DIR/www/some | cmp - DIR/www/some`, want: `hello\n`},
		{name: "perl", server: `perl -MIO::Socket::INET -e '$l=IO::Socket::INET->new(LocalPort=>8011,Listen=>5,ReuseAddr=>1) or die; while($c=$l->accept){print $c $c->sockport," ",$c->peerhost,"\n"; close $c}'`, port: "8011",
			client: `nc.openbsd -d STACK4 8011`, want: `8011 10\.0\.0\.5\n`},
		{name: "openssl s_server", server: `cd DIR/www && openssl s_server -quiet -accept 8012 -cert ../cert.pem -key ../key.pem -WWW`, port: "8012",
			client: `curl -sS -k https://STACK4:8012/index.html`, want: page},
		{name: "redis-server", server: `redis-server --port 8013 --protected-mode no --save "" --dir DIR`, line: `Ready to accept`,
			client: `redis-cli -h STACK4 -p 8013 set a b; redis-cli -h STACK4 -p 8013 get a; for i in {1..2000}; do echo incr n; done | redis-cli -h STACK4 -p 8013 --pipe | tail -n 1`, want: `OK\nb\nerrors: 0, replies: 2000\n`},
		{name: "memcached", server: `memcached -u root -p 8014 -t 4`, port: "8014",
			client: `printf 'set a 0 0 5\r\nhello\r\nget a\r\nquit\r\n' | nc.openbsd -N STACK4 8014`, want: `STORED\r\nVALUE a 0 5\r\nhello\r\nEND\r\n`},
		{name: "dnsmasq", server: `dnsmasq -k -C /dev/null -u root --pid-file --no-resolv --no-hosts --bind-interfaces --listen-address=STACK4 --port 8015 --address=/NAME/192.0.2.77 --log-facility=-`, line: `started, version`,
			client: `dig +short @STACK4 -p 8015 NAME; dig +short +tcp @STACK4 -p 8015 NAME`, want: `192\.0\.2\.77\n192\.0\.2\.77\n`},
		{name: "rsync --daemon", server: `printf 'use chroot = no\nuid = 0\ngid = 0\n[www]\npath = DIR/www\n' >DIR/rsyncd.conf; rsync --daemon --no-detach --config DIR/rsyncd.conf --port 8016`, port: "8016",
			client: `rsync rsync://STACK4:8016/www/some DIR/rsynced && cmp DIR/rsynced DIR/www/some`},
		{name: "git daemon", server: `cd DIR && git init -q w && cd w && echo content >file && git add file && git -c user.name=a -c user.email=a@example.org commit -q -m one; git daemon --reuseaddr --export-all --base-path=DIR --port=8017`, port: "8017",
			client: `git clone -q git://STACK4:8017/w DIR/cloned && cat DIR/cloned/file`, want: `content\n`},
		{name: "python asyncio", server: `python3 -u -c '
import asyncio
async def one(r, w):
    while b := await r.readline(): w.write(b.upper()); await w.drain()
    w.close()
async def main():
    s = await asyncio.start_server(one, None, 8018); print("ready"); await s.serve_forever()
asyncio.run(main())'`, line: `ready`,
			client: `for i in 4 6; do eval echo hello | nc.openbsd -N $([ $i = 4 ] && echo STACK4 || echo STACK6) 8018; done`, want: `HELLO\nHELLO\n`},
		{name: "python UDP server", server: `python3 -u -c '
import socketserver
class H(socketserver.BaseRequestHandler):
    def handle(self): self.request[1].sendto(b"%s %s" % (self.client_address[0].encode(), self.request[0]), self.client_address)
s = socketserver.ThreadingUDPServer(("", 8019), H); print("ready"); s.serve_forever()'`, line: `ready`,
			client: `echo hello | nc.openbsd -u -w 1 STACK4 8019`, want: `10\.0\.0\.5 hello\n`},
		{name: "haproxy", server: `cat DIR/key.pem DIR/cert.pem >DIR/both.pem; printf '%s\n' defaults 'mode http' 'timeout connect 5s' 'timeout client 30s' 'timeout server 30s' \
			'frontend f' 'bind :8024' 'bind :8025 ssl crt DIR/both.pem' 'default_backend b' 'backend b' 'option httpchk GET /' 'server a HOST4:80 check inter 100ms' 'server b NAME:80 check inter 100ms' >DIR/haproxy.cfg
			haproxy -db -f DIR/haproxy.cfg`, port: "8025",
			client: `curl -sS http://STACK4:8024/ && curl -sS -k https://STACK4:8025/some | cmp - DIR/www/some && for i in {1..50}; do curl -sS http://STACK4:8024/n/$i; done | wc -l`, want: page + `50\n`},
		{name: "unbound", server: `printf '%s\n' server: 'interface: 0.0.0.0@8026' 'interface: ::@8026' 'access-control: ::/0 allow' 'access-control: 0.0.0.0/0 allow' 'use-syslog: no' 'username: ""' 'chroot: ""' \
			'pidfile: ""' 'directory: "DIR"' 'num-threads: 2' 'module-config: "iterator"' 'interface-automatic: no' forward-zone: 'name: "."' 'forward-addr: HOST4' >DIR/unbound.conf
			unbound -d -c DIR/unbound.conf`, port: "8026",
			client: `dig +short -p 8026 @STACK4 NAME; dig +short +tcp -p 8026 @STACK4 NAME; dig +short -p 8026 @STACK6 NAME; for i in {1..20}; do dig +short +tries=1 +time=5 -p 8026 @STACK4 NAME; done | grep -c HOST4`, want: `(10\.0\.0\.5\n){3}20\n`},
		{name: "chronyd", server: `printf '%s\n' 'local stratum 3' 'allow all' 'port 8027' 'cmdport 0' 'bindcmdaddress /' 'pidfile DIR/chronyd' >DIR/chrony.conf; chronyd -d -x -u root -f DIR/chrony.conf`, line: `Disabled control of system clock`,
			client: `chronyd -Q -t 20 -u root 'server STACK4 port 8027 iburst' 'cmdport 0' 'bindcmdaddress /' 'pidfile DIR/chronyc' 2>&1 | grep -o 'System clock wrong by -*0\.00'`, want: `System clock wrong by -?0\.00\n`},
		{name: "vsftpd", server: `mkdir DIR/nothing; printf '%s\n' listen=YES listen_port=8028 anonymous_enable=YES no_anon_password=YES anon_root=DIR/www secure_chroot_dir=DIR/nothing background=NO ftp_username=bin \
			seccomp_sandbox=NO connect_from_port_20=NO >DIR/vsftpd.conf; vsftpd DIR/vsftpd.conf`, port: "8028",
			client: `curl -sS ftp://STACK4:8028/index.html; for how in '' '-P -'; do curl -sS $how ftp://STACK4:8028/some | cmp - DIR/www/some; done`, want: page},
		{name: "two on one port", server: `GO serve :8020 & GO serve STACK4:8021 & wait`, port: "8021",
			client: `curl -sS http://STACK4:8020/ http://STACK4:8021/`, want: `hello from a static server\nhello from a static server\n`},
		{name: "netcat to a program of another run", server: `python3 -u -m http.server -b 127.0.0.1 -d DIR/www 8022 & until curl -sS http://127.0.0.1:8022/ >/dev/null; do sleep 0.05; done; socat TCP-LISTEN:8023,fork,reuseaddr TCP:127.0.0.1:8022`, port: "8023",
			client: `curl -sS http://STACK4:8023/`, want: page},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := s.startSh(t, strings.ReplaceAll(replace.Replace(c.server), "GO ", goProgram(t, sockprobe)+" "))
			if c.line != "" {
				p.WaitOutput(t, c.line, 20*time.Second)
			}
			if c.port != "" {
				s.reachable(t, p, stack4+":"+c.port)
			}
			out := s.hostSh(t, "set -o pipefail\n"+replace.Replace(c.client))
			match(t, c.client, out, `\A`+c.want+`\z`)
		})
	}
}

// Loopback is the stack's, shared by all programs of a daemon.
func TestRunLoopbackIsShared(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	p := s.start(t, goProgram(t, sockprobe), "serve", "127.0.0.1:8080", "[::1]:8080")
	p.WaitOutput(t, `serving 127[^$]*serving \[::1\]:8080`, 10*time.Second)
	for _, url := range []string{"http://127.0.0.1:8080/", "http://localhost:8080/", "http://[::1]:8080/"} {
		if out := s.ok(t, "curl", "-sS", url); out != "hello from a static server\n" {
			t.Errorf("%s: %q", url, out)
		}
	}
	// Not from outside.
	if r := runIn(t, s.host, nil, netlab.Peer(t, "curl"), "-sS", "http://"+stack4+":8080/"); r.code != 7 {
		t.Errorf("the stack's loopback from the host: %v", r)
	}
	body := strings.Repeat("0123456789", 1<<20)
	file := filepath.Join(s.dir, "body")
	if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x %d\n", sha256.Sum256([]byte(body)), len(body))
	if out := s.ok(t, "curl", "-sS", "-T", file, "http://127.0.0.1:8080/up"); out != want {
		t.Errorf("upload: %q", out)
	}
}
