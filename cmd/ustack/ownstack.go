package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
)

// notOwnStack are the flags of up that mean nothing for a stack in this process.
var notOwnStack = []string{"config", "socket-group", "socket-mode", "verbose"}

// registerOwnStack adds the flags of up that say what a stack is like, and returns
// their names.
func registerOwnStack(fs *pflag.FlagSet, f *upFlags) (names []string) {
	var up pflag.FlagSet
	f.register(&up)
	up.VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(notOwnStack, flag.Name) {
			return
		}
		if flag.Name == "log-level" {
			flag.DefValue = "warn" // standard error is the program's
		}
		fs.AddFlag(flag)
		names = append(names, flag.Name)
	})
	f.logLevel = "warn"
	return names
}

// onOwnStack runs a stack in this process, and do with the path of its control socket. It
// ends the stack when do has returned.
func (a *app) onOwnStack(ctx context.Context, f *upFlags, do func(socket string) error) (err error) {
	dir, err := os.MkdirTemp("", "ustack-run-")
	if err != nil {
		return fmt.Errorf("a place for the control socket: %w", err)
	}
	defer os.RemoveAll(dir)
	f.socket = filepath.Join(dir, "socket")
	set, err := f.resolve(nil)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: set.logLevel}))
	redirectNetstackLog(log)
	stop, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	usable := make(chan struct{})
	d := newDaemon(set, log, io.Discard)
	d.usable = func() { close(usable) }
	ended := make(chan error, 1)
	go func() { ended <- d.run(stop, context.WithoutCancel(ctx)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done(): // a signal, before there is a program
		cancel()
		return errors.Join(errors.New("ended by a signal before the program was started"), <-ended)
	case <-usable:
	}
	err = do(f.socket)
	cancel()
	return errors.Join(err, <-ended)
}
