package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sockprobe is our static Go program; as "get" and "serve" it is one with net/http.
const sockprobe = "github.com/ustack/ustack/internal/sockprobe"

// A script is a program or several, run by a shell, and what they print. The shell
// itself runs on the side under test, too.
type script struct {
	name, run string
	// want is a regular expression for all of standard output; code is the exit code.
	want string
	code int
	// stderr is a regular expression for standard error.
	stderr string
}

func (c script) test(t *testing.T, s *side, replace *strings.Replacer) {
	t.Helper()
	r := s.sh(t, replace.Replace(c.run))
	if r.code != c.code {
		t.Errorf("%s\nexit code %d, want %d", c.run, r.code, c.code)
	}
	match(t, "standard output", r.stdout, `\A`+c.want+`\z`)
	if c.stderr != "" {
		match(t, "standard error", r.stderr, c.stderr)
	}
	if t.Failed() {
		t.Logf("%v", r)
	}
}

const page = `hello from the other side\n`

// In the scripts, HOST4 and HOST6 are where the kernel's servers are, DIR is a folder
// with www in it, GHOST an address that nobody has, GO the static Go program.
var clients = []script{
	{name: "curl", run: `curl -sS http://HOST4/`, want: page, stderr: `\A\z`},
	{name: "curl by name", run: `curl -sS -4 http://NAME/ && curl -sS -6 http://NAME/`, want: page + page},
	{name: "curl over IPv6", run: `curl -sS -w '%{remote_ip} %{local_ip}\n' 'http://[HOST6]/'`, want: page + `fd00:a::5 fd00:a::4\n`},
	{name: "curl HTTP/2", run: `curl -sS -k --http2 -w '%{http_version} %{local_ip}\n' https://HOST4/`, want: page + `2 10\.0\.0\.4\n`},
	{name: "curl HTTP/2 in parallel", run: `curl -sS -k --http2 --parallel --parallel-max 50 'https://HOST4/n/[1-300]' | sort -u | wc -l`, want: `300\n`},
	{name: "curl 50 in parallel", run: `curl -sS --parallel --parallel-max 50 'http://HOST4/n/[1-500]' | sort -u | wc -l`, want: `500\n`},
	{name: "curl 200 in parallel, none kept", run: `curl -sS --parallel --parallel-max 200 -H 'Connection: close' 'http://HOST4/n/[1-400]' | sort -u | wc -l`, want: `400\n`},
	{name: "curl keeps a connection", run: `curl -sS -w '%{num_connects}\n' http://HOST4/n/a http://HOST4/n/b`, want: `/n/a\n1\n/n/b\n0\n`},
	{name: "curl -T", run: `curl -sS -f -T DIR/www/some http://HOST4/up/curl && cmp DIR/www/some DIR/www/up/curl`},
	{name: "curl refused", run: `curl -sS http://HOST4:9/`, code: 7, stderr: `Couldn't connect to server|Connection refused`},
	{name: "curl to nobody", run: `curl -sS --connect-timeout 10 http://GHOST/`, code: 7, stderr: `No route to host|Couldn't connect`},
	{name: "curl --connect-timeout", run: `curl -sS --connect-timeout 0.3 http://BLACKHOLE/`, code: 28, stderr: `[Tt]imeout|timed out`},
	{name: "curl unknown name", run: `curl -sS http://nobody.example/`, code: 6, stderr: `Could not resolve`},
	{name: "curl from a port", run: `curl -sS --local-port 40123 -w '%{local_port}\n' http://HOST4/`, want: page + `40123\n`},
	{name: "curl from an address", run: `curl -sS --interface STACK4 http://HOST4/`, want: page},
	{name: "curl TFTP", run: `curl -sS tftp://HOST4/some | cmp - DIR/www/some`},
	{name: "wget", run: `wget -q -O - http://HOST4/; wget -q -O - http://NAME/n/6`, want: page + `/n/6\n`},
	{name: "wget refused", run: `wget -nv -t 1 -O - http://HOST4:9/`, code: 4, stderr: `Connection refused`},
	{name: "wget --post-file", run: `wget -q -O DIR/wgot http://HOST4/some && cmp DIR/wgot DIR/www/some`},
	{name: "busybox wget", run: `busybox wget -q -O - http://HOST4/; busybox wget -q -O - http://NAME/n/6`, want: page + `/n/6\n`},
	{name: "busybox nslookup", run: `busybox nslookup -type=a NAME HOST4`, want: `.*Address: HOST4\n.*`},
	{name: "busybox telnet", run: `(echo hello; sleep 0.5) | busybox telnet HOST4 7`, want: `.*hello.*`},
	{name: "busybox tftp", run: `busybox tftp -g -r some -l DIR/tgot HOST4 && cmp DIR/tgot DIR/www/some`},
	{name: "nc", run: `echo hello | nc.openbsd -N HOST4 7`, want: `hello\n`},
	{name: "nc over IPv6", run: `echo hello | nc.openbsd -N HOST6 7`, want: `hello\n`},
	{name: "nc UDP", run: `echo hello | nc.openbsd -u -w 1 HOST4 7`, want: `hello\n`},
	{name: "nc -z", run: `nc.openbsd -z -v HOST4 7 && ! nc.openbsd -z -v HOST4 9`, stderr: `succeeded!.*refused`},
	{name: "nc -w", run: `nc.openbsd -w 1 BLACKHOLE 80`, code: 1},
	{name: "nc bulk", run: `nc.openbsd -N HOST4 7 <DIR/www/some | cmp - DIR/www/some`},
	{name: "socat", run: `echo hello | socat - TCP:HOST4:7; echo six | socat - TCP6:[HOST6]:7; echo dgram | socat -T1 - UDP:HOST4:7`, want: `hello\nsix\ndgram\n`},
	{name: "socat bulk", run: `socat -t 5 - TCP:HOST4:7 <DIR/www/some | cmp - DIR/www/some`},
	{name: "socat refused", run: `socat - TCP:HOST4:9`, code: 1, stderr: `Connection refused`},
	{name: "bash /dev/tcp", run: `exec 3<>/dev/tcp/HOST4/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3`, want: page},
	{name: "bash /dev/tcp by name", run: `exec 3<>/dev/tcp/NAME/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3`, want: page},
	{name: "bash /dev/udp", run: `exec 3<>/dev/udp/HOST4/7; echo hello >&3; timeout 5 head -n 1 <&3`, want: `hello\n`},
	{name: "bash refused", run: `exec 3<>/dev/tcp/HOST4/9`, code: 1, stderr: `Connection refused`},
	{name: "static Go", run: `GO get http://HOST4/ http://NAME/n/a 'http://[HOST6]/n/b' https://HOST4/n/c`,
		want: page + `/n/a\n/n/b\n/n/c\n`, stderr: `HTTP/1\.1 200\n.*HTTP/2\.0 200\n`},
	{name: "static Go refused", run: `GO get http://HOST4:9/`, code: 1, stderr: `connect: connection refused`},
	{name: "perl", run: `perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new("HOST4:7") or die "$!"; print $s->sockhost," ",$s->peerhost,":",$s->peerport,"\n"; print $s "hello\n"; $s->flush; shutdown $s,1; print <$s>'`,
		want: `10\.0\.0\.4 10\.0\.0\.5:7\nhello\n`},
	{name: "openssl s_client", run: `printf 'GET / HTTP/1.0\r\n\r\n' | openssl s_client -quiet -connect HOST4:443 2>/dev/null | tail -n 1`, want: page},
	{name: "node fetch", run: `node -e 'fetch("http://HOST4/").then(r=>r.text()).then(x=>process.stdout.write(x))'`, want: page},
	{name: "node fetch by name, many", run: `node -e 'Promise.all([...Array(100).keys()].map(i=>fetch("http://NAME/n/"+i).then(r=>r.text()))).then(x=>console.log(new Set(x).size))'`, want: `100\n`},
	{name: "node refused", run: `node -e 'require("net").connect(9,"HOST4").on("error",e=>console.log(e.code,e.syscall))'`, want: `ECONNREFUSED connect\n`},
	{name: "node dgram", run: `node -e 's=require("dgram").createSocket("udp4");s.on("message",(m,f)=>{console.log(String(m),f.address,f.port);s.close()});s.send("hello",7,"HOST4")'`, want: `hello 10\.0\.0\.5 7\n`},
	{name: "dig", run: `dig +short NAME A; dig +short @HOST4 NAME AAAA; dig +tcp +short @HOST4 NAME A; dig +short @HOST6 NAME A`, want: `HOST4\nHOST6\nHOST4\nHOST4\n`},
	{name: "dig to nobody", run: `dig +tries=1 +time=1 @HOST4 -p 9 NAME`, code: 9, want: `.*(no servers could be reached|refused).*`},
	{name: "ping", run: `ping -c 3 -i 0.1 HOST4 && ping -6 -c 3 -i 0.1 HOST6 && ping -c 1 -s 4000 HOST4`, want: `.*64 bytes from 10\.0\.0\.5: icmp_seq=1 ttl=64 .* 0% packet loss.*64 bytes from fd00:a::5: icmp_seq=3 .* 0% packet loss.*4008 bytes.*`},
	{name: "ping by name", run: `ping -4 -c 1 NAME`, want: `.*1 received.*`},
	{name: "ping to nobody", run: `ping -c 1 -W 1 GHOST`, code: 1, want: `.*0 received.*`},
	{name: "busybox ping, raw", run: `busybox ping -c 2 -i 0.1 HOST4 && busybox ping -6 -c 2 HOST6`, want: `.*2 packets received.*2 packets received.*`},
	{name: "strace -f", run: `strace -f -e trace=network -o DIR/trace curl -sS http://HOST4/ && grep -c 'connect(.*htons(80)' DIR/trace`, want: page + `[1-9]\n`},
	{name: "strace whole", run: `strace -f -o DIR/trace2 GO get http://HOST4/n/1 http://HOST4/n/2`, want: `/n/1\n/n/2\n`},
	{name: "ab", run: `ab -q -n 1000 -c 50 http://HOST4/ | grep -E '^(Complete|Failed) requests'`, want: `Complete requests: *1000\nFailed requests: *0\n`},
	{name: "git over HTTP", run: `git clone -q http://HOST4/repo.git DIR/clone-http && cat DIR/clone-http/file`, want: `content\n`},
	{name: "a pipeline", run: `curl -sS http://HOST4/some | nc.openbsd -N HOST4 7 | cmp - DIR/www/some`},
	{name: "a subshell in the background", run: `(curl -sS http://HOST4/n/1; echo done) & wait; curl -sS http://HOST4/n/2`, want: `/n/1\ndone\n/n/2\n`},
}

