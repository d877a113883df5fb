package tap

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/ustack/ustack/internal/netlab"
)

// holdEnv makes the test binary a process that holds the tap of that name until its
// standard input ends.
const holdEnv = "USTACK_TEST_HOLD_TAP"

func TestMain(m *testing.M) {
	name := os.Getenv(holdEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	dev, err := Open(Config{Name: name})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer dev.Close()
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
}

// hold starts a process that holds a tap, and returns its pid and how to end it.
func hold(t *testing.T, ns *netlab.NS, name string) (pid int, release func()) {
	t.Helper()
	cmd := ns.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+name)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := ns.StartCmd(t, cmd)
	p.WaitOutput(t, "held", 10e9)
	return p.PID(), func() {
		stdin.Close()
		if code := p.Wait(t, 10e9); code != 0 {
			t.Fatalf("the process that held %s ended with %d", name, code)
		}
	}
}
