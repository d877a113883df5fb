package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// What a program finds around itself under `ustack run`. The scripts run in apps, where U is
// ustack, D a folder and HOST4, STACK4 and NAME are the map's.
var environments = []struct{ name, script, want string }{
	{"names", `$U run cat /etc/resolv.conf`, `^nameserver HOST4$`},
	{"the host's file stays", `before=$(cat /etc/resolv.conf); $U run true; [ "$before" = "$(cat /etc/resolv.conf)" ] && echo same`, `same`},
	{"AI_ADDRCONFIG", `$U run python3 -c 'import socket as s
for f in s.AF_INET, s.AF_INET6: print(s.getaddrinfo("NAME", 80, f, s.SOCK_STREAM, 0, s.AI_ADDRCONFIG)[0][4][0])'`, `^HOST4\nHOST6\n`},
	{"addresses", `$U run ip -br addr show dev tap0; $U run hostname -I`, `STACK4/24 .*STACK6/64.*STACK4 `},
	{"SIOCGIFADDR", `$U run python3 -c 'import socket as s, fcntl
f = s.socket(s.AF_INET, s.SOCK_DGRAM)
for c in 0x8915, 0x891b: print(s.inet_ntoa(fcntl.ioctl(f, c, b"tap0".ljust(40, b"\0"))[20:24]))
try: fcntl.ioctl(f, 0x8915, b"none".ljust(40, b"\0"))
except OSError as e: print(e.errno)'`, `^STACK4\n255\.255\.255\.0\n19\n`},
	{"routes", `$U run ip route get 192.0.2.1; $U run ip -6 route`, `via HOST4 dev tap0 .*default via HOST6 dev tap0`},
	{"the kernel's way out is closed", `$U run ip -br link`, `^lo [^\n]*\n(tap0-peer@[^\n]*\n)?tap0[^\n]*\n\z`},
	{"--share-net", `$U run --share-net readlink /proc/self/ns/net; readlink /proc/self/ns/net; $U run --share-net curl -sS http://NAME/n/1`, `^(net:\S+)\n`},
	{"nss-resolve", `unshare -m bash -c 'echo "hosts: mymachines resolve [!UNAVAIL=return] files" >D/nsswitch; mount --bind D/nsswitch /etc/nsswitch.conf
		$U run grep hosts: /etc/nsswitch.conf; $U run getent hosts NAME'`, `^hosts: files dns\n.*NAME`},
	{"nscd", `unshare -m bash -c 'mount -t tmpfs none /run; mkdir /run/nscd; touch /run/nscd/socket; $U run ls /run/nscd; echo end'`, `^end`},
	{"a dangling resolv.conf", withEtc(`ln -s ../run/nowhere/stub resolv.conf`), `^nameserver HOST4\nroot:x:0.*\ndir\n`},
	{"no resolv.conf", withEtc(`true`), `^nameserver HOST4\nroot:x:0.*\ndir\n`},
	{"a resolv.conf elsewhere", withEtc(`mkdir sub; echo old >sub/r; ln -s sub/r resolv.conf`), `^nameserver HOST4\nroot:x:0.*\ndir\n`},
	{"descriptors", `ls /proc/self/fd >D/native; $U run ls /proc/self/fd | cmp - D/native && $U run cat <(echo passed)`, `^passed`},
	{"a third one", `$U run cat /proc/self/fd/3 3<<<three; $U run bash -c 'ls -l /proc/self/fd/' 3>&- | grep -c socket: || true`, `^three\n0\n`},
	{"limits", `ulimit -Sn 777; umask 027; cd /usr; $U run bash -c 'ulimit -Sn; umask; pwd'; [ $(nice -n 3 $U run nice) = $(nice -n 3 nice) ] && echo nice`, `^777\n0027\n/usr\nnice\n`},
	// The last seven digits: the C library has programs begin with signals 32 and 33 ignored, which are its own.
	{"ignored signals", `(trap '' HUP; $U run grep SigIgn /proc/self/status | tail -c 8); $U run grep SigIgn /proc/self/status | tail -c 8`, `^0000001\n0000000\n\z`},
	{"bytes", `export V=$'\xff'; $U run bash -c 'printf "$V$1" | od -An -tx1' - $'\xfe'`, `ff fe`},
	{"exit codes", `$U run sh -c 'exit 7'; echo $?; $U run nosuch; echo $?; $U run D; echo $?; $U run /etc/passwd; echo $?`, `^7\n127\n126\n126\n`},
	{"not a program", `printf 'x\1' >D/text; chmod +x D/text; $U run D/text 2>&1; echo $?`, `neither a program of this machine.*\n126`},
	{"killed", `(ulimit -c 0; $U run sh -c 'kill -SEGV $$'; echo $?; $U run sh -c 'kill -KILL $$'; echo $?; $U run sh -c 'kill -ABRT $$'; echo $?) 2>D/err; grep -c goroutine D/err`, `^139\n137\n134\n0\n`},
	{"no interpreter", `printf '#!/none/such\n' >D/script; chmod +x D/script; $U run D/script 2>&1; echo $?`, `interpreter /none/such is not there\n127`},
	{"no loader", `sed 's|/ld-linux|/no-linux|' $(readlink -f /bin/true) >D/true; chmod +x D/true; $U run D/true 2>&1; echo $?`, `interpreter \S*/no-linux\S* is not there\n127`},
	{"no /proc", `unshare -m sh -c 'umount -l /proc; $U run true; echo $?; $U run --share-net true; echo $?' 2>&1`, `(ustack: run \S*/true: there is no /proc here: mount [^\n]*\n126\n){2}`},
	{"no seccomp", denied("seccomp ENOSYS"), `does not pass system calls.*Linux 5\.14.*\n126`},
	{"seccomp forbidden", denied("seccomp EPERM"), `profile has to allow seccomp.*\n126`},
	{"no pidfd_getfd", denied("pidfd_getfd EPERM"), `profile has to allow pidfd_open.*\n126`},
	{"no process_vm_readv", denied("process_vm_readv EPERM"), `profile has to allow .*process_vm_readv.*\n126`},
	{"raw and packet sockets", `$U run python3 -c 'import socket as s
for f, t, p in (2, 3, 255), (2, 3, 6), (17, 3, 3), (17, 3, 3):
    try: s.socket(f, t, p); print("ok")
    except OSError as e: print(e.errno)' 2>&1`, `raw IP sockets .*protocol 255.*93\n.*protocol 6\)\n93\n.*packet sockets see [^\n]*\nok\nok\n\z`},
	{"another user without CAP_SYS_PTRACE", `setpriv --bounding-set=-sys_ptrace --inh-caps=-all $U run setpriv --reuid 65534 --clear-groups curl -sS -m 5 http://HOST4/ 2>&1`, `ustack: curl runs as another user.*CAP_SYS_PTRACE`},
	// Perl has no handlers of signals: what it calls twice it means.
	{"calls made twice", `$U run perl -MSocket -e '$| = 1; my $to = sockaddr_in(7, inet_aton("HOST4")), my $at = sockaddr_in(7130, INADDR_ANY);
		socket(my $c, PF_INET, SOCK_STREAM, 0); for (1..2) { print connect($c, $to) ? "ok" : $!+0, "\n" }
		socket(my $b, PF_INET, SOCK_STREAM, 0); for (1..2) { print bind($b, $at) ? "ok" : $!+0, "\n" }'`, `^ok\n106\nok\n22\n\z`},
	{"nested", `$U run $U run true 2>&1; echo $?`, `cannot run inside ustack run.*\n126`},
	{"left behind", `$U run bash -c '(until [ -e D/go ]; do sleep 0.05; done; curl -sS http://HOST4/n/late >D/late) >/dev/null 2>&1 & echo begun'
		touch D/go; until [ -s D/late ]; do sleep 0.05; done; cat D/late`, `^begun\n/n/late`},
	{"front killed", `$U run sleep 7654 & p=$!; until grep -q sleep /proc/[0-9]*/comm && pgrep -fx 'sleep 7654' >D/pid; do sleep 0.05; done; kill -9 $p; while kill -0 $(cat D/pid) 2>&-; do sleep 0.02; done; echo gone`, `gone`},
	// The first process of this namespace takes the exit statuses of its own children only.
	{"no zombie", `printf 'x\1' >D/text; chmod +x D/text; unshare --pid --fork --mount-proc perl -e 'for my $p (["true"], ["nosuch"], ["D/text"], ["sh", "-c", "exit 3"], ["sh", "-c", "sleep 0; kill -9 \$\$"],
		["--share-net", "curl", "-s", "http://HOST4/n/1"]) { system($ENV{U}, "run", @$p) } $/ = undef;
		for (glob "/proc/[0-9]*/stat") { open F, $_ or next; $_ = <F>; print if /\) Z/ } print "end\n"' 2>&-`, `^/n/1\nend\n\z`},
	{"no daemon", `USTACK_SOCKET=D/nosuch $U run true 2>&1; echo $?`, `ustack up; or .*--link.*\n1\n`},
}

