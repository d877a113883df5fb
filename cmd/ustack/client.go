package main

import (
	"github.com/spf13/cobra"
	"github.com/ustack/ustack/control"
)

// client returns a client of the daemon at --socket. The requests that commands
// make open nothing that outlives them, so it needs no Close.
func (a *app) client() *control.Client {
	return &control.Client{Path: control.SocketPath(a.socket)}
}

// jsonFlag gives a reading command --json.
func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON with stable names, for programs")
}
