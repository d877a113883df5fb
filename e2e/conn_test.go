package e2e

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/ustack/ustack/internal/netlab"
)

// Connections through the daemon behave as package net's do, over every driver:
// dialled and accepted by the stack, with a kernel socket at the other end.
func TestConnsOfPackageNet(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			d := up(t, host, static(drv.spec)...)
			client := d.client(t)
			kernel := listenIn(t, host, "tcp", net.JoinHostPort(host6, "0"))
			ours, err := client.Listen(context.Background(), "tcp", net.JoinHostPort(stack4, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			t.Run("dialled", func(t *testing.T) {
				nettest.TestConn(t, pipes(kernel, func() (net.Conn, error) {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					return client.DialContext(ctx, "tcp", kernel.Addr().String())
				}))
			})
			t.Run("accepted", func(t *testing.T) {
				nettest.TestConn(t, pipes(ours, func() (net.Conn, error) {
					return dialIn(t, host, "tcp", ours.Addr().String())
				}))
			})
			d.terminate(t)
		})
	}
}

// pipes makes connections to a listener.
func pipes(l net.Listener, dial func() (net.Conn, error)) nettest.MakePipe {
	return func() (c1, c2 net.Conn, stop func(), err error) {
		accepted := make(chan error, 1)
		go func() {
			var err error
			c2, err = l.Accept()
			accepted <- err
		}()
		if c1, err = dial(); err != nil {
			return nil, nil, nil, errors.Join(err, l.Close())
		}
		if err := <-accepted; err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	}
}
