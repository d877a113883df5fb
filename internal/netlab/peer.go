package netlab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Root returns the root folder of the checkout.
func Root(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		// Built with -trimpath: tests run in their package's folder.
		dir, err := os.Getwd()
		if err != nil {
			t.Fatalf("netlab: find the checkout: %v", err)
		}
		for dir != "/" {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				return dir
			}
			dir = filepath.Dir(dir)
		}
		t.Fatal("netlab: find the checkout: no go.mod above the current folder")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Peer returns the path of a program that peers.sh has fetched, such as "nginx". It
// skips the test if that is not there, and fails it where Strict.
func Peer(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(t), ".cache", "peers", "bin", name)
	if _, err := os.Stat(path); err != nil {
		refuse(t, fmt.Sprintf("needs %s: run `make peers`", name))
	}
	return path
}

// resolve finds a program: among the peers, else in PATH.
func resolve(t testing.TB, name string) string {
	t.Helper()
	if filepath.Base(name) != name {
		return name
	}
	path := filepath.Join(Root(t), ".cache", "peers", "bin", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		refuse(t, fmt.Sprintf("needs %s: run `make peers`, or install it", name))
	}
	return path
}
