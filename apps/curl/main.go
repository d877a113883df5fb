// Command curl is curl on the stack: its names are resolved and its connections
// made by the ustack daemon. See package internal/curl for what it does, and
// curl --help for its flags.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/ustack/ustack/internal/curl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, func() {
		stop() // a second interrupt ends it the hard way
		// Writing to a pipe that nobody reads cannot be called off.
		time.AfterFunc(time.Second, func() { os.Exit(130) })
	})
	signal.Ignore(syscall.SIGPIPE) // a closed pipe is write error 23
	log.SetOutput(io.Discard)      // net/http's remarks on odd servers; errors go through Main
	os.Exit(curl.Main(ctx, os.Args[1:], curl.Env{
		Stdin:          os.Stdin,
		Stdout:         os.Stdout,
		Stderr:         os.Stderr,
		StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		StderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		Version:        versionText(),
	}))
}

// version is set by the linker: -X main.version=v1.2.3.
var version string

// versionText is version, or the module's as the build recorded it.
func versionText() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return ""
}
