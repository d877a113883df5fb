// Sockprobe is a program for the end-to-end tests: a static one that makes system
// calls without a C library. As "get" and "serve" it is a client and a server of HTTP.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "get":
		err = get(args)
	case "serve":
		err = serve(args)
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sockprobe:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: sockprobe get URL... | serve ADDR...")
	os.Exit(2)
}
