package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLastEnd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if got := readLastEnd(socket, "tap0"); got != "" {
		t.Errorf("before: %q", got)
	}
	for range 2 { // the second replaces the first
		if err := leaveLastEnd(socket, "tap0", errors.New("the interface was deleted")); err != nil {
			t.Fatal(err)
		}
	}
	if got := readLastEnd(socket, "tap0"); !strings.HasSuffix(got, ": the interface was deleted") {
		t.Errorf("after: %q", got)
	}
	if got := readLastEnd(socket, "tap1"); got != "" {
		t.Errorf("of another link: %q", got)
	}
	if err := forgetLastEnd(socket); err != nil || readLastEnd(socket, "tap0") != "" {
		t.Errorf("forgotten: %v", err)
	}
	for _, text := range []string{"", "{", `{"link":7}`, strings.Repeat(" ", 1<<16)} {
		if err := os.WriteFile(lastEndPath(socket), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readLastEnd(socket, "tap0"); got != "" {
			t.Errorf("%.20q: %q", text, got)
		}
	}
}