// Programs that know nothing of the stack, as clients of kernel servers.
func TestRunClients(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	s.file(t, "some", 3<<20+17)
	s.hostSh(t, `cd `+s.dir+` && git init -q work && cd work && echo content >file && git add file &&
		git -c user.name=a -c user.email=a@example.org commit -q -m one && git clone -q --bare . ../www/repo.git && cd ../www/repo.git && git update-server-info`)
	replace := s.replacer(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.want = replace.Replace(c.want)
			c.test(t, s, replace)
		})
	}
}

// replacer fills in what a script names in capitals.
func (s *side) replacer(t testing.TB) *strings.Replacer {
	t.Helper()
	// Nobody answers for the address, and what is sent to the hole disappears in it.
	const ghost, hole = "10.0.0.99", "198.51.100.66"
	s.hostSh(t, "ip route add blackhole "+hole)
	return strings.NewReplacer("HOST4", host4, "HOST6", host6, "STACK4", stack4, "STACK6", stack6,
		"NAME", web, "GHOST", ghost, "BLACKHOLE", hole, "DIR", s.dir, "GO", goProgram(t, sockprobe))
}

// Python's own ways to use sockets.
func TestRunPython(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	replace := s.replacer(t)
	for _, c := range []script{
		{name: "urllib", run: `
import urllib.request
print(urllib.request.urlopen("http://HOST4/").read().decode(), end="")
print(urllib.request.urlopen("http://NAME/n/1", timeout=5).read().decode(), end="")`,
			want: page + `/n/1\n`},
		{name: "asyncio", run: `
import asyncio
async def one(i):
    r, w = await asyncio.open_connection("HOST4", 7)
    w.write(b"x%d\n" % i); await w.drain(); w.write_eof()
    b = await r.read(); w.close(); await w.wait_closed()
    return b == b"x%d\n" % i
async def main():
    print(sum(await asyncio.gather(*(one(i) for i in range(100)))))
asyncio.run(main())`, want: `100\n`},
		{name: "asyncio server and client", run: `
import asyncio
async def echo(r, w):
    w.write(await r.read()); await w.drain(); w.close()
async def main():
    s = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = s.sockets[0].getsockname()
    r, w = await asyncio.open_connection(host, port)
    w.write(b"round trip"); w.write_eof()
    print(host, (await r.read()).decode())
asyncio.run(main())`, want: `127\.0\.0\.1 round trip\n`},
		{name: "settimeout on connect", run: `
import socket, time
s = socket.socket(); s.settimeout(0.3); t = time.monotonic()
try: s.connect(("BLACKHOLE", 80))
except TimeoutError as e: print("timeout", 0.2 < time.monotonic() - t < 5)`, want: `timeout True\n`},
		{name: "settimeout on recv", run: `
import socket
s = socket.create_connection(("HOST4", 7), timeout=0.2)
try: s.recv(1)
except TimeoutError as e: print("timeout")
s.sendall(b"hello"); print(s.recv(5).decode())`, want: `timeout\nhello\n`},
		{name: "select on a connect", run: `
import socket, select, errno
s = socket.socket(); s.setblocking(False)
print(errno.errorcode[s.connect_ex(("HOST4", 7))])
r, w, x = select.select([s], [s], [s], 5)
print(len(r), len(w), len(x), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
s.send(b"hello"); r, w, x = select.select([s], [], [], 5); print(s.recv(9).decode())`, want: `EINPROGRESS\n0 1 0 0\nhello\n`},
		{name: "select on a refused connect", run: `
import socket, select, errno
s = socket.socket(); s.setblocking(False)
print(errno.errorcode[s.connect_ex(("HOST4", 9))])
r, w, x = select.select([s], [s], [], 5)
print(len(r), len(w), errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])`, want: `EINPROGRESS\n1 1 ECONNREFUSED\n`},
		{name: "threads", run: `
import socket, threading
ok = []
def one():
    s = socket.create_connection(("HOST4", 7))
    for i in range(50):
        s.sendall(b"y" * 1000); n = 0
        while n < 1000: n += len(s.recv(1000))
    ok.append(1)
ts = [threading.Thread(target=one) for _ in range(20)]
[t.start() for t in ts]; [t.join() for t in ts]; print(len(ok))`, want: `20\n`},
		{name: "fork server", run: `
import socket, os
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
if os.fork() == 0:
    c, a = l.accept(); l.close(); c.sendall(c.recv(100).upper()); os._exit(0)
s = socket.create_connection(l.getsockname()); s.sendall(b"shout")
print(s.recv(100).decode()); print(os.wait()[1])`, want: `SHOUT\n0\n`},
		{name: "multiprocessing passes a socket", run: `
import socket, os
a, b = socket.socketpair()
s = socket.create_connection(("HOST4", 7))
if os.fork() == 0:
    m, fds, f, x = socket.recv_fds(b, 10, 1)
    c = socket.socket(fileno=fds[0]); c.sendall(b"passed"); print(c.recv(6).decode(), c.getpeername()[0], flush=True); os._exit(0)
socket.send_fds(a, [b"x"], [s.fileno()]); s.close(); os.wait()`, want: `passed 10\.0\.0\.5\n`},
		{name: "UDP", run: `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.sendto(b"hello", ("HOST4", 7)); print(*s.recvfrom(100))
s6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s6.settimeout(5)
s6.sendto(b"six", ("HOST6", 7)); print(*s6.recvfrom(100))
s.connect(("HOST4", 9)); s.send(b"x")
try: s.recv(1)
except ConnectionError: print("refused")`,
			want: `b'hello' \('10.0.0.5', 7\)\nb'six' \('fd00:a::5', 7, 0, 0\)\nrefused\n`},
		{name: "IP_RECVERR", run: `
import socket, select, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 11, 1); s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 5)
s.sendto(b"probe", ("HOST4", 33434))
p = select.poll(); p.register(s, select.POLLIN); print(p.poll(5000)[0][1] == select.POLLERR)
d, c, f, a = s.recvmsg(100, 500, socket.MSG_ERRQUEUE)
for l, t, x in c:
    if (l, t) == (0, 11): print(struct.unpack("=IBBB", x[:7]), socket.inet_ntoa(x[20:24]), a, d, f == socket.MSG_ERRQUEUE)
try: s.recvmsg(100, 500, socket.MSG_ERRQUEUE)
except BlockingIOError: print("no more")`,
			want: `True\n\(111, 2, 3, 3\) 10\.0\.0\.5 \('10\.0\.0\.5', 33434\) b'probe' True\nno more\n`},
		{name: "makefile and TLS", run: `
import ssl, socket
c = ssl._create_unverified_context()
s = c.wrap_socket(socket.create_connection(("HOST4", 443)), server_hostname="x")
f = s.makefile("rw", newline=""); f.write("GET / HTTP/1.0\r\n\r\n"); f.flush(); print(f.read().split("\r\n\r\n")[1], end="")`, want: page},
		{name: "subprocess inherits", run: `
import socket, subprocess
s = socket.create_connection(("HOST4", 7)); s.sendall(b"from the parent\n"); s.shutdown(socket.SHUT_WR)
subprocess.run(["cat"], stdin=s)`, want: `from the parent\n`},
		{name: "getaddrinfo", run: `
import socket
print(sorted({a[4][0] for a in socket.getaddrinfo("NAME", 80)}), socket.gethostbyname("localhost"))`, want: `\['10\.0\.0\.5', 'fd00:a::5'\] 127\.0\.0\.1\n`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := s.run(t, "python3", "-c", replace.Replace(c.run))
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			match(t, "standard output", r.stdout, `\A`+replace.Replace(c.want)+`\z`)
			if t.Failed() {
				t.Logf("%s\n%v", c.run, r)
			}
		})
	}
}