// withEtc runs with an /etc of its own that commands fill, which misses resolv.conf.
func withEtc(commands string) string {
	return `unshare -m bash -c 'mkdir -p D/etc/dir; mount -t tmpfs none D/etc; cd D/etc; mkdir dir; cp /etc/passwd /etc/nsswitch.conf .; ` + commands + `
		mount --bind D/etc /etc; cd /; $U run sh -c "cat /etc/resolv.conf; head -n 1 /etc/passwd; ls -d /etc/dir | xargs -n 1 basename"'`
}

// denied runs where a system call fails: "NAME ERRNO".
func denied(what string) string {
	return `cat >D/deny.py <<"END"
import ctypes, errno, os, platform, struct, sys
nr = {"x86_64": {"seccomp": 317, "process_vm_readv": 310}, "aarch64": {"seccomp": 277, "process_vm_readv": 270}}[platform.machine()]
nr["pidfd_getfd"] = 438
filter = [(0x20, 0, 0, 0), (0x15, 0, 1, nr[sys.argv[1]]), (6, 0, 0, 0x50000 | getattr(errno, sys.argv[2])), (6, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *f) for f in filter))
prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(filter), ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, prog, 0, 0) == 0
os.execvp(sys.argv[3], sys.argv[3:])
END
python3 D/deny.py ` + what + ` $U run curl -sS http://HOST4/ 2>&1; echo $?`
}

