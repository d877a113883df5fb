package control_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control/controltest"
)

// TestAbortIsNoError aborts a flow whose data path runs. The client asked for that:
// `ended` must not tell it that the daemon ends.
func TestAbortIsNoError(t *testing.T) {
	_, c := startServer(t, &controltest.Backend{})
	addr := kernelPeer(t, "tcp4", echo)
	r := newRawSession(t, c)
	ours, theirs := pair(t, unix.SOCK_STREAM)
	defer unix.Close(ours)
	r.send(fmt.Sprintf(`{"id":1,"op":"dial","network":"tcp","address":%q,"fd":true}`+"\n", addr), theirs)
	unix.Close(theirs)
	m := r.reply()
	r.send(fmt.Sprintf(`{"id":2,"op":"abort","flow":%v}`+"\n", m["flow"]))
	for m = r.message(); m["event"] != "ended"; m = r.message() {
	}
	if m["errno"] != nil || m["error"] != nil {
		t.Errorf("ended with %v", m)
	}
}