// 200 runs in a loop, without one failure.
func TestRunCurlManyTimes(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	for i := range 200 {
		r := s.run(t, "curl", "-sS", "--max-time", "20", fmt.Sprintf("http://%s/n/%d", host4, i))
		if r.code != 0 || r.stdout != fmt.Sprintf("/n/%d\n", i) {
			t.Fatalf("run %d: %v", i, r)
		}
	}
}

// 500 MB down and up at once.
func TestRunBulk(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	const size = 500 << 20
	path, hash := s.file(t, "bulk", size)
	done := make(chan result)
	got, sent := filepath.Join(s.dir, "got"), filepath.Join(s.dir, "www", "up", "bulk")
	go func() {
		done <- s.run(t, "curl", "-sS", "-f", "--max-time", "110", "-o", got, "http://"+host4+"/bulk")
	}()
	up := s.run(t, "curl", "-sS", "-f", "--max-time", "110", "-T", path, "http://"+host4+"/up/bulk")
	if down := <-done; up.code != 0 || down.code != 0 {
		t.Fatalf("download: %v\nupload: %v", down, up)
	}
	same(t, "download", got, hash, size)
	same(t, "upload", sent, hash, size)
}

// iperf3 on the stack against a server of the kernel.
func TestRunIperf3Client(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	server := s.host.Start(t, "iperf3", "-s", "--forceflush")
	for i, how := range iperf3Ways {
		// Between two tests it does not listen.
		server.WaitOutput(t, fmt.Sprintf(`Server listening on 5201 \(test #%d\)`, i+1), 10*time.Second)
		checkIperf3(t, how, s.run(t, "iperf3", append([]string{"-J", "-t", "1", "-c", host4}, how...)...))
	}
}