func TestRunEnvironment(t *testing.T) {
	t.Parallel()
	s := newSide(t, "ustack")
	replace := strings.NewReplacer("HOST4", host4, "HOST6", host6, "STACK4", stack4, "STACK6", stack6, "NAME", web)
	env := append([]string{"U=" + filepath.Join(bin, "ustack")}, s.env...)
	for _, c := range environments {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fill := strings.NewReplacer("D/", scratch(t)+"/", "run D;", "run "+s.dir+";")
			r := runIn(t, s.apps, env, "bash", "-c", replace.Replace(fill.Replace(c.script)))
			if match(t, "standard output", r.stdout, replace.Replace(c.want)); t.Failed() {
				t.Logf("exit code %d, standard error: %s", r.code, r.stderr)
			}
		})
	}
}

// An ordinary user runs programs, in a user namespace of their own.
func TestRunOrdinaryUser(t *testing.T) {
	t.Parallel()
	s := newSide(t, "ustack")
	if err := os.Chmod(s.d.sock, 0o666); err != nil {
		t.Fatal(err)
	}
	u := filepath.Join(s.dir, "ustack")
	copyBinary(t, "ustack", u)
	as := func(script string) result {
		return runIn(t, s.apps, append([]string{"U=" + u, "D=" + s.dir}, s.env...),
			"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "-c", script)
	}
	r := as(`$U run sh -c 'id -u; id -g; grep -E "CapEff|CapPrm" /proc/self/status; grep nameserver /etc/resolv.conf; echo x >'$D'/mine; stat -c %u '$D'/mine; curl -sS http://` + web + `/n/1'`)
	match(t, "an ordinary user's program", r.stdout, `^65534\n65534\nCapPrm:\s+0+\nCapEff:\s+0+\nnameserver `+host4+`\n65534\n/n/1\n`)
	if r.code != 0 {
		t.Errorf("%v", r)
	}
	r = as(`$U run --share-net curl -sS http://` + host4 + `/n/2`)
	match(t, "--share-net", r.stdout, `^/n/2\n`)
	if out, err := exec.Command("install", "-m", "4755", "/usr/bin/id", filepath.Join(s.dir, "suid")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r = as(`$U run $D/suid -u`)
	match(t, "a set-user-ID program", r.stdout, `^65534\n`)
	match(t, "a set-user-ID program", r.stderr, `set-user-ID.*no_new_privs.*sudo ustack run`)
	r = runIn(t, s.apps, s.env, u, "run", "setpriv", "--reuid", "65534", "--clear-groups", filepath.Join(s.dir, "suid"), "-u")
	match(t, "a set-user-ID program under root", r.stdout, `^0\n`)

	if out, err := exec.Command("install", "-m", "711", "/usr/bin/id", filepath.Join(s.dir, "unread")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r = as(`$U run $D/unread`); r.code != 126 {
		t.Errorf("a program that may not be read: %v", r)
	}
	match(t, "a program that may not be read", r.stderr, `may not look into it .*readable for you`)

	// Where user namespaces are used up, as where they are forbidden.
	r = runIn(t, s.apps, append([]string{"U=" + u}, s.env...), "unshare", "--user", "--map-root-user", "bash", "-c",
		`echo 0 >/proc/sys/user/max_user_namespaces; setpriv --bounding-set -sys_admin --inh-caps -sys_admin $U run true`)
	if r.code != 126 {
		t.Errorf("without user namespaces: %v", r)
	}
	match(t, "without user namespaces", r.stderr, `max_user_namespaces is 0.*--share-net.*resolv\.conf`)
}

// The daemon ends and another takes its place while a program runs.
func TestRunDaemonGone(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	sock := filepath.Join(scratch(t), "ustack.sock")
	args := []string{"--link", "tap:tap0", "--addr", stack4 + "/24", "--host-addr", host4 + "/24", "--dns", host4}
	d := upAt(t, host, sock, args...)
	cmd := d.apps.Command(filepath.Join(bin, "ustack"), "run", "python3", "-u", "-c", `
import select, socket, sys
def attempt():
    try:
        s = socket.create_connection(("`+host4+`", 7), 5); s.sendall(b"x"); return s.recv(1).decode()
    except OSError as e: return type(e).__name__ + " " + str(e.errno)
for line in sys.stdin:
    if line != "transfer\n":
        print(attempt()); continue
    idle, s = socket.create_connection(("`+host4+`", 7)), socket.create_connection(("`+host4+`", 19))
    s.recv(1)
    l = socket.create_server(("", 8000))
    mine, queued = socket.create_connection(("`+stack4+`", 8000)), socket.create_connection(("`+stack4+`", 8000))
    accepted = l.accept()[0]
    select.select([l], [], [])
    print("started")
    sys.stdin.readline()
    for c in s, idle, mine, accepted, l.accept()[0]:
        try:
            while c.recv(65536): pass
            print("complete")
        except OSError as e: print(e.errno, c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
`)
	cmd.Env = append(os.Environ(), "USTACK_SOCKET="+sock)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	echoTCP(t, listenIn(t, host, "tcp", host4+":7"))
	p := d.apps.StartCmd(t, cmd)
	ask := func(want string) {
		t.Helper()
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		p.WaitOutput(t, want, 20*time.Second)
	}
	ask(`^x\n`)
	d.terminate(t)
	ask(`^x\nOSError 100\n`) // ENETDOWN
	d = upAt(t, host, sock, args...)
	ask(`^x\nOSError 100\nx\n`)

	// A transfer that is cut off is not taken for a complete one.
	serve(t, listenIn(t, host, "tcp", host4+":19"), func(c net.Conn) {
		defer c.Close()
		for b, err := make([]byte, 1000), error(nil); err == nil; {
			_, err = c.Write(b)
		}
	})
	if _, err := in.Write([]byte("transfer\n")); err != nil {
		t.Fatal(err)
	}
	p.WaitOutput(t, `\nstarted\n`, 20*time.Second)
	d.Signal(t, syscall.SIGKILL)
	d.Wait(t, 10*time.Second)
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	p.WaitOutput(t, `\nstarted\n(104 100\n){5}`, 20*time.Second) // ECONNRESET, and ENETDOWN behind it
	in.Close()
	if code := p.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// UDP sockets of a program go on where they were when another daemon takes the place of one that was
// killed: a bound one serves again, a connected one is connected.
func TestRunDatagramsDaemonGone(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	sock := filepath.Join(scratch(t), "ustack.sock")
	args := []string{"--link", "tap:tap0", "--addr", stack4 + "/24", "--host-addr", host4 + "/24", "--dns", host4}
	d := upAt(t, host, sock, args...)
	echoUDP(t, host, "0.0.0.0:7")
	cmd := d.apps.Command(filepath.Join(bin, "ustack"), "run", "python3", "-u", "-c", `
import socket, sys, threading
c, s = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "cs")
s.bind(("", 9000))
def serve():
    while True:
        b, a = s.recvfrom(100)
        try: s.sendto(b.upper(), a)
        except OSError as e: print("server", e)
threading.Thread(target=serve, daemon=True).start()
c.connect(("`+host4+`", 7))
c.settimeout(0.2)
for line in sys.stdin:
    try: c.send(line.encode()); print("got", c.recv(100).decode().strip())
    except TimeoutError: print("timeout")
    except OSError as e: print("errno", e.errno)
`)
	cmd.Env = append(os.Environ(), "USTACK_SOCKET="+sock)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := d.apps.StartCmd(t, cmd)
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(in, text+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	served := func() bool {
		c, err := dialIn(t, host, "udp", stack4+":9000")
		if err != nil {
			return false
		}
		defer c.Close()
		b := make([]byte, 9)
		_, err = c.Write([]byte("served"))
		if err == nil {
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = c.Read(b)
		}
		return err == nil && string(b[:6]) == "SERVED"
	}
	say("one")
	p.WaitOutput(t, `^got one\n`, 20*time.Second)
	if !served() {
		t.Fatalf("the server does not serve\n%s", p.Output())
	}
	d.Signal(t, syscall.SIGKILL)
	d.Wait(t, 10*time.Second)
	for range 5 {
		say("lost")
	}
	p.WaitOutput(t, `^got one\n(timeout\n|errno \d+\n){5}\z`, 20*time.Second)
	match(t, "sends without a daemon", p.Output(), `errno 10[04]\n`) // ENETDOWN, or ECONNRESET which is all that send can tell
	upAt(t, host, sock, args...)
	netlab.WaitFor(t, 20*time.Second, "the server to serve again", served)
	netlab.WaitFor(t, 20*time.Second, "the connected socket to work again", func() bool {
		say("two")
		return strings.Contains(p.Output(), "got two")
	})
	in.Close()
	if code := p.Wait(t, 10*time.Second); code != 0 || strings.Contains(p.Output(), "server") {
		t.Errorf("exit code %d\n%s", code, p.Output())
	}
}

// --link gives a program a stack of its own, which leaves nothing behind.
func TestRunOwnStack(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	env := []string{"USTACK_SOCKET=" + filepath.Join(scratch(t), "nobody")}
	r := runIn(t, host, env, filepath.Join(bin, "ustack"), "run", "--state-dir", stateDir, "--link", "tap:tap5", "--addr", stack4+"/24",
		"--host-addr", host4+"/24", "--dns", host4, "--", "bash", "-c", "cat /etc/resolv.conf; (exec 3<>/dev/tcp/"+host4+"/9) 2>&1; kill -USR1 $$")
	match(t, "a program on its own stack", r.stdout, `nameserver `+host4+`\n.*Connection refused`)
	if r.code != 128+int(syscall.SIGUSR1) {
		t.Errorf("%v", r)
	}
	if host.HasLink("tap5") {
		t.Error("the tap is left")
	}
}
