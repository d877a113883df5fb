package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/ustack/ustack/internal/netlab"
)

// Exit codes and signals of a program are those of `ustack run`, and nothing is said of
// them.
func TestRunExit(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	for _, c := range []struct {
		run  string
		code int
	}{
		{"exit 0", 0}, {"exit 77", 77}, {"exit 255", 255},
		{"kill -TERM $$", 128 + 15}, {"kill -KILL $$", 128 + 9}, {"kill -INT $$", 128 + 2},
		{"ulimit -c 0; kill -ABRT $$", 128 + 6}, {"ulimit -c 0; kill -SEGV $$", 128 + 11}, {"ulimit -c 0; kill -QUIT $$", 128 + 3},
		{"kill -PIPE $$", 128 + 13}, {"kill -USR1 $$", 128 + 10}, {"kill -HUP $$", 128 + 1},
	} {
		if r := s.run(t, "sh", "-c", c.run); r.code != c.code || r.stdout != "" || r.stderr != "" {
			t.Errorf("%s: want exit code %d and no word: %v", c.run, c.code, r)
		}
	}
}

// A signal interrupts what waits in a call, or lets it go on, as the program asked.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	replace := s.replacer(t)
	r := s.run(t, "perl", "-e", replace.Replace(`
use Socket; use POSIX; use Time::HiRes qw(ualarm);
$| = 1;
sub handler { my $restart = shift; POSIX::sigaction(SIGALRM, POSIX::SigAction->new(sub { print "alarm\n" }, POSIX::SigSet->new, $restart ? SA_RESTART : 0)); }
sub conn { socket(my $s, PF_INET, SOCK_STREAM, 0) or die; connect($s, sockaddr_in($_[1], inet_aton($_[0]))) or die; $s }
socket(my $l, PF_INET, SOCK_STREAM, 0); bind($l, sockaddr_in(7200, INADDR_ANY)); listen($l, 5);
handler(0);
ualarm(200000); my $r = accept(my $c, $l); print "accept: ", ($r ? "ok" : "$!"), "\n";
my $s = conn("HOST4", 80);
ualarm(200000); $r = sysread($s, my $b, 10); print "read: ", (defined $r ? $r : "$!"), "\n";
socket(my $k, PF_INET, SOCK_STREAM, 0);
ualarm(200000); $r = connect($k, sockaddr_in(80, inet_aton("BLACKHOLE"))); print "connect: ", ($r ? "ok" : "$!"), "\n";
my $v = ''; vec($v, fileno($s), 1) = 1;
ualarm(200000); $r = select(my $o = $v, undef, undef, 5); print "select: ", ($r < 0 ? "$!" : $r), "\n";
handler(1);
my $pid = fork;
if (!$pid) { $SIG{ALRM} = 'IGNORE'; select undef, undef, undef, 0.5; conn("127.0.0.1", 7200); exit }
ualarm(200000); $r = accept($c, $l); print "restarted: ", ($r ? "ok" : "$!"), "\n"; waitpid $pid, 0;
`))
	want := "alarm\naccept: Interrupted system call\nalarm\nread: Interrupted system call\nalarm\nconnect: Interrupted system call\n" +
		"alarm\nselect: Interrupted system call\nalarm\nrestarted: ok\n"
	if r.code != 0 || r.stdout != want {
		t.Errorf("want\n%s\n%v", want, r)
	}
}

// onTerminal runs a command line in a shell on a terminal, with job control, and
// types: after "waiting" it stops the job, continues it, and ends it.
const onTerminal = `
import os, pty, re, select, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
seen = b""
def until(what):
    global seen
    end = time.monotonic() + 20
    while not re.search(what, seen):
        if time.monotonic() > end or not select.select([fd], [], [], 20)[0]: sys.exit("no %r in %r" % (what, seen))
        seen += os.read(fd, 4096)
    seen = seen[re.search(what, seen).end():]
def type(what): os.write(fd, what)
type(b"PS1='> '; stty -echo\n"); until(b"> $")
type(sys.argv[1].encode() + b"\n"); until(b"waiting")
if sys.argv[2:] == ["job"]:
    time.sleep(0.2); type(b"\x1a"); until(b"Stopped"); until(b"> ")
    type(b"fg\n"); until(b"\n"); time.sleep(0.2)
else:
    time.sleep(0.2)
type(b"\x03"); until(b"> ")
type(b"\n"); until(b"> ") # the interrupt discards what the terminal has not passed on yet
type(b"echo code=$?.\n"); until(b"code=130\\.")
`

// Ctrl-C ends what waits in a call, and Ctrl-Z stops it until it is continued.
func TestRunTerminal(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	replace := s.replacer(t)
	python := netlab.Peer(t, "python3")
	for _, c := range []struct{ name, run string }{
		{"accept", `echo waiting; exec nc.openbsd -l 8000`},
		{"accept, blocking", `exec perl -MIO::Socket::INET -e '$|=1; $l=IO::Socket::INET->new(Listen=>1); print "waiting\n"; $l->accept'`},
		{"read", `echo waiting; exec nc.openbsd -d HOST4 80`},
		{"connect", `echo waiting; exec bash -c 'exec 3<>/dev/tcp/BLACKHOLE/80'`},
		{"no socket", `echo waiting; exec sleep 60`},
	} {
		for _, how := range []string{"", "job"} {
			t.Run(strings.TrimSpace(c.name+" "+how), func(t *testing.T) {
				t.Parallel()
				line := quoted(s.command(t, "bash", "-c", withPeers(t, replace.Replace(c.run))))
				args := []string{"-c", onTerminal, line}
				if how != "" {
					args = append(args, how)
				}
				cmd := s.apps.Command(python, args...)
				cmd.Env = append(os.Environ(), s.env...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}