var iperf3Ways = [][]string{
	{}, {"-R"}, {"-P", "4"}, {"-u", "-b", "20M"}, {"-u", "-b", "20M", "-R"}, {"--bidir"},
}

// checkIperf3 looks at the summary of one run: no error, something moved both where it
// was sent and where it came in.
func checkIperf3(t testing.TB, how []string, r result) {
	t.Helper()
	var sum struct {
		Error string
		End   struct {
			SumSent     struct{ Bytes float64 } `json:"sum_sent"`
			SumReceived struct{ Bytes float64 } `json:"sum_received"`
			Sum         struct {
				Bytes, Packets float64
				LostPercent    float64 `json:"lost_percent"`
			}
		}
	}
	decode(t, "iperf3", r.stdout, &sum)
	udp := len(how) > 0 && how[0] == "-u"
	switch {
	case r.code != 0 || sum.Error != "":
		t.Errorf("iperf3 %v: %s: %v", how, sum.Error, r)
	case udp && (sum.End.Sum.Packets < 100 || sum.End.Sum.LostPercent > 20):
		t.Errorf("iperf3 %v: %v packets, %v %% lost", how, sum.End.Sum.Packets, sum.End.Sum.LostPercent)
	case !udp && (sum.End.SumSent.Bytes < 1<<20 || sum.End.SumReceived.Bytes < 1<<20):
		t.Errorf("iperf3 %v: sent %v bytes, received %v", how, sum.End.SumSent.Bytes, sum.End.SumReceived.Bytes)
	}
}

