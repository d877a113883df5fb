package doctor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHolders(t *testing.T) {
	proc := t.TempDir()
	process := func(pid, comm, ns, iff string) {
		dir := filepath.Join(proc, pid)
		for _, sub := range []string{"fd", "fdinfo", "ns"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		files := map[string]string{
			"comm": comm + "\n", "status": "Name:\tx\nState:\tT (stopped)\n",
			"fdinfo/3": "pos:\t0\niff:\t" + iff + "\n", "fdinfo/4": "pos:\t0\n", "io": "wchar: 7\nsyscw: 3\n",
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for from, to := range map[string]string{"fd/3": "/dev/net/tun", "fd/4": "/dev/null", "ns/net": ns} {
			if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
				t.Fatal(err)
			}
		}
	}
	process("thread-self", "me", "net:[1]", "tap7")
	process("11", "qemu", "net:[1]", "tap0")
	process("12", "other", "net:[1]", "tap00")
	process("13", "away", "net:[2]", "tap0")
	process("14", "lost", "net:[1]", "")
	attached, detached := holders("tap0", proc)
	want := []Holder{{11, "qemu", "T (stopped)", false}, {13, "away", "T (stopped)", true}}
	if len(attached) != 2 || attached[0] != want[0] || attached[1] != want[1] {
		t.Errorf("attached: %+v, want %+v", attached, want)
	}
	if len(detached) != 1 || detached[0].PID != 14 {
		t.Errorf("detached: %+v", detached)
	}
	if got := writesOf(attached, proc); got != (callCount{14, 6}) {
		t.Errorf("writes: %+v", got)
	}
}
