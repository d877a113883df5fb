package runner

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/ustack/ustack/control"
	"golang.org/x/sys/unix"
)

// A daemon is the connection to the daemon whose stack the program uses. One that went
// away is looked for again at the next need.
type daemon struct {
	client control.Client

	mu      sync.Mutex
	session *control.Session
	old     []*control.Session // over, to be closed
}

func newDaemon(path string) *daemon {
	return &daemon{client: control.Client{Path: path}}
}

// open returns the session, or the reason why there is none.
func (d *daemon) open(ctx context.Context) error {
	_, err := d.get(ctx)
	return err
}

func (d *daemon) get(ctx context.Context) (*control.Session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil && d.session.Err() == nil {
		return d.session, nil
	}
	if d.session != nil {
		d.session.Close()
		d.session = nil
	}
	s, err := d.client.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	d.session = s
	return s, nil
}

// call sends a request that makes a flow. It closes fd in any case.
func (d *daemon) call(ctx context.Context, r control.Request, fd int) (control.Reply, *control.Session, error) {
	s, err := d.get(ctx)
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return control.Reply{}, nil, err
	}
	rep, err := s.Call(ctx, r, fd)
	return rep, s, err
}

func (d *daemon) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil {
		d.session.Close()
	}
	d.client.Close()
}

// errnoOf is the errno that the program gets for an error of the daemon or of the way
// to it.
func errnoOf(err error) syscall.Errno {
	var gone *control.DaemonError
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &gone):
		return unix.ENETDOWN
	case errors.Is(err, context.Canceled):
		return unix.ECANCELED
	case errors.As(err, &errno):
		return errno
	}
	return unix.EIO
}
