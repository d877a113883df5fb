// Ping sends ICMP echo requests through a ustack daemon, with the flags, the output
// and the exit codes of iputils' ping.
//
// Usage:
//
//	ping [-4|-6] [-c COUNT] [-i SECONDS] [-s BYTES] [-t TTL] HOST
//
// "ping --help" lists all flags.
package main

import (
	"context"
	"os"

	"github.com/ustack/ustack/internal/ping"
)

func main() {
	os.Exit(ping.Main(context.Background(), os.Args[1:], ping.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