// Secure shell on the stack, to the kernel's sshd: a command, a copy, a forwarded port.
func TestRunSSH(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	k := newSSH(t, s.dir)
	p := s.host.StartCmd(t, k.server(t, host4, nil))
	listens(t, s.host, p, host4+":2222")
	if out := s.ok(t, "ssh", k.client(host4, "echo out; cat; exit 0")...); out != "out\n" {
		t.Errorf("ssh printed %q", out)
	}
	if r := s.run(t, "ssh", k.client(host4, "exit 42")...); r.code != 42 {
		t.Errorf("ssh: %v", r)
	}
	path, hash := s.file(t, "copy", 5<<20)
	s.okSh(t, fmt.Sprintf(`ssh %s <%s`, quoted(k.client(host4, "cat >"+s.dir+"/copied")), path))
	same(t, "copied", filepath.Join(s.dir, "copied"), hash, 5<<20)
	// A port of the stack's loopback that sshd forwards to the kernel's nginx.
	out := s.okSh(t, fmt.Sprintf(`ssh -f -L 8080:%s:80 %s && curl -sS http://127.0.0.1:8080/`, host4, quoted(k.client(host4, "sleep 2"))))
	if out != pageText {
		t.Errorf("through the forwarded port: %q", out)
	}
}

// The server of an active FTP client connects to what the client listens on.
func TestRunActiveFTP(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	_, hash := s.file(t, "some", 3<<20)
	if err := os.Mkdir(filepath.Join(s.dir, "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(s.dir, "vsftpd.conf")
	writeFile(t, conf, strings.ReplaceAll("listen=YES\nanonymous_enable=YES\nno_anon_password=YES\nftp_username=bin\nbackground=NO\nseccomp_sandbox=NO\n"+
		"connect_from_port_20=YES\nanon_root=D/www\nsecure_chroot_dir=D/nothing\n", "D/", s.dir+"/"))
	p := s.host.Start(t, "vsftpd", conf)
	listens(t, s.host, p, host4+":21")
	for i, how := range []string{"", "-P -", "--ftp-pasv --no-epsv", "-P - --no-eprt"} {
		to := filepath.Join(s.dir, fmt.Sprint("got", i))
		s.okSh(t, "curl -sS "+how+" -o "+to+" ftp://"+host4+"/some")
		same(t, "curl "+how, to, hash, 3<<20)
	}
}

// Clients of servers that have a protocol of their own.
func TestRunOtherClients(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	redis := s.host.Start(t, "redis-server", "--port", "6379", "--bind", host4, "--protected-mode", "no", "--save", "", "--dir", s.dir)
	memcached := s.host.Start(t, "memcached", "-u", "root", "-l", host4)
	_, hash := s.file(t, "synced/one", 2<<20)
	conf := filepath.Join(s.dir, "rsyncd.conf")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf("use chroot = no\nuid = 0\ngid = 0\n[www]\npath = %s/www\nread only = no\n", s.dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	rsync := s.host.Start(t, "rsync", "--daemon", "--no-detach", "--config", conf, "--address", host4, "--port", "8730")
	listens(t, s.host, redis, host4+":6379")
	listens(t, s.host, memcached, host4+":11211")
	listens(t, s.host, rsync, host4+":8730")
	if out := s.okSh(t, `redis-cli -h `+host4+` set key value; redis-cli -h `+host4+` get key; redis-cli -h `+host4+` eval "return string.rep('x', 1000000)" 0 | wc -c`); out != "OK\nvalue\n1000001\n" {
		t.Errorf("redis-cli: %q", out)
	}
	if out := s.okSh(t, `printf 'set a 0 0 5\r\nhello\r\nget a\r\nquit\r\n' | nc.openbsd -N `+host4+` 11211`); out != "STORED\r\nVALUE a 0 5\r\nhello\r\nEND\r\n" {
		t.Errorf("memcached: %q", out)
	}
	s.ok(t, "rsync", "-a", "rsync://"+host4+":8730/www/synced/", filepath.Join(s.dir, "down"))
	same(t, "rsync", filepath.Join(s.dir, "down", "one"), hash, 2<<20)
	s.ok(t, "rsync", "-a", filepath.Join(s.dir, "down")+"/", "rsync://"+host4+":8730/www/up/")
	same(t, "rsync up", filepath.Join(s.dir, "www", "up", "one"), hash, 2<<20)
}
