package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An sshLab has the keys and files of sshd and ssh, on port 2222.
type sshLab struct{ dir string }

func newSSH(t testing.TB, dir string) sshLab {
	t.Helper()
	k := sshLab{filepath.Join(dir, "ssh")}
	if err := os.Mkdir(k.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(program(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(k.dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:" + k.dir + ":/bin/bash\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n",
		"config": "Port 2222\nHostKey " + k.dir + "/host\nAuthorizedKeysFile " + k.dir + "/user.pub\n" +
			"StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n",
	} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// server is sshd on an address. It wants a user and a folder of its own, which a mount
// namespace gives it without a change of the machine.
func (k sshLab) server(t testing.TB, addr string, prefix []string) *exec.Cmd {
	t.Helper()
	line := append(append([]string{}, prefix...), "unshare", "--mount", "sh", "-c",
		`mount --bind "$0/passwd" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$@"`,
		k.dir, program(t, "sshd"), "-D", "-e", "-f", filepath.Join(k.dir, "config"), "-o", "ListenAddress="+addr)
	return exec.Command(line[0], line[1:]...)
}

// client is ssh's command line for a command there.
func (k sshLab) client(addr, command string) []string {
	return []string{
		"-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "IdentityAgent=none", "-i", filepath.Join(k.dir, "user"), "-p", "2222", "root@" + addr, command,
	}
}

// quoted is a command line's arguments as a shell wants them.
func quoted(args []string) string {
	var b strings.Builder
	for _, a := range args {
		fmt.Fprintf(&b, "'%s' ", strings.ReplaceAll(a, "'", `'\''`))
	}
	return b.String()
}
